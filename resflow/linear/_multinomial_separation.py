"""Whether the data of a softmax regression is linearly separable, so that no minimiser exists, with proof."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from resflow.errors import InvalidInputError

__all__ = ["MultinomialSeparation"]

_UNDECIDED_AFTER = 16
_EPS = float(np.finfo(np.float64).eps)


class MultinomialSeparation:
    """Decides, along the Newton iteration of a softmax regression, whether the data is linearly separable, with proof.

    With M_ij = p_i,y − p_ij, the margins of sample i's own class over the others:
    Separable: a W with M_ij > 0 for all x_i ≠ 0 and j ≠ y_i.
    Not separable: the exact Newton step at W, changing the predictions by δ, with |δ_ij − Σ_l σ_il δ_il| < 1. For then
    β_ij = σ_ij (1 + δ_ij − Σ_l σ_il δ_il) > 0 and Σ β_ij (e_j − e_y) x_iᵀ = 0 over j ≠ y_i, which is Newton's equation;
    by Stiemke's lemma no U has all margins ≥ 0 and one of them positive. Half of 1 is asked for.
    What neither decides in 16 steps goes to a linear programme, which takes minutes for n m = 10⁴.
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, m: int, *, needed: bool) -> None:
        self.X, self.Y, self.m, self.needed = X, Y.astype(int), m, needed
        self.verdict: bool | None = None
        self._lengths = np.linalg.norm(X, axis=1)
        self._others = np.arange(m) != self.Y[:, None]

    def look(self, p: np.ndarray, change: np.ndarray | None, iteration: int, norm: float) -> None:
        """See an iterate: its predictions, and what the exact Newton step changes them by, if there is one."""
        if self.verdict is None:
            margins = p[np.arange(len(p)), self.Y][:, None] - p
            rounding = 8.0 * self.X.shape[1] * _EPS * norm * self._lengths[:, None]
            relevant = self._others & (self._lengths > 0)[:, None]
            if relevant.any() and (margins > rounding)[relevant].all():
                self.verdict = True
            elif change is not None:
                exponential = np.exp(p - p.max(axis=1, keepdims=True))
                sigma = exponential / exponential.sum(axis=1, keepdims=True)
                if np.abs(change - np.sum(sigma * change, axis=1, keepdims=True)).max() <= 0.5:
                    self.verdict = False
        if self.needed and self.verdict is None and iteration == _UNDECIDED_AFTER:
            self.settle()
        self._refuse()

    def settle(self) -> None:
        """Have a verdict, if one is needed, by linear programming."""
        if self.needed and self.verdict is None:
            ranked = _most_ranked(self.X, self.Y, self.m)
            self.verdict = None if ranked is None else ranked > 0
        self._refuse()

    def _refuse(self) -> None:
        if self.needed and self.verdict:
            n, d = self.X.shape
            raise InvalidInputError(
                f"the data (n={n}, {self.m} classes, rank {d}) is linearly separable, so the softmax objective has no "
                "minimiser: pass max_norm=..., a bound on the norm of W, or ridge=..., the weight of half its square"
            )


def _most_ranked(X: np.ndarray, Y: np.ndarray, m: int) -> int | None:
    """How many margins a W can make positive while it makes none negative; None if the solver does not say.

    It is max Σ t_ij over 0 ≤ t_ij ≤ min(1, M_ij), W free: scaling W makes every positive margin at least 1.
    """
    lengths = np.linalg.norm(X, axis=1)
    rows = np.flatnonzero(lengths > 0)
    X, Y = X[rows] / lengths[rows, None], Y[rows]
    X = X / np.where(np.abs(X).max(axis=0) > 0, np.abs(X).max(axis=0), 1.0)
    samples, others = np.nonzero(np.arange(m) != Y[:, None])
    count, r = len(samples), X.shape[1]
    place = np.repeat(np.arange(count), r)
    columns = [(block[:, None] * r + np.arange(r)).ravel() for block in (others, Y[samples])]
    entries = (np.concatenate([X[samples].ravel(), -X[samples].ravel()]), (np.tile(place, 2), np.concatenate(columns)))
    constraints = sparse.hstack([sparse.csr_array(entries, shape=(count, m * r)), sparse.eye_array(count)], "csr")
    bounds = np.vstack([np.tile([-np.inf, np.inf], (m * r, 1)), np.tile([0.0, 1.0], (count, 1))])
    costs = np.concatenate([np.zeros(m * r), -np.ones(count)])
    outcome = linprog(costs, A_ub=constraints, b_ub=np.zeros(count), bounds=bounds, method="highs")
    return round(-outcome.fun) if outcome.status == 0 else None
