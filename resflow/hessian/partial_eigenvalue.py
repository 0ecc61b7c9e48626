"""λ_min of a partial Hessian with its evidence: by factorisations or, where it is too large, without."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from resflow.arrays import Array, as_number, is_traced
from resflow.certificates.gap import check_ridge
from resflow.floating import all_finite, hypot, nan_unless, norm
from resflow.hessian.bracket import is_closed, search_bracket
from resflow.hessian.partial_hessian import hessian_vector_product, partial_hessian
from resflow.hessian.ritz import Ends, norm_and_ritz_value
from resflow.parallel import blas_on_one_thread
from resflow.point import Point, analyse_point

__all__ = ["SmallestEigenvalue", "smallest_partial_eigenvalue"]

_LARGEST_ORDER, _LARGEST_ORDER_OF_SEVERAL = 8_192, 2_000  # of one output and of several


class SmallestEigenvalue(NamedTuple):
    """λ_min of the partial Hessian at one point, with the evidence for it.

    All are in the units of the mean loss per sample. The bracket is rigorous for the Hessian as accumulated in
    floating point; `rounding` estimates how far that has moved it. Where the Hessian is not finite, or λ_min is too
    large for floating point, all numbers are NaN and `converged` is False.

    Attributes:
        lambda_min: The Rayleigh quotient of the direction.
        lambda_min_lower: No eigenvalue lies below: from a Cholesky factorisation, or from ‖R‖; from that alone where it
            is below 1e-138 (1e-17 in float32), or the matrix too large to factorise, and then mostly not converged.
        lambda_min_upper: An eigenvalue lies at or below: the Rayleigh quotient, the same number as `lambda_min`.
        lambda_min_residual: ‖Hv − λv‖ for the direction v, of norm 1, with Hv a product with the samples themselves.
        direction: v, its part in W, of W's shape, and in V.
        converged: True if the two ends differ by no more than the tolerance, relative to the larger; in float32 only if
            `rounding` is so as well, as there it decides how many digits are right.
        rounding: Estimate of the effect on `lambda_min` of rounding in the predictions, in the sums over samples and in
            the ridge terms.
        factorizations: Cholesky factorisations that it took.
    """

    lambda_min: Float[Array, ""]
    lambda_min_lower: Float[Array, ""]
    lambda_min_upper: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
    direction: tuple[Float[Array, "*m d"], Float[Array, "d k"]]
    converged: Bool[Array, ""]
    rounding: Float[Array, ""]
    factorizations: Int[Array, ""]


def smallest_partial_eigenvalue(
    point: Point,
    *,
    ridge_W: float = 0.0,
    ridge_V: float = 0.0,
    rtol: float | None = None,
    max_order: int | None = None,
) -> SmallestEigenvalue:
    """λ_min of ∇²F + diag(ridge_W, ridge_V) in (W, V), closed in from both sides, with its direction.

    With K, R = U diag(γ) Zᵀ and Q of `PartialHessian`, σ < 0 lies below every eigenvalue if and only if
    S(σ) = K − σI + (1/σ) (diag(γ²) ⊗ (I − QQᵀ)), of order md + min(m, d) k, has a Cholesky factorisation (Sylvester's
    law of inertia, u eliminated). Each factor that exists also serves a Lanczos iteration for the direction, whose
    Rayleigh quotient is the other end. Before any factorisation −‖R‖ ≤ λ_min.

    Where S(σ) is too large to factorise λ_min stands between −‖R‖ and a Ritz value, from products with the samples: see
    `resflow.hessian.ritz`. The two ends are then as far apart as they are, but meet where R vanishes.

    Args:
        point: A residual unit's point, of any number of outputs and any rank of W.
        ridge_W: Coefficient of ‖W‖_F²/2 in the objective.
        ridge_V: Coefficient of ‖V‖_F²/2 in the objective.
        rtol: Largest relative width of the bracket, of λ_min − ridge_V; by default 1e-10 in float64, 1e-4 in float32.
        max_order: Up to this order md + min(m, d) k the matrix is factorised; by default 8,192 for one output and 2,000
            for several, which take some seconds.

    Returns:
        The eigenvalue with its bracket, residual and direction. Look at `converged` before you trust it.

    Raises:
        InvalidInputError: If a ridge coefficient, rtol or max_order is out of range.

    References:
        The setting is that of Shamir 2018 (arXiv:1804.06739), section 3 and appendix; the bracket is new here.
    """
    check_ridge(ridge_W, ridge_V)
    if rtol is None:
        single = any(array.dtype == jnp.float32 for array in (point.W, point.V) if isinstance(array, jax.Array))
        rtol = 1e-4 if single else 1e-10
    as_number("rtol", rtol, "must lie between 0 and 1: relative to the eigenvalue", lambda rtol: 0 < rtol < 1)
    (d, k), m = point.V.shape, point.outputs
    if max_order is None:
        max_order = _LARGEST_ORDER if m == 1 else _LARGEST_ORDER_OF_SEVERAL
    allowed = "must be at least 0"
    max_order = as_number("max_order", max_order, allowed, lambda order: 0 <= order < math.inf, whole=True)
    way = _factorized if m * d + min(m, d) * k <= max_order else _unfactorized
    search = partial(analyse_point, way, point, ridge_W, ridge_V, rtol)
    if is_traced(*jax.tree.leaves(point)):
        return SmallestEigenvalue(*search())
    with blas_on_one_thread():
        return SmallestEigenvalue(*jax.block_until_ready(search()))  # not before the factorisations are done


def _factorized(point: Point, ridge_W, ridge_V, rtol) -> tuple:
    bracket, A, B = search_bracket(partial_hessian(point), ridge_W - ridge_V, rtol)
    ends = Ends(bracket.lower, bracket.upper, A, B, *hessian_vector_product(point, A, B), bracket.rounding)
    return *_evidence(ends, bracket.converged, point.W.shape, ridge_W, ridge_V, rtol), bracket.count


def _unfactorized(point: Point, ridge_W, ridge_V, rtol) -> tuple:
    ends = norm_and_ritz_value(point, ridge_W - ridge_V)
    converged = is_closed(ends.lower, ends.upper, rtol)
    return *_evidence(ends, converged, point.W.shape, ridge_W, ridge_V, rtol), jnp.zeros((), int)


@partial(jax.jit, static_argnames="shape")
def _evidence(ends: Ends, converged, shape, ridge_W, ridge_V, rtol) -> tuple:
    A, B, value, lower = ends.A, ends.B, ends.upper + ridge_V, ends.lower + ridge_V
    error_W, error_V = ends.product_W + (ridge_W - value) * A, ends.product_V + (ridge_V - value) * B
    residual = hypot(norm(error_W), norm(error_V))
    eps = jnp.finfo(value.dtype).eps
    rounding = ends.rounding + 4.0 * eps * (jnp.abs(ridge_W) + jnp.abs(ridge_V))
    if eps > 1e-10:
        converged &= rounding <= rtol * jnp.abs(ends.upper)
    numbers = (value, lower, value, residual, (A.reshape(shape), B), converged, rounding)
    return nan_unless(all_finite(value, lower), numbers)
