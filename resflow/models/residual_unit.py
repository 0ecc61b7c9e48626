"""Models over any feature map f_θ: the residual unit, the output skip, and the control without any skip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.errors import InvalidInputError
from resflow.models.drawing import checked_inputs, normals
from resflow.models.shapes import result_like

__all__ = [
    "NoSkipNetwork",
    "OutputSkipNetwork",
    "ResidualUnit",
    "feature_count",
    "no_skip",
    "output_skip",
    "random_weights",
    "residual_unit",
    "scaled",
    "trainable",
]


class _WithFeatures(eqx.Module):
    """A model with a field `feature_map`, f_θ of one sample (d,) to (k,)."""

    def features(self, X: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """f_θ(x_i) as rows."""
        return jax.vmap(self.feature_map)(X)  # type: ignore[attr-defined]


class ResidualUnit(_WithFeatures):
    """p(x) = W(x + V f_θ(x)): a skip connection around a feature map, and a linear output.

    Attributes:
        W: Output weights, shape (d,) for one output, (m, d) for m.
        V: Mixing matrix, shape (d, k).
        feature_map: f_θ, a function of one sample (d,) to (k,): an Equinox module whose floating-point arrays are θ,
            a module that `trainable` counts as fixed, or any function that JAX can trace.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2, and its appendix for several outputs.
    """

    W: Float[Array, "*m d"]
    V: Float[Array, "d k"]
    feature_map: Callable[[Any], Any]

    @property
    def inputs(self) -> int:
        """d, the number of inputs."""
        return self.W.shape[-1]

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n *m"]:
        """The predictions p(x_i)."""
        # (features Vᵀ) Wᵀ is never formed: W V first costs m d k instead of n d k.
        return X @ self.W.T + self.features(X) @ (self.W @ self.V).T


class OutputSkipNetwork(_WithFeatures):
    """p(x) = Wx + v f_θ(x): the skip connection goes straight to the output.

    Attributes:
        W: Weights of the skip connection, shape (d,) or (m, d).
        v: Weights of the features, shape (k,) or (m, k).
        feature_map: f_θ, as in `ResidualUnit`.

    References:
        Shamir 2018 (arXiv:1804.06739), section 5, where SGD on it is proved to match linear predictors (Theorem 4).
    """

    W: Float[Array, "*m d"]
    v: Float[Array, "*m k"]
    feature_map: Callable[[Any], Any]

    @property
    def inputs(self) -> int:
        """d, the number of inputs."""
        return self.W.shape[-1]

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n *m"]:
        """The predictions p(x_i)."""
        return X @ self.W.T + self.features(X) @ self.v.T


class NoSkipNetwork(_WithFeatures):
    """p(x) = v f_θ(x): the control that the theory promises nothing about, for the skip connection is missing.

    Attributes:
        v: Output weights, shape (k,) or (m, k).
        feature_map: f_θ, as in `ResidualUnit`.
    """

    v: Float[Array, "*m k"]
    feature_map: Callable[[Any], Any]

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n *m"]:
        """The predictions p(x_i)."""
        return self.features(X) @ self.v.T


def residual_unit(
    d: int,
    feature_map: Callable[[Any], Any],
    *,
    key: PRNGKeyArray,
    outputs: int | None = None,
    scale: float | Float[Array, ""] = 1.0,
    dtype: Any = None,
) -> ResidualUnit:
    """A residual unit at a random point: W of variance scale²/d and V of variance scale²/k, normally distributed.

    Args:
        d: Number of inputs.
        feature_map: f_θ, from (d,) to (k,).
        key: Random key for W and V.
        outputs: m, e.g. the number of classes; None for one output, without an axis.
        scale: Standard deviations relative to the above; 0 starts at the saddle W = 0, V = 0.
        dtype: Of the weights; JAX's default floating-point type if None.

    Raises:
        InvalidInputError: If d, outputs or scale is out of range, or the feature map does not take (d,) to a vector.
    """
    d, m = checked_inputs(d), _axis(outputs)
    k = feature_count(feature_map, d)
    W, V = random_weights(key, [(*m, d), (d, k)], scale, dtype)
    return ResidualUnit(W, V, feature_map)


def output_skip(
    d: int, feature_map: Callable[[Any], Any], *, key: PRNGKeyArray, outputs: int | None = None, **options: Any
) -> OutputSkipNetwork:
    """An output-skip network at a random point: W of variance scale²/d and v of variance scale²/k.

    Arguments and errors are those of `residual_unit`.
    """
    d, m = checked_inputs(d), _axis(outputs)
    k = feature_count(feature_map, d)
    W, v = random_weights(key, [(*m, d), (*m, k)], **options)
    return OutputSkipNetwork(W, v, feature_map)


def no_skip(
    d: int, feature_map: Callable[[Any], Any], *, key: PRNGKeyArray, outputs: int | None = None, **options: Any
) -> NoSkipNetwork:
    """A network without skip connection at a random point: v of variance scale²/k.

    Arguments and errors are those of `residual_unit`.
    """
    (v,) = random_weights(key, [(*_axis(outputs), feature_count(feature_map, d))], **options)
    return NoSkipNetwork(v, feature_map)


def _axis(outputs: int | None) -> tuple[int, ...]:
    if outputs is None:
        return ()
    allowed = "must be at least 1: the number of outputs, e.g. of classes; or None for one without an axis"
    return (as_number("outputs", outputs, allowed, lambda m: m >= 1, whole=True),)


def feature_count(feature_map: Callable[[Any], Any], d: int) -> int:
    """k, the number of features that f_θ makes of d inputs; nothing is computed.

    Raises:
        InvalidInputError: If d is below 1, or the feature map does not take (d,) to a vector.
    """
    d = checked_inputs(d)
    if not callable(feature_map):
        raise InvalidInputError(
            f"feature_map is a {type(feature_map).__name__}, but must take a sample (d,) to a vector: "
            "resflow.feature_map makes one of a name"
        )
    found = result_like("feature_map", feature_map, jax.ShapeDtypeStruct((d,), jnp.result_type(float)))
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) != 1 or shape[0] == 0:
        raise InvalidInputError(
            f"the feature map takes an input of shape {(d,)} to {shape}, but must return one vector"
        )
    return shape[0]


def random_weights(
    key: PRNGKeyArray,
    shapes: Sequence[tuple[int, ...]],
    scale: float | Float[Array, ""] = 1.0,
    dtype: Any = None,
) -> list[jax.Array]:
    """Normally distributed weights of variance scale²/k, of shapes (..., k); of several each by a key of its own.

    Arguments and errors are those of `scaled`.
    """
    return scaled(normals(key, shapes=tuple(shapes)), scale, dtype)


def scaled(numbers: Sequence[jax.Array], scale: float | Float[Array, ""] = 1.0, dtype: Any = None) -> list[jax.Array]:
    """Arrays of variance scale²/k of arrays (..., k) of variance 1, in JAX's default precision without a dtype.

    Raises:
        InvalidInputError: If scale is negative, or none that dtype has (a traced one passes unseen), or dtype is not
            of floating-point numbers.
    """
    dtype = jnp.result_type(float if dtype is None else dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InvalidInputError(f"dtype={dtype} must be one of floating-point numbers, as jnp.float32")
    most = float(jnp.finfo(dtype).max)
    allowed = f"must be at least 0, and at most {most:.2g}, the largest number of {dtype}"
    scale = as_number("init_scale", scale, allowed, lambda scale: 0 <= scale <= most)
    # By `vmap` the same bits as one at a time. A program around it joins constant factors, and rounds otherwise.
    return [(jnp.asarray(scale) * (1.0 / math.sqrt(each.shape[-1])) * each).astype(dtype) for each in numbers]


def trainable(model: Any) -> Any:
    """A pytree of truth values: which leaves of the model training may change.

    Every floating-point array is trainable, except inside a module with the class attribute `fixed = True`.

    Raises:
        InvalidInputError: If an array that would be trainable is of complex numbers, down which no gradient leads.
    """

    def is_fixed(node: Any) -> bool:
        return isinstance(node, eqx.Module) and bool(getattr(node, "fixed", False))

    def is_trainable(node: Any) -> bool:
        if eqx.is_inexact_array(node) and jnp.iscomplexobj(node):
            raise InvalidInputError(
                f"the model has an array of type {node.dtype} and shape {node.shape}, but must be of real numbers: "
                "keep real and imaginary parts apart"
            )
        return eqx.is_inexact_array(node)

    return jax.tree.map(lambda node: not is_fixed(node) and is_trainable(node), model, is_leaf=is_fixed)
