"""The deep residual network h_l = h_{l−1} + V_l φ_l(U_l h_{l−1}), p(x) = wᵀh_L(x), over any feature maps φ_l."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.errors import InvalidInputError
from resflow.models.drawing import checked_inputs, normals
from resflow.models.residual_unit import feature_count, scaled

__all__ = ["DeepResidualNetwork", "deep_residual_network"]


class DeepResidualNetwork(eqx.Module):
    """h_1 = x + V_1 φ_1(x), h_l = h_{l−1} + V_l φ_l(U_l h_{l−1}) for l = 2, ..., L, and p(x) = wᵀh_L(x).

    Attributes:
        w: Output weights, shape (d,).
        V: The L mixing matrices V_1, ..., V_L, each (d, k_l).
        U: The L − 1 inner matrices U_2, ..., U_L, each (q_l, d): all that later blocks see of h.
        feature_maps: φ_1 of one sample (d,) to (k_1,), and φ_l of (q_l,) to (k_l,), each as in `ResidualUnit`.

    References:
        Yun 2019 (arXiv:1907.03922), on deep residual networks.
    """

    w: Float[Array, "d"]
    V: tuple[Float[Array, "d _"], ...]
    U: tuple[Float[Array, "_ d"], ...]
    feature_maps: tuple[Callable[[Any], Any], ...]

    @property
    def inputs(self) -> int:
        """d, the number of inputs."""
        return len(self.w)

    def forward(self, X: Float[Array, "n d"]) -> tuple[list[Float[Array, "n d"]], list[Float[Array, "n _"]]]:
        """The representations x, h_1, ..., h_L and the features φ_1, ..., φ_L of every sample, as rows."""
        representations, features = [X], []
        for block, (V, phi) in enumerate(zip(self.V, self.feature_maps, strict=True)):
            h = representations[-1]
            features.append(jax.vmap(phi)(h if block == 0 else h @ self.U[block - 1].T))
            representations.append(h + features[-1] @ V.T)
        return representations, features

    def representations(self, X: Float[Array, "n d"]) -> Float[Array, "depths n d"]:
        """x, h_1(x), ..., h_L(x) of every sample."""
        return jnp.stack(self.forward(X)[0])

    def __call__(self, X: Float[Array, "n d"]) -> Float[Array, "n"]:
        """The predictions p(x_i)."""
        return self.forward(X)[0][-1] @ self.w


def deep_residual_network(
    d: int,
    feature_maps: Sequence[Callable[[Any], Any]],
    *,
    inner: int,
    key: PRNGKeyArray,
    scale: float | Float[Array, ""] = 1.0,
    dtype: Any = None,
) -> DeepResidualNetwork:
    """A deep residual network at a random point: w of variance scale²/d, V_l of scale²/k_l and U_l of 1/d.

    Args:
        d: Number of inputs, and of the units of every h_l.
        feature_maps: φ_1 from (d,) and φ_2, ..., φ_L from (inner,), each to a vector: L of them.
        inner: q, the number of rows of every U_l. The U_l leave a direction unseen for certain if (L − 1) q < d.
        key: Random key for w, V and U.
        scale: Standard deviations of w and V relative to the above.
        dtype: Of the weights; JAX's default floating-point type if None.

    Raises:
        InvalidInputError: If there is no feature map, d, inner or scale is out of range, or a feature map does not
            take a vector of its size to a vector.
    """
    if not isinstance(feature_maps, Sequence):
        raise InvalidInputError(
            f"feature_maps is a {type(feature_maps).__name__}, but a deep residual network needs a list of them, one a "
            "block"
        )
    if not feature_maps:
        raise InvalidInputError("feature_maps is empty: a deep residual network needs one feature map a block")
    d, inner = (
        checked_inputs(d),
        as_number("inner", inner, "must be at least 1: the number of rows of each U_l", lambda q: q >= 1, whole=True),
    )
    counts = [feature_count(phi, inner if block else d) for block, phi in enumerate(feature_maps)]
    L = len(feature_maps)
    shapes = [(d,), *((d, k) for k in counts), *[(inner, d)] * (L - 1)]
    numbers = normals(key, shapes=tuple(shapes))
    w, *V = scaled(numbers[: 1 + L], scale, dtype)
    U = scaled(numbers[1 + L :], 1.0, dtype)
    return DeepResidualNetwork(w, tuple(V), tuple(U), tuple(feature_maps))
