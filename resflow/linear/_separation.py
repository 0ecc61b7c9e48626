"""Whether the classes of a fit are linearly separable, so that no best linear predictor exists, with proof."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import softmax

from resflow.errors import InvalidInputError
from resflow.linear._algebra import WELL_CONDITIONED, Rows, reciprocal_condition
from resflow.linear._exact import beside, off_plane, whole_numbers
from resflow.linear._newton import Newton
from resflow.linear._problem import Problem

__all__ = ["Separation"]

_UNDECIDED_AFTER = 16
_MOST_ENTRIES = 1 << 25
_ON_PLANE = 1e-6


class Separation:
    """Decides, along the Newton iteration of a fit of classes, whether they are linearly separable, with proof.

    Margins say by how much weights prefer a sample's own class: M_i = y_i p_i of two classes, M_ij = p_i,y − p_ij over
    the other classes j of several. They are linear in the weights.
    Separable: weights with no margin below 0 and one above, their signs computed exactly, in rational numbers.
    Not separable: the exact Newton step, if its change δ of the predictions is so small that the weights β of the
    margins in Newton's equation Σ β_i ∇M_i = 0 are all positive. For then, by Stiemke's lemma, no weights separate. Of
    two classes β_i = σ_i (1 − (1 − σ_i) y_i δ_i) with σ_i = 1/(1 + exp(M_i)), so that |δ_i| < 1 is enough; of several
    β_ij = σ_ij (1 + δ_ij − Σ_l σ_il δ_il) with the softmax σ. Half of 1 is asked for, and a Hessian that is safely
    regular.
    Samples that every separating plane must touch escape both, for their margins stay bounded while those of the others
    grow by 1 a step. After 16 steps the two kinds are told apart by that. What is left goes to a linear programme,
    which takes seconds for 10⁴ margins of two classes and minutes for 10⁵, or for 10⁴ of several. Either gives a
    direction and the margins that are to be 0, to which it is then made orthogonal exactly; if its signs are not right
    even so, nothing is known.

    A sample whose label is a row of probabilities stands for one of each class that occurs in it.

    Directions here are of (W_1 − W_m, ..., W_{m−1} − W_m), for nothing else matters; of two classes with one output
    that is w, and the first class is +1.

    Args:
        problem: The fit, in coordinates in which its Hessian is regular.
        rows: The samples themselves.
    """

    def __init__(self, problem: Problem, rows: Rows) -> None:
        self.needed, self._n = problem.free, rows.n
        self.verdict: bool | None = None
        self._places, labels = _occurring(problem)
        if self._places is not None:
            if len(self._places) == rows.n * (2 if problem.outputs is None else len(problem.outputs)):
                self.verdict = False  # every sample may be of every class
            problem, rows = problem._replace(y=labels, rows=problem.rows.take(self._places)), rows.take(self._places)
        self.problem, self.rows = problem, rows
        self.separated: int | None = None
        self._asked = False  # of the linear programme, which would say the same again
        self._one_output = problem.outputs is None
        self._m = 2 if problem.outputs is None else len(problem.outputs)

    @cached_property
    def _classes(self) -> np.ndarray:
        return np.where(self.problem.y > 0, 0, 1) if self._one_output else self.problem.y

    @cached_property
    def _others(self) -> np.ndarray:
        """Of which classes a sample is not, shape (n, m)."""
        return np.arange(self._m) != self._classes[:, None]

    @cached_property
    def _present(self) -> list[int]:
        return np.unique(self._classes).tolist()

    @property
    def found(self) -> bool | None:
        """The verdict as `LinearFit.separable` has it: what a class without samples leaves open is not that."""
        return None if self.verdict and len(self._present) < self._m else self.verdict

    @property
    def unknown(self) -> bool:
        """Whether there may be no minimiser to converge to."""
        return self.needed and self.verdict is None

    def __call__(self, seen: Newton) -> None:
        if self._places is not None:
            seen = seen._replace(change=seen.change[self._places], predictions=seen.predictions[self._places])
        if self.verdict is None:
            self._look(seen)
            if self.unknown and seen.iterate.iterations == _UNDECIDED_AFTER:
                self._try(self.problem.matrix(seen.step), np.abs(self._margins(seen.change)) <= 0.5)
                self.settle()
        self._refuse()

    def judge_minimiser(self, predictions: np.ndarray, multiples: np.ndarray) -> None:
        """See in a minimiser itself, by its predictions and its multiples uᵀx_i, that two classes are not separable.

        Where XᵀX u = n∇F_lin(z), the β_i = σ_i + y_i uᵀx_i have Σ β_i y_i x_i = 0.
        """
        if self._places is not None:
            predictions, multiples = predictions[self._places], multiples[self._places]
        if (np.abs(multiples) <= 0.5 / (1.0 + np.exp(self._margins(predictions)))).all():
            self.verdict = False

    def judge_weights(self, matrix: np.ndarray) -> None:
        """See whether weights, as `Problem.matrix` has them, separate the classes, and refuse them where a fit may."""
        if self.verdict is None:
            self._judge(self._direction(matrix))
        self._refuse()

    def settle(self) -> None:
        """Have a verdict, if one is needed and can be had, by linear programming."""
        if self.unknown and not self._asked:
            self._asked = True
            rows = self._gradients(self.problem.rows, np.ones(np.count_nonzero(self._others), dtype=bool))
            if rows is not None:
                direction, on_plane, excluded = _separating_plane(rows)
                if direction is not None:
                    self._try(self._completed(direction), on_plane)
                if self.verdict is None and excluded:
                    self.verdict = False
        self._refuse()

    def _look(self, seen: Newton) -> None:
        margins = self._margins(seen.predictions)
        if (margins > 0).any() and not (margins < 0).any():
            self._judge(self._direction(self.problem.matrix(seen.iterate.z)))
        if self.verdict is not None or seen.hessian is None:
            return
        delta = seen.change
        if not self._one_output:
            delta = delta - np.sum(softmax(seen.predictions, axis=1) * delta, axis=1, keepdims=True)
        if np.abs(delta).max() <= 0.5 and reciprocal_condition(seen.hessian) >= WELL_CONDITIONED:
            self.verdict = False

    def _try(self, matrix: np.ndarray, on_plane: np.ndarray) -> None:
        """Judge weights, as `Problem.matrix` has them, of whose margins those in the mask are to be 0."""
        if on_plane.all():
            return
        direction = self._direction(matrix)
        if on_plane.any():
            rows = self._gradients(self.rows, on_plane)
            self._judge(None if rows is None else beside(rows, direction))
        if self.verdict is None:
            self._judge(direction)

    def _judge(self, direction: list[int] | None) -> None:
        count = None if direction is None else self._count(direction)
        if count:
            self.verdict, self.separated = True, count

    def _margins(self, predictions: np.ndarray) -> np.ndarray:
        """All margins in one vector."""
        if self._one_output:
            return self.problem.y * predictions
        return (np.take_along_axis(predictions, self._classes[:, None], axis=1) - predictions)[self._others]

    def _direction(self, matrix: np.ndarray) -> list[int]:
        """The direction of weights that `Problem.matrix` gave, exactly."""
        weights = matrix if self.problem.rows.basis is None else self.problem.rows.basis @ matrix
        whole = whole_numbers(weights.T.ravel())
        if self._one_output:
            return whole
        rows = np.array(whole, dtype=object).reshape(self._m, -1)
        return (rows[:-1] - rows[-1]).ravel().tolist()

    def _completed(self, direction: np.ndarray) -> np.ndarray:
        """What `Problem.matrix` would give for a direction in the coordinates of the problem."""
        return direction if self._one_output else np.pad(direction.reshape(self._m - 1, -1), ((0, 1), (0, 0))).T

    def _gradients(self, rows: Rows, mask: np.ndarray) -> np.ndarray | None:
        """The gradients of the margins in the mask, one a row; None if that are too many for a linear programme."""
        samples, others = (places[mask] for places in np.nonzero(self._others))
        if not self._one_output and len(samples) * (self._m - 1) * rows.width > _MOST_ENTRIES:
            return None
        found, last = np.zeros((len(samples), self._m - 1, rows.width)), self._m - 1
        for part, block in rows.blocks():
            own = slice(*np.searchsorted(samples, (part.start, part.stop)))
            x, places = block[samples[own] - part.start], np.arange(own.start, own.stop)
            for labels, signed in ((self._classes[samples[own]], x), (others[own], -x)):
                found[places[labels < last], labels[labels < last]] += signed[labels < last]
        return found.reshape(len(samples), -1)

    def _count(self, direction: list[int]) -> int | None:
        """How many margins are above 0 by exact arithmetic; None if one is below 0, or it is not known."""
        whole = np.array(direction, dtype=object)
        weights, positive = [*whole.reshape(self._m - 1, -1), 0 * whole[: self.rows.d]], 0
        for label in self._present:
            own = self.rows.take(np.flatnonzero(self._classes == label))
            for other in range(self._m):
                if other != label:
                    samples = (block for _, block in own.blocks())
                    count = off_plane(samples, (weights[label] - weights[other]).tolist())
                    if count is None:
                        return None
                    positive += count
        return positive

    def _refuse(self) -> None:
        if not (self.verdict and self.needed):
            return
        n, d, one, instead, how = self._n, self.rows.d, self._one_output, "", ""
        if len(self._present) == self._m:
            if one:
                nonzero = sum(int(np.count_nonzero(block.any(axis=1))) for _, block in self.rows.blocks())
                touched = f" up to samples on the plane itself ({self.separated} are off it)"
                how = "" if self.separated == nonzero else touched
            what = f"the data (n={n}, {'' if one else f'{self._m} classes, '}d={d}) is linearly separable{how}"
        elif len(self._present) == 1:
            what = f"y has one class alone: all {n} labels are {self.problem.y[0]:{'+g' if one else 'd'}}, and some "
            what += f"{'w' if one else 'W'} puts every sample on that side"
            instead = "pass samples of other classes, or "
        else:
            absent = min({*range(self._m)} - {*self._present})
            what = f"class {absent} has no samples (the labels are {self._present}), and can be made ever less likely"
            instead = "code the classes that occur as 0, 1, ..., or "
        raise InvalidInputError(
            f"{what}, so the {self.problem.loss.name} objective has no minimiser: {instead}pass max_norm=..., a bound "
            f"on the norm of {'w' if one else 'W'}, or ridge=..., the coefficient of half its square"
        )


def _occurring(problem: Problem) -> tuple[np.ndarray | None, np.ndarray]:
    """Of probabilities for labels, which sample has which class, one after another; else no samples, and the labels."""
    y = problem.y
    if y.ndim == 2:
        places, classes = np.nonzero(y)
        return places, classes
    if problem.outputs is not None or (np.abs(y) == 1.0).all():
        return None, y
    places, sides = np.nonzero(np.column_stack([y < 1.0, y > -1.0]))
    return places, np.where(sides == 1, 1.0, -1.0)


def _separating_plane(A: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, bool]:
    """max Σ t_i over 0 ≤ t_i ≤ min(1, zᵀa_i), z free: how many of the a_i a hyperplane can have strictly on one side.

    Scaling z makes every positive margin at least 1, so the maximum is a number of samples. The solver allows
    violations of 1e-7: what it finds is a direction to be judged, or weights to be made exact, and no proof.

    Returns:
        The direction z, None if all t_i = 0 or the solver does not say; which of the a_i are to lie on its plane; and
        whether it is proved that no plane separates them.
    """
    direction, on_plane = None, np.ones(len(A), dtype=bool)
    lengths = np.linalg.norm(A, axis=1)
    used = np.flatnonzero(lengths > 0)
    A = A[used] / lengths[used, None]
    sizes = np.linalg.norm(A, axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)
    A = A / sizes
    n, d = A.shape
    constraints = sparse.hstack([sparse.csr_array(-A), sparse.eye_array(n)], "csr")
    bounds = np.vstack([np.tile([-np.inf, np.inf], (d, 1)), np.tile([0.0, 1.0], (n, 1))])
    costs = np.concatenate([np.zeros(d), -np.ones(n)])
    outcome = linprog(costs, A_ub=constraints, b_ub=np.zeros(n), bounds=bounds, method="highs")
    if outcome.status != 0:
        return None, on_plane, False
    if round(-outcome.fun) > 0:
        z = outcome.x[:d]
        margins = A @ z
        direction = z / sizes
        on_plane[used] = margins <= _ON_PLANE * np.max(np.abs(margins))
    return direction, on_plane, _none_separates(A, -outcome.ineqlin.marginals)


def _none_separates(A: np.ndarray, beta: np.ndarray) -> bool:
    """Whether the dual weights, all at least 1, show that no plane separates: Σ β_i a_i = 0 with all β_i > 0.

    Rounded, the sum is not 0. What makes it so is the combination of the rows that lies in their own span.
    """
    if len(beta) == 0 or not (beta > 0.5).all():
        return False
    A = A[:, A.any(axis=0)]
    Q, R = np.linalg.qr(A)
    if Q.shape[1] < A.shape[1] or reciprocal_condition(R.T @ R) < WELL_CONDITIONED:
        return False
    repair = Q @ np.linalg.solve(R.T, A.T @ beta)
    return bool((np.abs(repair) <= 0.5 * beta).all())
