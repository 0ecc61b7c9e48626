"""Samples on an accelerator: the passes over them that a fit makes, each as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflow.arrays import SMALLEST
from resflow.compiling import quick_to_compile
from resflow.linear._terms import loss_terms
from resflow.losses import Loss
from resflow.parallel import free_memory

__all__ = ["DeviceSamples", "samples_on_device"]

_WORTH_IT = 1 << 22
"""Entries of X below which a pass by NumPy is over before one on an accelerator has been asked for."""

_TILE, _PIECES = 128, 256
"""What one multiprocessor computes at once of a product, and how many of these keep a GPU busy."""

_SHARE_OF_MEMORY = 16
_LARGEST_CHUNK = 1 << 29


class DeviceSamples(NamedTuple):
    """Samples as they lie on an accelerator. Sums are made in float64, whatever X is, a chunk of rows at a time.

    All methods want 64-bit types enabled, as `jax.enable_x64` does.

    Attributes:
        X: Shape (n, d), of any real dtype.
        y: Labels, shape (n,), or (n, m) for rows of probabilities.
        weights: c, shape (n,), 1 in the mean; None if all are 1.
        budget: Bytes that a chunk and what is made of it may take.
    """

    X: jax.Array
    y: jax.Array
    weights: jax.Array | None
    budget: int

    def _run(self, program: Callable[..., Any], *arrays: Any, made: int, **options: Any) -> Any:
        """A pass that makes so many numbers of a row besides the row itself."""
        n, d = self.X.shape
        chunk = max(1, min(n, self.budget // (8 * (d + made))))
        settings = tuple(sorted({**options, "chunk": chunk}.items()))
        return _compiled(program, settings)(self.X, self.y, self.weights, *arrays)

    def at_zero(self, loss: Loss, m: int | None) -> tuple[np.ndarray, np.ndarray, float, float]:
        """XᵀX, Σ x_i ℓ'_i(0)ᵀ, the mean loss at 0 and Σ ‖ℓ'_i(0)‖², each sample by its weight."""
        found = self._run(_at_zero, made=6 * (m or 1) + self.X.shape[1], loss=loss, m=m)
        gram, gradient, value, steepness = map(np.asarray, found)
        return gram, gradient.T, float(value) / len(self.X), float(steepness)

    def weighted_gram(self) -> np.ndarray:
        """Σ_i c_i x_i x_iᵀ."""
        return np.asarray(self._run(_gram, made=self.X.shape[1]))

    def evaluate(self, loss: Loss, w: np.ndarray, *, hessian: bool) -> tuple[Any, ...]:
        """Mean loss, its gradient and Hessian (or None), the predictions and ℓ'' of one output; these stay there."""
        made = 8 + (self.X.shape[1] if hessian else 0)
        value, gradient, H, predictions, curvatures = self._run(_evaluate, w, made=made, loss=loss, hessian=hessian)
        n = len(self.X)
        gradient = np.asarray(gradient) / n
        return float(value) / n, gradient, np.asarray(H) / n if hessian else None, predictions, curvatures

    def times(self, w: np.ndarray) -> jax.Array:
        """Xw of one output, which stays there."""
        return self._run(_times, w, made=2)

    def along(self, loss: Loss, predictions: Any, change: Any, t: float) -> tuple[float, float]:
        """The mean loss at predictions + t change, and its derivative in t."""
        value, slope = _compiled(_along, (("loss", loss),))(self.y, self.weights, predictions, change, t)
        return float(value), float(slope)

    def on_both_sides(self, predictions: Any) -> bool:
        """Whether some sample of two classes is on the wrong side, or all are on the plane."""
        return bool(_compiled(_on_both_sides, ())(self.y, predictions))

    def look(self, W: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, bool]:
        """Mean softmax loss, its gradient, (m, d), mean S_i and whether every class has more than half the weight."""
        value, gradient, curvature, apart = self._run(_look, W, made=6 * len(W))
        n = len(self.X)
        return float(value) / n, np.asarray(gradient) / n, np.asarray(curvature) / n, bool(apart)

    def product(self, W: np.ndarray, V: np.ndarray) -> np.ndarray:
        """mean_i S_i V x_i x_iᵀ."""
        return np.asarray(self._run(_product, W, V, made=6 * len(W))) / len(self.X)

    def gram(self, W: np.ndarray, counted: str) -> np.ndarray:
        """mean_i a_i x_i x_iᵀ with a_i the trace of S_i ("activity") or the least probability ("least")."""
        made = 5 * len(W) + self.X.shape[1]
        return np.asarray(self._run(_weighted_gram, W, made=made, counted=counted)) / len(self.X)

    def least_metric(self, W: np.ndarray, whitening: np.ndarray, unit: float) -> tuple[float, float]:
        """mean |S_i e_i|² / a_i at most, for rounding errors e_i of the predictions, and the longest row, whitened."""
        hidden, reach = self._run(_least_metric, W, whitening, unit, made=6 * len(W) + self.X.shape[1])
        return float(hidden) / len(self.X), float(reach)

    def triangular_factor(self) -> np.ndarray:
        """R of the QR factorisation of X, shape (d, d)."""
        return np.asarray(self._run(_triangular_factor, made=3 * self.X.shape[1]))

    def within(self, basis: np.ndarray) -> DeviceSamples | None:
        """The samples in coordinates of a basis; None if there is no room for them."""
        (device,) = self.X.devices()
        if 2 * 8 * len(self.X) * basis.shape[1] > free_memory(device):
            return None
        return self._replace(X=self._run(_within, basis, made=basis.shape[1]))

    def sensitivity(self, W: np.ndarray) -> tuple[float, float]:
        """mean_i ‖ℓ'_i‖ ‖x_i‖ and mean_i tr(S_i) ‖x_i‖²."""
        slopes, curvatures = self._run(_sensitivity, W, made=6 * len(W) + self.X.shape[1])
        return float(slopes) / len(self.X), float(curvatures) / len(self.X)


def samples_on_device(X: Any, y: np.ndarray, weights: np.ndarray | None, places: np.ndarray | None, m: int) -> Any:
    """The samples on the accelerator that X lies on, or that JAX computes on; None without one, or if they do not fit.

    Args:
        X: As it was given, shape (n, d).
        y: Labels of those that count.
        weights: Of these; None if all are alike.
        places: Which rows of X count; None if all do.
        m: Outputs.
    """
    device = _accelerator(X)
    if device is None or X.shape[0] * X.shape[1] < _WORTH_IT:
        return None
    free = free_memory(device)
    there = isinstance(X, jax.Array)
    taken = (0 if there and places is None else X.nbytes) + 8 * len(y) * (8 + (m if y.ndim == 2 else 0))
    if 2 * taken > free or 8 * _SHARE_OF_MEMORY * X.shape[1] * (X.shape[1] + m) > free:
        return None
    place = partial(jax.device_put, device=device)
    with jax.enable_x64(True):
        rows = X if there else place(X if places is None else X[places])
        rows = rows if not there or places is None else rows[places]
        budget = min((free - taken) // _SHARE_OF_MEMORY, _LARGEST_CHUNK)
        return DeviceSamples(rows, place(y), None if weights is None else place(weights), budget)


def _accelerator(X: Any) -> jax.Device | None:
    """The one that samples lie on; or, of samples that JAX has not seen, the one that it computes on."""
    devices = X.devices() if isinstance(X, jax.Array) else {jax.local_devices()[0]}
    (device,) = devices if len(devices) == 1 else (None,)
    return device if device is not None and device.platform != "cpu" else None


@cache
def _compiled(program: Callable[..., Any], settings: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(partial(program, **dict(settings)), compiler_options=quick_to_compile())


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


def _at_zero(X: Any, y: Any, weights: Any, *, loss: Loss, m: int | None, chunk: int) -> Any:
    def part(rows, y, c):
        if m is None:
            value, slope, _ = loss_terms(loss, jnp.zeros(len(rows)), y)
        else:
            _, value, slope = _softmax(rows, y, jnp.zeros((m, rows.shape[1])))
        weighted = (slope.T * c).T
        return _cross(rows, c, rows), weighted.T @ rows, jnp.sum(value * c), jnp.vdot(weighted, slope)

    return _sums(X, y, weights, chunk, part)


def _gram(X: Any, y: Any, weights: Any, *, chunk: int) -> Any:
    return _sums(X, y, weights, chunk, lambda rows, y, c: _cross(rows, c, rows))


def _evaluate(X: Any, y: Any, weights: Any, w: Any, *, loss: Loss, hessian: bool, chunk: int) -> Any:
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


def _times(X: Any, y: Any, weights: Any, w: Any, *, chunk: int) -> Any:
    def part(total, first, rows, y, c):
        return jax.lax.dynamic_update_slice_in_dim(total, rows @ w, first, 0)

    return _total(X, y, weights, chunk, part, jnp.zeros(len(X)))


def _along(y: Any, weights: Any, predictions: Any, change: Any, t: Any, *, loss: Loss) -> Any:
    value, slope, _ = loss_terms(loss, predictions + t * change, y)
    c = 1.0 if weights is None else weights
    return jnp.mean(c * value), jnp.vdot(c * slope, change) / len(y)


def _on_both_sides(y: Any, predictions: Any) -> Any:
    margins = y * predictions
    return jnp.any(margins < 0) | ~jnp.any(margins > 0)


def _look(X: Any, y: Any, weights: Any, W: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, value, slope = _softmax(rows, y, W)
        curvature = jnp.diag(c @ sigma) - _cross(sigma, c, sigma)
        # of every sample's own class, more than half
        together = jnp.sum(~(value < jnp.log(2.0))) if y.ndim == 1 else jnp.ones((), int)
        return jnp.sum(c * value), _cross(slope, c, rows), curvature, together

    value, gradient, curvature, together = _sums(X, y, weights, chunk, part)
    return value, gradient, curvature, together == 0


def _product(X: Any, y: Any, weights: Any, W: Any, V: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, change = _softmax(rows, y, W)[0], rows @ V.T
        change = sigma * (change - jnp.sum(sigma * change, axis=1, keepdims=True))
        return _cross(change, c, rows)

    return _sums(X, y, weights, chunk, part)


def _weighted_gram(X: Any, y: Any, weights: Any, W: Any, *, counted: str, chunk: int) -> Any:
    def part(rows, y, c):
        sigma = _softmax(rows, y, W)[0]
        activity = jnp.maximum(1.0 - jnp.sum(sigma * sigma, axis=1), 0.0)
        return _cross(rows, c * (activity if counted == "activity" else sigma.min(axis=1)), rows)

    return _sums(X, y, weights, chunk, part)


def _sensitivity(X: Any, y: Any, weights: Any, W: Any, *, chunk: int) -> Any:
    def part(rows, y, c):
        sigma, _, slope = _softmax(rows, y, W)
        squares, alike = jnp.sum(rows * rows, axis=1), jnp.sum(sigma * sigma, axis=1)
        lengths = jnp.sqrt(jnp.sum(slope * slope, axis=1) * squares)
        return jnp.sum(c * lengths), jnp.sum(c * jnp.maximum(1.0 - alike, 0.0) * squares)

    return _sums(X, y, weights, chunk, part)


def _least_metric(X: Any, y: Any, weights: Any, W: Any, whitening: Any, unit: Any, *, chunk: int) -> Any:
    def part(total, first, rows, y, c):
        hidden, reach = total
        sigma = _softmax(rows, y, W)[0]
        errors = unit * (jnp.abs(rows) @ jnp.abs(W).T)
        activity = jnp.maximum(1.0 - jnp.sum(sigma * sigma, axis=1), 0.0)
        each = activity**2 / jnp.maximum(sigma.min(axis=1), SMALLEST) * jnp.sum(errors * errors, axis=1)
        longest = jnp.max(jnp.sum((rows @ whitening) ** 2, axis=1))
        return hidden + jnp.sum(c * each), jnp.maximum(reach, longest)

    return _total(X, y, weights, chunk, part, (0.0, 0.0))


def _triangular_factor(X: Any, y: Any, weights: Any, *, chunk: int) -> Any:
    d = X.shape[1]

    def part(R, first, rows, y, c):
        rows = jnp.where((c > 0.0)[:, None], rows, 0.0)  # none twice
        return jnp.linalg.qr(jnp.concatenate([R, rows]), mode="r")

    return _total(X, y, weights, chunk, part, jnp.zeros((d, d)))


def _within(X: Any, y: Any, weights: Any, basis: Any, *, chunk: int) -> Any:
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
