"""Bounds on the linear-predictor gap of a deep residual network, and the two conditions of Yun (2019) as numbers."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Real

from resflow.arrays import Array
from resflow.floating import all_finite, nan_unless, norm, product, ratio
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss
from resflow.models.deep_network import DeepResidualNetwork
from resflow.point import ModelPoint

__all__ = ["DeepGapCertificate", "certify_network", "deep_gap_certificate"]


class DeepGapCertificate(NamedTuple):
    """The linear-predictor gap of one point of a deep residual network, with upper bounds and what they rest on.

    At every point, up to rounding: linear_predictor_gap ≤ gap_certificate ≤ norm_bound and ≤ near_identity_bound, t
    being the linear predictor. v is the direction of w's projection onto the common kernel of U_2, ..., U_L, which no
    block but the first sees. All bounds are in the units of the mean loss per sample. At a point that is not finite, in
    its weights, predictions or linear predictor, all are NaN and whole numbers −1.

    Attributes:
        linear_predictor_gap: F − F_lin(t). Negative: better than the linear predictor.
        gap_certificate: mean ℓ'_i (p_i − tᵀx_i), by convexity.
        gradient_form: The same as ⟨w − t, ∇_w F⟩ + Σ_l tᵀV_l (∇_{V_l}F)ᵀv / (wᵀv), which vanishes at stationary
            points; not a number where the U_l leave no such v, or so little of w along it that fewer than half of v's
            digits are right: wᵀv ≤ sqrt(machine precision) × (condition of the U_l, each of norm 1) × ‖w‖.
        norm_bound: ‖∇F‖ sqrt(‖w − t‖² + Σ_l ‖V_lᵀt‖² / (wᵀv)²), the gradient in w and all V_l; infinite without v.
        near_identity_bound: ⟨w − t, ∇_w F⟩ + ‖t‖ (Π_l (1 + ρ_l) − 1) mean |ℓ'_i| ‖x_i‖.
        stationarity_term: ⟨w − t, ∇_w F⟩; gap_certificate = stationarity_term + the sum of block_terms.
        block_terms: mean ℓ'_i tᵀ(h_l(x_i) − h_{l−1}(x_i)) of every block, shape (L,).
        block_ratios: ρ_l, the largest ‖h_l − h_{l−1}‖ / ‖h_{l−1}‖ of any sample, shape (L,): 0 for a sample that the
            block leaves where it is, infinite for one that it moves away from 0.
        smallest_representation_curvature: The smallest eigenvalue of mean ℓ''_i h_L h_Lᵀ: positive is Yun's first
            condition.
        representation_rank: Of that matrix, which is the rank of the h_L of all samples with ℓ''_i > 0, in the units of
            each coordinate, as `LinearFit.rank` is that of the samples; d is Yun's first condition.
        kernel_dimension: Of the common kernel of U_2, ..., U_L: positive is Yun's second condition; d for L = 1.
        kernel_share_of_w: wᵀv / ‖w‖, the share of w that no later block sees; 0 without v.
        partial_grad_norm: ‖∇F‖ in w and all V_l.
        objective: F, the mean loss per sample.
        w_norm: ‖w‖.
    """

    linear_predictor_gap: Float[Array, ""]
    gap_certificate: Float[Array, ""]
    gradient_form: Float[Array, ""]
    norm_bound: Float[Array, ""]
    near_identity_bound: Float[Array, ""]
    stationarity_term: Float[Array, ""]
    block_terms: Float[Array, "L"]
    block_ratios: Float[Array, "L"]
    smallest_representation_curvature: Float[Array, ""]
    representation_rank: Int[Array, ""]
    kernel_dimension: Int[Array, ""]
    kernel_share_of_w: Float[Array, ""]
    partial_grad_norm: Float[Array, ""]
    objective: Float[Array, ""]
    w_norm: Float[Array, ""]


def certify_network(point: ModelPoint, fit: LinearFit) -> DeepGapCertificate:
    """The linear-predictor gap of a deep residual network and its certificates, for the cost of one gradient.

    In the precision of the model. Moving any V_l along v bᵀ moves p by (wᵀv) bᵀφ_l and nothing else, for every later
    block is blind to v: (∇_{V_l}F)ᵀv = (wᵀv) mean ℓ'_i φ_l(i).

    Args:
        point: Of a `DeepResidualNetwork`.
        fit: The linear predictor t to compare with, of `fit_linear_predictor` on the same data and loss.

    Raises:
        InvalidInputError: If X does not fit the model, or the fit is of another loss, other data or not finished.

    References:
        Yun 2019 (arXiv:1907.03922), for the two conditions and critical points; the pointwise form is this project's.
    """
    model, X, y = point.model, point.X, point.y
    check_baseline(fit, X, y, point.loss)
    arrays = (jnp.asarray(array, model.w.dtype) for array in (X, y, fit.W, fit.objective))
    return deep_gap_certificate(model, *arrays, loss=point.loss)


@eqx.filter_jit
def deep_gap_certificate(
    model: DeepResidualNetwork,
    X: Float[Array, "n d"],
    y: Real[Array, "n"],
    linear_w: Float[Array, "d"],
    linear_objective: float | Float[Array, ""],
    *,
    loss: Loss,
) -> DeepGapCertificate:
    """`certify_network` against the linear predictor `linear_w` of that mean loss, unchecked."""
    w = jnp.asarray(model.w)

    def objective_of(outer):
        moved = eqx.tree_at(lambda model: (model.w, model.V), model, outer)
        representations, _ = moved.forward(X)
        p = representations[-1] @ outer[0]
        return jnp.mean(loss.value(p, y)), (p, representations)

    (objective, (p, representations)), (grad_w, grad_V) = jax.value_and_grad(objective_of, has_aux=True)((w, model.V))
    slope = loss.derivative(p, y)
    grad_norm = norm(jnp.stack([norm(gradient) for gradient in (grad_w, *grad_V)]))
    finite = all_finite(model, X, p, slope, objective, linear_w, linear_objective)

    smallest_curvature, rank = _of_representation(representations[-1], loss.second_derivative(p, y), finite)
    # One after the other: of a batch under vmap, two LAPACK calls at once may wait for each other's threads for ever.
    finite, rank = jax.lax.optimization_barrier((finite, rank))

    w_norm = norm(w)
    unseen, kernel_dimension, condition = _projection_onto_common_kernel(model, w, finite)
    length = norm(unseen)
    exists = (kernel_dimension > 0) & (length > jnp.sqrt(jnp.finfo(w.dtype).eps) * condition * w_norm)
    v = unseen / jnp.where(exists, length, 1.0)
    wv = jnp.where(exists, length, jnp.nan)  # wᵀv, v being w's own direction within the kernel
    pulled = [linear_w @ V for V in model.V]
    stationarity_term = (w - linear_w) @ grad_w
    along_V = sum(left @ (gradient.T @ v) for left, gradient in zip(pulled, grad_V, strict=True)) / wv
    direction = jnp.hypot(norm(w - linear_w), norm(jnp.stack([norm(left) for left in pulled])) / wv)

    steps = [after - before for before, after in itertools.pairwise(representations)]
    block_terms = jnp.stack([jnp.mean(slope * (step @ linear_w)) for step in steps])
    ratios = jnp.stack([_largest_ratio(step, before) for step, before in zip(steps, representations[:-1], strict=True)])
    moved = jnp.expm1(jnp.sum(jnp.log1p(ratios)))
    slope_size = jnp.mean(jnp.abs(slope) * norm(X, axis=1))
    terms = DeepGapCertificate(
        linear_predictor_gap=objective - linear_objective,
        gap_certificate=jnp.mean(slope * (p - X @ linear_w)),
        gradient_form=stationarity_term + along_V,
        norm_bound=jnp.where(exists, grad_norm * direction, jnp.inf),
        near_identity_bound=stationarity_term + product(moved, norm(linear_w), slope_size),
        stationarity_term=stationarity_term,
        block_terms=block_terms,
        block_ratios=ratios,
        smallest_representation_curvature=smallest_curvature,
        representation_rank=rank,
        kernel_dimension=kernel_dimension,
        kernel_share_of_w=jnp.where(exists, ratio(length, w_norm), 0.0),
        partial_grad_norm=grad_norm,
        objective=objective,
        w_norm=w_norm,
    )
    return nan_unless(finite, terms)


def _largest_ratio(step: Array, before: Array) -> Array:
    """The largest ‖step‖ / ‖before‖ of any row, 0 for a row that does not move."""
    moved, size = norm(step, axis=1), norm(before, axis=1)
    return jnp.max(jnp.where(moved == 0, 0.0, moved / size))


def _of_representation(h: Array, curvature: Array, finite: Array) -> tuple[Array, Array]:
    """The smallest eigenvalue of mean ℓ''_i h_i h_iᵀ, by singular values so that it keeps its digits, and its rank."""
    n, d = h.shape
    h, curvature = jnp.where(finite, h, 0.0), jnp.where(finite, curvature, 0.0)[:, None]
    seen = jnp.where(curvature > 0, h, 0.0)
    both = jnp.stack([h * jnp.sqrt(curvature / n), ratio(seen, norm(seen, axis=0))])
    weighted, scaled = jnp.linalg.svd(both, compute_uv=False)
    smallest = weighted[-1] ** 2 if n >= d else jnp.zeros((), h.dtype)
    return smallest, jnp.sum(scaled > scaled[0] * max(n, d) * jnp.finfo(h.dtype).eps)


def _projection_onto_common_kernel(model: DeepResidualNetwork, w: Array, finite: Array) -> tuple[Array, Array, Array]:
    """w's projection onto the vectors that every U_l maps to 0, their space's dimension, and what it is blurred by.

    The last is the largest singular value of all U_l over the smallest that is not 0: by so much rounding turns the
    space.
    """
    d = len(w)
    if not model.U:
        return w, jnp.asarray(d), jnp.zeros((), w.dtype)
    # Each U_l to the same size: the kernel is of directions, whatever the scale of a block
    stacked = jnp.concatenate([ratio(U, norm(U)) for U in model.U])
    _, singular, Vt = jnp.linalg.svd(jnp.where(finite, stacked, 0.0), full_matrices=False)
    seen = singular > max(stacked.shape) * jnp.finfo(w.dtype).eps * singular[0]
    rows = jnp.where(seen[:, None], Vt, 0.0)
    unseen = w - rows.T @ (rows @ w)
    condition = ratio(singular[0], jnp.min(jnp.where(seen, singular, jnp.inf)))
    return unseen - rows.T @ (rows @ unseen), d - jnp.sum(seen), condition
