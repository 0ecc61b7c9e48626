"""Whether the data of a logistic fit is linearly separable, so that no best linear predictor exists, with proof."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from resflow.errors import InvalidInputError
from resflow.linear._algebra import WELL_CONDITIONED, Rows, reciprocal_condition
from resflow.linear._exact import Direction, beside, off_plane
from resflow.linear._newton import Newton, Problem
from resflow.linear._programme import Programme

_UNDECIDED_AFTER = 16
_FEW_SAMPLES = 1 << 24


class Separation:
    """Decides, along the Newton iteration of a logistic fit, whether the data is linearly separable, with proof.

    Separable: a z with y_i zᵀx_i ≥ 0 for all samples and > 0 for one, its signs computed exactly, in rational numbers.
    Not separable: the exact Newton step s at z with max |sᵀx_i| < 1. For then, with σ_i = 1/(1 + exp(y_i zᵀx_i)),
    β_i = σ_i (1 − (1 − σ_i) y_i sᵀx_i) > 0 and Σ β_i y_i x_i = 0, which is Newton's equation; by Stiemke's lemma no u
    has y_i uᵀx_i ≥ 0 for all i, one of them positive. Half of 1 is asked for, and a Hessian that is safely regular.
    Samples that every separating plane must touch escape both, for their margins stay bounded while those of the others
    grow by 1 a step. After 16 steps the two kinds are told apart by that. What is left goes to a linear programme,
    which takes seconds for n = 10⁴ and minutes for 10⁵. Either gives a direction and the samples that are to lie on its
    plane, to which it is then made orthogonal exactly; if its signs are not right even so, nothing is known.
    """

    def __init__(self, problem: Problem, X: np.ndarray) -> None:
        self.problem, self.X = problem, X
        self.verdict: bool | None = None
        self.separated: int | None = None
        self.needed = problem.ridge == 0.0 and not math.isfinite(problem.radius)
        self._asked = False  # of the linear programme, which would say the same again
        self._one_class = bool((problem.y == problem.y[0]).all())

    @property
    def found(self) -> bool | None:
        """The verdict as `LinearFit.separable` has it: one class alone is not called separable."""
        return None if self.verdict and self._one_class else self.verdict

    def __call__(self, seen: Newton) -> None:
        if self.verdict is None:
            self._look(seen)
            if self.verdict is None and self.needed and seen.iterate.iterations == _UNDECIDED_AFTER:
                self._try(seen.step, np.abs(seen.change) <= 0.5)
                self.settle()
        self._refuse()

    def judge_minimiser(self, predictions: np.ndarray, multiples: np.ndarray) -> None:
        """See in a minimiser itself that the data is not separable.

        Args:
            predictions: zᵀx_i at z, shape (n,).
            multiples: uᵀx_i, where XᵀX u = n∇F_lin(z). The β_i = σ_i + y_i uᵀx_i then have Σ β_i y_i x_i = 0.
        """
        if (np.abs(multiples) <= 0.5 / (1.0 + np.exp(self.problem.y * predictions))).all():
            self.verdict = False

    def settle(self) -> None:
        """Have a verdict, if one is needed and can be had, by linear programming."""
        if self.verdict is None and self.needed and not self._asked:
            self._asked = True
            rows = np.concatenate([block for _, block in self.problem.rows.blocks()])
            programme = Programme(rows * self.problem.y[:, None])
            if programme.direction is not None:
                self._try(programme.direction, programme.on_plane)
            if self.verdict is None and programme.excluded():
                self.verdict = False
        self._refuse()

    def _look(self, seen: Newton) -> None:
        margins = self.problem.y * seen.predictions
        if (margins > 0).any() and not (margins < 0).any():
            self._judge(self._weights(seen.iterate.z))
        H = seen.hessian
        if self.verdict is not None or H is None or np.abs(seen.change).max() > 0.5:
            return
        if reciprocal_condition(H) >= WELL_CONDITIONED:
            self.verdict = False

    def _try(self, z: np.ndarray, on_plane: np.ndarray) -> None:
        """Judge a direction, in the coordinates of the problem, that is to have some samples on its plane."""
        if on_plane.all():
            return
        direction = self._weights(z)
        if on_plane.any():
            self._judge(beside(self._of(on_plane), direction))
        if self.verdict is None:
            self._judge(direction)

    def _judge(self, direction: Direction | None) -> None:
        count = None if direction is None else off_plane(self._signed(), direction)
        if count:
            self.verdict, self.separated = True, count

    def _weights(self, z: np.ndarray) -> np.ndarray:
        return z if self.problem.rows.basis is None else self.problem.rows.basis @ z

    def _signed(self) -> Iterator[np.ndarray]:
        for part, block in Rows(self.X).blocks():
            yield block * self.problem.y[part, None]

    def _of(self, mask: np.ndarray) -> np.ndarray:
        return np.concatenate([block[mask[part]] for part, block in Rows(self.X).blocks()])

    def _refuse(self) -> None:
        if not (self.verdict and self.needed):
            return
        n, d = self.X.shape
        remedy = "max_norm=..., a bound on the norm of w, or ridge=..., the coefficient of half its square"
        if self._one_class:
            raise InvalidInputError(
                f"y has one class alone: all {n} labels are {self.problem.y[0]:+g}, and some w puts every sample on "
                f"that side, so the logistic objective has no minimiser: pass samples of both classes, or {remedy}"
            )
        nonzero = sum(int(np.count_nonzero(block.any(axis=1))) for _, block in Rows(self.X).blocks())
        all_off = self.separated == nonzero
        how = "" if all_off else f" up to samples on the plane itself ({self.separated} are off it)"
        raise InvalidInputError(
            f"the data (n={n}, d={d}) is linearly separable{how}, so the logistic objective has no minimiser: pass "
            f"{remedy}"
        )
