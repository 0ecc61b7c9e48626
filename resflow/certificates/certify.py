"""The linear-predictor gap of any point with its bounds: what is known of it depends on the kind of model."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from resflow.arrays import Array
from resflow.certificates.deep import DeepGapCertificate, certify_network
from resflow.certificates.gap import GapCertificate, certify_point
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.models.deep_network import DeepResidualNetwork
from resflow.point import ModelPoint, Point, check_point

__all__ = ["ModelCertificate", "certify"]


class ModelCertificate(NamedTuple):
    """The linear-predictor gap of a model of which nothing else is known, and the bound that convexity gives.

    NaN where a prediction is not finite.

    Attributes:
        linear_predictor_gap: F − F_lin(W*). Negative: better than the best linear predictor W*.
        gap_certificate: mean ⟨ℓ'_i, p_i − W*x_i⟩ ≥ linear_predictor_gap.
        objective: F, the mean loss per sample.
    """

    linear_predictor_gap: Float[Array, ""]
    gap_certificate: Float[Array, ""]
    objective: Float[Array, ""]


def certify(
    point: Point | ModelPoint, fit: LinearFit, *, ridge_W: float = 0.0, ridge_V: float = 0.0
) -> GapCertificate | DeepGapCertificate | ModelCertificate:
    """The linear-predictor gap of a point and its bounds, which every point can compute about itself.

        point                          result                what its bounds rest on
        `Point` of a residual unit     `GapCertificate`      Theorem 1, for any number of outputs and rank, and ridge
        of a deep residual network     `DeepGapCertificate`  what no later block sees, and how near the blocks are to 0
        of any other model             `ModelCertificate`    convexity of the loss

    Args:
        point: Of `Point` or `Point.of`.
        fit: The linear predictor to compare with, of `fit_linear_predictor` on the same X, y and loss.
        ridge_W: Coefficient of ½‖W‖_F² in the objective of a residual unit, per mean loss.
        ridge_V: Coefficient of ½‖V‖_F².

    Raises:
        InvalidInputError: If the fit is of another loss, other data or not finished, a coefficient is negative, or one
            is given for a model other than a residual unit.

    References:
        Shamir 2018 (arXiv:1804.06739); Yun 2019 (arXiv:1907.03922) for depth.
    """
    check_point(point)
    if isinstance(point, Point):
        return certify_point(point, fit, ridge_W=ridge_W, ridge_V=ridge_V)
    if ridge_W or ridge_V:
        raise InvalidInputError(
            f"ridge_W={ridge_W} and ridge_V={ridge_V} are for residual units, but the point is of a "
            f"{type(point.model).__name__}: leave them out"
        )
    if isinstance(point.model, DeepResidualNetwork):
        return certify_network(point, fit)
    check_baseline(fit, point.X, point.y, point.loss)
    return model_certificate(point, fit.W, fit.objective)


def model_certificate(point: ModelPoint, linear_W: Array, linear_objective: Array | float) -> ModelCertificate:
    """The certificate of any model against the linear predictor `linear_W` of that mean loss, unchecked."""
    p, y = (jnp.asarray(array, dtype=float) for array in (point.predictions, point.y))
    objective, slope = jnp.mean(point.loss.value(p, y)), point.loss.derivative(p, y)
    certificate = jnp.sum(slope * (p - jnp.asarray(point.X) @ jnp.asarray(linear_W).T)) / len(y)
    terms = ModelCertificate(objective - linear_objective, certificate, objective)
    return nan_unless(all_finite(point.model, point.X, p, terms.linear_predictor_gap), terms)
