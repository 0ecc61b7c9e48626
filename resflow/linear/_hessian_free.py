"""The best linear predictor of many classes with a ridge term, whose Hessian, of order m d, is never formed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import EPS, KEEP_VALUES, add_gram, cholesky_solver
from resflow.linear._newton import TOLERANCE, Iterate
from resflow.linear._problem import Problem, loss_terms
from resflow.losses import Softmax

__all__ = ["hessian_free"]

_PAIRS = 10
_FORCING = 0.1
_MOST_PRODUCTS = 500
_MOST_STALLED = 4
_MOST_HALVINGS = 40


class _Look(NamedTuple):
    """One pass over the samples at W, shape (m, d).

    Attributes:
        objective: The mean loss, without the ridge term.
        total: The same with the ridge term.
        gradient: Of `total`, shape (m, d).
        curvature: mean_i S_i with S_i = diag(σ_i) − σ_i σ_iᵀ, the Hessian of sample i's loss, shape (m, m).
        probabilities: σ_i as columns, shape (m, n); None where they are too many to keep.
    """

    objective: float
    total: float
    gradient: np.ndarray
    curvature: np.ndarray
    probabilities: np.ndarray | None


def hessian_free(problem: Problem, gram: np.ndarray, gradient: np.ndarray, *, max_iterations: int) -> Iterate:
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

    References:
        Böhning 1992: a metric from XᵀX for the multinomial loss. Martens and Grosse 2015 (arXiv:1503.05671): Kronecker
        factors of a Hessian.
    """
    iteration, W, here = 0, np.zeros_like(gradient), _at_zero(problem, gradient)
    metric, squares = _Metric(gram / problem.rows.n, problem.ridge), float(np.trace(gram)) / problem.rows.n
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_PAIRS)
    residuals = [math.inf, _length(here.gradient)]
    best, newton, stalled = (W, here, _bound(problem, squares, W, here)), False, 0
    goal = TOLERANCE * problem.objective_scale
    while best[2] > goal and iteration < max_iterations and stalled < _MOST_STALLED:
        iteration += 1
        if newton:
            step = _newton_step(problem, W, here, residuals[-1], goal)
        else:
            step = _lbfgs_step(here, pairs, metric.solver(here.curvature))
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
        bound = _bound(problem, squares, W, here)
        stalled = 0 if bound <= 0.5 * best[2] or not newton or here.total < best[1].total else stalled + 1
        best = (W, here, bound) if bound < best[2] or here.total < best[1].total - 64.0 * EPS else best
    W, here, bound = best
    nothing = cholesky_solver(np.zeros((0, 0)))
    residual = _length(here.gradient)
    return Iterate(W.ravel(), here.objective, 0.0, residual, bound, True, nothing, iteration, proven=True)


class _Metric:
    """C ⊗ A + ridge for a Gram matrix A and any C of the classes."""

    def __init__(self, gram: np.ndarray, ridge: float) -> None:
        self._ridge = ridge
        values, self._basis = np.linalg.eigh(gram)
        self._values = np.maximum(values, 0.0)

    def solver(self, curvature: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The inverse for C = `curvature`, on matrices of shape (m, d)."""
        values, basis = np.linalg.eigh(curvature)
        scales = np.outer(np.maximum(values, 0.0), self._values) + self._ridge
        return lambda x: basis @ ((basis.T @ x @ self._basis) / scales) @ self._basis.T


def _at_zero(problem: Problem, gradient: np.ndarray) -> _Look:
    """What a pass at W = 0 would find, where all classes are as probable as each other."""
    (m, _), n = gradient.shape, problem.rows.n
    curvature = (np.eye(m) - 1.0 / m) / m
    alike = np.broadcast_to(1.0 / m, (m, n))
    return _Look(problem.objective_scale, problem.objective_scale, gradient, curvature, alike)


def _look(problem: Problem, W: np.ndarray) -> _Look:
    n, m = problem.rows.n, len(W)
    totals, gradient, curvature = [], np.zeros_like(W), np.zeros((m, m))
    probabilities = np.empty((m, n)) if n * m <= KEEP_VALUES else None
    for part, block in problem.rows.blocks():
        y = problem.y[part]
        value, slope = _softmax_terms(W @ block.T, y)
        totals.append(float(np.sum(problem.weighed(value, part))))
        gradient += problem.weighed(slope.T, part).T @ block
        sigma = _back_to_sigma(slope, y)
        weighted = problem.weighed(sigma.T, part).T
        curvature -= weighted @ sigma.T
        curvature.flat[:: m + 1] += weighted.sum(axis=1)
        if probabilities is not None:
            probabilities[:, part] = sigma
    objective = math.fsum(totals) / n
    total = objective + 0.5 * problem.ridge * float(np.vdot(W, W))
    return _Look(objective, total, gradient / n + problem.ridge * W, curvature / n, probabilities)


def _sigma(problem: Problem, W: np.ndarray, here: _Look, part: slice, block: np.ndarray) -> np.ndarray:
    """The probabilities of some samples, shape (m, rows)."""
    if here.probabilities is not None:
        return here.probabilities[:, part]
    y = problem.y[part]
    return _back_to_sigma(_softmax_terms(W @ block.T, y)[1], y)


def _back_to_sigma(slope: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probabilities from ℓ', which is overwritten."""
    if y.ndim == 2:
        slope += y.T
    else:
        slope[y, np.arange(len(y))] += 1.0
    return slope


def _softmax_terms(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ℓ and ℓ' of the softmax loss of predictions as columns, which are overwritten: few rows are fast to add up.

    Relative to p_y nothing cancels: a loss or an ℓ' of 1e-300 keeps its digits.
    """
    if y.ndim == 2:
        value, slope, _ = loss_terms(Softmax(), p.T, y, curved=False)
        return value, slope.T
    own = y, np.arange(len(y))
    p -= p[own]
    p[own] = -np.inf
    top = np.maximum(p.max(axis=0), 0.0)
    np.exp(np.subtract(p, top, out=p), out=p)
    sums, one = p.sum(axis=0), np.exp(-top)
    value = np.where(top > 0.0, top + np.log(sums + one), np.log1p(sums))
    p[own] = -sums
    p /= sums + one
    return value, p


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


def _newton_step(problem: Problem, W: np.ndarray, here: _Look, residual: float, goal: float) -> np.ndarray:
    """−H⁻¹∇F by conjugate gradients, a tenth of the residual left, but no less than the goal asks for.

    Fewer products than where ever more digits are asked for, as Newton's quadratic convergence could use.
    """
    solve = _activity_metric(problem, W, here).solver(here.curvature / np.trace(here.curvature))
    enough = max(_FORCING * residual, 0.3 * math.sqrt(2.0 * problem.ridge * goal))
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


def _activity_metric(problem: Problem, W: np.ndarray, here: _Look) -> _Metric:
    """The metric of mean_i tr(S_i) x_i x_iᵀ, in which samples whose class is certain do not count."""
    gram = np.zeros((W.shape[1],) * 2)
    for part, block in problem.rows.blocks():
        sigma = _sigma(problem, W, here, part, block)
        activity = problem.weighed(np.maximum(1.0 - (sigma * sigma).sum(axis=0), 0.0), part)
        add_gram(gram, block * np.sqrt(activity)[:, None])
    return _Metric(gram / problem.rows.n, problem.ridge)


def _product(problem: Problem, W: np.ndarray, here: _Look, V: np.ndarray) -> np.ndarray:
    """The Hessian's product with V, shape (m, d)."""
    image = np.zeros_like(V)
    for part, block in problem.rows.blocks():
        sigma, change = _sigma(problem, W, here, part, block), V @ block.T
        change -= (sigma * change).sum(axis=0)
        change *= sigma
        image += problem.weighed(change.T, part).T @ block
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


def _bound(problem: Problem, squares: float, W: np.ndarray, here: _Look) -> float:
    """A bound on F − F*, by strong convexity, with the gradient's rounding errors counted in; squares = mean ‖x‖²."""
    size = problem.gradient_scale + (0.5 * squares + problem.ridge) * _length(W)
    rounding = 4.0 * math.sqrt(problem.rows.d) * EPS * size
    return (_length(here.gradient) + rounding) ** 2 / (2.0 * problem.ridge)


def _length(array: np.ndarray) -> float:
    return float(np.linalg.norm(array))
