"""Theorems 2 and 3 of Shamir 2018 as numbers: what second-order stationarity guarantees about the gap."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Real

from resflow.arrays import Array, analyse
from resflow.certificates._constants import (
    LipschitzConstants,
    check_at_least_zero,
    check_curvature_constants,
    lipschitz_constants,
    lipschitz_constants_terms,
)
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless, norm, ratio, spectral_norm
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.point import Point, analyse_point, sum_over_samples

__all__ = [
    "LipschitzConstants",
    "Theorem2Bound",
    "Theorem3Bound",
    "check_curvature_constants",
    "implied_epsilon",
    "lipschitz_constants",
    "lipschitz_constants_terms",
    "theorem2_bound",
    "theorem2_terms",
    "theorem3_bound",
    "theorem3_terms",
]


class Theorem2Bound(NamedTuple):
    """Both sides of Theorem 2 at a point (0, V, θ), and what they are made of.

    At every such point, up to rounding: left ≥ right, and gap ≤ certificate ≤ bound. All are NaN where
    a_i = x_i + V f_i, ℓ'_i or the linear predictor is not finite.

    Attributes:
        left: ‖∇F‖ + ‖V‖ sqrt(|λ_min| ‖∂²_ww F‖ + λ_min²), all at (0, V, θ).
        right: gap / ‖w*‖; 0 where w* = 0, for then the gap is 0 as well.
        slack: left − right.
        bound: ‖w*‖ · left, an upper bound on the gap.
        certificate: −w*ᵀ mean ℓ'_i x_i, the sharper bound that convexity alone gives.
        gap: F(0, V, θ) − F_lin(w*).
        grad_norm: ‖∇F‖ = ‖mean ℓ'_i a_i‖ with a_i = x_i + V f_i.
        V_norm: ‖V‖, the spectral norm.
        lambda_min: The smallest eigenvalue of the partial Hessian, never positive.
        curvature_ww: ‖∂²_ww F‖, the largest eigenvalue of mean ℓ''_i a_i a_iᵀ.
        g_norm: ‖g‖ with g = mean ℓ'_i f_i.
    """

    left: Float[Array, ""]
    right: Float[Array, ""]
    slack: Float[Array, ""]
    bound: Float[Array, ""]
    certificate: Float[Array, ""]
    gap: Float[Array, ""]
    grad_norm: Float[Array, ""]
    V_norm: Float[Array, ""]
    lambda_min: Float[Array, ""]
    curvature_ww: Float[Array, ""]
    g_norm: Float[Array, ""]


class Theorem3Bound(NamedTuple):
    """Theorem 3's bound on the gap of every approximate second-order stationary point in a ball; NaN from NaN.

    Attributes:
        bound: What the gap of such a point cannot exceed: the larger of the two branches that apply.
        delta: The split radius δ that makes the bound smallest; at most the ball's radius.
        far_branch: The bound where ‖w‖ ≥ δ, from Theorem 1; 0 where δ is the radius and no such point is left.
        near_branch: The bound where ‖w‖ < δ, from Theorem 2 at (0, V).
        epsilon: The bound ε on ‖∇F‖ that was asked for.
        curvature_tolerance: The t of λ_min ≥ −t; sqrt(μ₂ε) unless given.
        constants: The Lipschitz constants used.
    """

    bound: Float[Array, "..."]
    delta: Float[Array, "..."]
    far_branch: Float[Array, "..."]
    near_branch: Float[Array, "..."]
    epsilon: Float[Array, "..."]
    curvature_tolerance: Float[Array, "..."]
    constants: LipschitzConstants


def theorem2_bound(point: Point, fit: LinearFit) -> Theorem2Bound:
    """‖∇F‖ + ‖V‖ sqrt(|λ_min| ‖∂²_ww F‖ + λ_min²) ≥ (F − F_lin(w*)) / ‖w*‖ at (0, V, θ), with all its terms.

    At w = 0 the partial Hessian has, for each eigenvalue h of mean ℓ''_i a_i a_iᵀ, the eigenvalues
    (h ± sqrt(h² + 4‖g‖²))/2, and zeros else. So ‖g‖² = λ_min² + h |λ_min| with the smallest h, while convexity
    gives gap ≤ −w*ᵀ mean ℓ'_i x_i = w*ᵀ(V g − ∇_w F) ≤ ‖w*‖ (‖∇F‖ + ‖V‖‖g‖). Together: the theorem.

    Args:
        point: A point of one output, of which V, features, X and y count: w is taken for 0.
        fit: The linear predictor w* to compare with.

    Raises:
        InvalidInputError: If the point has several outputs, or the fit is of another loss, other data or not finished.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 2.
    """
    if point.W.ndim != 1:
        raise InvalidInputError(
            f"W has shape {point.W.shape}, but Theorem 2 is about one output: W must have shape (d,)"
        )
    check_baseline(fit, point.X, point.y, point.loss)
    return analyse_point(theorem2_terms, point, fit.W, fit.objective)


def theorem3_bound(
    *,
    epsilon: float | Real[Array, "..."],
    linear_norm: float | Real[Array, "..."],
    constants: LipschitzConstants,
    curvature_tolerance: float | Real[Array, "..."] | None = None,
) -> Theorem3Bound:
    """gap ≤ min over δ of max{far(δ), near(δ)} at every ε-second-order partial stationary point of the ball.

        far(δ)  = ε sqrt(2b² + r²(2 + b²/δ²))                                   where ‖w‖ ≥ δ
        near(δ) = μ₀δ + r (ε + μ₁δ + b sqrt(μ₁s + s²)),   s = t + μ₂δ           where ‖w‖ < δ

    far(δ) is Theorem 1. For near(δ) step from (w, V) to (0, V), along which F changes by at most μ₀δ, ‖∇F‖ by μ₁δ
    and λ_min by μ₂δ, and apply Theorem 2 there. far decreases and near increases in δ: the best δ is where they meet,
    found by bisection of log δ, or b where they meet beyond, as no point of the ball has ‖w‖ > b. Any δ is valid, so
    the bisection's error costs tightness only. At ε = t = 0 the bound is 0, attained in the limit δ = 0: Corollary 1.
    Works elementwise on arrays, and under jit and vmap.

    Args:
        epsilon: ε ≥ 0 with ‖∇F‖ ≤ ε, the gradient in (w, V) alone.
        linear_norm: r = ‖w*‖ of the linear predictor compared with.
        constants: μ₀, μ₁, μ₂ and the radius b of the ball, of `lipschitz_constants`.
        curvature_tolerance: t ≥ 0 with λ_min ≥ −t; the definition's sqrt(μ₂ε) if None.

    Raises:
        InvalidInputError: If epsilon, linear_norm or curvature_tolerance is negative or not a number.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 3 and its proof, which takes δ = sqrt(ε); Corollary 1 is the case ε = 0.
    """
    check_at_least_zero("epsilon", epsilon)
    check_at_least_zero("linear_norm", linear_norm)
    if curvature_tolerance is not None:
        check_at_least_zero("curvature_tolerance", curvature_tolerance)
    return analyse(theorem3_terms, epsilon, linear_norm, *constants, curvature_tolerance)


def implied_epsilon(
    grad_norm: float | Real[Array, "..."],
    lambda_min: float | Real[Array, "..."],
    mu2: float | Real[Array, "..."],
) -> float | Float[Array, "..."]:
    """The smallest ε at which a point is an ε-SOPSP: max{‖∇F‖, min(λ_min, 0)² / μ₂}, elementwise.

    Infinite where λ_min < 0 = μ₂, which no ε admits; NaN where an argument is. Where λ_min² / μ₂ underflows it is the
    smallest normal number, so that sqrt(μ₂ε) is not below |λ_min|.

    References:
        Shamir 2018 (arXiv:1804.06739), Definition 1.
    """
    return analyse(_implied_epsilon, grad_norm, lambda_min, mu2)


def theorem2_terms(
    point: Point, linear_w: Float[Array, "d"], linear_objective: float | Float[Array, ""]
) -> Theorem2Bound:
    """`theorem2_bound` against the linear predictor `linear_w` of mean loss `linear_objective`, unchecked."""
    sums = sum_over_samples(_sums_at_zero, point, linear_w)
    return _theorem2(point.V, linear_w, linear_objective, sums, point.X.shape[0])


def _sums_at_zero(point: Point, linear_w):
    loss, y, a = point.loss, point.y, point.inner
    p = jnp.zeros(a.shape[0], a.dtype)
    slope = loss.derivative(p, y)
    certificate = -jnp.sum(slope * (point.X @ linear_w))
    along = slope @ a, slope @ point.features
    return (a.T * loss.second_derivative(p, y)) @ a, *along, certificate, jnp.sum(loss.value(p, y))


@jax.jit
def _theorem2(V, linear_w, linear_objective, sums, n) -> Theorem2Bound:
    A, grad_w, g, certificate, objective = (total / n for total in sums)
    finite = all_finite(A, grad_w, g, linear_w, linear_objective)
    # LAPACK must not be given what is not finite.
    h = jnp.linalg.eigvalsh(jnp.where(finite, A, 0.0))
    h_min, curvature_ww = jnp.maximum(h[0], 0.0), jnp.maximum(h[-1], 0.0)

    grad_norm, g_norm = norm(grad_w), norm(g)
    larger = 0.5 * (h_min + jnp.hypot(h_min, 2.0 * g_norm))
    lambda_min = -g_norm * ratio(g_norm, larger)
    V_norm, linear_norm = spectral_norm(V), norm(linear_w)

    # sqrt(|λ_min|) by itself: λ_min may underflow where its root does not.
    root = ratio(g_norm, jnp.sqrt(larger))
    left = grad_norm + V_norm * root * jnp.sqrt(curvature_ww - lambda_min)
    gap = objective - linear_objective
    right = ratio(gap, linear_norm)
    terms = Theorem2Bound(
        left=left,
        right=right,
        slack=left - right,
        bound=linear_norm * left,
        certificate=certificate,
        gap=gap,
        grad_norm=grad_norm,
        V_norm=V_norm,
        lambda_min=lambda_min,
        curvature_ww=curvature_ww,
        g_norm=g_norm,
    )
    return nan_unless(finite & all_finite(gap), terms)


@jax.jit
def theorem3_terms(
    epsilon: float | Float[Array, "..."],
    linear_norm: float | Float[Array, "..."],
    mu0: float | Float[Array, "..."],
    mu1: float | Float[Array, "..."],
    mu2: float | Float[Array, "..."],
    radius: float | Float[Array, "..."],
    curvature_tolerance: float | Float[Array, "..."] | None = None,
) -> Theorem3Bound:
    """`theorem3_bound`, unchecked."""
    if curvature_tolerance is None:
        curvature_tolerance = jnp.sqrt(mu2) * jnp.sqrt(epsilon)
    numbers = (epsilon, linear_norm, mu0, mu1, mu2, radius, curvature_tolerance)
    epsilon, linear_norm, mu0, mu1, mu2, radius, tolerance = jnp.broadcast_arrays(
        *(jnp.asarray(number, jnp.result_type(number, float)) for number in numbers)
    )

    def far(delta):
        return epsilon * jnp.hypot(jnp.sqrt(2.0) * jnp.hypot(radius, linear_norm), linear_norm * (radius / delta))

    def near(delta):
        s = tolerance + mu2 * delta
        return mu0 * delta + linear_norm * (epsilon + mu1 * delta + radius * jnp.sqrt(s) * jnp.sqrt(mu1 + s))

    # far − near falls in δ from +∞ to its value at the radius: keep far ≥ near at the lower end
    smallest = jnp.finfo(epsilon.dtype).tiny ** 0.5
    lower = jnp.full_like(epsilon, jnp.log(smallest))
    upper = jnp.log(jnp.maximum(radius, smallest))

    def bisect(_, ends):
        lower, upper = ends
        middle = 0.5 * (lower + upper)
        is_lower = far(jnp.exp(middle)) >= near(jnp.exp(middle))
        return jnp.where(is_lower, middle, lower), jnp.where(is_lower, upper, middle)

    _, upper = jax.lax.fori_loop(0, 64, bisect, (lower, upper))
    delta = jnp.where((epsilon == 0) & (tolerance == 0), 0.0, jnp.minimum(jnp.exp(upper), radius))
    everywhere_near = (delta == 0) | (far(jnp.where(radius > 0, radius, 1.0)) >= near(radius))
    delta = jnp.where(everywhere_near & (delta > 0), radius, delta)
    far_branch = jnp.where(everywhere_near, 0.0, far(jnp.where(delta > 0, delta, 1.0)))
    near_branch = near(delta)
    known = ~jnp.isnan(epsilon + linear_norm + mu0 + mu1 + mu2 + radius + tolerance)
    delta, far_branch, near_branch = (jnp.where(known, value, jnp.nan) for value in (delta, far_branch, near_branch))
    return Theorem3Bound(
        bound=jnp.maximum(far_branch, near_branch),
        delta=delta,
        far_branch=far_branch,
        near_branch=near_branch,
        epsilon=epsilon,
        curvature_tolerance=tolerance,
        constants=LipschitzConstants(mu0, mu1, mu2, radius),
    )


@jax.jit
def _implied_epsilon(grad_norm, lambda_min, mu2):
    below = jnp.maximum(-lambda_min, 0.0)
    from_curvature = jnp.where(mu2 > 0, below * ratio(below, mu2), jnp.inf)
    from_curvature = jnp.maximum(from_curvature, jnp.finfo(jnp.result_type(from_curvature)).tiny)
    smallest = jnp.maximum(grad_norm, jnp.where(below > 0, from_curvature, 0.0))
    return jnp.where(jnp.isnan(grad_norm + lambda_min + mu2), jnp.nan, smallest)
