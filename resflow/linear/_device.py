"""Samples on an accelerator: the passes over them that a fit makes, each as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from resflow.compiling import quick_to_compile
from resflow.linear import _device_programs as programs
from resflow.losses import Loss
from resflow.parallel import free_memory

__all__ = ["DeviceSamples", "samples_on_device"]

_WORTH_IT = 1 << 22
"""Entries of X below which a pass by NumPy is over before one on an accelerator has been asked for."""

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
        found = self._run(programs.at_zero, made=6 * (m or 1) + self.X.shape[1], loss=loss, m=m)
        gram, gradient, value, steepness = map(np.asarray, found)
        return gram, gradient.T, float(value) / len(self.X), float(steepness)

    def weighted_gram(self) -> np.ndarray:
        """Σ_i c_i x_i x_iᵀ."""
        return np.asarray(self._run(programs.gram, made=self.X.shape[1]))

    def evaluate(self, loss: Loss, w: np.ndarray, *, hessian: bool) -> tuple[Any, ...]:
        """Mean loss, its gradient and Hessian (or None), the predictions and ℓ'' of one output; these stay there."""
        made = 8 + (self.X.shape[1] if hessian else 0)
        value, gradient, H, predictions, curvatures = self._run(
            programs.evaluate, w, made=made, loss=loss, hessian=hessian
        )
        n = len(self.X)
        gradient = np.asarray(gradient) / n
        return float(value) / n, gradient, np.asarray(H) / n if hessian else None, predictions, curvatures

    def times(self, w: np.ndarray) -> jax.Array:
        """Xw of one output, which stays there."""
        return self._run(programs.times, w, made=2)

    def along(self, loss: Loss, predictions: Any, change: Any, t: float) -> tuple[float, float]:
        """The mean loss at predictions + t change, and its derivative in t."""
        value, slope = _compiled(programs.along, (("loss", loss),))(self.y, self.weights, predictions, change, t)
        return float(value), float(slope)

    def on_both_sides(self, predictions: Any) -> bool:
        """Whether some sample of two classes is on the wrong side, or all are on the plane."""
        return bool(_compiled(programs.on_both_sides, ())(self.y, predictions))

    def look(self, W: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, bool]:
        """Mean softmax loss, its gradient, (m, d), mean S_i and whether every class has more than half the weight."""
        value, gradient, curvature, apart = self._run(programs.look, W, made=6 * len(W))
        n = len(self.X)
        return float(value) / n, np.asarray(gradient) / n, np.asarray(curvature) / n, bool(apart)

    def product(self, W: np.ndarray, V: np.ndarray) -> np.ndarray:
        """mean_i S_i V x_i x_iᵀ."""
        return np.asarray(self._run(programs.product, W, V, made=6 * len(W))) / len(self.X)

    def gram(self, W: np.ndarray, counted: str) -> np.ndarray:
        """mean_i a_i x_i x_iᵀ with a_i the trace of S_i ("activity") or the least probability ("least")."""
        made = 5 * len(W) + self.X.shape[1]
        return np.asarray(self._run(programs.weighted_gram, W, made=made, counted=counted)) / len(self.X)

    def least_metric(self, W: np.ndarray, whitening: np.ndarray, unit: float) -> tuple[float, float]:
        """mean |S_i e_i|² / a_i at most, for rounding errors e_i of the predictions, and the longest row, whitened."""
        hidden, reach = self._run(programs.least_metric, W, whitening, unit, made=6 * len(W) + self.X.shape[1])
        return float(hidden) / len(self.X), float(reach)

    def triangular_factor(self) -> np.ndarray:
        """R of the QR factorisation of X, shape (d, d)."""
        return np.asarray(self._run(programs.triangular_factor, made=3 * self.X.shape[1]))

    def within(self, basis: np.ndarray) -> DeviceSamples | None:
        """The samples in coordinates of a basis; None if there is no room for them."""
        (device,) = self.X.devices()
        if 2 * 8 * len(self.X) * basis.shape[1] > free_memory(device):
            return None
        return self._replace(X=self._run(programs.within, basis, made=basis.shape[1]))

    def sensitivity(self, W: np.ndarray) -> tuple[float, float]:
        """mean_i ‖ℓ'_i‖ ‖x_i‖ and mean_i tr(S_i) ‖x_i‖²."""
        slopes, curvatures = self._run(programs.sensitivity, W, made=6 * len(W) + self.X.shape[1])
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
