"""What shows that weights are the best: optimality conditions on the samples themselves, and what rounding hides."""

from __future__ import annotations

import math

import numpy as np

from resflow.linear._algebra import EPS, ball_step, cholesky_solver
from resflow.linear._newton import PROVEN, Iterate, describe, follows, into_ball
from resflow.linear._problem import TOLERANCE, Problem, evaluate
from resflow.linear._terms import loss_terms
from resflow.linear.fit import LinearFit
from resflow.losses import Logistic, PseudoHuber, Softmax, Squared
from resflow.status import Status

__all__ = ["as_fit", "fit_of_zero", "in_weights"]

_BEYOND_MODEL = 4.0
"""Times what the second-order model says an objective that is not quadratic falls by at most, where the model holds:
its curvatures may be those of a step before, and change by another such step.
"""


def in_weights(problem: Problem, inner: Problem, best: Iterate) -> Iterate:
    """The evidence at the weights that the best point of the inner problem stands for, by a pass over X itself."""
    basis, matrix = inner.rows.basis, inner.matrix(best.z)
    matrix = matrix if basis is None else basis @ matrix
    w = into_ball(matrix.T.ravel(), problem.radius)
    here = evaluate(problem, w, hessian=False)
    slope = problem.matrix(here.gradient + problem.ridge * w)
    slope = inner.flat(slope if basis is None else basis.T @ slope)
    model = ball_step(best.solver, slope, best.z, problem.radius, start=best.multiplier)
    there = describe(problem, w, here, model, best.solver, best.iterations)
    holds = there.sound or follows(problem.loss, np.empty(0) if problem.quadratic else inner.times(model.step))
    return there._replace(sound=best.sound and holds)


def fit_of_zero(problem: Problem, rank: int, separable: bool | None) -> LinearFit:
    """W = 0: the only point of a ball of radius 0, or the least of all equal ones where X is zero."""
    multiplier = math.inf if problem.radius == 0.0 else 0.0
    nothing = cholesky_solver(np.zeros((0, 0)))
    best = Iterate(np.zeros(problem.size), problem.objective_scale, multiplier, 0.0, 0.0, True, nothing, 0)
    return as_fit(problem, best, rank, None, separable=separable)


def as_fit(
    problem: Problem,
    best: Iterate,
    rank: int,
    cut: np.ndarray | None,
    *,
    separable: bool | None = None,
    unknown: bool = False,
    max_iterations: int | None = None,
) -> LinearFit:
    """The fit at the best point found, or at 0 if that is lower, which says that none was found.

    Args:
        problem: In the weights.
        best: The point.
        rank: As in `LinearFit`, like `separable`.
        cut: As in `RowSpace`; None if nothing was cut.
        unknown: Whether there may be no minimiser.
        max_iterations: At which the iteration was to stop, if at any.
    """
    with np.errstate(all="ignore"):
        total = best.objective + 0.5 * problem.ridge * float(best.z @ best.z)
    if not total <= problem.objective_scale * (1.0 + 64.0 * EPS):
        at_zero = evaluate(problem, np.zeros(problem.size), hessian=False)
        residual = float(np.linalg.norm(at_zero.gradient))
        best = Iterate(np.zeros(problem.size), at_zero.objective, 0.0, residual, math.inf, False, best.solver, 0)
    suboptimality, sound = best.suboptimality, best.sound
    if cut is not None and cut.size:
        suboptimality += _hidden_gain(problem, best, cut)
    small = best.proven or best.residual <= TOLERANCE * problem.gradient_scale
    if not small:
        left, gain = _left_by_rounding(problem, best)
        small, suboptimality = best.residual <= left, suboptimality + gain
    if isinstance(problem.loss, Squared | Logistic | PseudoHuber | Softmax):  # none of these is ever negative
        total = best.objective + 0.5 * problem.ridge * float(best.z @ best.z)
        suboptimality, sound = min(suboptimality, total) if sound else total, True
    factor = 1.0 if best.proven or problem.quadratic else _BEYOND_MODEL
    if unknown:
        status = Status.NO_MINIMIZER_KNOWN
    elif sound and small and suboptimality <= (PROVEN if best.proven else TOLERANCE) * problem.objective_scale:
        status = Status.CONVERGED
    elif sound and problem.tolerance > TOLERANCE and factor * suboptimality <= problem.goal:
        status, suboptimality = Status.WIDE_TOLERANCE, factor * suboptimality
    else:
        status = Status.ITERATION_LIMIT if best.iterations == max_iterations else Status.ROUNDING
    return LinearFit(
        W=best.z if problem.outputs is None else best.z.reshape(len(problem.outputs), -1),
        objective=best.objective,
        grad_norm=best.residual,
        status=status,
        suboptimality=suboptimality,
        multiplier=best.multiplier,
        separable=separable,
        rank=rank,
        iterations=best.iterations,
        max_norm=None if math.isinf(problem.radius) else problem.radius,
        ridge=problem.ridge,
        loss=problem.loss.name,
        weighted=problem.weights is not None,
    )


def _left_by_rounding(problem: Problem, best: Iterate) -> tuple[float, float]:
    """How large a residual rounding of the predictions alone can leave, and how much of a decrease that can hide."""
    rows, W = problem.rows, problem.matrix(best.z)
    unit = 4.0 * math.sqrt(rows.d) * EPS
    left, hidden = 0.0, 0.0
    for part, block in rows.blocks():
        y = problem.y[part]
        _, slopes, curvatures = loss_terms(problem.loss, block @ W, y)
        error = unit * (np.abs(block) @ np.abs(W) + (np.abs(y) if y.shape == slopes.shape else 0.0))
        bent = error
        if not problem.quadratic:
            bent = curvatures * error if W.ndim == 1 else (np.abs(curvatures) @ error[..., None])[..., 0]
        lengths = problem.weighed(np.sqrt(np.einsum("ij,ij->i", block, block)), part)
        left += float(np.sum(np.linalg.norm(np.c_[bent + EPS * np.abs(slopes)], axis=1) * lengths)) / rows.n
        hidden += float(np.vdot(problem.weighed(bent, part), error)) / rows.n
    return left + unit * _shift(problem, best) * float(np.linalg.norm(best.z)), 0.5 * hidden


def _hidden_gain(problem: Problem, best: Iterate, cut: np.ndarray) -> float:
    """What directions that X determines within rounding only could gain, where that cannot be rounding.

    Along such a direction u the second-order model can fall by ½ (uᵀ∇)² / uᵀHu. If uᵀx_i is rounding, and so has
    nothing to do with the ℓ'_i, that is about F/n: 32 times as much happens once in 10⁷ times.
    """
    rows, W, shift = problem.rows, problem.matrix(best.z), _shift(problem, best)
    slope, curvature = shift * (W.T @ cut), shift * np.sum(cut**2, axis=0)
    for part, block in rows.blocks():
        along = block @ cut
        _, slopes, curvatures = loss_terms(problem.loss, block @ W, problem.y[part])
        each = curvatures if W.ndim == 1 else np.diagonal(curvatures, axis1=1, axis2=2)  # output by output
        slope = slope + problem.weighed(slopes, part).T @ along / rows.n
        curvature = curvature + problem.weighed(each, part).T @ along**2 / rows.n
    gains = 0.5 * slope**2 / np.where(curvature > 0.0, curvature, np.inf)
    samples = rows.n if problem.weights is None else rows.n / float(np.mean(problem.weights**2))
    return float(np.sum(gains[gains > 32.0 * best.objective / samples]))


def _shift(problem: Problem, best: Iterate) -> float:
    """What ridge and multiplier add to the Hessian."""
    return problem.ridge + (best.multiplier if math.isfinite(best.multiplier) else 0.0)
