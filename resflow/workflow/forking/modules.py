"""What is imported before kernels are forked: what a notebook imports, of packages that bear a fork."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["USUAL", "modules_for", "modules_of"]

KERNEL = ("IPython.display", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell")
"""What every kernel imports, whichever its notebook."""

KNOWN = {"equinox", "flax", "jax", "matplotlib", "mlflow", "numpy", "optax", "optuna", "pandas", "resflow", "scipy"}
KNOWN |= {"seaborn", "sklearn", "statsmodels", "sympy"}
"""Packages whose import computes nothing, starts nothing and reads nothing of a run. Others are left to kernels."""

LATER = (
    "jax.numpy", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "mlflow.data.pandas_dataset", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "optax", "pandas",
    "psutil", "resflow:all", "resflow.notebook:all", "resflow.workflow.session", "scipy.optimize", "seaborn",
    "sklearn.datasets",
)  # fmt: skip
"""What notebooks that use resflow import besides, in functions that they call; `:all` is whatever a module exports."""

USUAL = (*KERNEL, *LATER)
"""For kernels whose notebook is not known when they start."""

_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)


def modules_for(sources: Iterable[str]) -> Sequence[str]:
    """What is imported before kernels for a notebook are forked, by the sources of its code cells.

    >>> modules_for(["%matplotlib inline", "import os, numpy.linalg as la", "from torch import nn"])[len(KERNEL) :]
    ('numpy.linalg',)
    """
    found = [name for source in sources for name in _imported(source)]
    known = [name for name in dict.fromkeys(found) if name.split(".")[0] in KNOWN]
    uses_us = any(re.fullmatch(r"resflow(\.notebook.*)?", name) for name in known)  # and not a module or two alone
    return tuple(dict.fromkeys((*KERNEL, *known, *(LATER if uses_us else ()))))


def modules_of(nb: Any) -> Sequence[str]:
    """The same for a notebook as nbformat reads it."""
    return modules_for(cell.source for cell in nb.cells if cell.cell_type == "code")


def _imported(source: str) -> list[str]:
    names = []
    for match in _IMPORT.finditer(source):
        listed = match[1] or match[2]
        names += [words[0] for part in listed.split(",") if (words := part.split())]
    return names
