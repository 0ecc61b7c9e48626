"""Passes over the samples at weights of many classes: softmax loss, gradient, and products with the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import KEEP_VALUES, add_gram
from resflow.linear._problem import Problem
from resflow.linear._terms import softmax_columns

__all__ = ["Look", "activity_gram", "at_zero", "least_gram", "look", "probabilities", "product", "sensitivity"]

_CHUNK_VALUES = 1 << 19
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
    totals, gradient, curvature = [], np.zeros(W.T.shape), np.zeros((m, m))
    probabilities, apart = np.empty((m, n)) if n * m <= KEEP_VALUES else None, problem.y.ndim == 1
    for part, block in _blocks(problem, m):
        y = problem.y[part]
        value, slope = softmax_columns(_predictions(block, W), y)
        apart = apart and float(value.max()) < _EVEN
        totals.append(float(np.sum(problem.weighed(value, part))))
        gradient += block.T @ problem.weighed(np.ascontiguousarray(slope.T), part)
        sigma = _back_to_sigma(slope, y)
        weighted = problem.weighed(sigma.T, part).T
        curvature -= weighted @ sigma.T
        curvature.flat[:: m + 1] += weighted.sum(axis=1)
        if probabilities is not None:
            probabilities[:, part] = sigma
    objective = math.fsum(totals) / n
    total = objective + 0.5 * problem.ridge * float(np.vdot(W, W))
    slope = np.ascontiguousarray(gradient.T) / n
    return Look(objective, total, slope, slope + problem.ridge * W, curvature / n, probabilities, apart)


def product(problem: Problem, W: np.ndarray, here: Look, V: np.ndarray) -> np.ndarray:
    """The Hessian's product with V, shape (m, d)."""
    if problem.device is not None:
        return problem.device.product(W, V) + problem.ridge * V
    image = np.zeros(V.T.shape)
    for part, block in _blocks(problem, len(V)):
        sigma, change = probabilities(problem, W, here, part, block), _predictions(block, V)
        change -= np.einsum("ij,ij->j", sigma, change)
        change *= sigma
        image += block.T @ problem.weighed(np.ascontiguousarray(change.T), part)
    return image.T / problem.rows.n + problem.ridge * V


def activity_gram(problem: Problem, W: np.ndarray, here: Look) -> np.ndarray:
    """mean_i tr(S_i) x_i x_iᵀ, in which samples whose class is certain do not count, shape (d, d)."""
    if problem.device is not None:
        return problem.device.gram(W, "activity")
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
    slopes, curvatures = 0.0, 0.0
    for part, block in problem.rows.blocks():
        y, squares = problem.y[part], np.einsum("ij,ij->i", block, block)
        sigma = probabilities(problem, W, here, part, block)
        alike = (sigma * sigma).sum(axis=0)
        if y.ndim == 2:
            missed = ((sigma.T - y) ** 2).sum(axis=1)
        else:
            missed = np.maximum(alike + 1.0 - 2.0 * sigma[y, np.arange(len(y))], 0.0)
        slopes += float(np.sum(problem.weighed(np.sqrt(missed * squares), part)))
        curvatures += float(np.sum(problem.weighed(np.maximum(1.0 - alike, 0.0) * squares, part)))
    return slopes / problem.rows.n, curvatures / problem.rows.n


def probabilities(problem: Problem, W: np.ndarray, here: Look, part: slice, block: np.ndarray) -> np.ndarray:
    """The probabilities of some samples, shape (m, rows)."""
    if here.probabilities is not None:
        return here.probabilities[:, part]
    y = problem.y[part]
    return _back_to_sigma(softmax_columns(_predictions(block, W), y)[1], y)


def _blocks(problem: Problem, m: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows in chunks that fit the cache together with what is made of m predictions of each."""
    return problem.rows.blocks(max(_CHUNK_VALUES // (problem.rows.d + 10 * m), 64))


def _predictions(block: np.ndarray, W: np.ndarray) -> np.ndarray:
    """The predictions of some samples as columns, of which few rows are fast to add up, by the faster product."""
    return np.ascontiguousarray((block @ W.T).T)


def _weighted_gram(
    problem: Problem, W: np.ndarray, here: Look, counted: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    gram = np.zeros((W.shape[1],) * 2)
    for part, block in problem.rows.blocks():
        activity = problem.weighed(counted(probabilities(problem, W, here, part, block)), part)
        add_gram(gram, block * np.sqrt(activity)[:, None])
    return gram / problem.rows.n


def _back_to_sigma(slope: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probabilities from ℓ', which is overwritten."""
    if y.ndim == 2:
        slope += y.T
    else:
        slope[y, np.arange(len(y))] += 1.0
    return slope
