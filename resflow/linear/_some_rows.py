"""XᵀX from some of the rows, as good as from all where it only has to be a metric."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from resflow.linear._problem import Problem, weighted_gram

__all__ = ["SomeRows", "some_rows"]

_FEW, _ROWS = 4, 32
_WIDE = 16
_MARGIN = 1.25


class SomeRows(NamedTuple):
    """Σ_i c_i x_i x_iᵀ over some of the rows, and how many these are."""

    gram: np.ndarray
    n: int

    def eigenvalues(self, squares: np.ndarray) -> np.ndarray:
        """In units in which the diagonal is 1 for these squares, ascending; 0 if a square is 0 or not finite."""
        if not (np.isfinite(self.gram).all() and (squares > 0.0).all()):
            return np.zeros(len(squares))
        sizes = np.sqrt(squares)
        return np.linalg.eigvalsh(self.gram / sizes / sizes[:, None])

    @property
    def orthogonal(self) -> bool:
        """Whether the columns could be orthogonal, as far as so many rows tell (Marchenko and Pastur 1967)."""
        values, spread = self.eigenvalues(np.diag(self.gram)), math.sqrt(len(self.gram) / self.n)
        return bool(values[0] * _MARGIN >= (1.0 - spread) ** 2 and values[-1] <= (1.0 + spread) ** 2 * _MARGIN)

    def surely_regular(self, squares: np.ndarray, below: float) -> bool:
        """Whether XᵀX of all rows, of this diagonal, has 1/κ₂ ≥ below in its own units: it is more than of some."""
        return bool(self.eigenvalues(squares)[0] > len(squares) * below)  # its largest eigenvalue is at most d

    def metric(self, squares: np.ndarray) -> np.ndarray:
        """What stands for XᵀX of all rows: its diagonal where columns could be orthogonal, else a multiple."""
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
    return _every(problem, n // (_ROWS * d)) if n >= 2 * _ROWS * d and d >= _WIDE * m else None


def _every(problem: Problem, stride: int) -> SomeRows:
    weights = None if problem.weights is None else problem.weights[::stride]
    some = problem._replace(rows=problem.rows.every(stride), weights=weights)
    return SomeRows(weighted_gram(some), some.rows.n)
