"""Figures from data frames and arrays: they draw, and compute nothing."""
