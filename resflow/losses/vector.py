"""Convex losses ℓ(p; y) of a vector-valued prediction p ∈ R^m, with their derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real
from scipy.special import logsumexp

from resflow.arrays import as_array, as_number, check_size, is_traced
from resflow.errors import InvalidInputError, nearest

__all__ = ["VECTOR_LOSSES", "MultiOutputSquared", "Softmax", "VectorLoss", "as_vector_loss", "check_targets", "one_hot"]


class VectorLoss:
    """A loss ℓ(p; y), convex and twice differentiable in the prediction p ∈ R^m.

    Every method takes predictions as rows, shape (n, m), and the labels of as many samples: on NumPy arrays with
    NumPy, on JAX arrays (traced ones too) with JAX. Derivatives are with respect to p.

    Attributes:
        name: What the loss is called in parameters and reports.
        class_labels: True if y is a class 0, ..., m − 1 a sample, shape (n,); False if it is a vector, shape (n, m).
        shift_invariant: True if adding one number to all of p changes nothing, so that ℓ' sums to 0.
    """

    name: ClassVar[str]
    class_labels: ClassVar[bool] = False
    shift_invariant: ClassVar[bool] = False

    def value(self, p: Any, y: Any) -> Any:
        """ℓ(p_i; y_i), shape (n,)."""
        raise NotImplementedError

    def derivative(self, p: Any, y: Any) -> Any:
        """ℓ'(p_i; y_i) as rows, shape (n, m)."""
        raise NotImplementedError

    def second_derivative(self, p: Any, y: Any) -> Any:
        """ℓ''(p_i; y_i), positive semidefinite, shape (n, m, m)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Softmax(VectorLoss):
    """ℓ(p; y) = log Σ_j exp(p_j) − p_y for a class y ∈ {0, ..., m − 1}: multinomial logistic loss, or cross-entropy.

    >>> Softmax().value(np.array([[800.0, 0.0], [0.0, 800.0]]), np.array([0, 0]))
    array([  0., 800.])
    """

    name: ClassVar[str] = "softmax"
    class_labels: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = True

    def value(self, p: Any, y: Any) -> Any:
        # Relative to p_y: nothing cancels, and a loss of 1e-300 keeps its digits.
        margin = p - _pick(p, y)[:, None]
        others = _namespace(p).where(one_hot(y, p.shape[1]) > 0, -np.inf, margin)
        if isinstance(p, jax.Array):
            return jax.nn.softplus(jax.nn.logsumexp(others, axis=1))
        return np.logaddexp(0.0, logsumexp(others, axis=1))

    def derivative(self, p: Any, y: Any) -> Any:
        # σ_y − 1 as minus the sum of the others, which rounding would eat where σ_y is close to 1
        labels = one_hot(y, p.shape[1])
        others = _softmax(p) * (1.0 - labels)
        return others - labels * others.sum(axis=1, keepdims=True)

    def second_derivative(self, p: Any, y: Any) -> Any:
        # σ_j (1 − σ_j) as σ_j times the sum of the others: 1 − σ_j has no digits left where σ_j is close to 1
        sigma = _softmax(p)
        eye = _namespace(p).eye(p.shape[1], dtype=p.dtype)
        own = sigma * (sigma @ (1.0 - eye))
        return own[:, :, None] * eye - sigma[:, :, None] * sigma[:, None, :] * (1.0 - eye)


@dataclass(frozen=True)
class MultiOutputSquared(VectorLoss):
    """ℓ(p; y) = ½ ‖p − y‖² for a vector y ∈ R^m.

    >>> MultiOutputSquared().value(np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]))
    array([2.5])
    """

    name: ClassVar[str] = "multioutput_squared"

    def value(self, p: Any, y: Any) -> Any:
        return 0.5 * ((p - y) ** 2).sum(axis=1)

    def derivative(self, p: Any, y: Any) -> Any:
        return p - y

    def second_derivative(self, p: Any, y: Any) -> Any:
        xp, (n, m) = _namespace(p), p.shape
        return xp.broadcast_to(xp.eye(m, dtype=p.dtype), (n, m, m))


_MOST_CLASSES = 10_000

VECTOR_LOSSES: dict[str, type[VectorLoss]] = {"softmax": Softmax, "multioutput_squared": MultiOutputSquared}
"""The losses of vector-valued predictions that can be named."""


def as_vector_loss(loss: str | VectorLoss) -> VectorLoss:
    """The loss of that name, or the loss itself if it is one already.

    Raises:
        InvalidInputError: If no loss of vector-valued predictions has that name.
    """
    if isinstance(loss, VectorLoss):
        return loss
    if not isinstance(loss, str) or loss not in VECTOR_LOSSES:
        raise InvalidInputError(
            f"loss={loss!r} is no loss of vector-valued predictions: nearest is "
            f"{nearest(str(loss), VECTOR_LOSSES, 1)[0]!r}; choose one of {', '.join(VECTOR_LOSSES)}"
        )
    return VECTOR_LOSSES[loss]()


def one_hot(y: Real[Any, "n"], m: int) -> Float[Any, "n m"]:
    """Classes 0, ..., m − 1 as rows of zeros with one 1, in float64 for NumPy arrays.

    >>> one_hot(np.array([1, 0]), 3)
    array([[0., 1., 0.], [1., 0., 0.]])
    """
    m = as_number("m", m, f"must be from 1 to {_MOST_CLASSES}", lambda m: 1 <= m <= _MOST_CLASSES, whole=True)
    y = as_array("y", y, 1)
    if not is_traced(y) and y.size and not np.isin(y, np.arange(m)).all():
        raise InvalidInputError(
            f"y has the label {np.asarray(y)[~np.isin(y, np.arange(m))][0]:g}, but with m={m} classes must be whole "
            f"numbers from 0 to {m - 1}"
        )
    if isinstance(y, jax.Array):
        return (y[:, None] == jnp.arange(m)).astype(jnp.result_type(float))
    return (np.asarray(y)[:, None] == np.arange(m)).astype(np.float64)


def check_targets(Y: Any, loss: VectorLoss, n: int) -> int:
    """Check that the labels suit the loss and the n samples, and count outputs: classes, or columns.

    Raises:
        InvalidInputError: If they don't, naming their shape or the first that is wrong.
    """
    Y = np.asarray(as_array("Y", Y))
    if Y.shape[:1] != (n,) or Y.ndim != (1 if loss.class_labels else 2):
        expected = f"({n},), one class a sample" if loss.class_labels else f"({n}, m), one row a sample"
        raise InvalidInputError(f"Y has shape {Y.shape}, but the {loss.name} loss needs {expected}")
    if not np.isfinite(Y).all():
        raise InvalidInputError(
            f"Y has {np.count_nonzero(~np.isfinite(Y))} values that are not finite: drop those rows"
        )
    if not loss.class_labels:
        check_size("Y", float(np.max(np.abs(np.asarray(Y, dtype=np.float64)), initial=0.0)))
        return Y.shape[1]
    wrong = np.flatnonzero((Y < 0) | (np.floor(Y) != Y))
    if wrong.size:
        raise InvalidInputError(
            f"Y has the label {Y[wrong[0]]:g} in row {wrong[0]}, but classes must be whole numbers 0, 1, ..., m − 1"
        )
    m, present = max(int(Y.max()) + 1, 2), len(np.unique(Y))
    if m > _MOST_CLASSES or (m > 100 and m > 4 * present):
        raise InvalidInputError(
            f"Y has the label {int(Y.max())}, but only {present} classes occur: code them as 0, ..., {present - 1}, "
            f"or the fit is of {m} classes"
        )
    return m


def _pick(p: Any, y: Any) -> Any:
    """p_y of every sample."""
    return _namespace(p).take_along_axis(p, y.astype(int)[:, None], axis=1)[:, 0]


def _softmax(p: Any) -> Any:
    if isinstance(p, jax.Array):
        return jax.nn.softmax(p, axis=1)
    exponential = np.exp(p - p.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def _namespace(array: Any) -> Any:
    return jnp if isinstance(array, jax.Array) else np
