"""Points of residual units to test on: losses × outputs × shapes × the special cases of the theory, with references."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import resflow
from resflow import Loss, Point
from resflow.linear.fit import LinearFit
from resflow.losses import PseudoHuber, as_loss
from resflow.status import Status

LOSSES = ("squared", "logistic", "pseudo_huber")
"""Those of one output."""

OUTPUTS = [(loss, None) for loss in LOSSES] + [("squared", 3), ("softmax", 3)]
"""Losses, and how many outputs m; None for one without an axis."""

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


def point(
    seed: int,
    n: int,
    d: int,
    k: int,
    loss: str | Loss,
    m: int | None = None,
    *,
    rank: int | None = None,
    w_norm: float | None = None,
    gamma: float | None = None,
    condition: float = 1.0,
    repeated: bool = False,
    features_scale: float = 1.0,
) -> Point:
    """A random point; on demand with W of a given rank, with ‖W‖_F and ‖R‖ of a given size, R = mean ℓ'_i f_iᵀ, or with
    inputs of a given condition number."""
    rng, loss = np.random.default_rng(seed), as_loss(loss)
    outputs = () if m is None else (m,)
    X = rng.standard_normal((n, d)) * np.geomspace(1.0, 1.0 / condition, d)
    features = features_scale * np.tanh(rng.standard_normal((n, d)) @ rng.standard_normal((d, k)) / np.sqrt(d))
    if repeated:
        features = features[:, np.arange(k) // 2]
    W, V = rng.standard_normal((*outputs, d)) / np.sqrt(d), rng.standard_normal((d, k)) / np.sqrt(d * k)
    if rank is not None:
        left, singular, right = np.linalg.svd(W, full_matrices=False)
        W = (left * singular * (np.arange(len(singular)) < rank)) @ right
    if loss.labels == "classes":
        y = rng.integers(m, size=n)
    else:
        y = rng.standard_normal((n, *outputs))
        y = np.sign(y) if loss.labels == "binary" else y
    if w_norm is not None:
        W = W / np.linalg.norm(W) * w_norm
    if gamma is not None:
        # With WV = 0 the predictions do not depend on the features, which may then be chosen so that R is what it is.
        rows = np.atleast_2d(W / (np.abs(W).max() or 1.0))
        V = V - np.linalg.pinv(rows) @ (rows @ V)
        slopes = loss.derivative(X @ W.T, y).reshape(n, -1)
        direction = slopes.T @ slopes @ rng.standard_normal((slopes.shape[1], k))
        for _ in range(2):
            features = features - slopes @ (np.linalg.pinv(slopes) @ features)
        features = features + np.linalg.pinv(slopes).T @ direction * (gamma * n / np.linalg.norm(direction, 2))
    return Point(W, V, features, X, y, loss)


def saddle(start: Point, rank: int = 0) -> Point:
    """A stationary point with W of a rank below full, above the linear predictor, next to a given one.

    W is the best linear predictor of the first `rank` inputs, S the slopes ℓ' there times its weights B. Without their
    parts along S the other inputs and the features leave BᵀG = BᵀR = 0, G = mean ℓ'_i x_iᵀ and R = mean ℓ'_i f_iᵀ, so
    that both parts of the gradient, G + RVᵀ and WᵀR, vanish for a V with VRᵀ = −Gᵀ, of which WV = 0.
    """
    loss, y, (n, d) = start.loss, start.y, start.X.shape
    B = np.zeros((start.outputs, 0))
    if rank:
        B = resflow.fit_linear_predictor(start.X[:, :rank], y, loss=loss).W
    W = (B @ np.eye(rank, d)).reshape(start.W.shape)
    slopes = loss.derivative(start.X @ W.T, y).reshape(n, -1)
    along = slopes @ B
    X, features = start.X.copy(), start.features
    for _ in range(2):
        X[:, rank:] -= along @ (np.linalg.pinv(along) @ X[:, rank:])
        features = features - along @ (np.linalg.pinv(along) @ features)
    G, R, V = slopes.T @ X / n, slopes.T @ features / n, start.V * (np.arange(d) >= rank)[:, None]
    for _ in range(2):
        V = V - (V @ R.T + G.T) @ np.linalg.pinv(R.T, rcond=1e-12)
    return Point(W, V, features, X, y, loss)


def stacked(points: list[Point]) -> Point:
    """Points of one shape and loss as one, with a leading axis on all arrays, for `jax.vmap` and `jax.lax.map`."""
    return jax.tree.map(lambda *arrays: jnp.stack([jnp.asarray(array) for array in arrays]), *points)


def unstacked(population: Any) -> list[Any]:
    """The parts of a pytree along its leading axis, in NumPy."""
    population = jax.tree.map(np.asarray, population)
    count = len(jax.tree.leaves(population)[0])
    return [jax.tree.map(lambda leaf: leaf[i], population) for i in range(count)]  # noqa: B023


def random_points(
    seed: int, count: int, n: int, d: int, k: int, loss: str | Loss, m: int | None = None, *, ranks: Any = None
) -> Point:
    """`count` random points as one, W, V and features of widely varying scale, W of given ranks."""
    rng, loss = np.random.default_rng(seed), as_loss(loss)
    outputs = () if m is None else (m,)
    shapes = [(*outputs, d), (d, k), (n, k)]
    scales = [10.0 ** rng.uniform(-3, 2, (count, *[1] * len(shape))) for shape in shapes]
    if ranks is not None:  # of W: rounding is relative to its largest singular value
        left = rng.standard_normal((count, m, min(m, d))) * (np.arange(min(m, d)) < np.reshape(ranks, (-1, 1, 1)))
    W, V, features = (scale * rng.standard_normal((count, *shape)) for scale, shape in zip(scales, shapes, strict=True))
    W = W if ranks is None else left @ W[:, : min(m, d)]
    X, y = rng.standard_normal((count, n, d)), rng.standard_normal((count, n, *outputs))
    if loss.labels == "classes":
        y = rng.integers(m, size=(count, n))
    y = np.sign(y) if loss.labels == "binary" else y
    make = jax.vmap(lambda *arrays: Point(*arrays, loss))
    return make(*map(jnp.asarray, (W, V, features, X, y)))


def comparator_fit(W: Any, at: Point) -> LinearFit:
    """Any linear predictor in the place of the best one of a point's samples: the bounds hold against every W*."""
    W = np.asarray(W)
    value = float(np.mean(at.loss.value(np.asarray(at.X) @ W.T, np.asarray(at.y))))
    return LinearFit(W, value, 0.0, Status.CONVERGED, 0.0, 0.0, None, W.shape[-1], 0, None, 0.0, at.loss.name)


def linear_fit(at: Point, **options: Any) -> LinearFit:
    """The best linear predictor of a point's samples, in a ball where they are separable."""
    try:
        return resflow.fit_linear_predictor(at.X, at.y, loss=at.loss, **options)
    except resflow.InvalidInputError:
        return resflow.fit_linear_predictor(at.X, at.y, loss=at.loss, max_norm=2.0, **options)


def reference_loss(loss: str | Loss, p: Any, y: Any) -> Any:
    """The losses once more, in forms that automatic differentiation gets right twice at every p."""
    loss = as_loss(loss)
    if loss.name == "squared":
        return 0.5 * (p - y) ** 2 if p.ndim < 2 else 0.5 * jnp.sum((p - y) ** 2, axis=1)
    if loss.name == "logistic":
        return jax.nn.softplus(-y * p)
    if loss.name == "softmax":
        return _cross_entropy(p, y)
    assert isinstance(loss, PseudoHuber)
    return loss.delta**2 * _pseudo_huber((p - y) / loss.delta)


@jax.custom_jvp
def _pseudo_huber(residual: Any) -> Any:
    return jnp.sqrt(1.0 + residual**2) - 1.0


@_pseudo_huber.defjvp
def _pseudo_huber_slope(primals: Any, tangents: Any) -> Any:
    # sin(arctan r) = r / sqrt(1 + r²), whose derivative by chain rule loses no digits at large r
    return _pseudo_huber(*primals), jnp.sin(jnp.arctan(primals[0])) * tangents[0]


@jax.custom_jvp
def _cross_entropy(p: Any, y: Any) -> Any:
    return jax.nn.logsumexp(p, axis=1) - _own(p, y)[:, 0]


@_cross_entropy.defjvp
def _cross_entropy_slope(primals: Any, tangents: Any) -> Any:
    # of differences to the own class: a sum that is 1 but for 1e-17 is subtracted nowhere
    (p, y), moved = primals, tangents[0]
    return _cross_entropy(p, y), jnp.sum(_softmax(p) * (moved - _own(moved, y)), axis=1)


@jax.custom_jvp
def _softmax(p: Any) -> Any:
    return jax.nn.softmax(p, axis=1)


@_softmax.defjvp
def _softmax_slope(primals: Any, tangents: Any) -> Any:
    sigma, moved = _softmax(*primals), tangents[0]
    return sigma, sigma * jnp.sum(sigma[:, None, :] * (moved[:, :, None] - moved[:, None, :]), axis=2)


def _own(p: Any, y: Any) -> Any:
    return jnp.take_along_axis(p, y.astype(int)[:, None], axis=1)


def flat(W: Any, V: Any) -> Any:
    """The entries of W and then of V in one vector."""
    return jnp.concatenate([jnp.ravel(W), jnp.ravel(V)])


def objective(weights: Any, at: Point, ridge_W: Any = 0.0, ridge_V: Any = 0.0) -> Any:
    """F + R at `weights`, the entries of W and then of V in one vector, on a point's samples."""
    W, V = weights[: at.W.size].reshape(at.W.shape), weights[at.W.size :].reshape(at.V.shape)
    ridge = 0.5 * (ridge_W * jnp.sum(W**2) + ridge_V * jnp.sum(V**2))
    return jnp.mean(reference_loss(at.loss, (at.X + at.features @ V.T) @ W.T, at.y)) + ridge


@jax.jit
def gradient(at: Point, ridge_W: float = 0.0, ridge_V: float = 0.0) -> jax.Array:
    """∇(F + R) at a point by automatic differentiation."""
    return jax.grad(objective)(flat(at.W, at.V), at, ridge_W, ridge_V)


@jax.jit
def _hessians(population: Point, ridge_W: float, ridge_V: float) -> jax.Array:
    return jax.lax.map(lambda at: jax.hessian(objective)(flat(at.W, at.V), at, ridge_W, ridge_V), population)


def dense_hessians(points: list[Point], ridge_W: float = 0.0, ridge_V: float = 0.0) -> np.ndarray:
    """The dense partial Hessian at each of some points of one shape, by automatic differentiation."""
    return np.asarray(_hessians(stacked(points), ridge_W, ridge_V))
