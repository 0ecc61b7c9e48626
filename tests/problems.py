"""Points of residual units to test on: losses × shapes × the special cases of the theory, with plain references."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflow.losses import as_loss

LOSSES = ("squared", "logistic", "pseudo_huber")

ROUNDING = 256 * np.finfo(float).eps
"""What sums of up to 200 products may differ by, relative to the size of what is added: ε for every term, as the order
in which it is added is the BLAS's affair, and so is whether it rounds between product and sum."""

SHAPES = {
    "wide": (40, 5, 8),
    "narrow": (40, 7, 3),
    "one_input": (30, 1, 4),
    "one_feature": (30, 5, 1),
    "both_one": (20, 1, 1),
    "few_samples": (4, 8, 6),
}
"""Shapes (n, d, k): k larger and smaller than d, d = 1, k = 1, n < d."""

SPECIAL = {
    "random": {},
    "w = 0": {"w_norm": 0.0},
    "norm 1e-300": {"w_norm": 1e-300},
    "norm 1e-150": {"w_norm": 1e-150},
    "norm 1e-8": {"w_norm": 1e-8},
    "norm 1e4": {"w_norm": 1e4},
    "norm 1e8": {"w_norm": 1e8},
    "g = 0": {"gamma": 0.0},
    "small g": {"gamma": 1e-5},
    "small g at w = 0": {"gamma": 1e-5, "w_norm": 0.0},
    "repeated features": {"repeated": True},
    "no features": {"features_scale": 0.0},
}
"""Special cases, each as options of `point`."""


class Point(NamedTuple):
    """The arrays of one point of a residual unit, in the order in which resflow takes them."""

    w: np.ndarray
    V: np.ndarray
    features: np.ndarray
    X: np.ndarray
    y: np.ndarray


def point(
    seed: int,
    n: int,
    d: int,
    k: int,
    loss: str,
    *,
    w_norm: float | None = None,
    gamma: float | None = None,
    condition: float = 1.0,
    repeated: bool = False,
    features_scale: float = 1.0,
) -> Point:
    """A random point; on demand with ‖w‖ and ‖g‖ of a given size, or with inputs of a given condition number."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.geomspace(1.0, 1.0 / condition, d)
    features = features_scale * np.tanh(rng.standard_normal((n, d)) @ rng.standard_normal((d, k)) / np.sqrt(d))
    if repeated:
        features = features[:, np.arange(k) // 2]
    w, V = rng.standard_normal(d) / np.sqrt(d), rng.standard_normal((d, k)) / np.sqrt(d * k)
    y = np.sign(rng.standard_normal(n)) if as_loss(loss).labels == "binary" else rng.standard_normal(n)
    if w_norm is not None:
        w = w / np.linalg.norm(w) * w_norm
    if gamma is not None:
        # With Vᵀw = 0 the predictions do not depend on the features, which may then be chosen so that g is what it is.
        unit = w / np.abs(w).max() if np.any(w) else np.eye(d)[0]
        V = V - np.outer(unit, unit @ V) / (unit @ unit)
        slope = as_loss(loss).derivative(X @ w, y)
        direction = rng.standard_normal(k)
        for _ in range(2):
            features = features - np.outer(slope, slope @ features) / (slope @ slope)
        features = features + np.outer(slope, direction) * (gamma * n / (slope @ slope) / np.linalg.norm(direction))
    return Point(w, V, features, X, y)


def reference_loss(loss: str, p: Any, y: Any) -> Any:
    """The losses once more, in forms that automatic differentiation gets right twice at every p."""
    if loss == "squared":
        return 0.5 * (p - y) ** 2
    if loss == "logistic":
        return jax.nn.softplus(-y * p)
    return _pseudo_huber(p - y)


@jax.custom_jvp
def _pseudo_huber(residual: Any) -> Any:
    return jnp.sqrt(1.0 + residual**2) - 1.0


@_pseudo_huber.defjvp
def _pseudo_huber_slope(primals: Any, tangents: Any) -> Any:
    # sin(arctan r) = r / sqrt(1 + r²), whose derivative by chain rule loses no digits at large r
    return _pseudo_huber(*primals), jnp.sin(jnp.arctan(primals[0])) * tangents[0]


def objective(W: jax.Array, features: Any, X: Any, y: Any, loss: str, ridge_w: Any = 0.0, ridge_V: Any = 0.0) -> Any:
    """F at W, the entries of w and then of V in one vector."""
    d = X.shape[1]
    w, V = W[:d], W[d:].reshape(d, -1)
    ridge = 0.5 * (ridge_w * jnp.sum(w**2) + ridge_V * jnp.sum(V**2))
    return jnp.mean(reference_loss(loss, (X + features @ V.T) @ w, y)) + ridge


def dense_hessians(points: list[Point], loss: str, ridge_w: float = 0.0, ridge_V: float = 0.0) -> np.ndarray:
    """The dense partial Hessian at each of some points of one shape, by automatic differentiation."""

    def hessian(arrays: Point) -> jax.Array:
        W = jnp.concatenate([arrays.w, arrays.V.ravel()])
        return jax.hessian(objective)(W, arrays.features, arrays.X, arrays.y, loss, ridge_w, ridge_V)

    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *points)
    return np.asarray(jax.jit(lambda stacked: jax.lax.map(hessian, stacked))(stacked))
