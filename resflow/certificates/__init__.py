"""Bounds on the linear-predictor gap at a point, and the theorems they come from."""
