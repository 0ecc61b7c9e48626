"""Convex losses ℓ(p; y) of a real prediction p, with the derivatives and constants the theory uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from resflow.arrays import as_number
from resflow.errors import InvalidInputError, nearest

__all__ = ["LOSSES", "Logistic", "Loss", "PseudoHuber", "Squared", "as_loss"]


class Loss:
    """A loss ℓ(p; y), convex and twice differentiable in the prediction p.

    Every method takes arrays of predictions and labels of one shape and works elementwise: on NumPy
    arrays with NumPy, on JAX arrays (traced ones too) with JAX. Derivatives are with respect to p.
    A loss of your own subclasses this, defines the three methods and says which constants exist.

    Attributes:
        name: What the loss is called in parameters and reports.
        lipschitz: The supremum of |ℓ'|, or None where it is infinite.
        curvature: The supremum of ℓ'', or None where it is infinite.
        curvature_lipschitz: The supremum of |ℓ'''|, or None where it is infinite.
        binary_labels: True if y must be −1 or +1, False if y is any real number.
    """

    name: ClassVar[str]
    binary_labels: ClassVar[bool] = False

    @property
    def lipschitz(self) -> float | None:
        return None

    @property
    def curvature(self) -> float | None:
        return None

    @property
    def curvature_lipschitz(self) -> float | None:
        return None

    def value(self, p: Any, y: Any) -> Any:
        """ℓ(p; y)."""
        raise NotImplementedError

    def derivative(self, p: Any, y: Any) -> Any:
        """ℓ'(p; y) = ∂ℓ/∂p."""
        raise NotImplementedError

    def second_derivative(self, p: Any, y: Any) -> Any:
        """ℓ''(p; y) = ∂²ℓ/∂p², never negative."""
        raise NotImplementedError


@dataclass(frozen=True)
class Squared(Loss):
    """ℓ(p; y) = ½ (p − y)².

    >>> Squared().value(np.array([3.0]), np.array([1.0]))
    array([2.])
    """

    name: ClassVar[str] = "squared"

    @property
    def curvature(self) -> float:
        return 1.0

    @property
    def curvature_lipschitz(self) -> float:
        return 0.0

    def value(self, p: Any, y: Any) -> Any:
        return 0.5 * (p - y) ** 2

    def derivative(self, p: Any, y: Any) -> Any:
        return p - y

    def second_derivative(self, p: Any, y: Any) -> Any:
        return _namespace(p).ones_like(p - y)


@dataclass(frozen=True)
class Logistic(Loss):
    """ℓ(p; y) = log(1 + exp(−y p)) for labels y ∈ {−1, +1}.

    Neither tail overflows or loses relative accuracy, and automatic differentiation is right everywhere, at p = 0 too.

    >>> Logistic().value(np.array([800.0, 800.0]), np.array([1.0, -1.0]))
    array([  0., 800.])
    """

    name: ClassVar[str] = "logistic"
    binary_labels: ClassVar[bool] = True

    @property
    def lipschitz(self) -> float:
        return 1.0

    @property
    def curvature(self) -> float:
        return 0.25

    @property
    def curvature_lipschitz(self) -> float:
        return 1.0 / (6.0 * math.sqrt(3.0))

    def value(self, p: Any, y: Any) -> Any:
        return _softplus(-y * p)

    def derivative(self, p: Any, y: Any) -> Any:
        return -y * _sigmoid(-y * p)

    def second_derivative(self, p: Any, y: Any) -> Any:
        margin = y * p
        return _sigmoid(margin) * _sigmoid(-margin)


@dataclass(frozen=True)
class PseudoHuber(Loss):
    """ℓ(p; y) = δ² (sqrt(1 + ((p − y)/δ)²) − 1): quadratic near y, linear with slope δ far from it.

    The smooth form of Huber's loss, twice differentiable everywhere, as the second-order theory asks.

    Args:
        delta: δ > 0, in the units of y: where the loss turns from quadratic to linear.

    Raises:
        InvalidInputError: If delta is not a positive finite number.
    """

    name: ClassVar[str] = "pseudo_huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        delta = as_number(
            "delta",
            self.delta,
            "must be a positive finite number, in the units of y",
            lambda delta: 0 < delta < math.inf,
        )
        object.__setattr__(self, "delta", delta)

    @property
    def lipschitz(self) -> float:
        return self.delta

    @property
    def curvature(self) -> float:
        return 1.0

    @property
    def curvature_lipschitz(self) -> float:
        return 48.0 / (25.0 * math.sqrt(5.0) * self.delta)

    def value(self, p: Any, y: Any) -> Any:
        xp, residual = _namespace(p), (p - y) / self.delta
        # residual² / (1 + sqrt(1 + residual²)) rather than sqrt(1 + residual²) − 1: no cancellation near 0
        return self.delta**2 * residual * (residual / (1.0 + xp.hypot(xp.ones_like(residual), residual)))

    def derivative(self, p: Any, y: Any) -> Any:
        xp, residual = _namespace(p), (p - y) / self.delta
        return self.delta * residual / xp.hypot(xp.ones_like(residual), residual)

    def second_derivative(self, p: Any, y: Any) -> Any:
        xp, residual = _namespace(p), (p - y) / self.delta
        return xp.hypot(xp.ones_like(residual), residual) ** -3.0


LOSSES: dict[str, type[Loss]] = {
    "squared": Squared,
    "logistic": Logistic,
    "pseudo_huber": PseudoHuber,
    "huber": PseudoHuber,
}
"""The losses that can be named, each with its default options; "huber" is another name of "pseudo_huber"."""


def as_loss(loss: str | Loss) -> Loss:
    """The loss of that name with its default options, or the loss itself if it is one already.

    Raises:
        InvalidInputError: If no loss has that name.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InvalidInputError(
            f"loss={loss!r} is unknown: nearest is {nearest(str(loss), LOSSES, 1)[0]!r}; "
            f"choose one of {', '.join(LOSSES)}, or pass a resflow.losses.Loss"
        )
    return LOSSES[loss]()


def _softplus(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.nn.softplus(x)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Any) -> Any:
    return jax.nn.sigmoid(x) if isinstance(x, jax.Array) else expit(x)


def _namespace(array: Any) -> Any:
    return jnp if isinstance(array, jax.Array) else np
