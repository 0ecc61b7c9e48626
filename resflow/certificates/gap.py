"""Bounds on the linear-predictor gap of a residual unit that a point can evaluate about itself."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, analyse, as_array, check_labels, check_point, check_samples
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless, norm, product, ratio, spectral_norm
from resflow.linear.baseline import check_baseline, check_kind
from resflow.linear.predictor import LinearFit
from resflow.losses.scalar import Loss, as_loss

__all__ = ["GapCertificate", "HeldOutGap", "gap_certificate", "gap_certificate_terms", "held_out_gap"]


class GapCertificate(NamedTuple):
    """The linear-predictor gap of one point (w, V, θ), and three upper bounds on it.

    At every point, up to rounding: gap ≤ certificate ≤ frobenius_bound ≤ theorem1_bound.
    All are in the units of the mean loss per sample. The last two are infinite at w = 0. At a point that is not finite,
    in its predictions or its linear predictor, all are NaN.

    Attributes:
        gap: F(w, V, θ) − F_lin(w*). Negative: better than the best linear predictor w*.
        certificate: ⟨G, ∇F⟩ = mean ℓ'_i (p_i − w*ᵀx_i), with G = (w − w*, w w*ᵀV / ‖w‖²).
        frobenius_bound: ‖G‖_F ‖∇F‖_F.
        theorem1_bound: ‖∇F‖_F sqrt(2‖w‖² + ‖w*‖² (2 + ‖V‖²/‖w‖²)), ‖V‖ the spectral norm.
        partial_grad_norm: ‖∇F‖_F with respect to (w, V), θ held fixed.
        objective: F(w, V, θ), the mean loss per sample.
        w_norm: ‖w‖.
        V_norm: ‖V‖, the spectral norm.
    """

    gap: Float[Array, ""]
    certificate: Float[Array, ""]
    frobenius_bound: Float[Array, ""]
    theorem1_bound: Float[Array, ""]
    partial_grad_norm: Float[Array, ""]
    objective: Float[Array, ""]
    w_norm: Float[Array, ""]
    V_norm: Float[Array, ""]


def gap_certificate(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit,
) -> GapCertificate:
    """The linear-predictor gap of p(x) = wᵀ(x + V f(x)) and its certificates, for the cost of one gradient.

    NumPy arrays are analysed in float64, JAX arrays in their own precision; works under jit and vmap.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        linear_fit: The linear predictor to compare with, of `fit_linear_predictor` on the same X, y and loss.

    Returns:
        The gap and its upper bounds, mean loss per sample.

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, or linear_fit is of another loss, other data
            or not finished.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 1 and its proof.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    check_baseline(linear_fit, X, y, loss)
    return analyse(gap_certificate_terms, w, V, features, X, y, linear_fit.w, linear_fit.objective, loss=loss)


@partial(jax.jit, static_argnames="loss")
def gap_certificate_terms(
    w: Float[Array, "d"],
    V: Float[Array, "d k"],
    features: Float[Array, "n k"],
    X: Float[Array, "n d"],
    y: Real[Array, "n"],
    linear_w: Float[Array, "d"],
    linear_objective: float | Float[Array, ""],
    *,
    loss: Loss,
) -> GapCertificate:
    """`gap_certificate` against the linear predictor `linear_w` of mean loss `linear_objective`, unchecked."""
    n = X.shape[0]
    V_features = features @ V.T
    p = (X + V_features) @ w
    slope = loss.derivative(p, y)
    objective = jnp.mean(loss.value(p, y))

    # The mean of ℓ'(p − w*ᵀx) is <G, ∇F> wherever w ≠ 0, and bounds the gap, by convexity alone, also at w = 0.
    certificate = jnp.mean(slope * (p - X @ linear_w))

    gradient = norm(slope @ (X + V_features) / n), norm(slope @ features / n)  # of ∇_w F, and of g in ∇_V F = w gᵀ
    w_norm, linear_norm, V_norm = norm(w), norm(linear_w), spectral_norm(V)
    frobenius = bound_over_w(gradient, (norm(w - linear_w),), norm(linear_w @ V), w_norm)
    root_2 = math.sqrt(2.0)
    theorem1 = bound_over_w(gradient, (root_2 * w_norm, root_2 * linear_norm), linear_norm * V_norm, w_norm)
    terms = GapCertificate(
        gap=objective - linear_objective,
        certificate=certificate,
        frobenius_bound=jnp.where(w_norm == 0, jnp.inf, frobenius),
        theorem1_bound=jnp.where(w_norm == 0, jnp.inf, theorem1),
        partial_grad_norm=norm(jnp.stack([gradient[0], w_norm * gradient[1]])),
        objective=objective,
        w_norm=w_norm,
        V_norm=V_norm,
    )
    return nan_unless(all_finite(p, slope, objective, linear_w, terms.gap), terms)


def bound_over_w(
    gradient: tuple[Float[Array, ""], Float[Array, ""]],
    along_w: tuple[Float[Array, ""], ...],
    along_V: Float[Array, ""],
    w_norm: Float[Array, ""],
) -> Float[Array, ""]:
    """sqrt(Σ_i r_i² + s²/‖w‖²) · sqrt(a² + (‖w‖b)²), multiplied out.

    As the product of two factors it would be 0 where ‖w‖b underflows, below the gap that s b bounds.

    Args:
        gradient: a and b.
        along_w: The r_i.
        along_V: s.
        w_norm: ‖w‖.
    """
    a, b = gradient
    terms = [product(r, factor) for r in along_w for factor in (a, w_norm * b)]
    return norm(jnp.stack([*terms, product(ratio(along_V, w_norm), a), product(along_V, b)]))


class HeldOutGap(NamedTuple):
    """How a model compares with a linear predictor on samples that neither was fitted to.

    NaN where a prediction is not finite, although its loss may be.

    Attributes:
        gap: Mean loss of the model minus that of the linear predictor. Negative: the model is better.
        standard_error: Of the gap, from the n differences sample by sample; NaN for a single sample.
        objective: Mean loss of the model.
        objective_error: Its standard error.
        linear_objective: Mean loss of the linear predictor.
        linear_objective_error: Its standard error.
    """

    gap: float
    standard_error: float
    objective: float
    objective_error: float
    linear_objective: float
    linear_objective_error: float


def held_out_gap(
    predictions: Real[Array, "n"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit,
) -> HeldOutGap:
    """The gap of a model's predictions to a linear predictor fitted on other samples, with its standard error.

    Unlike the gap on the training set it has no certificate: the theory bounds the training objective only.

    Args:
        predictions: The model's p(x_i), shape (n,).
        X: Samples as rows, shape (n, d), in the units that the linear predictor was fitted in.
        y: Labels, shape (n,).
        loss: A loss or its name.
        linear_fit: The linear predictor, of `fit_linear_predictor` on the training set.

    Raises:
        InvalidInputError: If labels do not suit the loss.
    """
    loss = as_loss(loss)
    check_labels(y, loss)
    check_kind(linear_fit, loss)
    p, X, y = (
        np.asarray(as_array(name, values, axes), dtype=float)
        for name, values, axes in (("predictions", predictions, 1), ("X", check_samples(X), 2), ("y", y, 1))
    )
    if not p.shape == y.shape == X.shape[:1] or linear_fit.w.shape != X.shape[1:]:
        raise InvalidInputError(
            f"predictions have shape {p.shape}, X {X.shape}, y {y.shape} and the linear predictor "
            f"{linear_fit.w.shape}, but they must be (n,), (n, d), (n,) and (d,)"
        )

    def losses(p: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it says so itself
            return np.where(np.isfinite(p), loss.value(p, y), np.nan)

    model, linear = losses(p), losses(X @ np.asarray(linear_fit.w))

    def mean_and_error(values: np.ndarray) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan

    return HeldOutGap(*mean_and_error(model - linear), *mean_and_error(model), *mean_and_error(linear))
