"""The residual unit p(x) = wᵀ(x + V f_θ(x)), over any feature map f_θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array
from resflow.errors import InvalidInputError

__all__ = ["ResidualUnit", "residual_unit", "trainable"]


class ResidualUnit(eqx.Module):
    """p(x) = wᵀ(x + V f_θ(x)): a skip connection around a feature map, and a linear output.

    Attributes:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        feature_map: f_θ, a function of one sample (d,) to (k,): an Equinox module whose floating-point arrays are θ,
            a module that `trainable` counts as fixed, or any function that JAX can trace.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2.
    """

    w: Float[Array, "d"]
    V: Float[Array, "d k"]
    feature_map: Callable[[Any], Any]

    def features(self, X: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """f_θ(x_i) as rows."""
        return jax.vmap(self.feature_map)(X)

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n"]:
        """The predictions p(x_i)."""
        # (features Vᵀ) w is never formed: Vᵀw first costs d k instead of n d k.
        return X @ self.w + self.features(X) @ (self.V.T @ self.w)


def residual_unit(
    d: int, feature_map: Callable[[Any], Any], *, key: PRNGKeyArray, scale: float = 1.0, dtype: Any = None
) -> ResidualUnit:
    """A residual unit at a random point: w of variance scale²/d and V of variance scale²/k, normally distributed.

    Args:
        d: Number of inputs.
        feature_map: f_θ, from (d,) to (k,).
        key: Random key for w and V.
        scale: Standard deviations relative to the above; 0 starts at the saddle w = 0, V = 0.
        dtype: Of w and V; JAX's default floating-point type if None.

    Raises:
        InvalidInputError: If d or scale is out of range, or the feature map does not take (d,) to a vector.
    """
    if d < 1:
        raise InvalidInputError(f"d={d} must be at least 1: a residual unit needs an input")
    if not scale >= 0:
        raise InvalidInputError(f"init_scale={scale} must be at least 0")
    dtype = jnp.result_type(float) if dtype is None else dtype
    shape = jax.eval_shape(feature_map, jax.ShapeDtypeStruct((d,), dtype)).shape
    if len(shape) != 1:
        raise InvalidInputError(
            f"the feature map takes an input of shape {(d,)} to {shape}, but must return one vector"
        )
    (k,) = shape
    w_key, V_key = jax.random.split(key)
    w = scale / jnp.sqrt(d) * jax.random.normal(w_key, (d,))
    V = scale / jnp.sqrt(k) * jax.random.normal(V_key, (d, k))
    return ResidualUnit(w.astype(dtype), V.astype(dtype), feature_map)


def trainable(model: Any) -> Any:
    """A pytree of truth values: which leaves of the model training may change.

    Every floating-point array is trainable, except inside a module with the class attribute `fixed = True`.
    """

    def is_fixed(node: Any) -> bool:
        return isinstance(node, eqx.Module) and bool(getattr(node, "fixed", False))

    return jax.tree.map(lambda node: not is_fixed(node) and eqx.is_inexact_array(node), model, is_leaf=is_fixed)
