"""Bounds on the linear-predictor gap of a residual unit with vector-valued output, of any rank."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Real

from resflow.arrays import Array, analyse, as_array, check_samples
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless, norm, spectral_norm
from resflow.linear.baseline import check_baseline
from resflow.linear.vector import VectorLinearFit
from resflow.losses.vector import VectorLoss, as_vector_loss, check_targets

__all__ = ["VectorGapCertificate", "check_vector_point", "vector_gap_certificate", "vector_gap_certificate_terms"]


class VectorGapCertificate(NamedTuple):
    """The linear-predictor gap of one point (W, V, θ), and two upper bounds on it.

    At every point, up to rounding: gap ≤ certificate = gradient_term + rank_term ≤ norm_bound, whatever W's rank.
    All are in the units of the mean loss per sample. At a point that is not finite, in its predictions or its linear
    predictor, all are NaN and the rank is −1.

    Attributes:
        gap: F(W, V, θ) − F_lin(W*). Negative: better than the linear predictor W*.
        certificate: mean ⟨ℓ'_i, p_i − W*x_i⟩.
        gradient_term: ⟨G, ∇F⟩ with G = (W − W*, W⁺W*V), which vanishes at stationary points.
        rank_term: mean ⟨ℓ'_i, (I − WW⁺)W*V f_i⟩, which vanishes where every ℓ'_i lies in W's column space: at full
            row rank, and for the softmax loss, whose ℓ'_i sum to 0, also where that space holds all such vectors.
        norm_bound: ‖∇F‖_F sqrt(‖W − W*‖_F² + (‖W*‖_F ‖V‖ / s_r)²) + rank_term, s_r the smallest singular value of W
            that is not zero and ‖V‖ the spectral norm.
        smallest_singular_value: The m-th singular value of W; 0 if m > d.
        rank: Of W: how many singular values exceed rounding, max(m, d) ε times the largest.
        partial_grad_norm: ‖∇F‖_F with respect to (W, V), θ held fixed.
        objective: F(W, V, θ), the mean loss per sample.
        W_norm: ‖W‖, the spectral norm.
        V_norm: ‖V‖, the spectral norm.
    """

    gap: Float[Array, ""]
    certificate: Float[Array, ""]
    gradient_term: Float[Array, ""]
    rank_term: Float[Array, ""]
    norm_bound: Float[Array, ""]
    smallest_singular_value: Float[Array, ""]
    rank: Int[Array, ""]
    partial_grad_norm: Float[Array, ""]
    objective: Float[Array, ""]
    W_norm: Float[Array, ""]
    V_norm: Float[Array, ""]


def vector_gap_certificate(
    W: Real[Array, "m d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    Y: Real[Array, "n ..."],
    *,
    loss: str | VectorLoss,
    linear_fit: VectorLinearFit,
) -> VectorGapCertificate:
    """The linear-predictor gap of p(x) = W(x + V f(x)) and its certificates, for the cost of one gradient.

    F − F_lin(W*) ≤ mean ⟨ℓ'_i, p_i − W*x_i⟩ by convexity, and with ∇_W F = mean ℓ'_i (x_i + V f_i)ᵀ and
    ∇_V F = Wᵀ mean ℓ'_i f_iᵀ that is ⟨G, ∇F⟩ + mean ⟨ℓ'_i, (I − WW⁺)W*V f_i⟩.

    NumPy arrays are analysed in float64, JAX arrays in their own precision; works under jit and vmap.

    Args:
        W: Output weights, shape (m, d).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        Y: Classes 0, ..., m − 1, shape (n,), for the softmax loss; vectors, shape (n, m), otherwise.
        loss: A loss of vector-valued predictions or its name.
        linear_fit: The linear predictor to compare with, of `fit_vector_linear_predictor` on the same data and loss.

    Raises:
        InvalidInputError: If shapes disagree or labels do not suit the loss.

    References:
        Shamir 2018 (arXiv:1804.06739), appendix, for W of full row rank; Kawaguchi 2018 (arXiv:1810.09038) for local
        minima at any rank.
    """
    loss = as_vector_loss(loss)
    check_vector_point(W, V, features, X, Y, loss)
    check_baseline(linear_fit, X, Y, loss)
    arrays = (W, V, features, X, Y, linear_fit.W, linear_fit.objective)
    return analyse(vector_gap_certificate_terms, *arrays, loss=loss)


@partial(jax.jit, static_argnames="loss")
def vector_gap_certificate_terms(
    W: Float[Array, "m d"],
    V: Float[Array, "d k"],
    features: Float[Array, "n k"],
    X: Float[Array, "n d"],
    Y: Real[Array, "n ..."],
    linear_W: Float[Array, "m d"],
    linear_objective: float | Float[Array, ""],
    *,
    loss: VectorLoss,
) -> VectorGapCertificate:
    """`vector_gap_certificate` against the linear predictor `linear_W` of that mean loss, unchecked."""
    n = X.shape[0]
    a = X + features @ V.T
    p = a @ W.T
    slope = loss.derivative(p, Y)
    objective = jnp.mean(loss.value(p, Y))
    finite = all_finite(p, slope, objective, linear_W, linear_objective)
    certificate = jnp.sum(slope * (p - X @ linear_W.T)) / n

    R = slope.T @ features / n
    grad_W, grad_V = slope.T @ a / n, W.T @ R
    grad_norm = jnp.hypot(norm(grad_W), norm(grad_V))

    # LAPACK must not be given what is not finite.
    left, singular, _ = jnp.linalg.svd(jnp.where(finite, W, 0.0), full_matrices=False)
    positive = singular > max(W.shape) * jnp.finfo(W.dtype).eps * singular[0]
    pulled = linear_W @ V
    inside = (left * positive) @ (left.T @ pulled)
    rank_term = jnp.sum(R * (pulled - inside))
    gradient_term = jnp.sum((W - linear_W) * grad_W) + jnp.sum(R * inside)

    V_norm = spectral_norm(V)
    smallest_positive = jnp.min(jnp.where(positive, singular, jnp.inf))
    direction = jnp.hypot(norm(W - linear_W), norm(linear_W) * V_norm / smallest_positive)
    terms = VectorGapCertificate(
        gap=objective - linear_objective,
        certificate=certificate,
        gradient_term=gradient_term,
        rank_term=rank_term,
        norm_bound=grad_norm * direction + rank_term,
        smallest_singular_value=singular[-1] if W.shape[0] <= W.shape[1] else jnp.zeros((), W.dtype),
        rank=jnp.sum(positive),
        partial_grad_norm=grad_norm,
        objective=objective,
        W_norm=singular[0],
        V_norm=V_norm,
    )
    return nan_unless(finite, terms)


def check_vector_point(W: Array, V: Array, features: Array, X: Array, Y: Array, loss: VectorLoss) -> None:
    """Check that the arrays of one point of a residual unit with vector-valued output fit together.

    Raises:
        InvalidInputError: If shapes disagree, naming both, or if labels do not suit the loss.
    """
    named = {name: as_array(name, array, 2) for name, array in (("W", W), ("V", V), ("features", features))}
    X = check_samples(X)
    (m, d), (n, _), k = named["W"].shape, X.shape, named["features"].shape[1]
    for name, array, shape in (("X", X, (n, d)), ("V", V, (d, k)), ("features", features, (n, k))):
        if np.shape(array) != shape:
            raise InvalidInputError(
                f"{name} has shape {np.shape(array)}, but must be {shape} to fit W {(m, d)} and features {(n, k)}"
            )
    outputs = m if isinstance(Y, jax.core.Tracer) else check_targets(Y, loss, n)
    if outputs > m or (outputs < m and not loss.class_labels):
        raise InvalidInputError(f"Y is for {outputs} outputs, but W has shape {(m, d)}: one row an output is needed")
