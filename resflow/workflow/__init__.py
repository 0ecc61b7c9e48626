"""Notebooks as tracked runs: the papermill engine, the MLflow store, reports and the command line."""
