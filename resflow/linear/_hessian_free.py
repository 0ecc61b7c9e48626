"""The best linear predictor of many classes with a ridge term, whose Hessian, of order m d, is never formed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import EPS, cholesky_solver
from resflow.linear._newton import Iterate
from resflow.linear._passes import Look, activity_gram, at_zero, look, product, sensitivity
from resflow.linear._problem import Problem
from resflow.parallel import blas_on_one_thread

__all__ = ["NO_SOLVER", "Metric", "closer_rounding", "hessian_free", "minimise", "rounding"]

_PAIRS = 10
_FORCING = 0.05
_MOST_PRODUCTS = 500
_MOST_KNOWN = 30
_MOST_STALLED = 4
_MOST_HALVINGS = 40
_NO_MORE = 1e-2
NO_SOLVER = cholesky_solver(np.zeros((0, 0)))
"""What an `Iterate` has in place of a solver where no Hessian is formed."""


@blas_on_one_thread()
def hessian_free(
    problem: Problem,
    gram: np.ndarray,
    gradient: np.ndarray,
    *,
    max_iterations: int,
    guess: np.ndarray | None = None,
) -> Iterate:
    """Minimise a softmax objective with a ridge term until its suboptimality is proven to be small.

    The Hessian is mean_i S_i ⊗ x_i x_iᵀ + ridge, of which (mean_i S_i) ⊗ XᵀX/n + ridge is a good part: exact at W = 0,
    and inverted by one eigendecomposition of order d and one of order m a step. In that metric limited-memory BFGS
    nearly forgets the features' condition. Where the classes are nearly separable the S_i differ too much for it; from
    there on Newton's method takes over, its equations solved by conjugate gradients in such a metric, in whose XᵀX
    every sample counts by the trace of its S_i.
    The objective is strongly convex, so F(W) − F* ≤ ‖∇F(W)‖² / (2 ridge), whatever the features and the iteration are:
    that is the suboptimality which is returned, with what rounding may hide of the gradient counted in.

    Args:
        problem: Of the softmax loss, in the weights themselves, with a ridge and without a bound.
        gram: XᵀX.
        gradient: Of the mean loss at W = 0, shape (m, d).
        max_iterations: Steps at most, of both methods together.
        guess: Where to start if the objective is lower there than at W = 0, shape (m, d).

    References:
        Böhning 1992: a metric from XᵀX for the multinomial loss. Martens and Grosse 2015 (arXiv:1503.05671): Kronecker
        factors of a Hessian.
    """
    start = np.zeros_like(gradient), at_zero(problem, gradient)
    if guess is not None:
        there = look(problem, guess)
        start = (guess, there) if there.total < start[1].total else start
    metric = Metric(gram / problem.rows.n)
    found = minimise(problem, metric, *start, goal=problem.goal, max_iterations=max_iterations)
    residual = _length(found.look.gradient)
    return Iterate(
        found.W.ravel(),
        found.look.objective,
        0.0,
        residual,
        found.bound,
        True,
        NO_SOLVER,
        found.iterations,
        proven=True,
    )


class Found(NamedTuple):
    """The best W that an iteration came to, the pass there, a proven bound on F − F*, and how many steps it took."""

    W: np.ndarray
    look: Look
    bound: float
    iterations: int


def minimise(
    problem: Problem,
    metric: Metric,
    W: np.ndarray,
    here: Look,
    *,
    goal: float,
    max_iterations: int,
    watch: Callable[[np.ndarray, Look], None] = lambda W, here: None,
) -> Found:
    """Go from W, where the pass `here` was made, until F − F* ≤ goal is proven, or nothing more is gained.

    Without a ridge the goal is not proven, but reached by half the squared decrement in the metric. `watch` is shown
    every step.
    """
    iteration, pairs = 0, deque[tuple[np.ndarray, np.ndarray]](maxlen=_PAIRS)
    residuals = [math.inf, _length(here.gradient)]
    best, newton, stalled, known = (W, here, _bound(problem, metric, W, here, goal)), False, 0, None
    while best[2] > goal and iteration < max_iterations and stalled < _MOST_STALLED:
        iteration += 1
        if newton:
            step, known = _newton_step(problem, W, here, residuals[-1], goal, known)
        else:
            step = _lbfgs_step(here, pairs, metric.solver(here.curvature, problem.ridge))
        if step is None:
            break
        found = _search(problem, W, step, here, halvings=_MOST_HALVINGS if newton else 0)
        if found is None:
            if newton:
                break
            newton = True
            continue
        t, there = found
        pairs.append((t * step, there.gradient - here.gradient))
        W, here = W + t * step, there
        watch(W, here)
        residuals.append(_length(here.gradient))
        newton = newton or not residuals[-1] <= 0.5 * residuals[-3]
        bound = _bound(problem, metric, W, here, goal)
        stalled = 0 if bound <= 0.5 * best[2] or not newton or here.total < best[1].total else stalled + 1
        best = (W, here, bound) if bound < best[2] or here.total < best[1].total - 64.0 * EPS else best
        if residuals[-1] ** 2 <= _NO_MORE * 2.0 * problem.ridge * goal:
            break  # what is not proven yet is rounding
    return Found(*best, iteration)


class Metric:
    """C ⊗ A + ridge for a Gram matrix A and any C of the classes.

    Without a ridge a metric may be unitless: the columns' sizes, which would drown short ones, are then taken out.
    """

    def __init__(self, gram: np.ndarray, *, unitless: bool = False) -> None:
        self.trace = float(np.trace(gram))
        sizes = np.sqrt(np.diag(gram)) if unitless else np.ones(len(gram))
        self._sizes = np.where(sizes > 0.0, sizes, np.inf)  # an empty column has no weight
        scaled = gram / self._sizes / self._sizes[:, None]
        values, self._basis = np.diag(scaled), None
        if np.count_nonzero(scaled) > np.count_nonzero(values):
            values, self._basis = np.linalg.eigh(scaled)
        self._values = np.maximum(values, len(gram) * EPS * values.max() if unitless else 0.0)

    def solver(self, curvature: np.ndarray, ridge: float) -> Callable[[np.ndarray], np.ndarray]:
        """The inverse for C = `curvature`, on matrices of shape (m, d); without a ridge 0 where C is, as along 1."""
        values, outputs = np.linalg.eigh(curvature)
        scales = np.outer(np.maximum(values, 0.0), self._values) + ridge
        if ridge == 0.0:
            scales[values <= len(values) * EPS * values[-1]] = np.inf
        basis = self._basis

        def solve(x: np.ndarray) -> np.ndarray:
            z = outputs.T @ (x / self._sizes)
            z = z / scales if basis is None else ((z @ basis) / scales) @ basis.T
            return outputs @ z / self._sizes

        return solve


def _lbfgs_step(here: Look, pairs: deque, solve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The two-loop recursion from the inverse of the metric."""
    q, weights = here.gradient, []
    for step, change in reversed(pairs):
        weights.append(float(np.vdot(step, q)) / float(np.vdot(step, change)))
        q = q - weights[-1] * change
    r = solve(q)
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        r = r + (weight - float(np.vdot(change, r)) / float(np.vdot(step, change))) * step
    return -r


class _Known(NamedTuple):
    """Directions, conjugate in a Hessian, its products with them, all of shape (k, m d), and its curvatures, (k,)."""

    directions: np.ndarray
    images: np.ndarray
    curvatures: np.ndarray


def _newton_step(
    problem: Problem, W: np.ndarray, here: Look, residual: float, goal: float, known: _Known | None
) -> tuple[np.ndarray | None, _Known]:
    """−H⁻¹∇F by conjugate gradients, a twentieth of the residual left, but no less than the goal asks for.

    None if without a ridge that is out of reach, as where W runs off to infinity and H with it to 0. Fewer products
    than where ever more digits are asked for, as Newton's quadratic convergence could use. The last directions are
    returned, too, for the next step, whose Hessian is nearly the same.
    """
    metric = Metric(activity_gram(problem, W, here), unitless=problem.ridge == 0.0)
    solve = _exact_along(known, metric.solver(here.curvature / np.trace(here.curvature), problem.ridge))
    enough = max(_FORCING * residual, 0.3 * math.sqrt(2.0 * problem.ridge * goal))
    step, r = np.zeros_like(W), -here.gradient
    z = solve(r)
    direction, rz = z, float(np.vdot(r, z))
    seen = deque[tuple[np.ndarray, np.ndarray, float]](maxlen=_MOST_KNOWN)
    for _ in range(_MOST_PRODUCTS):
        image = product(problem, W, here, direction)
        curvature = float(np.vdot(direction, image))
        seen.append((direction.ravel(), image.ravel(), curvature))
        step, r = step + (rz / curvature) * direction, r - (rz / curvature) * image
        if _length(r) <= enough:
            break
        z = solve(r)
        rz, previous = float(np.vdot(r, z)), rz
        direction = z + (rz / previous) * direction
    reached = _length(r) <= enough or problem.ridge > 0.0
    return step if reached else None, _Known(*map(np.array, zip(*seen, strict=True)))


def _exact_along(known: _Known | None, solve: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The inverse of a metric made that of the Hessian along known directions, as BFGS does with as many pairs."""
    if known is None:
        return solve
    P, Q, curvatures = known

    def exact(x: np.ndarray) -> np.ndarray:
        along = (P @ x.ravel()) / curvatures
        z = solve((x.ravel() - along @ Q).reshape(x.shape)).ravel()
        return (z + (along - (Q @ z) / curvatures) @ P).reshape(x.shape)

    return exact


def _search(
    problem: Problem, W: np.ndarray, step: np.ndarray, here: Look, *, halvings: int
) -> tuple[float, Look] | None:
    """The largest of 1, ½, ¼, ... by which the objective falls enough, and the pass there; None if there is none."""
    slope, slack, t = float(np.vdot(here.gradient, step)), 64.0 * EPS * abs(here.total), 1.0
    if not slope < 0.0:
        return None
    for _ in range(halvings + 1):
        there = look(problem, W + t * step)
        # the curvature along the step is that of the loss and of the ridge, and so positive up to rounding
        if there.total <= here.total + 1e-4 * t * slope + slack and np.vdot(step, there.gradient) > slope:
            return t, there
        t *= 0.5
    return None


def _bound(problem: Problem, metric: Metric, W: np.ndarray, here: Look, goal: float) -> float:
    """A bound on F − F*, by strong convexity, with the gradient's rounding errors counted in.

    Without a ridge there is none: an estimate in its place, by the metric.
    """
    if problem.ridge == 0.0:
        return 0.5 * float(np.vdot(here.gradient, metric.solver(here.curvature, 0.0)(here.gradient)))
    size, unsure = _length(here.gradient), rounding(problem, metric, W)
    if size**2 <= 2.0 * problem.ridge * goal < (size + unsure) ** 2:
        unsure = min(unsure, closer_rounding(problem, W, here))
    return (size + unsure) ** 2 / (2.0 * problem.ridge)


def rounding(problem: Problem, metric: Metric, W: np.ndarray) -> float:
    """By how much rounding may put the gradient wrong, where the metric is of XᵀX/n."""
    size = problem.gradient_scale + (0.5 * metric.trace + problem.ridge) * _length(W)
    return 4.0 * math.sqrt(problem.rows.d) * EPS * size


def closer_rounding(problem: Problem, W: np.ndarray, here: Look) -> float:
    """The same by a pass: little where the classes are apart, and so the loss flat."""
    slopes, curvatures = sensitivity(problem, W, here)
    return 4.0 * math.sqrt(problem.rows.d) * EPS * (slopes + (curvatures + problem.ridge) * _length(W))


def _length(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
