"""What a residual unit's training records about itself, under the names that the metrics of a run have."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Real

from resflow.arrays import Array
from resflow.certificate import gap_certificate_terms
from resflow.linear import LinearFit
from resflow.losses import Loss, as_loss
from resflow.model import ResidualUnit
from resflow.smallest_eigenvalue import smallest_partial_eigenvalue

__all__ = ["GapMeasure", "ModelGapMeasure", "StationarityMeasure"]


class GapMeasure(eqx.Module):
    """What `train` records of a residual unit: its objective, gap, certificates and norms, by MLflow's metric names.

    Evaluated in JAX's default precision whatever the model's own: float64 once x64 is enabled.

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
        return cls(jnp.asarray(linear_fit.w), jnp.asarray(linear_fit.objective), as_loss(loss))

    def __call__(self, model: ResidualUnit, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        arrays = (model.w, model.V, model.features(X), X, y, self.linear_w, self.linear_objective)
        terms = gap_certificate_terms(*(jnp.asarray(array, dtype=float) for array in arrays), loss=self.loss)
        return {
            "objective": terms.objective,
            "linear_predictor_gap": terms.gap,
            "gap_certificate": terms.certificate,
            "theorem1_bound": terms.theorem1_bound,
            "partial_grad_norm": terms.partial_grad_norm,
            "w_norm": terms.w_norm,
            "V_norm": terms.V_norm,
        }


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
        return cls(jnp.asarray(linear_fit.objective), as_loss(loss))

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        predictions, labels = (jnp.asarray(array, dtype=float) for array in (model(X), y))
        objective = jnp.mean(self.loss.value(predictions, labels))
        return {"objective": objective, "linear_predictor_gap": objective - self.linear_objective}


class StationarityMeasure(eqx.Module):
    """What `GapMeasure` records, and the smallest eigenvalue of the partial Hessian with its evidence.

    Attributes:
        gap: The measurements of the gap.
    """

    gap: GapMeasure

    @classmethod
    def against(cls, linear_fit: LinearFit, loss: str | Loss) -> StationarityMeasure:
        """The measurements against that linear fit."""
        return cls(GapMeasure.against(linear_fit, loss))

    def __call__(self, model: ResidualUnit, X: Float[Array, "n d"], y: Real[Array, "n"]) -> dict[str, Float[Array, ""]]:
        arrays = (jnp.asarray(array, dtype=float) for array in (model.w, model.V, model.features(X), X, y))
        smallest = smallest_partial_eigenvalue(*arrays, loss=self.gap.loss)
        return self.gap(model, X, y) | {
            "lambda_min": smallest.value,
            "lambda_min_lower": smallest.lower,
            "lambda_min_residual": smallest.residual,
            "lambda_min_converged": smallest.converged.astype(float),
        }
