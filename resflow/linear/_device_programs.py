"""The programs that make passes over samples on an accelerator: sums in float64, a chunk of rows at a time.

Each takes X, shape (n, d), y, the weights (None if all are 1) and how many rows a chunk has; then what it is about.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from resflow.arrays import SMALLEST
from resflow.linear._terms import loss_terms
from resflow.losses import Loss

__all__ = [
    "along",
    "at_zero",
    "evaluate",
    "gram",
    "least_metric",
    "look",
    "on_both_sides",
    "product",
    "sensitivity",
    "times",
    "triangular_factor",
    "weighted_gram",
    "within",
]

_TILE, _PIECES = 128, 256
"""What one multiprocessor computes at once of a product, and how many of these keep a GPU busy."""


def _total(X: Any, y: Any, weights: Any, chunk: int, part: Callable[..., Any], start: Any) -> Any:
    """`part(total, first, rows, y, c)` for chunk after chunk: the rows as float64, c their weights.

    The last chunk ends with the samples; what it shares with the one before has the weight 0.
    """
    n = len(X)

    def add(index: Any, total: Any) -> Any:
        first = jnp.minimum(index * chunk, n - chunk)
        take = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=chunk)
        c = jnp.where(first + jnp.arange(chunk) >= index * chunk, 1.0, 0.0)
        c = c if weights is None else c * take(weights)
        return part(total, first, take(X).astype(jnp.float64), take(y), c)

    return jax.lax.fori_loop(0, -(-n // chunk), add, start)


def _sums(X: Any, y: Any, weights: Any, chunk: int, part: Callable[..., Any]) -> Any:
    """The sums of `part(rows, y, c)` over all chunks."""
    block, labels = (jax.ShapeDtypeStruct((chunk, *a.shape[1:]), t) for a, t in ((X, jnp.float64), (y, y.dtype)))
    shapes = jax.eval_shape(part, block, labels, jax.ShapeDtypeStruct((chunk,), jnp.float64))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def add(total: Any, first: Any, rows: Any, y: Any, c: Any) -> Any:
        return jax.tree.map(jnp.add, total, part(rows, y, c))

    return _total(X, y, weights, chunk, add, zeros)


def at_zero(X: Any, y: Any, weights: Any, *, loss: Loss, m: int | None, chunk: int) -> Any:
    def part(rows, y, c):
        if m is None:
            value, slope, _ = loss_terms(loss, jnp.zeros(len(rows)), y)
        else:
            _, value, slope = _softmax(rows, y, jnp.zeros((m, rows.shape[1])))
        weighted = (slope.T * c).T
        return _cross(rows, c, rows), weighted.T @ rows, jnp.sum(value * c), jnp.vdot(weighted, slope)

    return _sums(X, y, weights, chunk, part)


def gram(X: Any, y: Any, weights: Any, *, chunk: int) -> Any:
    return _sums(X, y, weights, chunk, lambda rows, y, c: _cross(rows, c, rows))


def evaluate(X: Any, y: Any, weights: Any, w: Any, *, loss: Loss, hessian: bool, chunk: int) -> Any:
    n, d = X.shape
    start = 0.0, jnp.zeros(d), jnp.zeros((d, d)) if hessian else None, jnp.zeros(n), jnp.zeros(n)

    def part(total, first, rows, y, c):
        objective, gradient, H, predictions, curvatures = total
        p = rows @ w
        value, slope, curvature = loss_terms(loss, p, y)
        keep = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
        H = H if H is None else H + _cross(rows, c * curvature, rows)
        gradient = gradient + (c * slope) @ rows
        return objective + jnp.sum(c * value), gradient, H, keep(predictions, p), keep(curvatures, curvature)

    return _total(X, y, weights, chunk, part, start)


def times(X: Any, y: Any, weights: Any, w: Any, *, chunk: int) -> Any:
    def part(total, first, rows, y, c):
        return jax.lax.dynamic_update_slice_in_dim(total, rows @ w, first, 0)

    return _total(X, y, weights, chunk, part, jnp.zeros(len(X)))


def along(y: Any, weights: Any, predictions: Any, change: Any, t: Any, *, loss: Loss) -> Any:
    value, slope, _ = loss_terms(loss, predictions + t * change, y)
    c = 1.0 if weights is None else weights
    return jnp.mean(c * value), jnp.vdot(c * slope, change) / len(y)


def on_both_sides(y: Any, predictions: Any) -> Any:
    margins = y * predictions
    return jnp.any(margins < 0) | ~jnp.any(margins > 0)


def look(X: Any, y: Any, weights: Any, W: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, value, slope = _softmax(rows, y, W)
        curvature = jnp.diag(c @ sigma) - _cross(sigma, c, sigma)
        # of every sample's own class, more than half
        together = jnp.sum(~(value < jnp.log(2.0))) if y.ndim == 1 else jnp.ones((), int)
        return jnp.sum(c * value), _cross(slope, c, rows), curvature, together

    value, gradient, curvature, together = _sums(X, y, weights, chunk, part)
    return value, gradient, curvature, together == 0


def product(X: Any, y: Any, weights: Any, W: Any, V: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, change = _softmax(rows, y, W)[0], rows @ V.T
        change = sigma * (change - jnp.sum(sigma * change, axis=1, keepdims=True))
        return _cross(change, c, rows)

    return _sums(X, y, weights, chunk, part)


def weighted_gram(X: Any, y: Any, weights: Any, W: Any, *, counted: str, chunk: int) -> Any:
    def part(rows, y, c):
        sigma = _softmax(rows, y, W)[0]
        activity = jnp.maximum(1.0 - jnp.sum(sigma * sigma, axis=1), 0.0)
        return _cross(rows, c * (activity if counted == "activity" else sigma.min(axis=1)), rows)

    return _sums(X, y, weights, chunk, part)


def sensitivity(X: Any, y: Any, weights: Any, W: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, _, slope = _softmax(rows, y, W)
        squares, alike = jnp.sum(rows * rows, axis=1), jnp.sum(sigma * sigma, axis=1)
        lengths = jnp.sqrt(jnp.sum(slope * slope, axis=1) * squares)
        return jnp.sum(c * lengths), jnp.sum(c * jnp.maximum(1.0 - alike, 0.0) * squares)

    return _sums(X, y, weights, chunk, part)


def least_metric(X: Any, y: Any, weights: Any, W: Any, whitening: Any, unit: Any, *, chunk: int) -> Any:
    def part(total, first, rows, y, c):
        hidden, reach = total
        sigma = _softmax(rows, y, W)[0]
        errors = unit * (jnp.abs(rows) @ jnp.abs(W).T)
        activity = jnp.maximum(1.0 - jnp.sum(sigma * sigma, axis=1), 0.0)
        each = activity**2 / jnp.maximum(sigma.min(axis=1), SMALLEST) * jnp.sum(errors * errors, axis=1)
        longest = jnp.max(jnp.sum((rows @ whitening) ** 2, axis=1))
        return hidden + jnp.sum(c * each), jnp.maximum(reach, longest)

    return _total(X, y, weights, chunk, part, (0.0, 0.0))


def triangular_factor(X: Any, y: Any, weights: Any, *, chunk: int) -> Any:
    d = X.shape[1]

    def part(R, first, rows, y, c):
        rows = jnp.where((c > 0.0)[:, None], rows, 0.0)  # none twice
        return jnp.linalg.qr(jnp.concatenate([R, rows]), mode="r")

    return _total(X, y, weights, chunk, part, jnp.zeros((d, d)))


def within(X: Any, y: Any, weights: Any, basis: Any, *, chunk: int) -> Any:
    def part(total, first, rows, y, c):
        return jax.lax.dynamic_update_slice_in_dim(total, rows @ basis, first, 0)

    return _total(X, y, weights, chunk, part, jnp.zeros((len(X), basis.shape[1])))


def _cross(A: Any, c: Any, B: Any) -> Any:
    """Σ_i c_i a_i b_iᵀ, by many products of some of the rows each: one of all rows would be small in what it gives, and
    so leave most of a GPU idle.
    """
    n, tiles = len(A), -(-A.shape[1] // _TILE) * -(-B.shape[1] // _TILE)
    pieces = max(1, min(_PIECES // tiles, n // _TILE))
    size = n // pieces
    left, right = ((x[: pieces * size]).reshape(pieces, size, -1) for x in (A * c[:, None], B))
    rest = (A[pieces * size :] * c[pieces * size :, None]).T @ B[pieces * size :]
    return jnp.einsum("pni,pnj->pij", left, right).sum(axis=0) + rest


def _softmax(rows: Any, y: Any, W: Any) -> tuple[Any, Any, Any]:
    """σ_i, ℓ_i and ℓ'_i of the softmax loss, all as rows; relative to p_y, where nothing cancels."""
    p = rows @ W.T
    if y.ndim == 2:
        p = p - p.max(axis=1, keepdims=True)
        sigma = jnp.exp(p)
        sums = sigma.sum(axis=1, keepdims=True)
        sigma = sigma / sums
        return sigma, jnp.sum((jnp.log(sums) - p) * y, axis=1), sigma - y
    own = jnp.arange(W.shape[0]) == y[:, None]
    p = p - jnp.sum(jnp.where(own, p, 0.0), axis=1, keepdims=True)
    top = jnp.maximum(p.max(axis=1, keepdims=True), 0.0)
    others, one = jnp.where(own, 0.0, jnp.exp(p - top)), jnp.exp(-top)
    sums = others.sum(axis=1, keepdims=True)
    value = jnp.where(top > 0.0, top + jnp.log(sums + one), jnp.log1p(sums))
    total = sums + one
    return jnp.where(own, one, others) / total, value[:, 0], jnp.where(own, -sums, others) / total
