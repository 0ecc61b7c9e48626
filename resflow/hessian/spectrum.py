"""All eigenvalues of a Hessian: of a residual unit in (W, V) from a small matrix, of any model from the whole one."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from resflow.arrays import Array
from resflow.certificates.gap import check_ridge
from resflow.floating import all_finite, lower_root, nan_unless
from resflow.hessian.lanczos import hessian_eigenvalues
from resflow.hessian.partial_hessian import PartialHessian, partial_hessian, reduced_matrix, reduced_order
from resflow.objectives import MeanLoss
from resflow.point import ModelPoint, Point, analyse_point, check_options_of, check_point

__all__ = ["Spectrum", "partial_spectrum", "spectrum"]


class Spectrum(NamedTuple):
    """All eigenvalues of a Hessian at one point.

    Attributes:
        eigenvalues: All of them, ascending, each as often as it occurs; zeros included. All are NaN where the Hessian
            is not finite.
        reduced_order: How many of them came from a matrix; for a residual unit md + qk + (d − q) min(m, k) with
            q = min(m, d), which is 2d + k − 1 for one output.
        kernel_dimension: How many are there by structure: exactly zero, or exactly ridge_V.
    """

    eigenvalues: Float[Array, "N"]
    reduced_order: int
    kernel_dimension: int


def spectrum(point: Point | ModelPoint, **options: Any) -> Spectrum:
    """All eigenvalues of ∇²F at a point.

    Args:
        point: Of `Point` or `Point.of`.
        options: Of a residual unit `ridge_W` and `ridge_V`, as in `partial_spectrum`: the eigenvalues are those in
            (W, V), θ held fixed. Of any other model `block`, as in `hessian_eigenvalues`: those in all parameters, or
            in a block of them.

    Raises:
        InvalidInputError: If an option is out of range or none for such a point, or there are too many parameters for a
            whole matrix.
    """
    check_point(point)
    check_options_of(partial_spectrum if isinstance(point, Point) else hessian_eigenvalues, point, options)
    if isinstance(point, Point):
        return partial_spectrum(point, **options)
    eigenvalues = hessian_eigenvalues(MeanLoss(point.loss), point.model, point.X, point.y, **options)
    return Spectrum(eigenvalues, len(eigenvalues), 0)


def partial_spectrum(point: Point, *, ridge_W: float = 0.0, ridge_V: float = 0.0) -> Spectrum:
    """All eigenvalues of ∇²F + diag(ridge_W, ridge_V) in (W, V), from one symmetric matrix of fixed order.

    Along (A, B) the Hessian of F(W, V) = mean ℓ(W(x_i + V f_i); y_i) is mean ⟨t_i, ℓ''_i t_i⟩ + 2⟨AB, R⟩, with
    t_i = A(x_i + V f_i) + W B f_i and R = mean ℓ'_i f_iᵀ. It sees B only through W B and B Rᵀ, so that all but
    md + qk + (d − q) min(m, k) dimensions lie in its kernel, q = min(m, d), whatever W's rank. For one output at w = 0
    the eigenvalues come in pairs (h ± sqrt(h² + 4‖g‖²))/2, one for each eigenvalue h of mean ℓ''_i a_i a_iᵀ, and zeros.

    Errors are of the order of rounding times the largest eigenvalue.

    Args:
        point: A residual unit's point.
        ridge_W: Coefficient of ‖W‖_F²/2 in the objective.
        ridge_V: Coefficient of ‖V‖_F²/2 in the objective.

    Returns:
        The eigenvalues, in the units of the mean loss per sample, and how many are there by structure.

    Raises:
        InvalidInputError: If a ridge coefficient is out of range, or the matrix has an order above 8,192.

    References:
        The setting is that of Shamir 2018 (arXiv:1804.06739), section 3; the case w = 0 is in the proof of Theorem 2.
    """
    check_ridge(ridge_W, ridge_V)
    order = reduced_order(point, "ask for the smallest eigenvalue alone, for which smallest_eigenvalue needs no matrix")
    (d, k), m = point.V.shape, point.outputs
    q, r = min(m, d), min(m, k)
    return Spectrum(
        eigenvalues=analyse_point(_all_eigenvalues, point, ridge_W, ridge_V),
        reduced_order=order,
        kernel_dimension=(d - q) * (k - r),
    )


def _all_eigenvalues(point: Point, ridge_W, ridge_V) -> jax.Array:
    return _eigenvalues(partial_hessian(point), ridge_W, ridge_V)


@jax.jit
def _eigenvalues(hessian: PartialHessian, ridge_W, ridge_V) -> jax.Array:
    m, k, (d, q) = hessian.gamma.shape[0], hessian.Z.shape[0], hessian.Q.shape
    shift, finite = ridge_W - ridge_V, hessian.finite
    # LAPACK must not be given what is not finite.
    hessian = jax.tree.map(lambda part: jnp.where(finite, part, 0.0), hessian)
    if m == 1:
        pairs = partial(_pairs_at_zero, k=k)
        reduced = jax.lax.cond(hessian.W_norm == 0, pairs, _reduced_eigenvalues, hessian, shift)
    else:
        reduced = _reduced_eigenvalues(hessian, shift)
    # By their number, as sorting all md + dk would cost more than finding them.
    negative = jnp.sum(reduced < 0)
    kernel = (d - q) * (k - min(m, k))
    place = jnp.arange(m * d + d * k)
    source = jnp.where(place < negative, place, jnp.maximum(place - kernel, 0))
    inside = (place >= negative) & (place < negative + kernel)
    return nan_unless(finite & all_finite(reduced), jnp.where(inside, 0.0, reduced[source]) + ridge_V)


def _reduced_eigenvalues(hessian: PartialHessian, shift) -> jax.Array:
    return jnp.sort(jnp.linalg.eigvalsh(reduced_matrix(hessian, shift)[0]))  # a GPU's may be out of order by rounding


def _pairs_at_zero(hessian: PartialHessian, shift, *, k: int) -> jax.Array:
    """At w = 0: a pair for each eigenvalue of the (a, a) block, and zeros."""
    d, gamma = hessian.Q.shape[0], hessian.gamma[0]
    h = jnp.linalg.eigvalsh(hessian.K[:d, :d]) + shift
    return jnp.sort(jnp.concatenate([lower_root(h, gamma), jnp.zeros(k - 1, h.dtype), -lower_root(-h, gamma)]))
