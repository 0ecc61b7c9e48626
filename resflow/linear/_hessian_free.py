"""The best linear predictor of many classes with a ridge term, whose Hessian, of order m d, is never formed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import EPS, KEEP_VALUES, cholesky_solver
from resflow.linear._newton import TOLERANCE, Iterate
from resflow.linear._problem import Problem, loss_terms

__all__ = ["hessian_free"]

_PAIRS = 10
_MOST_PRODUCTS = 500
_MOST_STALLED = 4
_MOST_HALVINGS = 40


class _Look(NamedTuple):
    """One pass over the samples at W, shape (d, m).

    Attributes:
        objective: The mean loss, without the ridge term.
        total: The same with the ridge term.
        gradient: Of `total`, shape (d, m).
        curvature: mean_i S_i with S_i = diag(σ_i) − σ_i σ_iᵀ, the Hessian of sample i's loss, shape (m, m).
        probabilities: σ_i as rows, shape (n, m); None where they are too many to keep.
    """

    objective: float
    total: float
    gradient: np.ndarray
    curvature: np.ndarray
    probabilities: np.ndarray | None


def hessian_free(problem: Problem, gram: np.ndarray, *, max_iterations: int) -> Iterate:
    """Minimise a softmax objective with a ridge term until its suboptimality is proven to be small.

    The Hessian is mean_i S_i ⊗ x_i x_iᵀ + ridge, of which (mean_i S_i) ⊗ XᵀX/n + ridge is a good part: exact at W = 0,
    and inverted by one eigendecomposition of order d and one of order m a step. In that metric limited-memory BFGS
    nearly forgets the features' condition. Where the classes are nearly separable the S_i differ too much for it; from
    there on Newton's method takes over, its equations solved by conjugate gradients in the same metric.
    The objective is strongly convex, so F(W) − F* ≤ ‖∇F(W)‖² / (2 ridge), whatever the features and the iteration are:
    that is the suboptimality which is returned, with what rounding may hide of the gradient counted in.

    Args:
        problem: Of the softmax loss, in the weights themselves, with a ridge and without a bound.
        gram: XᵀX.
        max_iterations: Steps at most, of both methods together.

    References:
        Böhning 1992: a metric from XᵀX for the multinomial loss. Martens and Grosse 2015 (arXiv:1503.05671): Kronecker
        factors of a Hessian.
    """
    iteration, W = 0, np.zeros((problem.rows.width, problem.size // problem.rows.width))
    metric, here = _Metric(gram / problem.rows.n, problem.ridge), _look(problem, W)
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_PAIRS)
    residuals = [math.inf, _length(here.gradient)]
    best, newton, stalled = (W, here, _bound(problem, metric, W, here)), False, 0
    goal = 0.1 * TOLERANCE * problem.objective_scale
    while best[2] > goal and iteration < max_iterations and stalled < _MOST_STALLED:
        iteration += 1
        solve = metric.solver(here.curvature)
        step = _newton_step(problem, W, here, solve, residuals, goal) if newton else _lbfgs_step(here, pairs, solve)
        found = _search(problem, W, step, here, halvings=_MOST_HALVINGS if newton else 0)
        if found is None:
            if newton:
                break
            newton = True
            continue
        t, there = found
        pairs.append((t * step, there.gradient - here.gradient))
        W, here = W + t * step, there
        residuals.append(_length(here.gradient))
        newton = newton or not residuals[-1] <= 0.5 * residuals[-3]
        bound = _bound(problem, metric, W, here)
        stalled = 0 if bound <= 0.5 * best[2] or not newton or here.total < best[1].total else stalled + 1
        best = (W, here, bound) if bound < best[2] or here.total < best[1].total - 64.0 * EPS else best
    W, here, bound = best
    nothing = cholesky_solver(np.zeros((0, 0)))
    residual = _length(here.gradient)
    return Iterate(W.T.ravel(), here.objective, 0.0, residual, bound, True, nothing, iteration, proven=True)


class _Metric:
    """C ⊗ XᵀX/n + ridge, for any C of the classes."""

    def __init__(self, gram: np.ndarray, ridge: float) -> None:
        self.squares, self._ridge = float(np.trace(gram)), ridge
        values, self._basis = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0.0)

    def solver(self, curvature: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The inverse for C = `curvature`, on matrices of shape (d, m)."""
        values, basis = np.linalg.eigh(curvature)
        scales = np.outer(self._values, np.maximum(values, 0.0)) + self._ridge
        return lambda x: self._basis @ ((self._basis.T @ x @ basis) / scales) @ basis.T


def _look(problem: Problem, W: np.ndarray) -> _Look:
    (n, d), m = (problem.rows.n, problem.rows.width), W.shape[1]
    totals, gradient, curvature = [], np.zeros((d, m)), np.zeros((m, m))
    probabilities = np.empty((n, m)) if n * m <= KEEP_VALUES else None
    for part, block in problem.rows.blocks():
        value, slope, sigma = _terms(problem, part, block @ W)
        totals.append(float(np.sum(value)))
        gradient += block.T @ slope
        curvature -= sigma.T @ sigma
        curvature.flat[:: m + 1] += sigma.sum(axis=0)
        if probabilities is not None:
            probabilities[part] = sigma
    objective = math.fsum(totals) / n
    total = objective + 0.5 * problem.ridge * float(np.vdot(W, W))
    return _Look(objective, total, gradient / n + problem.ridge * W, curvature / n, probabilities)


def _terms(problem: Problem, part: slice, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ℓ, ℓ' and the probabilities σ of some samples with predictions p."""
    y = problem.y[part]
    value, slope, _ = loss_terms(problem.loss, p, y, curved=False)
    sigma = slope.copy()
    sigma[np.arange(len(y)), y] += 1.0
    return value, slope, sigma


def _lbfgs_step(here: _Look, pairs: deque, solve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The two-loop recursion from the inverse of the metric."""
    q, weights = here.gradient, []
    for step, change in reversed(pairs):
        weights.append(float(np.vdot(step, q)) / float(np.vdot(step, change)))
        q = q - weights[-1] * change
    r = solve(q)
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        r = r + (weight - float(np.vdot(change, r)) / float(np.vdot(step, change))) * step
    return -r


def _newton_step(
    problem: Problem,
    W: np.ndarray,
    here: _Look,
    solve: Callable[[np.ndarray], np.ndarray],
    residuals: list[float],
    goal: float,
) -> np.ndarray:
    """−H⁻¹∇F by conjugate gradients, as accurate as the next step can use, but no more so than the goal asks for."""
    enough = residuals[-1] * min(0.3, math.sqrt(residuals[-1] / residuals[1]))
    enough = max(enough, 0.3 * math.sqrt(2.0 * problem.ridge * goal))
    step, r = np.zeros_like(W), -here.gradient
    z = solve(r)
    direction, rz = z, float(np.vdot(r, z))
    for _ in range(_MOST_PRODUCTS):
        image = _product(problem, W, here, direction)
        along = rz / float(np.vdot(direction, image))
        step, r = step + along * direction, r - along * image
        if _length(r) <= enough:
            break
        z = solve(r)
        rz, previous = float(np.vdot(r, z)), rz
        direction = z + (rz / previous) * direction
    return step


def _product(problem: Problem, W: np.ndarray, here: _Look, V: np.ndarray) -> np.ndarray:
    """The Hessian's product with V, shape (d, m)."""
    image = np.zeros_like(V)
    for part, block in problem.rows.blocks():
        kept = here.probabilities
        sigma = kept[part] if kept is not None else _terms(problem, part, block @ W)[2]
        change = block @ V
        change -= np.einsum("ij,ij->i", sigma, change)[:, None]
        change *= sigma
        image += block.T @ change
    return image / problem.rows.n + problem.ridge * V


def _search(
    problem: Problem, W: np.ndarray, step: np.ndarray, here: _Look, *, halvings: int
) -> tuple[float, _Look] | None:
    """The largest of 1, ½, ¼, ... by which the objective falls enough, and the pass there; None if there is none."""
    slope, slack, t = float(np.vdot(here.gradient, step)), 64.0 * EPS * abs(here.total), 1.0
    if not slope < 0.0:
        return None
    for _ in range(halvings + 1):
        there = _look(problem, W + t * step)
        # the curvature along the step is that of the loss and of the ridge, and so positive up to rounding
        if there.total <= here.total + 1e-4 * t * slope + slack and np.vdot(step, there.gradient) > slope:
            return t, there
        t *= 0.5
    return None


def _bound(problem: Problem, metric: _Metric, W: np.ndarray, here: _Look) -> float:
    """A bound on F − F*, by strong convexity, with the gradient's rounding errors counted in."""
    size = problem.gradient_scale + (0.5 * metric.squares + problem.ridge) * _length(W)
    rounding = 4.0 * math.sqrt(problem.rows.d) * EPS * size
    return (_length(here.gradient) + rounding) ** 2 / (2.0 * problem.ridge)


def _length(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
