"""The residual unit with vector-valued output, p(x) = W(x + V f_θ(x)), over any feature map f_θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.models.residual_unit import feature_count, random_weights

__all__ = ["VectorResidualUnit", "vector_output"]


class VectorResidualUnit(eqx.Module):
    """p(x) = W(x + V f_θ(x)) ∈ R^m: a skip connection around a feature map, and m linear outputs.

    Attributes:
        W: Output weights, shape (m, d).
        V: Mixing matrix, shape (d, k).
        feature_map: f_θ, as in `ResidualUnit`.

    References:
        Shamir 2018 (arXiv:1804.06739), appendix, on vector-valued outputs.
    """

    W: Float[Array, "m d"]
    V: Float[Array, "d k"]
    feature_map: Callable[[Any], Any]

    def features(self, X: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """f_θ(x_i) as rows."""
        return jax.vmap(self.feature_map)(X)

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        """The predictions p(x_i) as rows."""
        return X @ self.W.T + self.features(X) @ (self.W @ self.V).T


def vector_output(
    d: int,
    feature_map: Callable[[Any], Any],
    *,
    outputs: int,
    key: PRNGKeyArray,
    scale: float | Float[Array, ""] = 1.0,
    dtype: Any = None,
) -> VectorResidualUnit:
    """A residual unit with m outputs at a random point: W of variance scale²/d and V of variance scale²/k.

    Args:
        d: Number of inputs.
        feature_map: f_θ, from (d,) to (k,).
        outputs: m, e.g. the number of classes.
        key: Random key for W and V.
        scale: Standard deviations relative to the above.
        dtype: Of W and V; JAX's default floating-point type if None.

    Raises:
        InvalidInputError: If d, outputs or scale is out of range, or the feature map does not take (d,) to a vector.
    """
    as_number(
        "outputs",
        outputs,
        "must be at least 1: the number of outputs, e.g. of classes",
        lambda outputs: outputs >= 1,
        whole=True,
    )
    k = feature_count(feature_map, d)
    W_key, V_key = jax.random.split(key)
    W = random_weights(W_key, (outputs, d), d, scale, dtype)
    return VectorResidualUnit(W, random_weights(V_key, (d, k), k, scale, dtype), feature_map)
