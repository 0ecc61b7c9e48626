"""Shamir's example of one sample and two weights, which shows what an unbounded norm and a regulariser can break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Real
from scipy.optimize import brentq

from resflow.arrays import Array
from resflow.certificates.gap import certify_point
from resflow.certificates.theorems import theorem2_bound
from resflow.errors import InvalidInputError
from resflow.hessian.bracket import smallest_partial_eigenvalue
from resflow.linear.predictor import fit_linear_predictor
from resflow.point import Point
from resflow.stationarity.find import find_stationary_points

__all__ = ["DiscMinima", "FlatSaddles", "ScalarExample", "disc_minima", "flat_saddles", "landscape"]


@dataclass(frozen=True)
class ScalarExample:
    """F(w, v) + ½ ridge (w² + v²) with F = ½(w(1 + εv) − 1)²: f_θ(x) = εx, x = y = 1, the squared loss.

    Attributes:
        epsilon: ε, the size of the features.
        ridge: Strength of the ridge term.
    """

    epsilon: float = 1.0
    ridge: float = 0.0

    def __call__(self, point: Float[Array, "2"]) -> Float[Array, ""]:
        w, v = point[0], point[1]
        return 0.5 * (w * (1.0 + self.epsilon * v) - 1.0) ** 2 + 0.5 * self.ridge * (w**2 + v**2)


class FlatSaddles(NamedTuple):
    """Evidence about the points (0, −1/ε) of the example, one a value of ε (m); the linear predictor reaches 0.

    Attributes:
        epsilon: ε, shape (m,).
        V_norm: 1/ε, the norm of V there, shape (m,).
        gap: F − F_lin(w*), shape (m,).
        grad_norm: ‖∇F‖ in (w, v), shape (m,).
        lambda_min: The smallest eigenvalue of the partial Hessian, shape (m,).
        lambda_min_residual: Its residual, shape (m,).
        theorem2_left: The left side of Theorem 2, which is at least gap / ‖w*‖, shape (m,).
    """

    epsilon: Float[np.ndarray, "m"]
    V_norm: Float[np.ndarray, "m"]
    gap: Float[np.ndarray, "m"]
    grad_norm: Float[np.ndarray, "m"]
    lambda_min: Float[np.ndarray, "m"]
    lambda_min_residual: Float[np.ndarray, "m"]
    theorem2_left: Float[np.ndarray, "m"]


def flat_saddles(epsilons: Real[np.ndarray, "m"]) -> FlatSaddles:
    """What the library measures at (0, −1/ε): a saddle as flat as one likes, far out, above the linear predictor.

    Args:
        epsilons: Values of ε, positive.

    Raises:
        InvalidInputError: If a value is not a positive finite number.

    References:
        Shamir 2018 (arXiv:1804.06739), Example 1.
    """
    one, label = np.ones((1, 1)), np.ones(1)
    fit = fit_linear_predictor(one, label, loss="squared")
    rows = []
    for epsilon in np.asarray(epsilons, float):
        if not (np.isfinite(epsilon) and epsilon > 0):
            raise InvalidInputError(f"epsilon={epsilon} must be a positive finite number")
        V, features = np.array([[-1.0 / epsilon]]), np.array([[epsilon]])
        point = Point(np.zeros(1), V, features, one, label, "squared")
        gap = certify_point(point, fit)
        smallest = smallest_partial_eigenvalue(point)
        theorem2 = theorem2_bound(point, fit)
        curvature = smallest.lambda_min, smallest.lambda_min_residual
        row = (epsilon, 1.0 / epsilon, gap.linear_predictor_gap, gap.partial_grad_norm, *curvature, theorem2.left)
        rows.append(row)
    return FlatSaddles(*np.array(rows, float).T)


def landscape(objective: Callable[[Any], Any], extent: float, *, count: int = 201) -> Float[np.ndarray, "count count"]:
    """F on a square grid over [−extent, extent]², the second coordinate by rows, as contour plots want it."""
    with jax.enable_x64(True):
        ticks = jnp.linspace(-extent, extent, count)
        grid = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)
        return np.asarray(jax.jit(jax.vmap(jax.vmap(objective)))(grid))


class DiscMinima(NamedTuple):
    """The strict local minima of a function of two variables on a disc around 0, by ascending value (m).

    Attributes:
        points: Shape (m, 2).
        value: Shape (m,).
        on_circle: Which lie on the disc's edge, shape (m,).
        multiplier: −⟨x, ∇F⟩/radius² ≥ 0, so that ∇F + multiplier · x = 0; 0 inside, shape (m,).
        residual: ‖∇F + multiplier · x‖, shape (m,).
    """

    points: Float[np.ndarray, "m 2"]
    value: Float[np.ndarray, "m"]
    on_circle: Bool[np.ndarray, "m"]
    multiplier: Float[np.ndarray, "m"]
    residual: Float[np.ndarray, "m"]


def disc_minima(
    objective: Callable[[Any], Any], radius: float, *, starts: int = 100, seed: int = 0, grid: int = 2000
) -> DiscMinima:
    """The strict local minima of F on ‖x‖ ≤ radius, found: inside from random starts, on the edge by the angle.

    On the edge the derivative along the circle changes sign from − to + at a minimum, and F must rise inwards; both
    are asked strictly. Roots are bracketed by a grid of angles, so minima closer together than 2π/grid may be missed.

    Args:
        objective: F(x) with x of shape (2,), twice differentiable by JAX, and hashable.
        radius: Of the disc.
        starts: Of the search inside.
        seed: Of the starts.
        grid: Angles.

    Raises:
        InvalidInputError: If the radius is not a positive finite number.
    """
    if not (np.isfinite(radius) and radius > 0):
        raise InvalidInputError(f"radius={radius} must be a positive finite number")
    drawn = np.random.default_rng(seed).uniform(-radius, radius, (starts, 2))
    found = find_stationary_points(objective, drawn, max_norm=10.0 * radius)
    inside = (found.lambda_min > _STRICT) & (np.linalg.norm(found.points, axis=1) < radius)
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(objective))
        points = [*found.points[inside], *_edge_minima(gradient, radius, grid)]
        rows: list[tuple] = []
        for point in points:
            slope, on_circle = np.asarray(gradient(jnp.asarray(point))), len(rows) >= inside.sum()
            multiplier = -float(point @ slope) / radius**2 if on_circle else 0.0
            residual = float(np.linalg.norm(slope + multiplier * point))
            rows.append((*point, float(objective(jnp.asarray(point))), on_circle, multiplier, residual))
    table = np.array(rows, float).reshape(-1, 6)
    table = table[np.argsort(table[:, 2], kind="stable")]
    return DiscMinima(table[:, :2], table[:, 2], table[:, 3].astype(bool), table[:, 4], table[:, 5])


_STRICT = 1e-8
"""Curvatures and multipliers below are taken for zero: the point lies in a valley of minima, and none of its own."""


def _edge_minima(gradient: Callable[[Any], Any], radius: float, grid: int) -> list[np.ndarray]:
    def point(angle: float) -> np.ndarray:
        return radius * np.array([np.cos(angle), np.sin(angle)])

    def along(angle: float) -> float:
        return float(np.asarray(gradient(jnp.asarray(point(angle)))) @ np.array([-np.sin(angle), np.cos(angle)]))

    angles = np.linspace(0.0, 2.0 * np.pi, grid + 1) + 1e-3  # an angle of symmetry would be a root of its own
    circle = radius * np.column_stack([np.cos(angles), np.sin(angles)])
    slopes = np.asarray(jax.vmap(gradient)(jnp.asarray(circle)))
    tangential = np.sum(slopes * np.column_stack([-np.sin(angles), np.cos(angles)]), axis=1)
    rising = np.flatnonzero((tangential[:-1] < 0) & (tangential[1:] > 0))
    roots = [point(brentq(along, angles[i], angles[i + 1], xtol=1e-15, rtol=1e-15)) for i in rising]
    return [root for root in roots if root @ np.asarray(gradient(jnp.asarray(root))) < -_STRICT * radius**2]
