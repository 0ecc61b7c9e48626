"""The exact spectrum of a residual unit's Hessian in (w, V), θ held fixed."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, as_number, check_point
from resflow.floating import all_finite, nan_unless
from resflow.losses.scalar import Loss, as_loss
from resflow.spectrum.partial_hessian import PartialHessian, analyse_samples, partial_hessian

__all__ = ["PartialSpectrum", "partial_spectrum"]


class PartialSpectrum(NamedTuple):
    """All eigenvalues of the partial Hessian at one point.

    Attributes:
        eigenvalues: All d + dk of them, ascending, each as often as it occurs; zeros included. All are NaN where the
            Hessian is not finite.
        reduced_order: How many of them came from the reduced matrix, 2d + k − 1.
        kernel_dimension: How many are there by structure, (d−1)(k−1): exactly zero, or exactly ridge_V.
    """

    eigenvalues: Float[Array, "d+d*k"]
    reduced_order: int
    kernel_dimension: int


def partial_spectrum(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    ridge_w: float = 0.0,
    ridge_V: float = 0.0,
) -> PartialSpectrum:
    """All eigenvalues of ∇²F + diag(ridge_w, ridge_V) in (w, V), from one symmetric matrix of order 2d + k − 1.

    Along (a, B) the Hessian of F(w, V) = mean ℓ(wᵀ(x_i + V f_i); y_i) is mean ℓ''_i (aᵀa_i + wᵀBf_i)² + 2aᵀBg, with
    a_i = x_i + V f_i and g = mean ℓ'_i f_i. It sees B only through wᵀB and Bg, so that all but 2d + k − 1
    dimensions lie in its kernel. At w = 0 the eigenvalues come in pairs (h ± sqrt(h² + 4‖g‖²))/2, one for each
    eigenvalue h of mean ℓ''_i a_i a_iᵀ, and zeros.

    NumPy arrays are analysed in float64, memory-mapped ones in chunks; JAX arrays in their own precision and on
    their own devices; works under jit and vmap. Errors are of the order of rounding times the largest eigenvalue.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        ridge_w: Coefficient of ‖w‖²/2 in the objective.
        ridge_V: Coefficient of ‖V‖_F²/2 in the objective.

    Returns:
        The eigenvalues, in the units of the mean loss per sample, and how many are there by structure.

    Raises:
        InvalidInputError: If shapes disagree or labels do not suit the loss.

    References:
        The setting is that of Shamir 2018 (arXiv:1804.06739), section 3; the case w = 0 is in the proof of Theorem 2.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    for name, value in (("ridge_w", ridge_w), ("ridge_V", ridge_V)):
        as_number(name, value, "must be a finite number, at least 0; 0 is no ridge term", lambda r: 0 <= r < np.inf)
    d, k = np.shape(V)
    return PartialSpectrum(
        eigenvalues=analyse_samples(
            _all_eigenvalues, w, V, features, X, y, loss=loss, ridge_w=ridge_w, ridge_V=ridge_V
        ),
        reduced_order=2 * d + k - 1,
        kernel_dimension=(d - 1) * (k - 1),
    )


def _all_eigenvalues(w, V, features, X, y, *, loss, ridge_w, ridge_V) -> jax.Array:
    return _eigenvalues(partial_hessian(w, V, features, X, y, loss=loss), ridge_w, ridge_V)


@jax.jit
def _eigenvalues(hessian: PartialHessian, ridge_w, ridge_V) -> jax.Array:
    d, k = hessian.w_unit.shape[0], hessian.g.shape[0]
    shift, finite = ridge_w - ridge_V, hessian.finite
    # LAPACK must not be given what is not finite.
    hessian = jax.tree.map(lambda part: jnp.where(finite, part, 0.0), hessian)
    reduced = jax.lax.cond(hessian.w_norm == 0, partial(_pairs_at_zero, k=k), _reduced_eigenvalues, hessian, shift)
    # By their number, as sorting all d + dk would cost more than finding them.
    negative = jnp.sum(reduced < 0)
    kernel = (d - 1) * (k - 1)
    place = jnp.arange(d + d * k)
    source = jnp.where(place < negative, place, jnp.maximum(place - kernel, 0))
    inside = (place >= negative) & (place < negative + kernel)
    return nan_unless(finite & all_finite(reduced), jnp.where(inside, 0.0, reduced[source]) + ridge_V)


def _reduced_eigenvalues(hessian: PartialHessian, shift) -> jax.Array:
    """Eigenvalues of the quadratic form in (a, c, u), a rotated so that u is all of a's coordinates but the first."""
    d, k = hessian.w_unit.shape[0], hessian.g.shape[0]
    axis = hessian.w_unit.at[0].add(jnp.where(hessian.w_unit[0] < 0, -1.0, 1.0))
    axis = axis * (jnp.sqrt(2.0) / jnp.linalg.norm(axis))

    def reflect(rows):
        return rows.at[:d].add(-jnp.outer(axis, axis @ rows[:d]))

    K = reflect(reflect(hessian.K).T)
    K = K.at[jnp.arange(d), jnp.arange(d)].add(shift)
    order = 2 * d + k - 1
    matrix = jnp.zeros((order, order), K.dtype).at[: d + k, : d + k].set(K)
    u, a = jnp.arange(d + k, order), jnp.arange(1, d)
    gamma = hessian.g_norm
    return jnp.linalg.eigvalsh(matrix.at[u, a].set(gamma).at[a, u].set(gamma))


def _pairs_at_zero(hessian: PartialHessian, shift, *, k: int) -> jax.Array:
    """At w = 0: a pair for each eigenvalue of the (a, a) block, the smaller without cancellation; zeros between."""
    d = hessian.w_unit.shape[0]
    h = jnp.linalg.eigvalsh(hessian.K[:d, :d]) + shift
    gamma = hessian.g_norm
    larger = 0.5 * (jnp.abs(h) + jnp.hypot(h, 2.0 * gamma))
    smaller = gamma * (gamma / jnp.where(larger > 0, larger, 1.0))
    below, above = jnp.where(h >= 0, -smaller, -larger), jnp.where(h >= 0, larger, smaller)
    return jnp.sort(jnp.concatenate([below, jnp.zeros(k - 1, h.dtype), above]))
