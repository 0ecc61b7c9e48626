"""Convex losses ℓ(p; y) of predictions with one output or several, with the derivatives and constants of the theory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logsumexp, softmax

from resflow.arrays import as_number
from resflow.known import check_loss

__all__ = [
    "LOSSES",
    "Logistic",
    "Loss",
    "PseudoHuber",
    "Softmax",
    "Squared",
    "as_loss",
    "lifted",
]

Labels: TypeAlias = Literal["real", "binary", "classes"]
Outputs: TypeAlias = Literal["one", "several", "any"]


class Loss:
    """A loss ℓ(p; y), convex and twice differentiable in the prediction p.

    Predictions have shape (n,) if there is one output, and are rows, shape (n, m), if there are m. On NumPy arrays
    every method works with NumPy, on JAX arrays (traced ones too) with JAX. Derivatives are with respect to p.
    A loss of your own for one output subclasses this, defines the three methods elementwise, and says which constants
    exist.

    Attributes:
        name: What the loss is called in parameters and reports.
        labels: What y is: "real" numbers, "binary" for −1 or +1, or "classes" for 0, ..., m − 1, one a sample.
        outputs: How many outputs p may have: "one", "several", or "any" number.
        shift_invariant: True if adding one number to all of p changes nothing, so that ℓ' sums to 0.
        lipschitz: The supremum of the norm of ℓ', or None where it is infinite.
        curvature: The supremum of the norm of ℓ'', or None where it is infinite.
        curvature_lipschitz: The supremum of the norm of the third derivative, or None where it is infinite.
    """

    name: ClassVar[str]
    labels: ClassVar[Labels] = "real"
    outputs: ClassVar[Outputs] = "one"
    shift_invariant: ClassVar[bool] = False

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
        """ℓ(p_i; y_i), shape (n,)."""
        raise NotImplementedError

    def derivative(self, p: Any, y: Any) -> Any:
        """ℓ'(p_i; y_i), of the shape of p."""
        raise NotImplementedError

    def second_derivative(self, p: Any, y: Any) -> Any:
        """ℓ''(p_i; y_i), never negative: shape (n,) for one output, positive semidefinite (n, m, m) for m."""
        raise NotImplementedError

    def curved(self, p: Any, y: Any, t: Any) -> Any:
        """ℓ''(p_i; y_i) t_i, of the shape of p."""
        second = self.second_derivative(p, y)
        return second * t if p.ndim < 2 else _namespace(p).einsum("nij,nj->ni", second, t)

    def steepest(self, reach: Any, y: Any, m: int) -> Any:
        """A bound on ‖ℓ'(p; y_i)‖ over all p of m outputs with ‖p‖ ≤ reach_i, shape (n,).

        With one output it is attained, at an end of the interval, for ℓ' never decreases.
        """
        return _namespace(reach).maximum(abs(self.derivative(-reach, y)), abs(self.derivative(reach, y)))


@dataclass(frozen=True)
class Squared(Loss):
    """ℓ(p; y) = ½ ‖p − y‖², for a number y or a vector.

    >>> Squared().value(np.array([3.0]), np.array([1.0]))
    array([2.])
    >>> Squared().value(np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]))
    array([2.5])
    """

    name: ClassVar[str] = "squared"
    outputs: ClassVar[Outputs] = "any"
    curvature: ClassVar[float] = 1.0
    curvature_lipschitz: ClassVar[float] = 0.0

    def value(self, p: Any, y: Any) -> Any:
        square = 0.5 * (p - y) ** 2
        return square if p.ndim < 2 else square.sum(axis=1)

    def derivative(self, p: Any, y: Any) -> Any:
        return p - y

    def second_derivative(self, p: Any, y: Any) -> Any:
        xp = _namespace(p)
        if p.ndim < 2:
            return xp.ones_like(p - y)
        n, m = p.shape
        return xp.broadcast_to(xp.eye(m, dtype=p.dtype), (n, m, m))

    def curved(self, p: Any, y: Any, t: Any) -> Any:
        return t

    def steepest(self, reach: Any, y: Any, m: int) -> Any:
        return reach + (abs(y) if y.ndim < 2 else _namespace(reach).linalg.norm(y, axis=1))


@dataclass(frozen=True)
class Logistic(Loss):
    """ℓ(p; y) = log(1 + exp(−y p)) for labels y ∈ {−1, +1}.

    Neither tail overflows or loses relative accuracy, and automatic differentiation is right everywhere, at p = 0 too.

    >>> Logistic().value(np.array([800.0, 800.0]), np.array([1.0, -1.0]))
    array([  0., 800.])
    """

    name: ClassVar[str] = "logistic"
    labels: ClassVar[Labels] = "binary"
    lipschitz: ClassVar[float] = 1.0
    curvature: ClassVar[float] = 0.25
    curvature_lipschitz: ClassVar[float] = 1.0 / (6.0 * math.sqrt(3.0))

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
    curvature: ClassVar[float] = 1.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        allowed = "must be a positive finite number, in the units of y"
        object.__setattr__(self, "delta", as_number("delta", self.delta, allowed, lambda delta: 0 < delta < math.inf))

    @property
    def lipschitz(self) -> float:
        return self.delta

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


@dataclass(frozen=True)
class Softmax(Loss):
    """ℓ(p; y) = log Σ_j exp(p_j) − p_y for a class y ∈ {0, ..., m − 1}: multinomial logistic loss, or cross-entropy.

    The constants are those of a random variable h_j, ‖h‖ = 1, whose values lie within √2 of each other: its variance is
    at most 2/4, its third central moment at most √2³/(6√3).

    >>> Softmax().value(np.array([[800.0, 0.0], [0.0, 800.0]]), np.array([0, 0]))
    array([  0., 800.])
    """

    name: ClassVar[str] = "softmax"
    labels: ClassVar[Labels] = "classes"
    outputs: ClassVar[Outputs] = "several"
    shift_invariant: ClassVar[bool] = True
    lipschitz: ClassVar[float] = math.sqrt(2.0)
    curvature: ClassVar[float] = 0.5
    curvature_lipschitz: ClassVar[float] = math.sqrt(2.0) / (3.0 * math.sqrt(3.0))

    def value(self, p: Any, y: Any) -> Any:
        # Relative to p_y: nothing cancels, and a loss of 1e-300 keeps its digits.
        margin = p - _pick(p, y)[:, None]
        others = _namespace(p).where(_is_class(y, p) > 0, -np.inf, margin)
        if isinstance(p, jax.Array):
            return jax.nn.softplus(jax.nn.logsumexp(others, axis=1))
        return np.logaddexp(0.0, logsumexp(others, axis=1))

    def derivative(self, p: Any, y: Any) -> Any:
        # σ_y − 1 as minus the sum of the others, which rounding would eat where σ_y is close to 1
        labels = _is_class(y, p)
        others = _softmax(p) * (1.0 - labels)
        return others - labels * others.sum(axis=1, keepdims=True)

    def second_derivative(self, p: Any, y: Any) -> Any:
        # σ_j (1 − σ_j) as σ_j times the sum of the others: 1 − σ_j has no digits left where σ_j is close to 1
        sigma = _softmax(p)
        eye = _namespace(p).eye(p.shape[1], dtype=p.dtype)
        own = sigma * (sigma @ (1.0 - eye))
        return own[:, :, None] * eye - sigma[:, :, None] * sigma[:, None, :] * (1.0 - eye)

    def curved(self, p: Any, y: Any, t: Any) -> Any:
        # σ_j Σ_k σ_k (t_j − t_k), relative to the t of the largest σ: without a matrix, and 1 − σ_j keeps its digits
        sigma = _softmax(p)
        t = t - _namespace(p).take_along_axis(t, p.argmax(axis=1)[:, None], axis=1)
        return sigma * (t - (sigma * t).sum(axis=1, keepdims=True))

    def steepest(self, reach: Any, y: Any, m: int) -> Any:
        # ‖σ − e_y‖ ≤ √2 (1 − σ_y), and no p_j − p_y exceeds √2 ‖p‖
        return math.sqrt(2.0) * _sigmoid(math.sqrt(2.0) * reach + math.log(max(m - 1, 1)))


LOSSES: dict[str, type[Loss]] = {
    "squared": Squared,
    "logistic": Logistic,
    "pseudo_huber": PseudoHuber,
    "huber": PseudoHuber,
    "softmax": Softmax,
}
"""The losses that can be named, each with its default options; "huber" is another name of "pseudo_huber"."""


@dataclass(frozen=True)
class _Lifted(Loss):
    """A loss of one output on predictions in rows of one, as losses of several outputs take them."""

    loss: Loss

    def value(self, p: Any, y: Any) -> Any:
        return self.loss.value(p[:, 0], y)

    def derivative(self, p: Any, y: Any) -> Any:
        return self.loss.derivative(p[:, 0], y)[:, None]

    def second_derivative(self, p: Any, y: Any) -> Any:
        return self.loss.second_derivative(p[:, 0], y)[:, None, None]


def lifted(loss: Loss, y: Any) -> Loss:
    """The loss on predictions in rows, shape (n, m), whatever their number m; y tells one output from several."""
    return _Lifted(loss) if y.ndim < 2 and loss.labels != "classes" else loss


def as_loss(loss: str | Loss) -> Loss:
    """The loss of that name with its default options, or the loss itself if it is one already.

    Raises:
        InvalidInputError: If no loss has that name.
    """
    if isinstance(loss, Loss):
        return loss
    check_loss(loss)
    return LOSSES[loss]()


def _is_class(y: Any, p: Any) -> Any:
    """1 at a sample's own class, else 0, in the shape and precision of p."""
    return (y[:, None] == _namespace(p).arange(p.shape[1])).astype(p.dtype)


def _pick(p: Any, y: Any) -> Any:
    """p_y of every sample."""
    return _namespace(p).take_along_axis(p, y.astype(int)[:, None], axis=1)[:, 0]


def _softmax(p: Any) -> Any:
    return jax.nn.softmax(p, axis=1) if isinstance(p, jax.Array) else softmax(p, axis=1)


def _softplus(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.nn.softplus(x)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Any) -> Any:
    return jax.nn.sigmoid(x) if isinstance(x, jax.Array) else expit(x)


def _namespace(array: Any) -> Any:
    return jnp if isinstance(array, jax.Array) else np
