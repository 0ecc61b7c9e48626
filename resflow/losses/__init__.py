"""Convex losses of one output and of several, with their derivatives and constants."""
