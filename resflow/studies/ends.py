"""What kind of point each of several stacked models ended at, in its weights around f_θ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss
from resflow.models.residual_unit import ResidualUnit
from resflow.point import in_default_precision, point_of_unit
from resflow.stationarity.terms import ROUNDINGS, VERDICTS, FitEvidence, stationarity_terms, verdict_codes

__all__ = ["describe_each", "end_of"]


def describe_each(describe: Callable[..., dict[str, Any]], models: Any, own: Any, *shared: Any) -> dict[str, Any]:
    """`describe(model, own, *shared)` of each of several stacked models, in columns, with verdicts by their names.

    NaN, −1 for whole numbers, and the verdict not_finite where a parameter of the model is not finite.

    Args:
        describe: A function at module level, in JAX; among what it returns is the code of a `verdict`.
        models: The models, every array with an axis of length m in front.
        own: Arrays with such an axis, too, of which it is given one entry each.
        shared: What is the same for all.
    """
    columns = {name: np.asarray(column) for name, column in _described(describe, models, own, shared).items()}
    return columns | {"verdict": [VERDICTS[code] for code in columns["verdict"]]}


@partial(exported, arrays_only=True)
def _described(describe, models, own, shared):
    arrays, static = eqx.partition(models, eqx.is_array)

    def one(member):
        model = eqx.combine(member[0], static)
        found, finite = describe(model, member[1], *shared), all_finite(model)
        # θ that is not finite need not show in the features.
        verdict = jnp.where(finite, found["verdict"], VERDICTS.index("not_finite"))
        return nan_unless(finite, found) | {"verdict": verdict}

    # One after another: for matrices this small faster than abreast.
    return jax.lax.map(one, (arrays, own))


def end_of(model: Any, X: Any, y: Any, linear: FitEvidence, epsilon: Any, loss: Loss) -> dict[str, Any]:
    """What kind of point a model stands at, in its weights around f_θ, θ held fixed; in JAX, unchecked.

    These weights are (W, V) of a residual unit, (W, v) of an output skip and v of a network without skip connection.
    In the last two F is convex, so that λ_min ≥ 0 always and a small gradient alone makes an ε-SOPSP.

    Args:
        model: A residual unit, an output skip, or a network without skip connection.
        X, y: Samples as rows, shape (n, d), and their labels as the loss takes them.
        linear: What counts of the best linear predictor of X and y.
        epsilon: ε of the ε-SOPSP.
        loss: ℓ; of a residual unit with finite constants.

    Returns:
        objective, linear_predictor_gap, certificate, partial_grad_norm, lambda_lower, gap_allowed, the code of the
        verdict and dead_units, as `resflow.studies.skip_comparison.training_ends` says; and of a residual unit
        lambda_min and lambda_min_residual.
    """
    describe = _residual_unit_end if isinstance(model, ResidualUnit) else _convex_end
    return describe(model, X, y, linear, epsilon, loss)


def _residual_unit_end(unit, X, y, linear, epsilon, loss):
    point = in_default_precision(point_of_unit(unit, X, y, loss))
    terms = stationarity_terms(point, linear, epsilon)
    return {
        "objective": terms.objective,
        "linear_predictor_gap": terms.linear_predictor_gap,
        "certificate": terms.gap_certificate,
        "partial_grad_norm": terms.grad_norm,
        "lambda_min": terms.lambda_min,
        "lambda_min_residual": terms.lambda_min_residual,
        "lambda_lower": terms.lambda_min_lower,
        "gap_allowed": terms.gap_allowed,
        "verdict": terms.verdict,
        "dead_units": _dead_units(point.features),
    }


def _convex_end(model, X, y, linear, epsilon, loss):
    features, skips = model.features(X), hasattr(model, "W")
    inputs = jnp.concatenate([X, features], axis=1) if skips else features
    weights = jnp.concatenate([model.W, model.v], axis=-1) if skips else model.v
    best = jnp.concatenate([linear.W, jnp.zeros_like(model.v)], axis=-1) if skips else jnp.nan
    p = inputs @ weights.T
    slope, value = loss.derivative(p, y), jnp.mean(loss.value(p, y))
    gap, gradient = value - linear.objective, slope.T @ inputs / len(y)
    unit = ROUNDINGS * jnp.finfo(X.dtype).eps
    sizes = jnp.linalg.norm(slope.reshape(len(y), -1), axis=1)
    grad_error = unit * jnp.mean(sizes * jnp.linalg.norm(inputs, axis=1))
    gap_error = linear.suboptimality + unit * (value + jnp.abs(linear.objective))
    finite, grad_norm = all_finite(p, gradient, gap), jnp.linalg.norm(gradient)
    zero = nan_unless(finite, jnp.zeros(()))
    numbers = {
        "objective": value,
        "linear_predictor_gap": gap,
        "certificate": jnp.sum(slope * (p - X @ linear.W.T)) / len(y),
        "partial_grad_norm": grad_norm,
        "lambda_lower": zero,
        "gap_allowed": epsilon * jnp.linalg.norm(weights - best),
    }
    evidence = gap, gap_error, grad_norm, grad_error, zero, zero, zero, epsilon, jnp.sqrt(epsilon), linear.converged
    return nan_unless(finite, numbers) | {
        "verdict": verdict_codes(*evidence, strict=X.dtype != jnp.float64),
        "dead_units": _dead_units(features),
    }


def _dead_units(features):
    return jnp.sum(jnp.all(features == 0.0, axis=0))
