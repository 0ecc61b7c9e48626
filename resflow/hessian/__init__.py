"""Eigenvalues of Hessians: exact for a residual unit in (w, V), by Lanczos for everything else."""
