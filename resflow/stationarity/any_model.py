"""The verdict on a point of any model: from its gradient, and from products with its Hessian."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from resflow.arrays import as_number
from resflow.errors import InvalidInputError
from resflow.hessian.lanczos import (
    HessianEigenvalue,
    check_options,
    smallest_hessian_eigenvalue,
    split_parameters,
)
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss
from resflow.point import checked_samples
from resflow.stationarity._slope import slope
from resflow.stationarity.report import StationarityReport, check_tolerances, stationarity_verdict
from resflow.stationarity.terms import ROUNDINGS

__all__ = ["analyze_model"]

_DOUBT = 10.0
"""How many times a random change may by chance move F or its gradient less than it can."""


def analyze_model(
    objective: Callable[..., Any],
    model: Any,
    *data: Any,
    fit: LinearFit,
    epsilon: float,
    mu2: float = 1.0,
    block: Callable[[Any], Any] | None = None,
    **options: Any,
) -> StationarityReport:
    """Whether ‖∇F‖ ≤ ε and λ_min(∇²F) ≥ −sqrt(μ₂ε) in all parameters of a model, and whether F exceeds F_lin.

    The verdicts are those of `analyze`. The gradient is looked at first: where it exceeds ε by more than rounding can
    do, that is the verdict, for two gradients and a few vectors of D parameters. Else it rests on the bracket of
    `smallest_hessian_eigenvalue`, which of up to 1,024 parameters, or `steps`, is as tight as rounding allows. Of more
    its lower end is what an iteration from a random start can claim, and may leave a minimum `inconclusive`; that a
    point is a saddle it can always show. The explanation says which. Always in float64: model and data are cast.

    Args:
        objective: F(model, *data) → scalar, twice differentiable by JAX; hashable.
        model: Any pytree; its trainable arrays are the parameters.
        data: What the objective takes besides the model, e.g. X and y.
        fit: The linear predictor to compare with, of `fit_linear_predictor` on the same data and loss.
        epsilon: ε ≥ 0, in the units of the gradient; 0 means to working precision.
        mu2: Lipschitz constant μ₂ of the Hessian, as in `analyze`.
        block: Which parameters to take gradient and Hessian in, all others held fixed; by default all.
        options: Of `smallest_hessian_eigenvalue`: `key`, `steps`, `max_restarts`, `tolerance`, `progress`.

    Raises:
        InvalidInputError: If epsilon, mu2 or an option of the iteration is out of range, or there are no parameters.

    References:
        Shamir 2018 (arXiv:1804.06739), Definition 1, with all parameters in place of (w, V).
    """
    loss = getattr(objective, "loss", None)
    if isinstance(loss, Loss) and len(data) == 2:
        data = checked_samples(*data, loss)
        check_baseline(fit, *data, loss, finished=False)
    else:  # of data and a loss that only the objective knows
        for name in ("objective", "suboptimality"):
            as_number(f"fit.{name}", getattr(fit, name, None), "must be a finite number")
        if not isinstance(getattr(fit, "converged", None), bool | np.bool_):
            raise InvalidInputError("fit.converged must be True or False, as fit_linear_predictor has it")
    check_tolerances(epsilon, mu2)
    check_options(**options)
    with jax.enable_x64(True):
        double = lambda leaf: jnp.asarray(leaf, float) if eqx.is_inexact_array(leaf) else leaf  # noqa: E731
        model, data = jax.tree.map(double, (model, data))
        at = slope(objective, *split_parameters(model, block), data)
        unit = ROUNDINGS * float(jnp.finfo(float).eps)
        grad_error = _DOUBT * math.sqrt(at.parameters) * unit * at.sensitivity
        levels = abs(at.objective) + abs(fit.objective) + _DOUBT * at.level_sensitivity
        if isinstance(loss, Loss) and len(data) == 2:
            X, y = map(np.asarray, data)
            levels += _linear_sensitivity(fit, X, y, loss, unit)
        smallest = None
        if math.isfinite(at.grad_norm) and not at.grad_norm > epsilon + grad_error:  # which may not be a number
            smallest = smallest_hessian_eigenvalue(objective, model, *data, block=block, **options)
            # what a change of every parameter by rounding does to the gradient
            grad_error = unit * max(at.sensitivity, float(smallest.largest) * at.norm)
            if math.isnan(smallest.lambda_min):  # of the derivatives some may be finite all the same
                at = at._replace(objective=math.nan, grad_norm=math.nan)
    report = stationarity_verdict(
        objective=at.objective,
        linear_predictor_gap=at.objective - fit.objective,
        gap_error=fit.suboptimality + unit * levels,
        grad_norm=at.grad_norm,
        grad_error=grad_error,
        lambda_interval=_interval(smallest),
        lambda_min_error=0.0 if smallest is None else float(smallest.rounding),
        epsilon=epsilon,
        mu2=mu2,
        linear_converged=fit.converged,
    )
    text = report.explanation
    if smallest is None:
        return dataclasses.replace(report, lambda_min=math.nan, lambda_min_residual=math.nan)
    if not smallest.certain and report.verdict != "not_finite":
        text += "\n  evidence   the lower end holds with probability 1 − 1e-6 over the random start of an iteration"
    return dataclasses.replace(
        report,
        lambda_min=float(smallest.lambda_min),
        lambda_min_residual=float(smallest.lambda_min_residual),
        explanation=text,
    )


def _linear_sensitivity(fit: LinearFit, X: np.ndarray, y: np.ndarray, loss: Loss, unit: float) -> float:
    """How far F_lin may move for a rounding of each prediction, relative to a rounding, to second order in it."""
    p = X @ np.atleast_2d(fit.W).T
    p, size = p[:, 0] if fit.W.ndim == 1 else p, float(np.linalg.norm(fit.W)) * np.linalg.norm(X, axis=1)
    slopes = loss.derivative(p, y)
    steep = np.abs(slopes) if p.ndim == 1 else np.linalg.norm(slopes, axis=1)
    if loss.curvature is not None:  # of many classes the matrices ℓ'' would fill the memory
        curved = loss.curvature * len(np.atleast_2d(fit.W))
    else:
        curved = loss.second_derivative(p, y) if p.ndim == 1 else np.inf
    return float(np.mean(size * (steep + 0.5 * unit * curved * size)))


def _interval(smallest: HessianEigenvalue | None) -> tuple[float, float]:
    if smallest is None:
        return -math.inf, math.inf  # not computed
    return float(smallest.lambda_min_lower), float(smallest.lambda_min_upper)
