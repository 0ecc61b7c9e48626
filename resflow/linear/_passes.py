"""Passes over the samples at weights of many classes: softmax loss, gradient, and products with the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resflow.linear._algebra import KEEP_VALUES
from resflow.linear._problem import Problem, weighted_gram
from resflow.linear._some_rows import ENOUGH
from resflow.linear._sums import Blocks, sums
from resflow.linear._terms import softmax_columns

__all__ = ["Look", "activity_gram", "at_zero", "least_gram", "look", "probabilities", "product", "sensitivity"]

_CHUNK_VALUES = 1 << 20
_ROWS = 1024
"""In a block of fewer to add up W and what is of its size would cost as much as the products."""
_EVEN = math.log(2.0)
"""A loss below it says that the sample's own class is more probable than all others together."""


class Look(NamedTuple):
    """One pass over the samples at W, shape (m, d).

    Attributes:
        objective: The mean loss, without the ridge term.
        total: The same with the ridge term.
        slope: The gradient of `objective`, shape (m, d).
        gradient: That of `total`.
        curvature: mean_i S_i with S_i = diag(σ_i) − σ_i σ_iᵀ, the Hessian of sample i's loss, shape (m, m).
        probabilities: σ_i as columns, shape (m, n); None where they are too many to keep.
        apart: Whether every sample's own class has more than half the probability; False if labels are probabilities.
    """

    objective: float
    total: float
    slope: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray
    probabilities: np.ndarray | None
    apart: bool


def at_zero(problem: Problem, gradient: np.ndarray) -> Look:
    """What a pass at W = 0 would find, where all classes are as probable as each other."""
    (m, _), n = gradient.shape, problem.rows.n
    curvature = (np.eye(m) - 1.0 / m) / m
    alike = np.broadcast_to(1.0 / m, (m, n))
    return Look(problem.objective_scale, problem.objective_scale, gradient, gradient, curvature, alike, False)


def look(problem: Problem, W: np.ndarray) -> Look:
    if problem.device is not None:
        objective, slope, curvature, apart = problem.device.look(W)
        total = objective + 0.5 * problem.ridge * float(np.vdot(W, W))
        return Look(objective, total, slope, slope + problem.ridge * W, curvature, None, apart)
    n, m = problem.rows.n, len(W)
    probabilities = np.empty((m, n)) if n * m <= KEEP_VALUES else None

    def of_group(blocks: Blocks) -> list[Any]:
        totals, slopes, curvature, activity, unsure = [], np.zeros(W.shape), np.zeros((m, m)), np.zeros(m), 0.0
        for part, block in blocks:
            y = problem.y[part]
            value, slope = softmax_columns(W @ block.T, y)
            unsure += float(np.count_nonzero(value >= _EVEN))
            totals.append(float(np.sum(problem.weighed(value, part))))
            slopes += problem.weighed_columns(slope, part) @ block
            sigma = _back_to_sigma(slope, y)
            weighted = problem.weighed_columns(sigma, part)
            curvature -= weighted @ sigma.T
            activity += weighted.sum(axis=1)
            if probabilities is not None:
                probabilities[:, part] = sigma
        return [math.fsum(totals), slopes, curvature, activity, unsure]

    total, slope, curvature, activity, unsure = _sums(problem, of_group, W)
    curvature.flat[:: m + 1] += activity
    objective, slope, apart = float(total) / n, slope / n, problem.y.ndim == 1 and unsure == 0.0
    total = objective + 0.5 * problem.ridge * float(np.vdot(W, W))
    return Look(objective, total, slope, slope + problem.ridge * W, curvature / n, probabilities, apart)


def product(problem: Problem, W: np.ndarray, here: Look, V: np.ndarray) -> np.ndarray:
    """The Hessian's product with V, shape (m, d)."""
    if problem.device is not None:
        return problem.device.product(W, V) + problem.ridge * V

    def of_group(blocks: Blocks) -> list[Any]:
        image = np.zeros(V.shape)
        for part, block in blocks:
            sigma, change = probabilities(problem, W, here, part, block), V @ block.T
            change -= np.einsum("ij,ij->j", sigma, change)
            change *= sigma
            image += problem.weighed_columns(change, part) @ block
        return [image]

    (image,) = _sums(problem, of_group, V)
    return image / problem.rows.n + problem.ridge * V


def activity_gram(problem: Problem, W: np.ndarray, here: Look) -> np.ndarray:
    """mean_i tr(S_i) x_i x_iᵀ, in which samples whose class is certain do not count, shape (d, d).

    It only has to be a metric: of many samples evenly spaced ones are looked at.
    """
    if problem.device is not None:
        return problem.device.gram(W, "activity")
    stride = problem.rows.n // (ENOUGH * problem.rows.width)
    if stride > 1:
        kept = None if here.probabilities is None else here.probabilities[:, ::stride]
        problem, here = problem.every(stride), here._replace(probabilities=kept)
    return _weighted_gram(problem, W, here, lambda sigma: np.maximum(1.0 - (sigma * sigma).sum(axis=0), 0.0))


def least_gram(problem: Problem, W: np.ndarray, here: Look) -> np.ndarray:
    """mean_i min_j σ_ij x_i x_iᵀ, shape (d, d)."""
    if problem.device is not None:
        return problem.device.gram(W, "least")
    return _weighted_gram(problem, W, here, lambda sigma: sigma.min(axis=0))


def sensitivity(problem: Problem, W: np.ndarray, here: Look) -> tuple[float, float]:
    """mean_i ‖ℓ'_i‖ ‖x_i‖ and mean_i tr(S_i) ‖x_i‖²: what the gradient adds up, and how it takes errors of W x_i."""
    if problem.device is not None:
        return problem.device.sensitivity(W)

    def of_group(blocks: Blocks) -> list[Any]:
        slopes, curvatures = 0.0, 0.0
        for part, block in blocks:
            y, squares = problem.y[part], np.einsum("ij,ij->i", block, block)
            sigma = probabilities(problem, W, here, part, block)
            alike = (sigma * sigma).sum(axis=0)
            if y.ndim == 2:
                missed = ((sigma.T - y) ** 2).sum(axis=1)
            else:
                missed = np.maximum(alike + 1.0 - 2.0 * sigma[y, np.arange(len(y))], 0.0)
            slopes += float(np.sum(problem.weighed(np.sqrt(missed * squares), part)))
            curvatures += float(np.sum(problem.weighed(np.maximum(1.0 - alike, 0.0) * squares, part)))
        return [slopes, curvatures]

    slopes, curvatures = _sums(problem, of_group, W)
    return slopes / problem.rows.n, curvatures / problem.rows.n


def probabilities(problem: Problem, W: np.ndarray, here: Look, part: slice, block: np.ndarray) -> np.ndarray:
    """The probabilities of some samples, shape (m, rows)."""
    if here.probabilities is not None:
        return here.probabilities[:, part]
    y = problem.y[part]
    return _back_to_sigma(softmax_columns(W @ block.T, y)[1], y)


def _sums(problem: Problem, of_group: Callable[[Blocks], list[Any]], W: np.ndarray) -> list[Any]:
    """The sums of a pass, over blocks that fit the cache together with what is made of the predictions of W."""
    d, m = problem.rows.d, len(W)
    chunk = max(_CHUNK_VALUES // (d + 10 * m), min(_ROWS, 2 * _CHUNK_VALUES // m))
    return sums(problem.rows, of_group, outputs=m, size=W.size, chunk=chunk)


def _weighted_gram(
    problem: Problem, W: np.ndarray, here: Look, counted: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    gram = weighted_gram(problem, lambda part, block: counted(probabilities(problem, W, here, part, block)))
    return gram / problem.rows.n


def _back_to_sigma(slope: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probabilities from ℓ', which is overwritten."""
    if y.ndim == 2:
        slope += y.T
    else:
        slope[y, np.arange(len(y))] += 1.0
    return slope
