"""The picture of the theorem: stationary points of a model in the plane of linear-predictor gap and curvature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, PRNGKeyArray, Real, Shaped

from resflow.arrays import Array, analyse, is_traced
from resflow.errors import InvalidInputError
from resflow.floating import norm
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss, Squared, as_loss
from resflow.models.feature_maps import mlp
from resflow.models.residual_unit import NoSkipNetwork, ResidualUnit, residual_unit, trainable
from resflow.objectives import MeanLoss
from resflow.point import Point, checked_samples
from resflow.stationarity.find import StationaryPoints, find_stationary_points
from resflow.stationarity.starts import descent_starts, random_starts

__all__ = [
    "RIDGES",
    "Atlas",
    "chart_networks",
    "chart_shamirs_example",
    "chart_stationary_points",
    "count_outcomes",
    "list_points",
    "noisy_sine",
    "saddle_at_zero",
]

RIDGES = tuple(sorted({0.25, *(round(0.5 * step / 25, 3) for step in range(1, 26))}))
"""Ridge strengths at which `chart_shamirs_example` searches; 1/4 is that of Shamir's figure."""


class Atlas(NamedTuple):
    """The m distinct stationary points that a search found, in the plane (gap, λ_min).

    Attributes:
        found: The points, and what became of the starts.
        linear_objective: The linear predictor's objective, from which gaps are counted.
        tolerance: What counts as above: gap > tolerance; and as no curvature down: λ_min ≥ −tolerance.
    """

    found: StationaryPoints
    linear_objective: float
    tolerance: float

    @property
    def gap(self) -> Float[np.ndarray, "m"]:
        """F minus the linear predictor's objective."""
        return self.found.objective - self.linear_objective

    @property
    def stuck(self) -> Bool[np.ndarray, "m"]:
        """Which points are above the linear predictor though no curvature leads down."""
        return self.found.spurious(self.linear_objective, self.tolerance)

    def columns(self) -> dict[str, np.ndarray]:
        """One array a quantity, each of length m: the columns of a table of the points."""
        of_each = {name: getattr(self.found, name) for name in ("lambda_min", "index", "grad_norm")}
        return {"gap": self.gap, **of_each, "stuck": self.stuck}

    def summary(self) -> dict[str, int]:
        """What became of the starts, and how many points are above the linear predictor, and stuck there."""
        above = self.gap > self.tolerance
        return {**self.found.counts._asdict(), "above_linear": int(above.sum()), "stuck_above": int(self.stuck.sum())}


def count_outcomes(panels: Mapping[str, Sequence[Atlas]]) -> pd.DataFrame:
    """What became of the starts: a column a panel, a row an outcome, `merged` (found more than once) the last."""
    counts = pd.DataFrame({name: pd.DataFrame([a.summary() for a in charts]).sum() for name, charts in panels.items()})
    counts.loc["merged"] = counts.loc["converged"] - counts.loc["distinct"]
    return counts


def list_points(panels: Mapping[str, Sequence[Atlas]]) -> pd.DataFrame:
    """All points that were found: `Atlas.columns`, and case, the panel's name."""
    return pd.concat([pd.DataFrame(a.columns()).assign(case=name) for name, charts in panels.items() for a in charts])


def noisy_sine(n: int, *, seed: int) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
    """X standard normal and y = sin(2 x₁) + x₂/2 + 1/2 + 0.3 times a standard normal: what the networks are fitted to.

    Args:
        n: Number of samples.
        seed: Of the samples.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    return X, np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + 0.5 + 0.3 * rng.standard_normal(n)


def chart_networks(
    X: Real[Array, "n d"],
    y: Shaped[Array, "n"],
    *,
    loss: str | Loss,
    fit: LinearFit,
    width: int,
    starts: int,
    key: PRNGKeyArray,
    **options: Any,
) -> tuple[Atlas, Atlas]:
    """Atlases of a ReLU network f_θ(x) = max(0, Ax + b) with and without a skip connection around it.

    With: p(x) = wᵀ(x + V f_θ(x)), of which the theorem speaks. Without: p(x) = vᵀf_θ(x), the control, which is stuck
    where every ReLU is dead. All parameters are searched, θ included.

    Args:
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        loss: A loss or its name.
        fit: The best linear predictor on the same X, y and loss, from which gaps are counted.
        width: k, the number of ReLUs.
        starts: Starting points of each search, at least 2.
        key: Random key.
        options: How to search, as for `find_stationary_points`.

    Raises:
        InvalidInputError: If width is below 1, or there are fewer than 2 starts.

    References:
        Shamir 2018 (arXiv:1804.06739), Corollary 1.
    """
    d = np.shape(X)[1]
    map_key, unit_key, *keys = jax.random.split(key, 4)
    feature_map = mlp(d, width=width, depth=1, activation="relu", key=map_key)
    models = residual_unit(d, feature_map, key=unit_key), NoSkipNetwork(jnp.zeros(width), feature_map)
    loss = as_loss(loss)
    objective = MeanLoss(loss)
    X, y = checked_samples(X, y, loss)
    check_baseline(fit, X, y, loss)
    level = float(fit.objective)
    unit, control = (
        chart_stationary_points(objective, model, X, y, linear_objective=level, starts=starts, key=model_key, **options)
        for model, model_key in zip(models, keys, strict=True)
    )
    return unit, control


def chart_shamirs_example(
    *, starts: int, key: PRNGKeyArray, ridges: Sequence[float] = RIDGES, **options: Any
) -> dict[float, Atlas]:
    """Atlases of F(w, v) = ½ (w (1 + v) − 1)² + (ridge/2) (w² + v²), one a ridge strength.

    The residual unit of one sample x = y = 1 with f(x) = x. At ridge = 1/4 it has the spurious local minimum
    (−0.98280626, −1.60268226) of value 0.52491385. Gaps are counted from min_u F(u, 0) = ridge / (2 (1 + ridge)).

    Args:
        starts: Starting points of all searches together, shared out evenly: at least 2 a ridge strength.
        key: Random key.
        ridges: Ridge strengths, positive.
        options: How to search, as for `find_stationary_points`.

    Raises:
        InvalidInputError: If a ridge strength is not positive, or there are too few starts.

    References:
        Shamir 2018 (arXiv:1804.06739), section 4 and panel (b) of its figure.
    """
    for ridge in ridges:
        if not (np.isfinite(ridge) and ridge > 0):
            raise InvalidInputError(f"ridge={ridge} must be a positive finite number, e.g. 0.25")
    unit = ResidualUnit(jnp.zeros(1), jnp.zeros((1, 1)), _identity)
    shares = np.diff(np.linspace(0, starts, len(ridges) + 1).astype(int))
    return {
        ridge: chart_stationary_points(
            _example,
            unit,
            np.array([[1.0]]),
            np.array([ridge]),
            linear_objective=0.5 * ridge / (1.0 + ridge),
            starts=int(share),
            key=ridge_key,
            **options,
        )
        for ridge, share, ridge_key in zip(ridges, shares, jax.random.split(key, len(ridges)), strict=True)
    }


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
    **options: Any,
) -> Atlas:
    """Stationary points of F(model, X, y) in all trainable parameters, from `starts` random starting points.

    Half of the starts are random points, which lead to saddles mostly; the other half are points on the way down from
    random points, which lead to minima.

    Args:
        objective: F, e.g. `MeanLoss`.
        model: Any model; its trainable arrays give the shapes.
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        linear_objective: The linear predictor's objective, from which gaps are counted.
        starts: How many starting points, at least 2.
        key: Random key for the starts.
        tolerance: A point is stuck where gap > tolerance and λ_min ≥ −tolerance.
        options: How to search, as for `find_stationary_points`.

    Raises:
        InvalidInputError: If there are fewer than 2 starts, or data or linear_objective are not finite.

    References:
        Shamir 2018 (arXiv:1804.06739), Corollary 1: no local minimum of a residual unit has a positive gap.
    """
    if starts < 2:
        raise InvalidInputError(f"starts={starts} must be at least 2: half are random, half are on a way down")
    if not np.isfinite(linear_objective):
        raise InvalidInputError(f"linear_objective={linear_objective} must be finite: gaps are counted from it")
    draw_key, step_key = jax.random.split(key)
    with jax.enable_x64(True):
        X, y = jnp.asarray(X, float), jnp.asarray(y, float)
        moving, fixed = eqx.partition(random_starts(model, starts, key=draw_key), trainable(model))
        upper = jax.tree.map(lambda leaf: leaf[: starts // 2], moving)
        lower = eqx.combine(jax.tree.map(lambda leaf: leaf[starts // 2 :], moving), fixed)
        lower = eqx.filter(descent_starts(objective, lower, X, y, key=step_key), trainable(model))
        together = eqx.combine(jax.tree.map(lambda *halves: jnp.concatenate(halves), upper, lower), fixed)
        found = find_stationary_points(objective, together, X, y, **options)
    return Atlas(found, linear_objective, tolerance)


def _identity(x: Any) -> Any:
    return x


def _example(unit: ResidualUnit, X: Any, ridge: Any) -> Any:
    """F + (ridge/2)(w² + v²), the ridge as data: one compiled program serves every strength."""
    return MeanLoss(Squared())(unit, X, jnp.ones(1)) + 0.5 * ridge[0] * (jnp.sum(unit.W**2) + jnp.sum(unit.V**2))


def saddle_at_zero(
    features: Real[Array, "n k"], X: Real[Array, "n d"], y: Shaped[Array, "n"], loss: str | Loss
) -> Point:
    """The point w = 0, V = −(mean ℓ'_i x_i) gᵀ / ‖g‖² with g = mean ℓ'_i f_i and ℓ'_i = ℓ'(0; y_i).

    There ∇_w F = mean ℓ'_i (x_i + V f_i) = 0 and ∇_V F = w gᵀ = 0, and ∂F/∂θ has the factor Vᵀw = 0: the point is
    stationary in every parameter, its objective is F_lin(0), and as g ≠ 0 its partial Hessian has a negative
    eigenvalue. Every stationary point above the best linear predictor has w = 0 and this value; of those with the
    same features, it is the one of least ‖V‖_F.

    Args:
        features: f_θ(x_i) as rows, shape (n, k).
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        loss: A loss of one output or its name.

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, a value is not finite, or g = 0 so that
            there is no such point.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorems 1 and 2, which leave no room for others.
    """
    d, k = np.shape(X)[1], np.shape(features)[1]
    point = Point(np.zeros(d), np.zeros((d, k)), features, X, y, loss)
    V, g_norm = analyse(_mixing_matrix, point)
    if not is_traced(g_norm) and not np.isfinite(V).all() and not g_norm == 0:
        raise InvalidInputError(
            "features or X have values that are not finite, or too large to be squared: no point can be written down"
        )
    if not is_traced(g_norm) and not g_norm > 0:
        raise InvalidInputError(
            f"mean ℓ'(0; y_i) f_i has norm {float(g_norm):g}, but must not vanish: features that tell nothing of the "
            "labels have no saddle at w = 0"
        )
    return point.at(0.0 * V[:, 0], V)


@jax.jit
def _mixing_matrix(point: Point):
    slope = point.loss.derivative(jnp.zeros(point.X.shape[0], point.X.dtype), point.y) / point.X.shape[0]
    g = slope @ point.features
    size = norm(g)
    return -jnp.outer(slope @ point.X, g / size) / size, size
