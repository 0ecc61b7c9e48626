"""What training records about itself on the way, under the names that the metrics of a run have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Real

from resflow.arrays import Array, is_traced
from resflow.certificates.certify import model_certificate
from resflow.certificates.deep import deep_gap_certificate
from resflow.certificates.gap import gap_certificate
from resflow.certificates.theorems import implied_epsilon, lipschitz_constants_terms, theorem2_terms, theorem3_terms
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.hessian.partial_eigenvalue import smallest_partial_eigenvalue
from resflow.linear.baseline import check_kind, check_mean_loss
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss, as_loss
from resflow.models.deep_network import DeepResidualNetwork
from resflow.models.residual_unit import ResidualUnit, trainable
from resflow.point import ModelPoint, in_default_precision, point_of_unit
from resflow.training._measuring import check_measure

__all__ = ["Checkpoints", "GapMeasure", "StationarityMeasure"]

_OF_ONE_OUTPUT = ("gap_certificate", "theorem1_bound", "partial_grad_norm", "w_norm", "V_norm")
_OF_SEVERAL = ("gradient_term", "rank_term", "norm_bound", "smallest_singular_value", "W_rank")
_OF_DEPTH = (
    "gap_certificate", "norm_bound", "partial_grad_norm", "kernel_dimension", "kernel_share_of_w",
    "smallest_representation_curvature", "near_identity_bound", "w_norm",
)  # fmt: skip


class GapMeasure(eqx.Module):
    """Records a model's objective and linear-predictor gap, and of residual units and deep networks their bounds.

    The further columns are fields of what `certify` returns: for a residual unit of one output gap_certificate,
    theorem1_bound, partial_grad_norm, w_norm and V_norm; for one of several outputs also gradient_term, rank_term,
    norm_bound, smallest_singular_value and W_rank; for a deep network those of its certificate.

    A residual unit is evaluated in JAX's default precision whatever its own: float64 once x64 is enabled. NaN where the
    model, its θ included, or the data is not finite: a feature map that is flat far out would not show it.

    Attributes:
        linear_W: The best linear predictor, shape (d,) or (m, d).
        linear_objective: Its mean loss.
        loss: The loss of both.
        bounds: Whether to record bounds on the gap.
    """

    linear_W: Float[Array, "*m d"]
    linear_objective: Float[Array, ""]
    loss: Loss = eqx.field(static=True)
    bounds: bool = eqx.field(static=True, default=True)

    @classmethod
    def against(cls, fit: LinearFit, loss: str | Loss, *, bounds: bool = True) -> GapMeasure:
        """The measurements against that linear fit.

        Raises:
            InvalidInputError: If the fit is of another loss, or has numbers that are not finite.
        """
        check_kind(fit, as_loss(loss))
        return cls(jnp.asarray(fit.W), jnp.asarray(fit.objective), as_loss(loss), bounds)

    def check(self, X: Any, y: Any) -> None:
        """Check that the linear predictor was fitted to these samples; asked before training begins.

        Raises:
            InvalidInputError: If it has another mean loss on them than that of its fit.
        """
        if not is_traced(X, y, self.linear_W, self.linear_objective):
            check_mean_loss(self.linear_W, self.linear_objective, X, y, self.loss)

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n *m"]) -> dict[str, Float[Array, ""]]:
        terms, columns = self._terms(model, X, y)
        measured = {name: getattr(terms, name) for name in ("objective", "linear_predictor_gap", *columns)}
        for name in ("W_rank", "kernel_dimension"):  # −1 where the point is not finite
            if name in measured:
                measured[name] = jnp.where(measured[name] < 0, jnp.nan, measured[name])
        return nan_unless(all_finite(model, X, y), measured)

    def _terms(self, model: Any, X: Any, y: Any) -> tuple[Any, tuple[str, ...]]:
        linear_W, linear_objective = self.linear_W, self.linear_objective
        if self.bounds and isinstance(model, ResidualUnit):
            point = in_default_precision(point_of_unit(model, X, y, self.loss))
            several = () if point.W.ndim == 1 else _OF_SEVERAL
            linear_W, linear_objective = jnp.asarray(linear_W, float), jnp.asarray(linear_objective, float)
            return gap_certificate(point, linear_W, linear_objective), _OF_ONE_OUTPUT + several
        if self.bounds and isinstance(model, DeepResidualNetwork):
            return deep_gap_certificate(model, X, y, linear_W, linear_objective, loss=self.loss), _OF_DEPTH
        return model_certificate(ModelPoint(model, X, y, self.loss), linear_W, linear_objective), ()


class StationarityMeasure(eqx.Module):
    """What `GapMeasure` records of a residual unit, λ_min of its partial Hessian with evidence, and two theorems.

    Of one output Theorem 3 is taken at the smallest ε for which the point is an ε-SOPSP, in the ball max{‖w‖, ‖V‖} that
    it lies on: `linear_predictor_gap` ≤ `theorem3_bound`. Theorem 2 is taken at (0, V, θ), as it speaks of points with
    w = 0: `theorem2_slack` ≥ 0. Both up to rounding.

    Attributes:
        gap: The measurements of the gap.
    """

    gap: GapMeasure

    @classmethod
    def against(cls, fit: LinearFit, loss: str | Loss) -> StationarityMeasure:
        """The measurements against that linear fit."""
        return cls(GapMeasure.against(fit, loss))

    def check(self, X: Any, y: Any) -> None:
        """As of `GapMeasure`."""
        self.gap.check(X, y)

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n *m"]) -> dict[str, Float[Array, ""]]:
        if not isinstance(model, ResidualUnit):
            raise InvalidInputError(
                f"model is a {type(model).__name__}, but λ_min is measured along the training of residual units only: "
                "use GapMeasure, and analyze at the end"
            )
        point, measured = in_default_precision(point_of_unit(model, X, y, self.gap.loss)), self.gap(model, X, y)
        smallest = smallest_partial_eigenvalue(point)
        names = ("lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_min_residual")
        further = {name: getattr(smallest, name) for name in names}
        further["lambda_min_converged"] = smallest.converged.astype(float)
        if point.W.ndim == 1:
            linear_w = jnp.asarray(self.gap.linear_W, float)
            linear_objective = jnp.asarray(self.gap.linear_objective, float)
            constants = lipschitz_constants_terms(point, jnp.maximum(measured["w_norm"], measured["V_norm"]))
            epsilon = implied_epsilon(measured["partial_grad_norm"], smallest.lambda_min_lower, constants.mu2)
            further |= {
                "theorem2_slack": theorem2_terms(point, linear_w, linear_objective).slack,
                "theorem3_bound": theorem3_terms(epsilon, jnp.linalg.norm(linear_w), *constants).bound,
            }
        return measured | nan_unless(all_finite(measured["objective"], smallest.lambda_min), further)


class Checkpoints(eqx.Module):
    """What another measure records, and beside it the weights themselves, so that points on the way can be revisited.

    The history then has a row of all trainable weights a measurement, in its column `weights`.

    Attributes:
        measure: What else to record.
    """

    measure: Callable[[Any, Any, Any], dict[str, Any]]

    def check(self, X: Any, y: Any) -> None:
        """What the other measure has to check of the samples."""
        check_measure(self.measure, X, y)

    def __call__(self, model: Any, X: Any, y: Any) -> dict[str, Any]:
        flat, _ = ravel_pytree(eqx.filter(model, trainable(model)))
        return self.measure(model, X, y) | {"weights": flat}

    @staticmethod
    def restore(model: Any, weights: Any) -> Any:
        """The model with the weights of one row of the history."""
        moving, fixed = eqx.partition(model, trainable(model))
        return eqx.combine(ravel_pytree(moving)[1](jnp.asarray(weights)), fixed)
