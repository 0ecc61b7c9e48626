"""The numeric core of the verdict on a point: arrays in, arrays out, under jit and vmap."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from resflow.arrays import Array, in_full_precision
from resflow.certificates.gap import Ridge, gap_certificate
from resflow.certificates.theorems import lipschitz_constants_terms, theorem3_terms
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless, norm
from resflow.hessian.partial_eigenvalue import smallest_partial_eigenvalue
from resflow.linear.predictor import LinearFit
from resflow.point import Point, in_default_precision, sum_over_samples

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

ROUNDINGS = 8.0
"""How many roundings an estimate of an error allows for, in units of machine precision times the size of the terms."""


class FitEvidence(NamedTuple):
    """What counts of a linear fit, as arrays: its weights, mean loss, suboptimality, and whether it converged."""

    W: Any
    objective: Any
    suboptimality: Any
    converged: Any

    @classmethod
    def of(cls, fit: LinearFit) -> FitEvidence:
        return cls(fit.W, fit.objective, fit.suboptimality, fit.converged)


class StationarityTerms(NamedTuple):
    """The numbers of a `StationarityReport` as arrays, for jit and vmap; `verdict` is an index into VERDICTS."""

    objective: Float[Array, ""]
    linear_predictor_gap: Float[Array, ""]
    gap_error: Float[Array, ""]
    gap_certificate: Float[Array, ""]
    grad_norm: Float[Array, ""]
    grad_error: Float[Array, ""]
    lambda_min: Float[Array, ""]
    lambda_min_lower: Float[Array, ""]
    lambda_min_upper: Float[Array, ""]
    lambda_min_error: Float[Array, ""]
    lambda_min_residual: Float[Array, ""]
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
    point: Point, fit: FitEvidence, epsilon: Any, *, mu2: Any = None, ridge_W: Any = 0.0, ridge_V: Any = 0.0
) -> StationarityTerms:
    """`analyze` of a residual unit's point, unchecked, in JAX: one point, or thousands under vmap.

    In float64 wherever JAX has it switched on, whatever the precision of the arrays. Where it has not, a comparison
    that holds or fails only up to the rounding of float32 decides nothing: the verdict is then `inconclusive`.

    Args:
        point: The point; its loss with finite constants if mu2 is None.
        fit: What counts of the linear fit.
        epsilon: ε ≥ 0.
        mu2: Lipschitz constant of the Hessian, or None for that of the ball of the point's own radius.
        ridge_W: Coefficient of ½‖W‖_F².
        ridge_V: Coefficient of ½‖V‖_F².
    """
    point, fit = in_default_precision(point), fit._replace(W=jnp.asarray(fit.W, float))
    # Not one jitted whole: so the search for the eigenvalue, slow to compile, is compiled once for all who call it.
    ridge = Ridge(ridge_W, ridge_V)
    gap = gap_certificate(point, fit.W, fit.objective, ridge)
    smallest = smallest_partial_eigenvalue(point, ridge_W=ridge_W, ridge_V=ridge_V)
    constants = None
    if point.loss.curvature is not None and point.loss.curvature_lipschitz is not None:
        constants = lipschitz_constants_terms(point, jnp.maximum(gap.w_norm, gap.V_norm))
    errors = sum_over_samples(_errors, point, fit.W, gap.w_norm, gap.V_norm)
    # of one output alone: with several, W may lose rank without being 0
    covered = point.W.ndim == 1
    counts = len(point.X), point.outputs
    return _decide(gap, smallest, constants, errors, point.V, fit, epsilon, ridge, mu2, counts, covered=covered)


@partial(exported, static=("covered",))
def _decide(
    gap, smallest, constants, errors, V, fit, epsilon, ridge, mu2, counts, *, covered: bool
) -> StationarityTerms:
    n, m = counts
    errors, full_rank = [total / n for total in errors], gap.W_rank == m
    dtype, linear_norm, W_norm = V.dtype, norm(fit.W), gap.w_norm
    unit = ROUNDINGS * jnp.finfo(dtype).eps
    grad_error = unit * (errors[0] + ridge.W * W_norm + ridge.V * jnp.linalg.norm(V))
    sizes = ridge.W * (W_norm**2 + linear_norm**2) + ridge.V * jnp.sum(V**2)
    gap_error = fit.suboptimality + unit * (errors[1] + jnp.abs(fit.objective) + sizes)

    epsilon, gap_allowed = jnp.asarray(epsilon, dtype), jnp.asarray(jnp.nan, dtype)
    if constants is not None:
        mu2 = constants.mu2 if mu2 is None else mu2
    tolerance = jnp.sqrt(mu2) * jnp.sqrt(epsilon)
    if constants is not None and covered:
        # of what the verdict takes for an ε-SOPSP, rounding included
        lambda_tolerance = tolerance + smallest.rounding
        gap_allowed = theorem3_terms(epsilon + grad_error, linear_norm, *constants, lambda_tolerance).bound
    gap_allowed = jnp.where(jnp.maximum(ridge.W, ridge.V) > 0, jnp.inf, gap_allowed)
    finite = all_finite(gap.regularized_gap, gap.partial_grad_norm)
    grad_error, gap_error, gap_allowed = nan_unless(finite, (grad_error, gap_error, gap_allowed))

    evidence = {
        "linear_predictor_gap": gap.regularized_gap,
        "gap_error": gap_error,
        "grad_norm": gap.partial_grad_norm,
        "grad_error": grad_error,
        "lambda_min_lower": smallest.lambda_min_lower,
        "lambda_min_upper": smallest.lambda_min_upper,
        "lambda_min_error": smallest.rounding,
        "epsilon": epsilon,
        "curvature_tolerance": tolerance,
        "linear_converged": jnp.asarray(fit.converged).astype(bool),
    }
    # What is stationary at full row rank of W, and not regularised, has R = 0, which leaves no negative eigenvalue.
    semidefinite = full_rank & (jnp.maximum(ridge.W, ridge.V) == 0)
    return StationarityTerms(
        **evidence,
        objective=gap.regularized_objective,
        gap_certificate=gap.regularized_certificate,
        lambda_min=smallest.lambda_min,
        lambda_min_residual=smallest.lambda_min_residual,
        mu2=jnp.asarray(mu2, dtype),
        w_norm=W_norm,
        V_norm=gap.V_norm,
        gap_allowed=gap_allowed,
        verdict=verdict_codes(**evidence, semidefinite=semidefinite, strict=dtype != jnp.float64),
    )


def _errors(point: Point, linear_W, W_norm, V_norm):
    """What the rounding errors of ‖∇F‖ and of the gap are relative to: the sizes of the terms that cancel in them."""
    loss, y = point.row_loss, point.y
    unit = ROUNDINGS * jnp.finfo(V_norm.dtype).eps

    def sizes(p):
        slope, curvature = loss.derivative(p, y), loss.second_derivative(p, y)
        return jnp.linalg.norm(slope, axis=1), jnp.trace(curvature, axis1=1, axis2=2)

    x_norm, f_norm = jnp.linalg.norm(point.X, axis=1), jnp.linalg.norm(point.features, axis=1)
    a_norm = x_norm + V_norm * f_norm
    p, linear_p = point.predictions.reshape(len(x_norm), -1), point.X @ jnp.atleast_2d(linear_W).T
    (slope, curvature), (linear_slope, linear_curvature) = sizes(p), sizes(linear_p)
    p_error, linear_p_error = W_norm * a_norm, norm(linear_W) * x_norm
    grad = jnp.sum((slope + curvature * p_error) * (a_norm + W_norm * f_norm))
    # to second order in the errors of p, for at a perfect fit the first vanishes
    gap = jnp.sum(loss.value(p, y) + p_error * (slope + 0.5 * unit * curvature * p_error))
    return grad, gap + jnp.sum(linear_p_error * (linear_slope + 0.5 * unit * linear_curvature * linear_p_error))


@partial(jax.jit, static_argnames="strict")
def verdict_codes(
    linear_predictor_gap: Any,
    gap_error: Any,
    grad_norm: Any,
    grad_error: Any,
    lambda_min_lower: Any,
    lambda_min_upper: Any,
    lambda_min_error: Any,
    epsilon: Any,
    curvature_tolerance: Any,
    linear_converged: Any,
    *,
    semidefinite: Any = False,
    strict: bool = False,
) -> Int[Array, "..."]:
    """The verdicts as indices into VERDICTS, elementwise.

    `not_finite` are points whose gap or gradient is not finite, or whose bracket is not a number. Else a comparison
    with NaN decides nothing. An eigenvalue is above the threshold, or below it, only by more than its error; but at
    ε = 0, which is to working precision, up to its error where `semidefinite` says that by theory a stationary point
    has no negative one. `strict` says that errors are too large to be taken for zero: then ‖∇F‖ ≤ ε
    and gap ≤ 0, too, have to hold by more than theirs.
    """
    linear_converged = jnp.asarray(linear_converged).astype(bool)
    finite = jnp.isfinite(linear_predictor_gap) & jnp.isfinite(grad_norm)
    finite &= ~jnp.isnan(lambda_min_lower) & ~jnp.isnan(lambda_min_upper)
    allowed = -1.0 if strict else 1.0
    stationary = grad_norm + grad_error <= epsilon if strict else grad_norm <= epsilon + grad_error
    not_stationary = grad_norm > epsilon + grad_error
    below_threshold = lambda_min_upper + lambda_min_error < -curvature_tolerance
    above_threshold = lambda_min_lower - lambda_min_error >= -curvature_tolerance
    to_working_precision = (epsilon == 0) & semidefinite & (not strict) & (lambda_min_lower + lambda_min_error >= 0)
    above_linear = linear_converged & (linear_predictor_gap > gap_error)
    at_or_below_linear = linear_converged & (linear_predictor_gap <= allowed * gap_error)
    verdicts = jnp.select(
        [
            ~finite,
            not_stationary,
            stationary & below_threshold,
            stationary & ~below_threshold & (above_threshold | to_working_precision) & at_or_below_linear,
            stationary & above_threshold & above_linear,
        ],
        [_NOT_FINITE, _NOT_STATIONARY, _STRICT_SADDLE, _AT_OR_BELOW, _ABOVE],
        _INCONCLUSIVE,
    )
    return verdicts.astype(int)
