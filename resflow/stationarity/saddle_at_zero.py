"""The strict saddles of a residual unit above the linear predictor, written down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from resflow.arrays import Array, analyse, is_traced
from resflow.errors import InvalidInputError
from resflow.floating import norm
from resflow.losses import Loss
from resflow.point import Point

__all__ = ["saddle_at_zero"]


def saddle_at_zero(features: Real[Array, "n k"], X: Real[Array, "n d"], y: Real[Array, "n"], loss: str | Loss) -> Point:
    """The point w = 0, V = −(mean ℓ'_i x_i) gᵀ / ‖g‖² with g = mean ℓ'_i f_i and ℓ'_i = ℓ'(0; y_i).

    There ∇_w F = mean ℓ'_i (x_i + V f_i) = 0 and ∇_V F = w gᵀ = 0, and ∂F/∂θ has the factor Vᵀw = 0: the point is
    stationary in every parameter, its objective is F_lin(0), and as g ≠ 0 its partial Hessian has a negative
    eigenvalue. Every stationary point above the best linear predictor has w = 0 and this value; of those with the
    same features, it is the one of least ‖V‖_F.

    Args:
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss of one output or its name.

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, a value is not finite, or g = 0 so that
            there is no such point.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorems 1 and 2, which leave no room for others.
    """
    d, k = np.shape(X)[1], np.shape(features)[1]
    point = Point(np.zeros(d), np.zeros((d, k)), features, X, y, loss)
    V, g_norm = analyse(_mixing_matrix, point)
    if not is_traced(g_norm) and not np.isfinite(V).all() and not g_norm == 0:
        raise InvalidInputError(
            "features or X have values that are not finite, or too large to be squared: no point can be written down"
        )
    if not is_traced(g_norm) and not g_norm > 0:
        raise InvalidInputError(
            f"mean ℓ'(0; y_i) f_i has norm {float(g_norm):g}, but must not vanish: features that tell nothing of the "
            "labels have no saddle at w = 0"
        )
    return point.at(0.0 * V[:, 0], V)


@jax.jit
def _mixing_matrix(point: Point):
    slope = point.loss.derivative(jnp.zeros(point.X.shape[0], point.X.dtype), point.y) / point.X.shape[0]
    g = slope @ point.features
    size = norm(g)
    return -jnp.outer(slope @ point.X, g / size) / size, size
