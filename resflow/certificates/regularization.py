"""The certificate of a ridge-regularised objective: how much of the guarantee the regulariser takes away."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, analyse, as_number, check_point
from resflow.floating import all_finite, nan_unless, norm
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses.scalar import Loss, as_loss

__all__ = ["RidgeGapCertificate", "check_ridge", "ridge_gap_certificate", "ridge_gap_certificate_terms"]


class RidgeGapCertificate(NamedTuple):
    """The gap of one point under F + R, R = ½ ridge_w ‖w‖² + ½ ridge_V ‖V‖_F², and bounds on it.

    With G = (w − u, w uᵀV / ‖w‖²), u the linear predictor. At every point, up to rounding:
    gap ≤ certificate = stationarity_term + ridge_term ≤ frobenius_bound. At a stationary point of F + R the first
    term is 0 and the certificate is the second, which may be positive. The split does not exist at w = 0: the two
    terms are NaN there and frobenius_bound infinite, while the certificate holds. At a point that is not finite, in its
    predictions or its linear predictor, all are NaN.

    Attributes:
        gap: F(w, V, θ) − F_lin(u), without the ridge terms of either.
        certificate: mean ℓ'_i (p_i − uᵀx_i).
        stationarity_term: ⟨G, ∇(F + R)⟩.
        ridge_term: −⟨G, ∇R⟩ = ridge_w (uᵀw − ‖w‖²) − ridge_V (Vᵀu)ᵀ(Vᵀw) / ‖w‖².
        frobenius_bound: ‖G‖_F ‖∇(F + R)‖_F + ridge_term.
        partial_grad_norm: ‖∇(F + R)‖_F in (w, V).
        regularized_objective: F + R.
        regularized_gap: F + R − (F_lin(u) + ½ ridge_w ‖u‖²), what the optimiser of F + R lost to linear predictors.
        regularized_certificate: certificate + R − ½ ridge_w ‖u‖², an upper bound on regularized_gap.
    """

    gap: Float[Array, ""]
    certificate: Float[Array, ""]
    stationarity_term: Float[Array, ""]
    ridge_term: Float[Array, ""]
    frobenius_bound: Float[Array, ""]
    partial_grad_norm: Float[Array, ""]
    regularized_objective: Float[Array, ""]
    regularized_gap: Float[Array, ""]
    regularized_certificate: Float[Array, ""]


def ridge_gap_certificate(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit,
    ridge_w: float = 0.0,
    ridge_V: float = 0.0,
) -> RidgeGapCertificate:
    """F − F_lin(u) ≤ ⟨G, ∇(F + R)⟩ − ⟨G, ∇R⟩ for the ridge term R = ½ ridge_w ‖w‖² + ½ ridge_V ‖V‖_F².

    NumPy arrays are analysed in float64, JAX arrays in their own precision; works under jit and vmap.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        linear_fit: The linear predictor u. For the regularised gap to be that to the best regularised linear
            predictor, fit it with ridge=ridge_w.
        ridge_w: Coefficient of ½‖w‖², per mean loss.
        ridge_V: Coefficient of ½‖V‖_F².

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, or a coefficient is negative.

    References:
        Shamir 2018 (arXiv:1804.06739), section 4, where a ridge term makes a bad local minimum.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    check_ridge(ridge_w, ridge_V)
    check_baseline(linear_fit, X, y, loss)
    point = (w, V, features, X, y, linear_fit.w, linear_fit.objective, ridge_w, ridge_V)
    return analyse(ridge_gap_certificate_terms, *point, loss=loss)


def check_ridge(ridge_w: float, ridge_V: float) -> None:
    """Check the coefficients of a ridge term; traced ones pass unseen.

    Raises:
        InvalidInputError: If one is negative or not finite.
    """
    for name, value in (("ridge_w", ridge_w), ("ridge_V", ridge_V)):
        as_number(name, value, "must be a finite number, at least 0; 0 is no ridge term", lambda r: 0 <= r < np.inf)


@partial(jax.jit, static_argnames="loss")
def ridge_gap_certificate_terms(
    w: Float[Array, "d"],
    V: Float[Array, "d k"],
    features: Float[Array, "n k"],
    X: Float[Array, "n d"],
    y: Real[Array, "n"],
    linear_w: Float[Array, "d"],
    linear_objective: float | Float[Array, ""],
    ridge_w: float | Float[Array, ""],
    ridge_V: float | Float[Array, ""],
    *,
    loss: Loss,
) -> RidgeGapCertificate:
    """`ridge_gap_certificate` against `linear_w` of mean loss `linear_objective`, without ridge term, unchecked."""
    n = X.shape[0]
    a = X + features @ V.T
    p = a @ w
    slope = loss.derivative(p, y)
    objective = jnp.mean(loss.value(p, y))
    certificate = jnp.mean(slope * (p - X @ linear_w))
    g = slope @ features / n
    grad_w = slope @ a / n + ridge_w * w
    grad_V = jnp.outer(w, g) + ridge_V * V
    grad_norm = jnp.hypot(norm(grad_w), norm(grad_V))

    w_norm = norm(w)
    w_unit = w / jnp.where(w_norm > 0, w_norm, jnp.nan)
    pulled = linear_w @ V
    stationarity_term = (w - linear_w) @ grad_w + pulled @ (w_unit @ grad_V) / w_norm
    ridge_term = ridge_w * (linear_w - w) @ w - ridge_V * (pulled @ (w_unit @ V)) / w_norm
    direction_norm = jnp.hypot(norm(w - linear_w), norm(pulled) / w_norm)
    ridge = 0.5 * (ridge_w * jnp.sum(w**2) + ridge_V * jnp.sum(V**2))
    linear_ridge = 0.5 * ridge_w * jnp.sum(jnp.square(linear_w))
    terms = RidgeGapCertificate(
        gap=objective - linear_objective,
        certificate=certificate,
        stationarity_term=jnp.where(w_norm > 0, stationarity_term, jnp.nan),
        ridge_term=jnp.where(w_norm > 0, ridge_term, jnp.nan),
        frobenius_bound=jnp.where(w_norm > 0, direction_norm * grad_norm + ridge_term, jnp.inf),
        partial_grad_norm=grad_norm,
        regularized_objective=objective + ridge,
        regularized_gap=objective + ridge - (linear_objective + linear_ridge),
        regularized_certificate=certificate + ridge - linear_ridge,
    )
    return nan_unless(all_finite(p, slope, objective, linear_w, terms.gap), terms)
