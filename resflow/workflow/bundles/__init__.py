"""Bundles: runs with all they recorded in one file that others can read, a Workflow Run RO-Crate in a zip archive."""
