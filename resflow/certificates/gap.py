"""Bounds on the linear-predictor gap of a residual unit that a point can evaluate about itself."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from resflow.arrays import Array, as_number
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless, norm, product, ratio, singular_vectors, spectral_norm
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.point import Point, analyse_point, sum_over_samples

__all__ = ["GapCertificate", "Ridge", "certify_point", "check_ridge", "gap_certificate"]


class Ridge(NamedTuple):
    """R = ½ W ‖W‖_F² + ½ V ‖V‖_F², added to the objective.

    Attributes:
        W: Coefficient of ½‖W‖_F², per mean loss.
        V: Coefficient of ½‖V‖_F².
    """

    W: Any = 0.0
    V: Any = 0.0


class GapCertificate(NamedTuple):
    """The linear-predictor gap of one point (W, V, θ), and upper bounds on it.

    With G = (W − W*, W⁺W*V), W⁺ the pseudo-inverse; for one output that is (w − w*, w w*ᵀV / ‖w‖²). At every point, up
    to rounding: linear_predictor_gap ≤ gap_certificate = gradient_term + rank_term + ridge_term ≤ frobenius_bound ≤
    norm_bound ≤ theorem1_bound. All are in the units of the mean loss per sample. At a point that is not finite, in its
    predictions or its linear predictor, all are NaN and the rank is −1.

    Attributes:
        linear_predictor_gap: F − F_lin(W*). Negative: better than the best linear predictor W*.
        gap_certificate: mean ⟨ℓ'_i, p_i − W*x_i⟩, by convexity.
        gradient_term: ⟨G, ∇(F + R)⟩, which vanishes at stationary points; R = 0 without a ridge term.
        rank_term: mean ⟨ℓ'_i, (I − WW⁺)W*V f_i⟩, which vanishes where every ℓ'_i lies in W's column space: at full
            row rank (w ≠ 0), and for the softmax loss, whose ℓ'_i sum to 0, where that space holds all such vectors.
        ridge_term: −⟨G, ∇R⟩, how much of the guarantee a ridge term takes away.
        frobenius_bound: ‖G‖_F ‖∇(F + R)‖_F + rank_term + ridge_term.
        norm_bound: The same with ‖W*‖_F ‖V‖ / s for ‖W⁺W*V‖_F, s the smallest singular value of W that is not 0.
        theorem1_bound: ‖∇(F + R)‖_F sqrt(2‖W‖_F² + ‖W*‖_F² (2 + ‖V‖²/s²)) + ridge_term; infinite below full row rank.
        partial_grad_norm: ‖∇(F + R)‖_F with respect to (W, V), θ held fixed.
        objective: F, the mean loss per sample, without the ridge term.
        regularized_objective: F + R.
        regularized_gap: F + R − (F_lin(W*) + ½ ridge.W ‖W*‖_F²), what the optimiser of F + R lost to linear predictors.
        regularized_certificate: gap_certificate + R − ½ ridge.W ‖W*‖_F², an upper bound on it.
        smallest_singular_value: The m-th of W; 0 if m > d.
        W_rank: How many singular values of W exceed rounding, max(m, d) ε times the largest.
        w_norm: ‖W‖, the spectral norm.
        V_norm: ‖V‖, the spectral norm.
    """

    linear_predictor_gap: Float[Array, ""]
    gap_certificate: Float[Array, ""]
    gradient_term: Float[Array, ""]
    rank_term: Float[Array, ""]
    ridge_term: Float[Array, ""]
    frobenius_bound: Float[Array, ""]
    norm_bound: Float[Array, ""]
    theorem1_bound: Float[Array, ""]
    partial_grad_norm: Float[Array, ""]
    objective: Float[Array, ""]
    regularized_objective: Float[Array, ""]
    regularized_gap: Float[Array, ""]
    regularized_certificate: Float[Array, ""]
    smallest_singular_value: Float[Array, ""]
    W_rank: Int[Array, ""]
    w_norm: Float[Array, ""]
    V_norm: Float[Array, ""]


def certify_point(point: Point, fit: LinearFit, *, ridge_W: float = 0.0, ridge_V: float = 0.0) -> GapCertificate:
    """The linear-predictor gap of p(x) = W(x + V f(x)) and its certificates, for the cost of one gradient.

    With ∇_W F = mean ℓ'_i (x_i + V f_i)ᵀ and ∇_V F = Wᵀ mean ℓ'_i f_iᵀ the certificate mean ⟨ℓ'_i, p_i − W*x_i⟩ is
    ⟨G, ∇F⟩ + mean ⟨ℓ'_i, (I − WW⁺)W*V f_i⟩.

    Arguments and errors are those of `certify`. For `regularized_gap` to be that to the best regularised linear
    predictor, fit it with ridge=ridge_W.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 1 and its proof, its appendix for several outputs of full row rank, and
        section 4, where a ridge term makes a bad local minimum; Kawaguchi 2018 (arXiv:1810.09038) for local minima at
        any rank.
    """
    check_ridge(ridge_W, ridge_V)
    check_baseline(fit, point.X, point.y, point.loss, ridge=ridge_W)
    return analyse_point(gap_certificate, point, fit.W, fit.objective, Ridge(ridge_W, ridge_V))


def check_ridge(ridge_W: float, ridge_V: float) -> None:
    """Check the coefficients of a ridge term; traced ones pass unseen.

    Raises:
        InvalidInputError: If one is negative or not finite.
    """
    for name, value in (("ridge_W", ridge_W), ("ridge_V", ridge_V)):
        allowed = "must be a finite number, at least 0; 0 is no ridge term"
        as_number(name, value, allowed, lambda r: 0 <= r < math.inf)


def gap_certificate(
    point: Point, linear_W: Float[Array, "*m d"], linear_objective: float | Float[Array, ""], ridge: Ridge | None = None
) -> GapCertificate:
    """`certify_point` against the linear predictor `linear_W` of that mean loss, unchecked and in JAX."""
    ridge = Ridge() if ridge is None else ridge
    sums = sum_over_samples(_sums, point, linear_W)
    return _assemble(point.W, point.V, linear_W, linear_objective, sums, point.X.shape[0], ridge)


def _sums(point: Point, linear_W) -> tuple[jax.Array, ...]:
    """Of ℓ_i, of the certificate, of ℓ'_i a_iᵀ and of ℓ'_i f_iᵀ; and 0 if predictions and slopes are finite."""
    loss, a = point.row_loss, point.inner
    p = a @ point.rows.T
    slope = loss.derivative(p, point.y)
    # Its mean is ⟨G, ∇F⟩ wherever W has full row rank, and bounds the gap, by convexity alone, anywhere.
    certificate = jnp.sum(slope * (p - point.X @ jnp.atleast_2d(linear_W).T))
    sound = nan_unless(all_finite(p, slope), jnp.zeros((), p.dtype))
    return jnp.sum(loss.value(p, point.y)), certificate, slope.T @ a, slope.T @ point.features, sound


@exported
def _assemble(W, V, linear_W, linear_objective, sums, n, ridge: Ridge) -> GapCertificate:
    objective, certificate, grad_W, R, sound = (total / n for total in sums)
    finite = all_finite(sound, objective, linear_W, linear_objective, objective - linear_objective)
    W, linear_W = jnp.atleast_2d(W), jnp.atleast_2d(linear_W)
    m, d = W.shape
    left, singular, _ = singular_vectors(W)
    positive = singular > max(m, d) * jnp.finfo(W.dtype).eps * singular[0] if m > 1 else singular > 0
    smallest = jnp.min(jnp.where(positive, singular, jnp.inf))
    full_rank = jnp.sum(positive) == m

    pulled = linear_W @ V
    coordinates = left.T @ pulled  # of W*V in W's left singular vectors
    inside = (left * positive) @ coordinates
    # W⁺W*V = Σ_j r_j (l_jᵀ W*V) / s_j over right and left singular vectors
    over = ratio(jnp.where(positive[:, None], coordinates, 0.0), singular[:, None])
    right = ratio(left.T @ W, singular[:, None])
    rank_term = jnp.sum(R * (pulled - inside))
    # products, as without a ridge term sums of squares that overflow do not count
    ridge_along_V = product(ridge.V, jnp.sum(over * (right @ V)))
    total_W = grad_W + ridge.W * W
    ridge_term = product(ridge.W, jnp.sum((linear_W - W) * W)) - ridge_along_V
    gradient_term = jnp.sum((W - linear_W) * total_W) + jnp.sum(R * inside) + ridge_along_V
    grad_V = W.T @ R + ridge.V * V
    gradient = norm(total_W), norm(grad_V)

    w_norm, linear_norm, V_norm = singular[0], norm(linear_W), spectral_norm(V)
    W_frobenius, distance, root_2 = norm(W), norm(W - linear_W), math.sqrt(2.0)
    grad_norm, reach = norm(jnp.stack(gradient)), ratio(linear_norm * V_norm, smallest)
    frobenius = grad_norm * norm(jnp.stack([distance, norm(over)]))
    by_norms = grad_norm * norm(jnp.stack([distance, reach]))
    theorem1 = grad_norm * norm(jnp.stack([root_2 * W_frobenius, root_2 * linear_norm, reach]))
    if m == 1:  # ‖∇_V F‖ may underflow where its quotient by ‖w‖ does not
        pair = gradient[0], jnp.where(ridge.V > 0, ratio(gradient[1], w_norm), norm(R))
        bound = partial(_bound_over_w, pair, w_norm=w_norm)
        frobenius = jnp.where(w_norm > 0, bound((distance,), norm(pulled)), frobenius)
        by_norms = jnp.where(w_norm > 0, bound((distance,), linear_norm * V_norm), by_norms)
        theorem1 = bound((root_2 * w_norm, root_2 * linear_norm), linear_norm * V_norm)
    ridge_value = 0.5 * (product(ridge.W, jnp.sum(W**2)) + product(ridge.V, jnp.sum(V**2)))
    linear_ridge = 0.5 * product(ridge.W, jnp.sum(jnp.square(linear_W)))
    further = rank_term + ridge_term
    terms = GapCertificate(
        linear_predictor_gap=objective - linear_objective,
        gap_certificate=certificate,
        gradient_term=gradient_term,
        rank_term=rank_term,
        ridge_term=ridge_term,
        frobenius_bound=frobenius + further,
        norm_bound=by_norms + further,
        theorem1_bound=jnp.where(full_rank, theorem1 + ridge_term, jnp.inf),
        partial_grad_norm=grad_norm,
        objective=objective,
        regularized_objective=objective + ridge_value,
        regularized_gap=objective + ridge_value - (linear_objective + linear_ridge),
        regularized_certificate=certificate + ridge_value - linear_ridge,
        smallest_singular_value=singular[-1],
        W_rank=jnp.sum(positive),
        w_norm=w_norm,
        V_norm=V_norm,
    )
    return nan_unless(finite, terms)


def _bound_over_w(gradient, along_w, along_V, *, w_norm):
    """sqrt(Σ_i r_i² + s²/‖w‖²) · sqrt(a² + (‖w‖b)²), multiplied out; gradient is (a, b), along_w the r_i, along_V s.

    As the product of two factors it would be 0 where ‖w‖b underflows, below the gap that s b bounds.
    """
    a, b = gradient
    terms = [product(r, factor) for r in along_w for factor in (a, w_norm * b)]
    return norm(jnp.stack([*terms, product(ratio(along_V, w_norm), a), product(along_V, b)]))
