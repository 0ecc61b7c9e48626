"""Whether the data of a logistic fit is linearly separable, so that no best linear predictor exists, with proof."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from resflow.errors import InvalidInputError
from resflow.linear._algebra import Rows, reciprocal_condition, row_space, triangular_factor
from resflow.linear._newton import Newton, Problem

WELL_CONDITIONED = 1e-11
_CLEARLY = 1e-6
_UNDECIDED_AFTER = 16
_EPS = float(np.finfo(np.float64).eps)


class Separation:
    """Decides, along the Newton iteration of a logistic fit, whether the data is linearly separable, with proof.

    Separable: a z with y_i zᵀx_i > 0 for all x_i ≠ 0.
    Not separable: the exact Newton step s at z with max |sᵀx_i| < 1. For then, with σ_i = 1/(1 + exp(y_i zᵀx_i)),
    β_i = σ_i (1 − (1 − σ_i) y_i sᵀx_i) > 0 and Σ β_i y_i x_i = 0, which is Newton's equation; by Stiemke's lemma no u
    has y_i uᵀx_i ≥ 0 for all i, one of them positive. Half of 1 is asked for, and a Hessian that is safely regular.
    Samples that every separating plane must touch escape both, for their margins stay bounded while those of the others
    grow by 1 a step. After 16 steps the two kinds are told apart by that: if a direction orthogonal to all of the first
    kind has all of the second on its right side, the data is separable. What is left goes to a linear programme, which
    takes seconds for n = 10⁴ and minutes for 10⁵.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.verdict: bool | None = None
        self.separated: int | None = None
        self.needed = problem.ridge == 0.0 and not math.isfinite(problem.radius)

    def __call__(self, seen: Newton) -> None:
        if self.verdict is None:
            self._look(seen)
            if self.verdict is None and self.needed and seen.iterate.iterations == _UNDECIDED_AFTER:
                self.separated = _growing(self.problem, seen)
                self.verdict = True if self.separated else None
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
        """Have a verdict, if one is needed, by linear programming."""
        if self.verdict is None and self.needed:
            off_plane, nonzero = _most_off_plane(self.problem)
            if off_plane is not None:
                self.verdict = off_plane > 0
                self.separated = off_plane if off_plane < nonzero else None
        self._refuse()

    def _look(self, seen: Newton) -> None:
        margins = self.problem.y * seen.predictions
        if (margins > 0).any() and not (margins < 0).any():
            lengths = _lengths(self.problem.rows)
            rounding = 8.0 * self.problem.rows.width * _EPS * lengths * np.linalg.norm(seen.iterate.z)
            if (margins > rounding)[lengths > 0].all():
                self.verdict = True
                return
        H = seen.hessian
        if H is not None and np.abs(seen.change).max() <= 0.5 and reciprocal_condition(H) >= WELL_CONDITIONED:
            self.verdict = False

    def _refuse(self) -> None:
        if self.verdict and self.needed:
            n, d = self.problem.rows.n, self.problem.rows.d
            how = "" if self.separated is None else f" up to samples on the plane itself ({self.separated} are off it)"
            raise InvalidInputError(
                f"the data (n={n}, d={d}) is linearly separable{how}, so the logistic objective has no minimiser: pass "
                "max_norm=..., a bound on the norm of w, or ridge=..., the coefficient of half its square"
            )


def _growing(problem: Problem, seen: Newton) -> int | None:
    """How many margins grow without end along a direction that leaves all others as they are, or None if none does.

    The direction is the step, made orthogonal to the samples whose predictions it changes by less than ½.
    """
    still = np.abs(seen.change) <= 0.5
    if still.all() or not still.any():
        return None
    rows, y = problem.rows, problem.y
    basis = row_space(triangular_factor(rows, y, keep=still)[:, :-1], rows.n)[0].basis
    direction = seen.step - basis @ (basis.T @ seen.step)
    margins, size = y * rows.times(direction), float(np.linalg.norm(direction))
    lengths = _lengths(rows)
    away = (margins > _CLEARLY * size * lengths)[~still].all()
    along = (np.abs(margins) <= 8.0 * rows.width * _EPS * rows.n * size * lengths)[still].all()
    return int(np.count_nonzero(~still)) if size > 0 and away and along else None


def _lengths(rows: Rows) -> np.ndarray:
    return np.concatenate([np.sqrt(np.einsum("ij,ij->i", block, block)) for _, block in rows.blocks()])


def _most_off_plane(problem: Problem) -> tuple[int | None, int]:
    """How many samples a hyperplane with none on its wrong side can have off it, and how many are not 0.

    It is max Σ t_i over 0 ≤ t_i ≤ min(1, y_i zᵀx_i), z free: scaling z makes every positive margin at least 1, so the
    maximum is a number of samples, which leaves a wide berth for the solver's tolerances. Rows and columns are scaled
    to length 1. None if the solver does not say.
    """
    X = np.concatenate([block for _, block in problem.rows.blocks()]) * problem.y[:, None]
    lengths = np.linalg.norm(X, axis=1)
    X = X[lengths > 0] / lengths[lengths > 0, None]
    n, d = X.shape
    sizes = np.linalg.norm(X, axis=0)
    constraints = sparse.hstack([sparse.csr_array(-X / np.where(sizes > 0, sizes, 1.0)), sparse.eye_array(n)], "csr")
    bounds = np.vstack([np.tile([-np.inf, np.inf], (d, 1)), np.tile([0.0, 1.0], (n, 1))])
    costs = np.concatenate([np.zeros(d), -np.ones(n)])
    outcome = linprog(costs, A_ub=constraints, b_ub=np.zeros(n), bounds=bounds, method="highs")
    return (round(-outcome.fun) if outcome.status == 0 else None), n
