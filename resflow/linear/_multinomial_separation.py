"""Whether the data of a softmax regression is linearly separable, so that no minimiser exists, with proof."""

from __future__ import annotations

import numpy as np

from resflow.errors import InvalidInputError
from resflow.linear._exact import beside, off_plane, whole_numbers
from resflow.linear._programme import Programme

__all__ = ["MultinomialSeparation"]

_UNDECIDED_AFTER = 16
_MOST_ENTRIES = 1 << 25


class MultinomialSeparation:
    """Decides, along the Newton iteration of a softmax regression, whether the data is linearly separable, with proof.

    With M_ij = p_i,y − p_ij, the margins of sample i's own class over the others:
    Separable: a W with M_ij ≥ 0 for all samples and j ≠ y_i, and one of them positive, their signs computed exactly.
    Not separable: the exact Newton step at W, changing the predictions by δ, with |δ_ij − Σ_l σ_il δ_il| < 1. For then
    β_ij = σ_ij (1 + δ_ij − Σ_l σ_il δ_il) > 0 and Σ β_ij (e_j − e_y) x_iᵀ = 0 over j ≠ y_i, which is Newton's equation;
    by Stiemke's lemma no U has all margins ≥ 0 and one of them positive. Half of 1 is asked for.
    What neither decides in 16 steps goes to a linear programme, which takes minutes for n m = 10⁴, and whose answer is
    judged in exact arithmetic too. Where that is not conclusive nothing is known.

    Args:
        X: Samples, shape (n, d).
        Y: Their classes, shape (n,).
        m: How many classes there are.
        basis: Of the rows of X, shape (d, r); None for all of space.
        needed: Whether there is no minimiser of separable data.
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, m: int, basis: np.ndarray | None, *, needed: bool) -> None:
        self.X, self.Y, self.m, self.basis, self.needed = X, Y.astype(int), m, basis, needed
        self.verdict: bool | None = None
        self._others = np.arange(m) != self.Y[:, None]
        self._asked = False
        self._missing = np.setdiff1d(np.arange(m), self.Y)

    @property
    def found(self) -> bool | None:
        """The verdict as `VectorLinearFit.separable` has it: what a class without samples leaves open is not that."""
        return None if self.verdict and self._missing.size else self.verdict

    def look(self, W: np.ndarray, p: np.ndarray, change: np.ndarray | None, iteration: int) -> None:
        """See an iterate: its weights and predictions, and what an exact Newton step would change these by."""
        if self.verdict is None:
            margins = (p[np.arange(len(p)), self.Y][:, None] - p)[self._others]
            if (margins > 0.0).any() and not (margins < 0.0).any() and self._separates(whole_numbers(W.ravel())):
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
        """Have a verdict, if one is needed and can be had, by linear programming."""
        if self.needed and self.verdict is None and not self._asked:
            self._asked = True
            self._ask()
        self._refuse()

    def _ask(self) -> None:
        Z = self.X if self.basis is None else self.X @ self.basis
        rows = _margins_of(Z, self.Y, self.m)
        if rows is None:
            return
        programme = Programme(rows)
        if programme.excluded():
            self.verdict = False
        elif programme.direction is not None:
            free = programme.direction.reshape(self.m - 1, -1)
            W = np.vstack([free if self.basis is None else free @ self.basis.T, np.zeros(self.X.shape[1])])
            candidates = [whole_numbers(W.ravel())]
            exact = _margins_of(self.X, self.Y, self.m)
            if exact is not None and programme.on_plane.any() and not programme.on_plane.all():
                nearby = beside(exact[programme.on_plane], W[:-1].ravel())
                candidates += [] if nearby is None else [[*nearby, *[0] * self.X.shape[1]]]
            if any(self._separates(candidate) for candidate in candidates):
                self.verdict = True

    def _separates(self, W: list[int]) -> bool:
        d, positive = self.X.shape[1], 0
        rows = [W[place : place + d] for place in range(0, len(W), d)]
        for label in np.unique(self.Y):
            samples = self.X[label == self.Y]
            for other in range(self.m):
                if other != label:
                    direction = [own - its for own, its in zip(rows[label], rows[other], strict=True)]
                    count = off_plane([samples], direction)
                    if count is None:
                        return False
                    positive += count
        return positive > 0

    def _refuse(self) -> None:
        if not (self.needed and self.verdict):
            return
        n, d = self.X.shape
        remedy = "max_norm=..., a bound on the norm of W, or ridge=..., the weight of half its square"
        if self._missing.size:
            present = ", ".join(map(str, np.unique(self.Y)))
            what = (
                f"y has one class alone ({present})"
                if len(np.unique(self.Y)) == 1
                else f"class {self._missing[0]} has no samples (the labels are {present})"
            )
            raise InvalidInputError(
                f"{what}, and it can be made ever less likely, so the softmax objective has no minimiser: code the "
                f"classes that occur as 0, 1, ..., or pass {remedy}"
            )
        raise InvalidInputError(
            f"the data (n={n}, {self.m} classes, d={d}) is linearly separable, so the softmax objective has no "
            f"minimiser: pass {remedy}"
        )


def _margins_of(X: np.ndarray, Y: np.ndarray, m: int) -> np.ndarray | None:
    """The margins M_ij, j ≠ y_i, as rows that act on (W_1, ..., W_{m−1}), W_m being 0; None if they are too many."""
    samples, others = np.nonzero(np.arange(m) != Y[:, None])
    d = X.shape[1]
    if len(samples) * (m - 1) * d > _MOST_ENTRIES:
        return None
    rows = np.zeros((len(samples), m, d))
    rows[np.arange(len(samples)), Y[samples]] = X[samples]
    rows[np.arange(len(samples)), others] -= X[samples]
    return rows[:, :-1].reshape(len(samples), -1)
