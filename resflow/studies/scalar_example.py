"""Shamir's example of one sample and two weights, which shows what an unbounded norm and a regulariser can break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Real
from scipy.optimize import brentq

from resflow.arrays import Array
from resflow.certificates.gap import certify_point
from resflow.certificates.theorems import theorem2_bound
from resflow.errors import InvalidInputError
from resflow.hessian.partial_eigenvalue import smallest_partial_eigenvalue
from resflow.linear.predictor import fit_linear_predictor
from resflow.point import Point
from resflow.stationarity.find import find_stationary_points

__all__ = ["ScalarExample", "disc_minima", "flat_saddles", "landscape", "landscape_points", "measures"]


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

    @property
    def linear_objective(self) -> float:
        """The best linear predictor's: min over u of ½(u − 1)² + ½ ridge u²."""
        return self.ridge / (2.0 * (1.0 + self.ridge))


def flat_saddles(epsilons: Real[np.ndarray, "m"]) -> pd.DataFrame:
    """What the library measures at (0, −1/ε): a saddle as flat as one likes, far out, above the linear predictor.

    Args:
        epsilons: Values of ε, positive.

    Returns:
        One row an ε: epsilon; V_norm, which is 1/ε; gap, to a linear predictor that reaches 0; grad_norm, in (w, v);
        lambda_min of the partial Hessian, with lambda_min_residual; and theorem2_left, the left side of Theorem 2,
        which is at least gap / ‖w*‖.

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
        point = Point(np.zeros(1), [[-1.0 / epsilon]], [[epsilon]], one, label, "squared")
        bounds, smallest = certify_point(point, fit), smallest_partial_eigenvalue(point)
        row = {
            "epsilon": epsilon,
            "V_norm": 1.0 / epsilon,
            "gap": bounds.linear_predictor_gap,
            "grad_norm": bounds.partial_grad_norm,
            "lambda_min": smallest.lambda_min,
            "lambda_min_residual": smallest.lambda_min_residual,
            "theorem2_left": theorem2_bound(point, fit).left,
        }
        rows.append(row)
    return pd.DataFrame(rows, dtype=float)


def landscape(objective: Callable[[Any], Any], extent: float, *, count: int = 201) -> Float[np.ndarray, "count count"]:
    """F on a square grid over [−extent, extent]², the second coordinate by rows, as contour plots want it."""
    with jax.enable_x64(True):
        ticks = jnp.linspace(-extent, extent, count)
        grid = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)
        return np.asarray(jax.jit(jax.vmap(jax.vmap(objective)))(grid))


def disc_minima(
    objective: Callable[[Any], Any], radius: float, *, starts: int = 100, seed: int = 0, grid: int = 2000
) -> pd.DataFrame:
    """The strict local minima of F on ‖x‖ ≤ radius, found: inside from random starts, on the edge by the angle.

    On the edge the derivative along the circle changes sign from − to + at a minimum, and F must rise inwards; both
    are asked strictly. Roots are bracketed by a grid of angles, so minima closer together than 2π/grid may be missed.

    Args:
        objective: F(x) with x of shape (2,), twice differentiable by JAX, and hashable.
        radius: Of the disc.
        starts: Of the search inside.
        seed: Of the starts.
        grid: Angles.

    Returns:
        One row a minimum, by ascending value: w and v, its coordinates; value; on_circle, whether it lies on the edge;
        multiplier = −⟨x, ∇F⟩/radius² ≥ 0 there, and 0 inside; and residual, ‖∇F + multiplier · x‖.

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
        rows = []
        for edge, points in ((False, found.points[inside]), (True, _edge_minima(gradient, radius, grid))):
            for point in points:
                slope = np.asarray(gradient(jnp.asarray(point)))
                multiplier = -float(point @ slope) / radius**2 if edge else 0.0
                residual = float(np.linalg.norm(slope + multiplier * point))
                rows.append((*point, float(objective(jnp.asarray(point))), edge, multiplier, residual))
    table = pd.DataFrame(rows, columns=["w", "v", "value", "on_circle", "multiplier", "residual"])
    return table.sort_values("value", kind="stable", ignore_index=True)


def landscape_points(in_panels: Sequence[Real[np.ndarray, "_ 2"]], *, ridge: float) -> pd.DataFrame:
    """Saddles of F, minima of F with a ridge term, and minima of F on a disc, against the linear predictor of each.

    Args:
        in_panels: These points (w, v), of each of the three, one a row.
        ridge: Strength of the ridge term of the second.

    Returns:
        One row a point: panel (0, 1 or 2), kind, w, v, and value.
    """
    plain, ridged = ScalarExample(), ScalarExample(ridge=ridge)
    rows = []
    with jax.enable_x64(True):
        for panel, (F, found) in enumerate(zip((plain, ridged, plain), in_panels, strict=True)):
            for w, v in np.asarray(found, float):
                value = float(F(jnp.asarray([w, v])))
                above = value > F.linear_objective + 1e-9
                kind = "local minimum above the linear predictor" if above else "minimum below it"
                rows.append((panel, kind if panel else "saddle", w, v, value))
    return pd.DataFrame(rows, columns=["panel", "kind", "w", "v", "value"])


def measures(saddles: pd.DataFrame, points: pd.DataFrame) -> dict[str, float]:
    """The numbers of a run, of the tables of `flat_saddles` and `landscape_points`.

    Returns:
        flattest_lambda_min, of the first saddle; theorem2_slack, the least left side minus gap; ridge_spurious_value
        and circle_spurious_value, the highest minimum above the linear predictor, NaN where there is none.
    """
    above = points[points["kind"].str.startswith("local")]
    return {
        "flattest_lambda_min": float(saddles["lambda_min"].iloc[0]),
        "theorem2_slack": float((saddles["theorem2_left"] - saddles["gap"]).min()),
        "ridge_spurious_value": float(above.loc[above["panel"] == 1, "value"].max()),
        "circle_spurious_value": float(above.loc[above["panel"] == 2, "value"].max()),
    }


_STRICT = 1e-8
"""Curvatures and multipliers below are taken for zero: the point lies in a valley of minima, and none of its own."""


def _edge_minima(gradient: Callable[[Any], Any], radius: float, grid: int) -> list[np.ndarray]:
    def point(angle: Any) -> np.ndarray:
        return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def along(angle: Any) -> Any:
        slopes = np.asarray(slopes_at(jnp.asarray(point(angle))))
        return np.sum(slopes * np.stack([-np.sin(angle), np.cos(angle)], axis=-1), axis=-1)

    slopes_at = jnp.vectorize(gradient, signature="(d)->(d)")
    angles = np.linspace(0.0, 2.0 * np.pi, grid + 1) + 1e-3  # an angle of symmetry would be a root of its own
    tangential = along(angles)
    rising = np.flatnonzero((tangential[:-1] < 0) & (tangential[1:] > 0))
    roots = [point(brentq(along, angles[i], angles[i + 1], xtol=1e-15, rtol=1e-15)) for i in rising]
    return [root for root in roots if root @ np.asarray(gradient(jnp.asarray(root))) < -_STRICT * radius**2]
