"""A bound on the gap of any network, from the linear predictors that its tangent features make."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from resflow.arrays import as_array, as_number
from resflow.certificates._tangent_jax import JaxTangent
from resflow.errors import InvalidInputError
from resflow.labels import as_labels
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss, as_loss
from resflow.models.modes import check_evaluation_mode
from resflow.point import check_prediction_shape
from resflow.status import Status

__all__ = ["TangentCertificate", "tangent_certificate"]

_ROUNDS = 40
_SHARE = 0.1
"""Of what the tolerance allows, what the normal equations' residual may take."""


class TangentCertificate(NamedTuple):
    """How far a network is above a comparator q, and upper bounds on it by a direction β in its parameters.

    With J the Jacobian of the predictions in the parameters and r = p + Jβ − q, at every point and for every β, up to
    rounding: gap ≤ gap_certificate = gradient_form ≤ bound ≤ norm_bound. NaN where the network is not finite.

    Attributes:
        gap: F − mean ℓ(q_i; y_i). Negative: better than the comparator.
        gap_certificate: mean ⟨ℓ'_i, p_i − q_i⟩, by convexity.
        gradient_form: −⟨∇F, β⟩ + misfit, the same number.
        bound: ‖∇F‖ ‖β‖ + |misfit|.
        norm_bound: ‖∇F‖ ‖β‖ + slope_size · residual: what is left of it at a stationary point is how well the tangent
            features can make the comparator. The damping is chosen to make it small.
        norm_bound_infimum: No direction has a smaller norm_bound, by duality.
        grad_norm: ‖∇F‖ in all parameters.
        distance: ‖β‖; for a network that is linear in its head ‖α − ϑ_head‖, with p = Jϑ_head and α = ϑ_head + β.
        misfit: mean ⟨ℓ'_i, r_i⟩.
        residual: sqrt(mean ‖r_i‖²), in units of the predictions.
        slope_size: sqrt(mean ‖ℓ'_i‖²).
        objective: F, the mean loss per sample.
        direction: β, with the structure of the model's parameters; of a torch module a dictionary by their names.
        damping: λ of the damped least squares ‖Jβ − (q − p)‖² + λ²‖β‖²; infinite for β = 0.
        iterations: Steps of LSMR, each with one product by J and one by Jᵀ.
        status: `CONVERGED` if norm_bound is within the tolerance of norm_bound_infimum. The bounds hold in any case.
    """

    gap: float
    gap_certificate: float
    gradient_form: float
    bound: float
    norm_bound: float
    norm_bound_infimum: float
    grad_norm: float
    distance: float
    misfit: float
    residual: float
    slope_size: float
    objective: float
    direction: Any
    damping: float
    iterations: int
    status: Status

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED


_NOT_FINITE = TangentCertificate(
    gap=math.nan,
    gap_certificate=math.nan,
    gradient_form=math.nan,
    bound=math.nan,
    norm_bound=math.nan,
    norm_bound_infimum=math.nan,
    grad_norm=math.nan,
    distance=math.nan,
    misfit=math.nan,
    residual=math.nan,
    slope_size=math.nan,
    objective=math.nan,
    direction=None,
    damping=math.nan,
    iterations=0,
    status=Status.DIVERGED,
)


@runtime_checkable
class Tangent(Protocol):
    """A network's predictions at its parameters, flattened, and products with their Jacobian J, in float64."""

    predictions: np.ndarray

    def along(self, direction: np.ndarray) -> np.ndarray:
        """Jβ, of the shape of the predictions."""

    def pulled(self, weights: np.ndarray) -> np.ndarray:
        """Jᵀv of v in the shape of the predictions, shape (D,)."""

    def least_squares(self, target: np.ndarray, damping: float, steps: int, tolerance: float) -> tuple[np.ndarray, int]:
        """The β that makes ‖Jβ − target‖² + damping² ‖β‖² least, and how many steps of LSMR that took."""

    def structured(self, direction: np.ndarray) -> Any:
        """A vector of length D with the structure of the parameters."""


def tangent_certificate(
    model: Any,
    X: Any,
    y: Any,
    *,
    loss: str | Loss,
    against: LinearFit | Any,
    tolerance: float = 0.01,
    max_iterations: int = 500,
) -> TangentCertificate:
    """Bounds on how far any differentiable network is above a linear predictor, or above any other predictions q.

    By convexity of the loss alone, for every direction β in the space of all parameters,

        F − mean ℓ(q_i; y_i) ≤ mean ⟨ℓ'_i, p_i − q_i⟩ = −⟨∇F, β⟩ + mean ⟨ℓ'_i, r_i⟩,     r = p + Jβ − q,
                             ≤ ‖∇F‖ ‖β‖ + sqrt(mean ‖ℓ'_i‖²) sqrt(mean ‖r_i‖²),

    J the Jacobian of the predictions. So a network is not far above any q that a small step in its parameters, taken
    to first order, would make of it, once its gradient is small. The β is a damped least-squares solution of
    Jβ ≈ q − p, by LSMR with one product by J and one by Jᵀ a step: J is never formed. The damping is the one for which
    the last line is least; a dual bound shows how near to that it came. Theorem 1's bound on residual units and that
    on deep residual networks are those of directions with r = 0.

    Always in float64: parameters and inputs are cast, in copies. All samples go through the network at once.

    Args:
        model: Any JAX pytree that maps X to predictions, shape (n,) or (n, m), its floating-point arrays the parameters
            (`jax.tree_util.Partial(predict, parameters)` of a function), or a torch module in evaluation mode.
        X: Samples, shape (n, ...), as the model takes them.
        y: Labels, as a `Point` takes them.
        loss: A loss or its name.
        against: The linear predictor of `fit_linear_predictor` on the samples, flattened to (n, d); or predictions q of
            the shape of the model's, e.g. of the best linear predictor on an inner layer.
        tolerance: By how much of itself norm_bound may lie above the least one.
        max_iterations: Steps of LSMR at most for each damping that is tried.

    Raises:
        InvalidInputError: If shapes do not fit, the model has no parameters, a torch module is in training mode, or
            an option is out of range.

    References:
        Kawaguchi 2019 (arXiv:1904.03673), whose induced model is linear in the tangent features; Fong and Saunders
        2011 for LSMR. The bound is this project's.
    """
    loss = as_loss(loss)
    as_number("tolerance", tolerance, "must be between 0 and 1", lambda share: 0 < share < 1)
    max_iterations = as_number(
        "max_iterations", max_iterations, "must be at least 1", lambda most: 1 <= most <= 1e9, whole=True
    )
    tangent, labels = _tangent(model, X, y, loss)
    p = tangent.predictions
    q = _comparator(against, X, labels, p, loss)
    n = len(p)
    if loss.shift_invariant:  # what is added to all outputs of a sample does not count
        q = q - np.mean(q, axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        objective, other = float(np.mean(loss.value(p, labels))), float(np.mean(loss.value(q, labels)))
        slopes = loss.derivative(p, labels)
        gradient = tangent.pulled(slopes) / n
        grad_norm, slope_size = float(np.linalg.norm(gradient)), float(np.linalg.norm(slopes)) / math.sqrt(n)
    target = q - p
    if not np.isfinite([objective, other, grad_norm, slope_size, float(np.sum(target))]).all():
        nothing = tangent.structured(np.full(gradient.shape, np.nan))
        return _NOT_FINITE._replace(direction=nothing)
    found = _search(tangent, target, grad_norm, slope_size / math.sqrt(n), tolerance, max_iterations)
    r = tangent.along(found.direction) - target
    misfit, distance = float(np.sum(slopes * r)) / n, float(np.linalg.norm(found.direction))
    residual = float(np.linalg.norm(r)) / math.sqrt(n)
    norm_bound = grad_norm * distance + slope_size * residual
    near = norm_bound - found.dual <= tolerance * norm_bound
    return TangentCertificate(
        gap=objective - other,
        gap_certificate=float(np.sum(slopes * -target)) / n,
        gradient_form=misfit - float(gradient @ found.direction),
        bound=grad_norm * distance + abs(misfit),
        norm_bound=norm_bound,
        norm_bound_infimum=found.dual,
        grad_norm=grad_norm,
        distance=distance,
        misfit=misfit,
        residual=residual,
        slope_size=slope_size,
        objective=objective,
        direction=tangent.structured(found.direction),
        damping=found.damping,
        iterations=found.iterations,
        status=Status.CONVERGED if near else Status.ITERATION_LIMIT,
    )


def _tangent(model: Any, X: Any, y: Any, loss: Loss) -> tuple[Tangent, np.ndarray]:
    """The network's tangent, and the labels as the loss takes them; predictions are centred where only that counts."""
    torch = sys.modules.get("torch")
    _check_sample_axis(X, y)
    if torch is not None and isinstance(model, torch.nn.Module):
        from resflow.certificates._tangent_torch import TorchTangent

        samples = X if isinstance(X, torch.Tensor) else as_array("X", X, finite=True)
        tangent: Tangent = TorchTangent(model, samples, centred=loss.shift_invariant)
    elif callable(model):
        check_evaluation_mode(model)
        tangent = JaxTangent(model, as_array("X", X, finite=True), centred=loss.shift_invariant)
    else:
        raise InvalidInputError(f"model is a {type(model).__name__}, but must map samples to predictions")
    p = tangent.predictions
    labels = np.asarray(as_labels(y, loss, n=len(p) if p.ndim else None))
    check_prediction_shape(p.shape, len(labels), labels, loss)
    return tangent, labels


def _check_sample_axis(X: Any, y: Any) -> None:
    """Check that samples have a first axis of as many as there are labels, before a model is called with them."""
    given = [("X", X), ("y", y)]
    samples, labels = (
        tuple(each.shape) if hasattr(each, "shape") else as_array(name, each).shape for name, each in given
    )
    if not samples or (labels and labels[0] != samples[0]):
        count = f"y has {labels[0]} labels" if labels else "there is one label a sample"
        raise InvalidInputError(
            f"X has shape {samples}, but its first axis must be that of the samples, and {count}: a single sample x is "
            "X = x[None]"
        )
    if samples[0] == 0:
        raise InvalidInputError(f"X has shape {samples}, but there must be at least one sample")


def _comparator(against: Any, X: Any, y: np.ndarray, p: np.ndarray, loss: Loss) -> np.ndarray:
    if isinstance(against, LinearFit):
        rows = np.asarray(as_array("X", X, finite=True))
        rows = rows.reshape(len(rows), -1)
        check_baseline(against, rows, y, loss)
        against = rows @ against.W.T
    q = np.asarray(as_array("against", against, finite=True), dtype=float)
    if q.shape != p.shape:
        raise InvalidInputError(
            f"against has shape {q.shape}, but the model's predictions have {p.shape}: pass a linear fit of as many "
            "outputs, or predictions of the same samples"
        )
    return q


class _Found(NamedTuple):
    direction: np.ndarray
    value: float
    dual: float
    damping: float
    iterations: int


def _search(tangent: Tangent, s: np.ndarray, a: float, b: float, tolerance: float, steps: int) -> _Found:
    """The β of damped least squares that makes a‖β‖ + b‖Jβ − s‖ least, over the damping, with a bound on the least.

    Along the curve of (‖β‖, ‖r‖) that the damping λ goes through, d‖r‖/d‖β‖ = −λ²‖β‖/‖r‖, so that the least is where
    λ² = a‖r‖ / (b‖β‖). Every ν with ‖ν‖ ≤ b and ‖Jᵀν‖ ≤ a shows that nothing is below ⟨ν, s⟩; multiples of −r are
    such, and attain the least at the best β.
    """

    def dual(r: np.ndarray) -> float:
        size, pulled = float(np.linalg.norm(r)), float(np.linalg.norm(tangent.pulled(r)))
        if size == 0.0:
            return 0.0
        return max(-float(np.sum(r * s)) * min(b / size, a / pulled if pulled > 0.0 else math.inf), 0.0)

    size, pulled = float(np.linalg.norm(s)), tangent.pulled(s)
    best = _Found(np.zeros(pulled.shape), b * size, dual(-s), math.inf, 0)
    largest = float(np.linalg.norm(pulled)) / size if size > 0.0 else 0.0
    if largest == 0.0:
        return best
    low, high = 1e-12 * largest, math.inf  # of λ
    damping = largest
    # ‖Jᵀr‖ is to be known to a part of a‖r‖/b, by a solver that goes by ‖J‖‖r‖
    solved = min(max(_SHARE * tolerance * a / (b * largest), 1e-13), 1e-3)
    for _ in range(_ROUNDS):
        if best.value - best.dual <= tolerance * best.value:
            break
        direction, taken = tangent.least_squares(s, damping, steps, solved)
        r = tangent.along(direction) - s
        x, left = float(np.linalg.norm(direction)), float(np.linalg.norm(r))
        if not (math.isfinite(x) and math.isfinite(left)):
            break
        value, iterations = a * x + b * left, best.iterations + taken
        better = _Found(direction, value, best.dual, damping, iterations) if value < best.value else best
        best = better._replace(dual=max(best.dual, dual(r)), iterations=iterations)
        wanted = math.sqrt(a * left / (b * x)) if b * x > 0.0 else math.inf
        if wanted > damping:
            low = max(low, damping)
        else:
            high = min(high, damping)
        # twice the step of the fixed point, which goes the right way but too slowly, within what is known
        wanted = wanted**2 / damping if math.isfinite(wanted) else math.inf
        following = min(max(wanted, 1e-4 * damping), 1e4 * damping)
        if not low < following < high:
            following = math.sqrt(low * high) if math.isfinite(high) else 10.0 * damping
        damping = following
    return best
