"""Kernels that start in a moment: forked from a process that has imported what their notebooks import.

`server` is that process, a program of the standard library alone; `client` starts one and asks it for kernels;
`provisioner` is how jupyter_client comes to them; `modules` says what is imported beforehand.
"""
