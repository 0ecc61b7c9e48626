"""The best linear predictor of many classes without ridge and bound, whose Hessian, of order m d, is never formed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resflow.arrays import SMALLEST
from resflow.linear._algebra import EPS, WELL_CONDITIONED
from resflow.linear._hessian_free import NO_SOLVER, Metric, minimise
from resflow.linear._newton import Iterate
from resflow.linear._passes import Look, at_zero, least_gram, look, probabilities
from resflow.linear._problem import Problem, weighted_gram
from resflow.linear._separation import Separation
from resflow.linear._sums import Blocks, sums
from resflow.parallel import blas_on_one_thread

__all__ = ["unbounded"]

_MOST_PROOFS = 6
_AHEAD = 1e-2
"""How far below the goal an estimate of what is left must be before a proof is tried."""


@blas_on_one_thread()
def unbounded(
    problem: Problem,
    coordinates: Problem,
    gram: np.ndarray,
    gradient: np.ndarray,
    separation: Separation,
    *,
    max_iterations: int,
) -> Iterate:
    """Minimise a softmax objective over all weights until its suboptimality, and that there is a minimum, is proven.

    By the methods of `hessian_free`, in a metric that knows no units, and then by a lower bound on the Hessian: with
    a_i the least probability of sample i, S_i ≥ a_i (I − 11ᵀ/m), so that the Hessian is at least A = mean a_i x_i x_iᵀ
    for each class, on weights whose columns sum to 0. Let λ be the length of the gradient in the metric of A⁻¹ and
    R = √2 max_i (x_iᵀA⁻¹x_i)^½. Along weights V of length v in the metric of A no prediction spreads by more than R v,
    and no curvature falls by more than exp(−R v), so F(W + V) ≥ F(W) − λ v + (exp(−R v) + R v − 1) / R². Where
    u = R λ < 1 that grows with v: there is a minimiser, the classes are not separable, and
    F(W) − F* ≤ (u + (1 − u) log(1 − u)) / R² ≤ ½ λ² (1 + u) for u ≤ ½. What rounding may hide of the gradient is
    counted in.

    Args:
        problem: Of the softmax loss, in the weights themselves, without ridge and bound.
        coordinates: Has the rows in coordinates in which XᵀX is regular.
        gram: XᵀX in the weights; not used if the coordinates are others.
        gradient: Of the mean loss at W = 0, in the weights, shape (m, d).
        separation: Is asked about weights by which every sample is on its own side, and refuses them.
        max_iterations: Steps at most.

    Returns:
        The best weights, with an infinite suboptimality if it is not proven that there is a minimiser.

    References:
        Bach 2010 (arXiv:0810.4384), section 2: functions whose third derivative is bounded by the second.
    """
    basis = coordinates.rows.basis
    inner = problem._replace(rows=coordinates.rows, device=coordinates.device)
    if basis is not None:
        gradient = gradient @ basis
        gram = weighted_gram(inner)
    metric, goal = Metric(gram / problem.rows.n, unitless=True), problem.goal
    W, here, enough, steps = np.zeros_like(gradient), at_zero(inner, gradient), _AHEAD * goal, 0
    bound, exists = math.inf, False

    def watch(W: np.ndarray, there: Look) -> None:
        if there.apart:
            separation.judge_weights(W.T)

    for _ in range(_MOST_PROOFS):
        left = max_iterations - steps
        found = minimise(inner, metric, W, here, goal=enough, max_iterations=left, watch=watch)
        W, here, steps = found.W, found.look, steps + found.iterations
        length, reach = _least_metric(inner, W, here, gram)
        if length * reach <= 0.5:
            exists, bound = True, 0.5 * length**2 * (1.0 + length * reach)
            separation.verdict = False
        if found.bound > enough or bound <= goal or not math.isfinite(length * reach):
            break
        enough = 0.1 * found.bound * min(1.0, goal / (0.5 * length**2), (0.5 / (length * reach)) ** 2)
    W = W if basis is None else W @ basis.T
    here = here if basis is None else look(problem, W)
    residual = float(np.linalg.norm(here.gradient))
    return Iterate(W.ravel(), here.objective, 0.0, residual, bound, exists, NO_SOLVER, steps, proven=exists)


def _least_metric(problem: Problem, W: np.ndarray, here: Look, gram: np.ndarray) -> tuple[float, float]:
    """λ and R of `unbounded`; infinite where A is not regular beyond rounding.

    Two kinds of rounding are added to λ: that of the sum over the samples, in units in which each column has the mean
    square 1, and that e_i of the predictions of each sample, which changes the gradient by mean S_i e_i x_iᵀ, in the
    metric no longer than (mean |S_i e_i|² / a_i)^½.
    """
    rows, live = problem.rows, np.flatnonzero(np.diag(gram))  # an empty column has no say
    sizes = np.sqrt(np.diag(gram)[live] / rows.n)
    values, basis = np.linalg.eigh(least_gram(problem, W, here)[np.ix_(live, live)] / sizes / sizes[:, None])
    if not values[0] > WELL_CONDITIONED * values[-1]:
        return math.inf, math.inf
    whitening = np.zeros((rows.width, live.size))
    whitening[live] = basis / np.sqrt(values) / sizes[:, None]
    unit = 4.0 * math.sqrt(rows.d) * EPS
    if problem.device is not None:
        hidden, reach = problem.device.least_metric(W, whitening, unit)
    else:
        hidden, reach = _hidden_and_reach(problem, W, here, whitening, unit)
    summed = unit * math.sqrt(rows.width / values[0])
    length = float(np.linalg.norm(here.gradient @ whitening)) + summed + math.sqrt(hidden)
    return length, math.sqrt(2.0 * reach)


def _hidden_and_reach(
    problem: Problem, W: np.ndarray, here: Look, whitening: np.ndarray, unit: float
) -> tuple[float, float]:
    """mean |S_i e_i|² / a_i and max_i x_iᵀA⁻¹x_i."""
    reach = np.empty(problem.rows.n)

    def of_group(blocks: Blocks) -> list[Any]:
        hidden = 0.0
        for part, block in blocks:
            sigma = probabilities(problem, W, here, part, block)
            errors = unit * (np.abs(W) @ np.abs(block).T)
            activity = np.maximum(1.0 - (sigma * sigma).sum(axis=0), 0.0)
            each = activity**2 / np.maximum(sigma.min(axis=0), SMALLEST) * np.einsum("ij,ij->j", errors, errors)
            hidden += float(np.sum(problem.weighed(each, part)))
            along = block @ whitening
            np.einsum("ij,ij->i", along, along, out=reach[part])
        return [hidden]

    (hidden,) = sums(problem.rows, of_group, outputs=len(whitening), size=1)
    return float(hidden) / problem.rows.n, float(reach.max())
