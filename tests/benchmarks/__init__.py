"""Benchmarks: off by default, run by `make bench`."""
