"""What a residual unit's training records about itself, under the names that the metrics of a run have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Real

from resflow.arrays import Array
from resflow.certificates.deep import deep_gap_certificate_terms
from resflow.certificates.gap import gap_certificate_terms
from resflow.certificates.theorems import implied_epsilon, lipschitz_constants_terms, theorem2_terms, theorem3_terms
from resflow.certificates.vector import vector_gap_certificate_terms
from resflow.floating import all_finite, nan_unless
from resflow.linear.baseline import check_kind
from resflow.linear.predictor import LinearFit
from resflow.linear.vector import VectorLinearFit
from resflow.losses.scalar import Loss, as_loss
from resflow.losses.vector import VectorLoss, as_vector_loss
from resflow.models.deep_network import DeepResidualNetwork
from resflow.models.residual_unit import ResidualUnit, trainable
from resflow.models.vector_unit import VectorResidualUnit
from resflow.hessian.bracket import smallest_partial_eigenvalue

__all__ = [
    "Checkpoints",
    "DeepGapMeasure",
    "GapMeasure",
    "ModelGapMeasure",
    "StationarityMeasure",
    "VectorGapMeasure",
]


class GapMeasure(eqx.Module):
    """What `train` records of a residual unit: its objective, gap, certificates and norms, by MLflow's metric names.

    Evaluated in JAX's default precision whatever the model's own: float64 once x64 is enabled. NaN where the model, its
    θ included, or the data is not finite: a feature map that is flat far out would not show it.

    Attributes:
        linear_w: The best linear predictor, shape (d,).
        linear_objective: Its mean loss.
        loss: The loss of both.
    """

    linear_w: Float[Array, "d"]
    linear_objective: Float[Array, ""]
    loss: Loss = eqx.field(static=True)

    @classmethod
    def against(cls, linear_fit: LinearFit, loss: str | Loss) -> GapMeasure:
        """The measurements against that linear fit."""
        check_kind(linear_fit, as_loss(loss))
        return cls(jnp.asarray(linear_fit.w), jnp.asarray(linear_fit.objective), as_loss(loss))

    def __call__(self, model: ResidualUnit, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        arrays = (model.w, model.V, model.features(X), X, y, self.linear_w, self.linear_objective)
        terms = gap_certificate_terms(*(jnp.asarray(array, dtype=float) for array in arrays), loss=self.loss)
        measured = {
            "objective": terms.objective,
            "linear_predictor_gap": terms.gap,
            "gap_certificate": terms.certificate,
            "theorem1_bound": terms.theorem1_bound,
            "partial_grad_norm": terms.partial_grad_norm,
            "w_norm": terms.w_norm,
            "V_norm": terms.V_norm,
        }
        return nan_unless(all_finite(model, X, y), measured)


class ModelGapMeasure(eqx.Module):
    """What `train` records of any model with one output, whatever its architecture: its objective and its gap.

    Attributes:
        linear_objective: The best linear predictor's mean loss.
        loss: The loss of both.
    """

    linear_objective: Float[Array, ""]
    loss: Loss = eqx.field(static=True)

    @classmethod
    def against(cls, linear_fit: LinearFit, loss: str | Loss) -> ModelGapMeasure:
        """The measurements against that linear fit."""
        check_kind(linear_fit, as_loss(loss))
        return cls(jnp.asarray(linear_fit.objective), as_loss(loss))

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        predictions, labels = (jnp.asarray(array, dtype=float) for array in (model(X), y))
        objective = jnp.mean(self.loss.value(predictions, labels))
        measured = {"objective": objective, "linear_predictor_gap": objective - self.linear_objective}
        return nan_unless(all_finite(model, X, y, predictions, measured["linear_predictor_gap"]), measured)


class StationarityMeasure(eqx.Module):
    """What `GapMeasure` records, the smallest eigenvalue of the partial Hessian with its evidence, and two theorems.

    Theorem 3 is taken at the smallest ε for which the point is an ε-SOPSP, in the ball max{‖w‖, ‖V‖} that it lies on:
    `linear_predictor_gap` ≤ `theorem3_bound`. Theorem 2 is taken at (0, V, θ), as it speaks of points with w = 0:
    `theorem2_slack` ≥ 0. Both up to rounding.

    Attributes:
        gap: The measurements of the gap.
    """

    gap: GapMeasure

    @classmethod
    def against(cls, linear_fit: LinearFit, loss: str | Loss) -> StationarityMeasure:
        """The measurements against that linear fit."""
        return cls(GapMeasure.against(linear_fit, loss))

    def __call__(self, model: ResidualUnit, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        arrays = (model.w, model.V, model.features(X), X, y)
        w, V, features, samples, labels = (jnp.asarray(array, dtype=float) for array in arrays)
        loss, linear_w = self.gap.loss, self.gap.linear_w
        measured = self.gap(model, X, y)
        smallest = smallest_partial_eigenvalue(w, V, features, samples, labels, loss=loss)
        radius = jnp.maximum(measured["w_norm"], measured["V_norm"])
        constants = lipschitz_constants_terms(features, samples, labels, radius, loss=loss)
        epsilon = implied_epsilon(measured["partial_grad_norm"], smallest.lower, constants.mu2)
        theorem2 = theorem2_terms(V, features, samples, labels, linear_w, self.gap.linear_objective, loss=loss)
        further = {
            "lambda_min": smallest.value,
            "lambda_min_lower": smallest.lower,
            "lambda_min_upper": smallest.upper,
            "lambda_min_residual": smallest.residual,
            "lambda_min_converged": smallest.converged.astype(float),
            "theorem2_slack": theorem2.slack,
            "theorem3_bound": theorem3_terms(epsilon, jnp.linalg.norm(linear_w), *constants).bound,
        }
        return measured | nan_unless(all_finite(measured["objective"], smallest.value), further)


class VectorGapMeasure(eqx.Module):
    """What `train` records of a residual unit with vector-valued output, by MLflow's metric names.

    Attributes:
        linear_W: The best linear predictor, shape (m, d).
        linear_objective: Its mean loss.
        loss: The loss of both.
    """

    linear_W: Float[Array, "m d"]
    linear_objective: Float[Array, ""]
    loss: VectorLoss = eqx.field(static=True)

    @classmethod
    def against(cls, linear_fit: VectorLinearFit, loss: str | VectorLoss) -> VectorGapMeasure:
        """The measurements against that linear fit."""
        check_kind(linear_fit, as_vector_loss(loss))
        return cls(jnp.asarray(linear_fit.W), jnp.asarray(linear_fit.objective), as_vector_loss(loss))

    def __call__(
        self, model: VectorResidualUnit, X: Float[Array, "n d"], Y: Real[Array, "n ..."]
    ) -> dict[str, Float[Array, ""]]:
        arrays = (model.W, model.V, model.features(X), X, Y, self.linear_W, self.linear_objective)
        terms = vector_gap_certificate_terms(*(jnp.asarray(array, dtype=float) for array in arrays), loss=self.loss)
        measured = {
            "objective": terms.objective,
            "linear_predictor_gap": terms.gap,
            "gap_certificate": terms.certificate,
            "gradient_term": terms.gradient_term,
            "rank_term": terms.rank_term,
            "norm_bound": terms.norm_bound,
            "smallest_singular_value": terms.smallest_singular_value,
            "W_rank": jnp.where(terms.rank < 0, jnp.nan, terms.rank),
            "partial_grad_norm": terms.partial_grad_norm,
            "V_norm": terms.V_norm,
        }
        return nan_unless(all_finite(model, X, Y), measured)


class DeepGapMeasure(eqx.Module):
    """What `train` records of a deep residual network, by MLflow's metric names.

    Attributes:
        linear_w: The best linear predictor, shape (d,).
        linear_objective: Its mean loss.
        loss: The loss of both.
    """

    linear_w: Float[Array, "d"]
    linear_objective: Float[Array, ""]
    loss: Loss = eqx.field(static=True)

    @classmethod
    def against(cls, linear_fit: LinearFit, loss: str | Loss) -> DeepGapMeasure:
        """The measurements against that linear fit."""
        check_kind(linear_fit, as_loss(loss))
        return cls(jnp.asarray(linear_fit.w), jnp.asarray(linear_fit.objective), as_loss(loss))

    def __call__(
        self, model: DeepResidualNetwork, X: Float[Array, "n d"], y: Real[Array, "n"]
    ) -> dict[str, Float[Array, ""]]:
        terms = deep_gap_certificate_terms(model, X, y, self.linear_w, self.linear_objective, loss=self.loss)
        return {
            "objective": terms.objective,
            "linear_predictor_gap": terms.gap,
            "gap_certificate": terms.certificate,
            "norm_bound": terms.norm_bound,
            "partial_grad_norm": terms.partial_grad_norm,
            "kernel_dimension": jnp.where(terms.kernel_dimension < 0, jnp.nan, terms.kernel_dimension),
            "kernel_share_of_w": terms.kernel_share,
            "smallest_representation_curvature": terms.smallest_representation_curvature,
            "near_identity_bound": terms.near_identity_bound,
            "w_norm": terms.w_norm,
        }


class Checkpoints(eqx.Module):
    """What another measure records, and beside it the weights themselves, so that points on the way can be revisited.

    The history then has a row of all trainable weights a measurement, in its column `weights`.

    Attributes:
        measure: What else to record.
    """

    measure: Callable[[Any, Any, Any], dict[str, Any]]

    def __call__(self, model: Any, X: Any, y: Any) -> dict[str, Any]:
        flat, _ = ravel_pytree(eqx.filter(model, trainable(model)))
        return self.measure(model, X, y) | {"weights": flat}

    @staticmethod
    def restore(model: Any, weights: Any) -> Any:
        """The model with the weights of one row of the history."""
        moving, fixed = eqx.partition(model, trainable(model))
        return eqx.combine(ravel_pytree(moving)[1](jnp.asarray(weights)), fixed)
