"""XᵀX from some of the rows, as good as from all where it only has to be a metric."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from resflow.linear._problem import Problem, weighted_gram

__all__ = ["ENOUGH", "SomeRows", "some_rows"]

_FEW = 4
ENOUGH = 32
"""Rows a column that are enough for a metric."""
_WIDE = 16
_MARGIN = 1.25


class SomeRows(NamedTuple):
    """Σ_i c_i x_i x_iᵀ over some of the rows.

    Attributes:
        gram: The sum, shape (d, d).
        least: Its smallest eigenvalue in units in which its diagonal is 1; 0 if a square is 0 or not finite.
        orthogonal: Whether the columns could be orthogonal, as far as so many rows tell (Marchenko and Pastur 1967).
    """

    gram: np.ndarray
    least: float
    orthogonal: bool

    def metric(self, squares: np.ndarray, below: float) -> np.ndarray | None:
        """What stands for XᵀX of all rows, of this diagonal: its diagonal where columns could be orthogonal, else a
        multiple; None unless XᵀX, which is more than that of some, surely has 1/κ₂ ≥ below in its own units.
        """
        least = self.least * float(np.min(np.diag(self.gram) / squares)) if self.least > 0.0 else 0.0
        if not least > len(squares) * below:  # its largest eigenvalue is at most d
            return None
        return np.diag(squares) if self.orthogonal else self.gram * (squares.sum() / np.trace(self.gram))


def some_rows(problem: Problem, m: int) -> SomeRows | None:
    """Evenly spaced rows that are enough for a metric; None where all are needed, or cost less than they would.

    4 d rows tell whether columns could be orthogonal, and then they are enough. Otherwise 32 d are: where rows are
    drawn alike their metric is within (1 ± sqrt(1/32))² of that of all rows, which costs the iteration about one pass
    of 4 n d m more, in place of n d². That is worth it where n is larger still and m small beside d.
    """
    n, d = problem.rows.n, problem.rows.d
    if n >= 4 * _FEW * d:
        few = _every(problem, n // (_FEW * d))
        if few.orthogonal:
            return few
    return _every(problem, n // (ENOUGH * d)) if n >= 2 * ENOUGH * d and d >= _WIDE * m else None


def _every(problem: Problem, stride: int) -> SomeRows:
    some = problem.every(stride)
    gram, spread = weighted_gram(some), math.sqrt(some.rows.d / some.rows.n)
    sizes = np.sqrt(np.diag(gram))
    if not (np.isfinite(gram).all() and (sizes > 0.0).all()):
        return SomeRows(gram, 0.0, False)
    values = np.linalg.eigvalsh(gram / sizes / sizes[:, None])
    low, high = float(values[0]) * _MARGIN, float(values[-1]) / _MARGIN
    return SomeRows(gram, float(values[0]), low >= (1.0 - spread) ** 2 and high <= (1.0 + spread) ** 2)
