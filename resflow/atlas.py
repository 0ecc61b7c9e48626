"""The picture of the theorem: stationary points of a model in the plane of linear-predictor gap and curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray, Real

from resflow.arrays import Array
from resflow.errors import InvalidInputError
from resflow.objectives import descent_starts, random_starts
from resflow.search import SearchCounts, SearchOptions, find_stationary_points

__all__ = ["Atlas", "chart_stationary_points"]


class Atlas(NamedTuple):
    """The m distinct stationary points that a search found, in the plane (gap, λ_min).

    Attributes:
        gap: F minus the linear predictor's objective, shape (m,).
        lambda_min: The smallest eigenvalue of ∇²F in all of the model's parameters, shape (m,).
        index: The number of negative eigenvalues, shape (m,): 0 at a minimum.
        grad_norm: ‖∇F‖, shape (m,).
        points: The models, their trainable arrays with a leading axis of length m.
        counts: What became of the starts.
        stuck: Which points are above the linear predictor though no curvature leads down, shape (m,).
    """

    gap: Float[np.ndarray, "m"]
    lambda_min: Float[np.ndarray, "m"]
    index: Int[np.ndarray, "m"]  # type: ignore[assignment]  # a field hides tuple's method
    grad_norm: Float[np.ndarray, "m"]
    points: Any
    counts: SearchCounts
    stuck: np.ndarray


def chart_stationary_points(
    objective: Callable[..., Any],
    model: Any,
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    linear_objective: float,
    starts: int,
    key: PRNGKeyArray,
    tolerance: float = 1e-8,
    options: SearchOptions | None = None,
) -> Atlas:
    """Stationary points of F(model, X, y) in all trainable parameters, from `starts` random starting points.

    Half of the starts are random points, which lead to saddles mostly; the other half are points on the way down from
    random points, which lead to minima.

    Args:
        objective: F, e.g. `MeanLoss`.
        model: Any model; its trainable arrays give the shapes.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        linear_objective: The linear predictor's objective, from which gaps are counted.
        starts: How many starting points, at least 2.
        key: Random key for the starts.
        tolerance: A point is stuck where gap > tolerance and λ_min ≥ −tolerance.
        options: How to search.

    Raises:
        InvalidInputError: If there are fewer than 2 starts.

    References:
        Shamir 2018 (arXiv:1804.06739), Corollary 1: no local minimum of a residual unit has a positive gap.
    """
    if starts < 2:
        raise InvalidInputError(f"starts={starts} must be at least 2: half are random, half are on a way down")
    draw_key, step_key = jax.random.split(key)
    with jax.enable_x64(True):
        X, y = jnp.asarray(X, float), jnp.asarray(y, float)
        drawn = random_starts(model, starts, key=draw_key)
        moving, fixed = eqx.partition(drawn, eqx.is_inexact_array)
        upper, lower = (
            eqx.combine(jax.tree.map(lambda leaf, rows=rows: leaf[rows], moving), fixed)
            for rows in (slice(None, starts // 2), slice(starts // 2, None))
        )
        lower = descent_starts(objective, lower, X, y, key=step_key)
        together = jax.tree.map(lambda a, b: jnp.concatenate([a, b]) if eqx.is_inexact_array(a) else a, upper, lower)
        found = find_stationary_points(objective, together, X, y, options=options)
    return Atlas(
        gap=found.objective - linear_objective,
        lambda_min=found.lambda_min,
        index=found.index,
        grad_norm=found.grad_norm,
        points=found.points,
        counts=found.counts,
        stuck=found.spurious(linear_objective, tolerance),
    )
