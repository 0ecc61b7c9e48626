"""Sweeps: a file, its plan, the processes that run it, and what is finished of it in the store."""
