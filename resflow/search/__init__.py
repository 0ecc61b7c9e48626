"""Stationary points of every index, found from thousands of starting points at once."""
