"""The numeric core of the verdict on a point: arrays in, arrays out, under jit and vmap."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Real

from resflow.arrays import Array, in_full_precision
from resflow.certificates.regularization import ridge_gap_certificate_terms
from resflow.certificates.theorems import lipschitz_constants_terms, theorem3_terms
from resflow.floating import all_finite, nan_unless, norm, spectral_norm
from resflow.losses.scalar import Loss
from resflow.spectrum.smallest_eigenvalue import smallest_partial_eigenvalue

VERDICTS = (
    "not_stationary",
    "strict_saddle",
    "sopsp_at_or_below_linear",
    "sopsp_above_linear",
    "inconclusive",
    "not_finite",
)
"""Every verdict there is; exactly one holds at a point. `verdict_codes` counts in this order."""

_NOT_STATIONARY, _STRICT_SADDLE, _AT_OR_BELOW, _ABOVE, _INCONCLUSIVE, _NOT_FINITE = range(len(VERDICTS))
_ROUNDINGS = 8.0


class StationarityTerms(NamedTuple):
    """The numbers of a `StationarityReport` as arrays, for jit and vmap; `verdict` is an index into VERDICTS."""

    objective: Float[Array, ""]
    gap: Float[Array, ""]
    gap_error: Float[Array, ""]
    certificate: Float[Array, ""]
    grad_norm: Float[Array, ""]
    grad_error: Float[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_lower: Float[Array, ""]
    lambda_upper: Float[Array, ""]
    lambda_error: Float[Array, ""]
    residual: Float[Array, ""]
    epsilon: Float[Array, ""]
    mu2: Float[Array, ""]
    curvature_tolerance: Float[Array, ""]
    w_norm: Float[Array, ""]
    V_norm: Float[Array, ""]
    gap_allowed: Float[Array, ""]
    linear_converged: Bool[Array, ""]
    verdict: Int[Array, ""]


@in_full_precision
def stationarity_terms(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    linear_w: Real[Array, "d"],
    linear_objective: Any,
    linear_suboptimality: Any,
    linear_converged: Any,
    epsilon: Any,
    *,
    loss: Loss,
    mu2: Any = None,
    ridge_w: Any = 0.0,
    ridge_V: Any = 0.0,
) -> StationarityTerms:
    """`analyze_point` unchecked, in JAX: one point, or thousands under vmap.

    In float64 wherever JAX has it switched on, whatever the precision of the arrays. Where it has not, a comparison
    that holds or fails only up to the rounding of float32 decides nothing: the verdict is then `inconclusive`.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        linear_w: Of the `LinearFit`: w.
        linear_objective: Its objective.
        linear_suboptimality: Its suboptimality.
        linear_converged: Whether it converged.
        epsilon: ε ≥ 0.
        loss: The loss; with finite constants if mu2 is None.
        mu2: Lipschitz constant of the Hessian, or None for that of the ball of the point's own radius.
        ridge_w: Coefficient of ½‖w‖².
        ridge_V: Coefficient of ½‖V‖_F².
    """
    arrays = (w, V, features, X, y, linear_w, linear_objective)
    w, V, features, X, y, linear_w, linear_objective = (jnp.asarray(array, float) for array in arrays)
    # Not one jitted whole: so the search for the eigenvalue, slow to compile, is compiled once for all who call it.
    ridge = ridge_gap_certificate_terms(w, V, features, X, y, linear_w, linear_objective, ridge_w, ridge_V, loss=loss)
    smallest = smallest_partial_eigenvalue(w, V, features, X, y, loss=loss, ridge_w=ridge_w, ridge_V=ridge_V)
    point, linear = (w, V, features, X, y), (linear_w, linear_objective, linear_suboptimality, linear_converged)
    return _decide(ridge, smallest, point, linear, epsilon, ridge_w, ridge_V, mu2, loss=loss)


@partial(jax.jit, static_argnames="loss")
def _decide(ridge, smallest, point, linear, epsilon, ridge_w, ridge_V, mu2, *, loss: Loss) -> StationarityTerms:
    w, V, features, X, y = point
    linear_w, linear_objective, linear_suboptimality, linear_converged = linear
    w_norm, V_norm = norm(w), spectral_norm(V)
    grad_error, gap_rounding = _rounding_errors(point, linear_w, linear_objective, ridge_w, ridge_V, loss)
    gap_error = linear_suboptimality + gap_rounding

    epsilon, gap_allowed = jnp.asarray(epsilon, w.dtype), jnp.asarray(jnp.nan, w.dtype)
    known = loss.curvature is not None and loss.curvature_lipschitz is not None
    if known:
        constants = lipschitz_constants_terms(features, X, y, jnp.maximum(w_norm, V_norm), loss=loss)
        mu2 = constants.mu2 if mu2 is None else mu2
    tolerance = jnp.sqrt(mu2) * jnp.sqrt(epsilon)
    if known:
        # of what the verdict takes for an ε-SOPSP, rounding included
        lambda_tolerance = tolerance + smallest.rounding
        linear_norm = norm(linear_w)
        gap_allowed = theorem3_terms(epsilon + grad_error, linear_norm, *constants, lambda_tolerance).bound
    gap_allowed = jnp.where(jnp.maximum(ridge_w, ridge_V) > 0, jnp.inf, gap_allowed)
    finite = all_finite(ridge.regularized_gap, ridge.partial_grad_norm)
    grad_error, gap_error, gap_allowed = nan_unless(finite, (grad_error, gap_error, gap_allowed))

    evidence = {
        "gap": ridge.regularized_gap,
        "gap_error": gap_error,
        "grad_norm": ridge.partial_grad_norm,
        "grad_error": grad_error,
        "lambda_lower": smallest.lower,
        "lambda_upper": smallest.upper,
        "lambda_error": smallest.rounding,
        "epsilon": epsilon,
        "curvature_tolerance": tolerance,
        "linear_converged": jnp.asarray(linear_converged).astype(bool),
    }
    return StationarityTerms(
        **evidence,
        objective=ridge.regularized_objective,
        certificate=ridge.regularized_certificate,
        lambda_min=smallest.value,
        residual=smallest.residual,
        mu2=jnp.asarray(mu2, w.dtype),
        w_norm=w_norm,
        V_norm=V_norm,
        gap_allowed=gap_allowed,
        verdict=verdict_codes(**evidence, strict=w.dtype != jnp.float64),
    )


@partial(jax.jit, static_argnames="strict")
def verdict_codes(
    gap: Any,
    gap_error: Any,
    grad_norm: Any,
    grad_error: Any,
    lambda_lower: Any,
    lambda_upper: Any,
    lambda_error: Any,
    epsilon: Any,
    curvature_tolerance: Any,
    linear_converged: Any,
    *,
    strict: bool = False,
) -> Int[Array, "..."]:
    """The verdicts as indices into VERDICTS, elementwise.

    `not_finite` are points whose gap or gradient is not finite, or whose bracket is not a number. Else a comparison
    with NaN decides nothing. `strict` says that errors are too large to be taken for zero: then ‖∇F‖ ≤ ε, gap ≤ 0 and
    an eigenvalue's being above the threshold have to hold by more than the errors.
    """
    linear_converged = jnp.asarray(linear_converged).astype(bool)
    finite = jnp.isfinite(gap) & jnp.isfinite(grad_norm) & ~jnp.isnan(lambda_lower) & ~jnp.isnan(lambda_upper)
    allowed = -1.0 if strict else 1.0
    stationary = grad_norm + grad_error <= epsilon if strict else grad_norm <= epsilon + grad_error
    not_stationary = grad_norm > epsilon + grad_error
    below_threshold = lambda_upper + lambda_error < -curvature_tolerance
    above_threshold = lambda_lower - lambda_error >= -curvature_tolerance
    above_to_rounding = lambda_lower + allowed * lambda_error >= -curvature_tolerance
    above_linear = linear_converged & (gap > gap_error)
    at_or_below_linear = linear_converged & (gap <= allowed * gap_error)
    return jnp.select(
        [
            ~finite,
            not_stationary,
            stationary & below_threshold,
            stationary & ~below_threshold & above_to_rounding & at_or_below_linear,
            stationary & above_threshold & above_linear,
        ],
        [_NOT_FINITE, _NOT_STATIONARY, _STRICT_SADDLE, _AT_OR_BELOW, _ABOVE],
        _INCONCLUSIVE,
    )


def _rounding_errors(point, linear_w, linear_objective, ridge_w, ridge_V, loss: Loss):
    """Estimates of the rounding errors of ‖∇(F+R)‖ and of the gap, from the sizes of the terms that cancel in them."""
    w, V, features, X, y = point
    unit = _ROUNDINGS * jnp.finfo(w.dtype).eps
    w_norm = jnp.linalg.norm(w)
    x_norm, f_norm = jnp.linalg.norm(X, axis=1), jnp.linalg.norm(features, axis=1)
    a_norm = x_norm + spectral_norm(V) * f_norm
    p = X @ w + features @ (V.T @ w)
    slope, curvature = jnp.abs(loss.derivative(p, y)), loss.second_derivative(p, y)
    p_error = w_norm * a_norm
    grad = jnp.mean((slope + curvature * p_error) * (a_norm + w_norm * f_norm))
    grad = grad + ridge_w * w_norm + ridge_V * jnp.linalg.norm(V)

    linear_p, linear_norm = X @ linear_w, jnp.linalg.norm(linear_w)
    linear_slope, linear_curvature = jnp.abs(loss.derivative(linear_p, y)), loss.second_derivative(linear_p, y)
    linear_p_error = linear_norm * x_norm
    # to second order in the errors of p, for at a perfect fit the first vanishes
    gap = jnp.mean(loss.value(p, y) + p_error * (slope + 0.5 * unit * curvature * p_error))
    gap = gap + jnp.abs(linear_objective)
    gap = gap + jnp.mean(linear_p_error * (linear_slope + 0.5 * unit * linear_curvature * linear_p_error))
    gap = gap + ridge_w * (w_norm**2 + linear_norm**2) + ridge_V * jnp.sum(V**2)
    return unit * grad, unit * gap
