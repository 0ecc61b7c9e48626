"""Passes over the samples at weights of many classes: softmax loss, gradient, and products with the Hessian."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from resflow.linear._algebra import KEEP_VALUES, add_gram
from resflow.linear._problem import Problem, loss_terms
from resflow.losses import Softmax

__all__ = ["Look", "activity_gram", "at_zero", "look", "product"]


class Look(NamedTuple):
    """One pass over the samples at W, shape (m, d).

    Attributes:
        objective: The mean loss, without the ridge term.
        total: The same with the ridge term.
        slope: The gradient of `objective`, shape (m, d).
        gradient: That of `total`.
        curvature: mean_i S_i with S_i = diag(σ_i) − σ_i σ_iᵀ, the Hessian of sample i's loss, shape (m, m).
        probabilities: σ_i as columns, shape (m, n); None where they are too many to keep.
    """

    objective: float
    total: float
    slope: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray
    probabilities: np.ndarray | None


def at_zero(problem: Problem, gradient: np.ndarray) -> Look:
    """What a pass at W = 0 would find, where all classes are as probable as each other."""
    (m, _), n = gradient.shape, problem.rows.n
    curvature = (np.eye(m) - 1.0 / m) / m
    alike = np.broadcast_to(1.0 / m, (m, n))
    return Look(problem.objective_scale, problem.objective_scale, gradient, gradient, curvature, alike)


def look(problem: Problem, W: np.ndarray) -> Look:
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
    slope = gradient / n
    return Look(objective, total, slope, slope + problem.ridge * W, curvature / n, probabilities)


def product(problem: Problem, W: np.ndarray, here: Look, V: np.ndarray) -> np.ndarray:
    """The Hessian's product with V, shape (m, d)."""
    image = np.zeros_like(V)
    for part, block in problem.rows.blocks():
        sigma, change = _sigma(problem, W, here, part, block), V @ block.T
        change -= (sigma * change).sum(axis=0)
        change *= sigma
        image += problem.weighed(change.T, part).T @ block
    return image / problem.rows.n + problem.ridge * V


def activity_gram(problem: Problem, W: np.ndarray, here: Look) -> np.ndarray:
    """mean_i tr(S_i) x_i x_iᵀ, in which samples whose class is certain do not count, shape (d, d)."""
    gram = np.zeros((W.shape[1],) * 2)
    for part, block in problem.rows.blocks():
        sigma = _sigma(problem, W, here, part, block)
        activity = problem.weighed(np.maximum(1.0 - (sigma * sigma).sum(axis=0), 0.0), part)
        add_gram(gram, block * np.sqrt(activity)[:, None])
    return gram / problem.rows.n


def _sigma(problem: Problem, W: np.ndarray, here: Look, part: slice, block: np.ndarray) -> np.ndarray:
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
