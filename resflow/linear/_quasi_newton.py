"""The best linear predictor of many samples by limited-memory BFGS in the metric of XᵀX, which forms no Hessian."""

from __future__ import annotations

from collections import deque

import numpy as np

from resflow.linear._algebra import EPS, cholesky_solver
from resflow.linear._newton import Iterate, model_holds, solved
from resflow.linear._problem import Evaluation, Problem, evaluate

_PAIRS = 10
_MOST = 30


def quasi_newton(
    problem: Problem, gram: np.ndarray, at_zero: Evaluation, *, max_iterations: int
) -> tuple[Iterate, Evaluation] | None:
    """Minimise the problem where every two steps at least halve the residual; None where that is not so.

    In the metric of XᵀX the features' condition has no say, and a pass without Hessian costs a small part of one with
    it. Where the curvatures ℓ'' of the samples differ much along some directions more than along others, Newton's
    method is faster: then this gives up.

    Args:
        problem: Without ridge and bound.
        gram: XᵀX, safely regular.
        at_zero: The evaluation at z = 0.
        max_iterations: Steps at most.

    Returns:
        The minimiser, and the evaluation there.
    """
    metric = cholesky_solver(gram / problem.rows.n)
    solve, quadratic, exact = metric(0.0)
    if not exact:
        return None
    z, here = np.zeros(len(gram)), at_zero
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_PAIRS)
    residuals = [np.inf, float(np.linalg.norm(here.gradient))]
    for iteration in range(1, min(_MOST, max_iterations) + 1):
        step = _direction(here.gradient, pairs, solve, float(np.mean(here.curvatures)))
        there = evaluate(problem, z + step, hessian=False)
        slope, new_slope = float(here.gradient @ step), float(there.gradient @ step)
        slack = 64.0 * EPS * abs(here.objective)
        falls = there.objective <= here.objective + 1e-4 * slope + slack and abs(new_slope) <= 0.9 * abs(slope)
        residuals.append(float(np.linalg.norm(there.gradient)))
        if not (falls and residuals[-1] <= 0.5 * residuals[-3]):
            return None
        pairs.append((step, there.gradient - here.gradient))
        z, here = z + step, there
        # H is at least the least ℓ'' times XᵀX/n, so ½ gᵀH⁻¹g at most what that gives.
        least = float(np.min(here.curvatures))
        suboptimality = 0.5 * quadratic(here.gradient) / least if least > 0.0 else np.inf
        sound = model_holds(problem, suboptimality, here.curvatures)
        iterate = Iterate(z, here.objective, 0.0, residuals[-1], suboptimality, sound, metric, iteration)
        if solved(problem, iterate):
            return iterate, here
    return None


def _direction(gradient: np.ndarray, pairs: deque, solve, curvature: float) -> np.ndarray:
    """The two-loop recursion from the inverse of `curvature` XᵀX/n, the Hessian where ℓ'' does not depend on x.

    Not scaled by the latest pair, as is usual: that is as often one along w, where the curvature is another.
    """
    q, weights = gradient, []
    for step, change in reversed(pairs):
        weights.append(float(step @ q) / float(step @ change))
        q = q - weights[-1] * change
    r = solve(q) / curvature
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        r = r + (weight - float(change @ r) / float(step @ change)) * step
    return -r
