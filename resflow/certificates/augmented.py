"""What the features of a network could do: the best predictor linear in the samples and in them, and the split gap."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resflow.arrays import LARGEST, SMALLEST, Array, as_number, is_traced, largest
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless, norm, product, ratio, singular_vectors
from resflow.labels import one_hot
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.models.deep_network import DeepResidualNetwork
from resflow.point import ModelPoint, Point, analyse_point, check_point, sum_over_samples
from resflow.status import Status

__all__ = ["AugmentedCertificate", "AugmentedFit", "augmented_certificate", "fit_augmented"]


class AugmentedCertificate(NamedTuple):
    """How far a point is above a predictor (U, T) that is linear in samples and features, and upper bounds on it.

    At every point and for every (U, T), up to rounding: slack ≤ certificate = gradient_term + rank_term ≤ norm_bound.
    NaN where the point or the predictor is not finite.

    Attributes:
        slack: F − mean ℓ(Ux_i + Tf_i; y_i).
        certificate: mean ⟨ℓ'_i, p_i − Ux_i − Tf_i⟩, by convexity.
        gradient_term: ⟨W − U, ∇_W F⟩ − ⟨W⁺(T − UV), ∇_V F⟩, which vanishes at stationary points.
        rank_term: −⟨T − UV, (I − WW⁺) mean ℓ'_i f_iᵀ⟩, which vanishes at full row rank of W, w ≠ 0 for one output.
        norm_bound: ‖∇_W F‖ ‖W − U‖ + ‖∇_V F‖ ‖T − UV‖ / s + rank_term in Frobenius norms, s the smallest singular
            value of W that is not 0.
        objective: F, the mean loss per sample.
    """

    slack: Float[Array, ""]
    certificate: Float[Array, ""]
    gradient_term: Float[Array, ""]
    rank_term: Float[Array, ""]
    norm_bound: Float[Array, ""]
    objective: Float[Array, ""]


class AugmentedFit(NamedTuple):
    """The best predictor linear in samples and features, Ux + Σ_l T_l f_l(x), and the split of the gap that it makes.

    linear_predictor_gap = training_slack − feature_gain. Both are at least 0, but for rounding and `suboptimality`,
    where the norm bound lets the point and the linear predictor in, as it does unless another one is asked for. NaN
    where the point is not finite.

    Attributes:
        U: Weights of the samples, float64, shape (d,) for one output, (m, d) for several.
        T: Weights of the features of every block, each of shape (k_l,) or (m, k_l); one of a residual unit.
        objective: F_aug(U, T), its mean loss per sample, without a ridge term.
        linear_predictor_gap: F − F_lin(W*).
        training_slack: F − F_aug, what training has left undone in the weights around the features.
        feature_gain: F_lin(W*) − F_aug, what the features offer beyond the samples.
        slack_certificate: mean ⟨ℓ'_i, p_i − Ux_i − Σ_l T_l f_l(x_i)⟩, never below training_slack.
        norm_bound: A bound on that by the gradient in W and all V_l with the features of every block held fixed, as
            `AugmentedCertificate` has it.
        suboptimality: By how much the objective, with its ridge term, can still fall within the norm bound.
        status: How the fit ended, or that of W* if that one did not converge; `Status.DIVERGED` where the point is not
            finite, or too large to be squared.
        separable: As in `LinearFit`, of samples and features together.
        max_norm: The bound on ‖(U, T)‖ that was used; None for none.
        ridge: The coefficient of ½‖(U, T)‖² that was asked for.
    """

    U: Float[np.ndarray, "*m d"]
    T: tuple[Float[np.ndarray, "*m _"], ...]
    objective: float
    linear_predictor_gap: float
    training_slack: float
    feature_gain: float
    slack_certificate: float
    norm_bound: float
    suboptimality: float
    status: Status
    separable: bool | None
    max_norm: float | None
    ridge: float

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED

    def metrics(self) -> dict[str, float]:
        """The gap's two parts by name, for logging to a run."""
        return {"training_slack": self.training_slack, "feature_gain": self.feature_gain}


def fit_augmented(
    point: Point | ModelPoint, fit: LinearFit, *, max_norm: float | None = None, ridge: float = 0.0
) -> AugmentedFit:
    """The (U, T) that minimises mean ℓ(Ux_i + Σ_l T_l f_l(x_i); y_i), and what it says of training and of features.

    p = W(x + Σ_l V_l f_l(x)) is linear in x and the f_l with the coefficients (W, W V_l), so that the gap is

        F − F_lin(W*) = (F − F_aug) − (F_lin(W*) − F_aug),     both brackets ≥ 0.

    The first is what the linear maps could still gain with the features as they are; of several blocks it includes the
    price of tying their coefficients together. The second is what the features offer at all. For every (U, T)

        F − F_aug(U, T) ≤ mean ⟨ℓ'_i, p_i − Ux_i − Tf_i⟩ = ⟨W − U, ∇_W F⟩ − ⟨W⁺(T − UV), ∇_V F⟩ + rank_term,

    so that a partial stationary point with W of full row rank is the global minimum over all (W, V) at its θ.

    Always in float64. The columns of samples and features are made side by side in memory.

    Args:
        point: Of a residual unit or a deep residual network. Several blocks that you have as arrays are a `Point` with
            V = [V_1 ... V_L] and their features side by side.
        fit: The linear predictor W* to compare with, of `fit_linear_predictor` on the same data and loss.
        max_norm: Bound on ‖(U, T)‖, Frobenius. By default the larger of ‖(W, W V)‖ and ‖W*‖: the least ball that holds
            the point and the linear predictor, in which a best predictor exists on separable data too. `math.inf` for
            none. With a ridge term there is none by default.
        ridge: Coefficient of ½‖(U, T)‖², per mean loss. It may make either bracket negative.

    Raises:
        InvalidInputError: If the point is of another model, the fit is of other data or another loss, max_norm or
            ridge is out of range, or neither is in force and the columns are linearly separable.

    References:
        Kawaguchi 2018 (arXiv:1810.09038), second half; Chen 2021 (arXiv:2111.05496), Proposition 2, for the augmented
        predictor and the coupling of blocks. The pointwise form is this project's.
    """
    check_point(point)
    ridge = as_number("ridge", ridge, "must be a finite number, at least 0", lambda ridge: 0 <= ridge < math.inf)
    at, widths = _side_by_side(point)
    if is_traced(at.W, at.V, at.features, at.X, at.y):
        raise InvalidInputError("point is traced: the augmented predictor is fitted outside of jit and vmap")
    at = jax.tree.map(np.asarray, at)
    check_baseline(fit, at.X, at.y, at.loss, finished=False, ridge=ridge)
    if fit.W.shape != at.W.shape:
        raise InvalidInputError(
            f"fit has weights of shape {fit.W.shape}, but the point's W has {at.W.shape}: fit the linear predictor to "
            "labels of as many outputs, one-hot rows for classes that do not occur"
        )
    with np.errstate(all="ignore"):
        coefficients = np.concatenate([at.W, at.W @ at.V], axis=-1)
        reach = float(np.maximum(np.linalg.norm(coefficients), np.linalg.norm(fit.W)))
        sizes = np.array([reach, largest(at.features), largest(at.predictions)])
    if not (sizes <= LARGEST).all():
        return _not_finite(at, widths, max_norm, ridge)
    bound = max_norm
    if max_norm is None and ridge == 0.0:  # a ball smaller than can be computed with is let grow
        bound = max(reach, SMALLEST) if reach else 0.0
    labels = one_hot(at.y, at.outputs) if at.loss.labels == "classes" else at.y
    columns = np.column_stack([at.X, at.features])
    found = fit_linear_predictor(columns, labels, loss=at.loss, max_norm=bound, ridge=ridge)

    U, T = np.split(found.W, [at.X.shape[1]], axis=-1)
    terms = analyse_point(augmented_certificate, at, U, T)
    return AugmentedFit(
        U=U,
        T=tuple(np.split(T, np.cumsum(widths)[:-1], axis=-1)),
        objective=found.objective,
        linear_predictor_gap=float(terms.objective) - fit.objective,
        training_slack=float(terms.slack),
        feature_gain=fit.objective - found.objective,
        slack_certificate=float(terms.certificate),
        norm_bound=float(terms.norm_bound),
        suboptimality=found.suboptimality,
        status=found.status if fit.converged else fit.status,
        separable=found.separable,
        max_norm=found.max_norm,
        ridge=found.ridge,
    )


def augmented_certificate(point: Point, U: Float[Array, "*m d"], T: Float[Array, "*m k"]) -> AugmentedCertificate:
    """The certificate against the predictor Ux + Tf(x), unchecked and in JAX, for jit and vmap."""
    U, T = jnp.atleast_2d(U), jnp.atleast_2d(T)
    sums = sum_over_samples(_sums, point, U, T)
    return _assemble(point.rows, point.V, U, T, sums, point.X.shape[0])


def _sums(point: Point, U, T) -> tuple[jax.Array, ...]:
    """Of ℓ_i, of ℓ_i of the other predictor, of the certificate, of ℓ'_i a_iᵀ and of ℓ'_i f_iᵀ."""
    loss, a = point.row_loss, point.inner
    p, q = a @ point.rows.T, point.X @ U.T + point.features @ T.T
    slope = loss.derivative(p, point.y)
    sound = nan_unless(all_finite(p, q, slope), jnp.zeros((), p.dtype))
    values = jnp.sum(loss.value(p, point.y)), jnp.sum(loss.value(q, point.y))
    return *values, jnp.sum(slope * (p - q)), slope.T @ a, slope.T @ point.features, sound


@exported
def _assemble(W, V, U, T, sums, n) -> AugmentedCertificate:
    objective, augmented, certificate, grad_W, R, sound = (total / n for total in sums)
    m, d = W.shape
    left, singular, _ = singular_vectors(W)
    positive = singular > max(m, d) * jnp.finfo(W.dtype).eps * singular[0] if m > 1 else singular > 0
    smallest = jnp.min(jnp.where(positive, singular, jnp.inf))
    apart = T - U @ V
    inside = (left * positive) @ (left.T @ apart)  # WW⁺(T − UV)
    rank_term = -jnp.sum((apart - inside) * R)
    # ‖∇_V F‖ / ‖w‖ = ‖g‖ for one output, which does not underflow where its parts do
    along_V = norm(R) if m == 1 else ratio(norm(W.T @ R), smallest)
    terms = AugmentedCertificate(
        slack=objective - augmented,
        certificate=certificate,
        gradient_term=jnp.sum((W - U) * grad_W) - jnp.sum(inside * R),
        rank_term=rank_term,
        norm_bound=product(norm(grad_W), norm(W - U)) + product(along_V, norm(inside)) + rank_term,
        objective=objective,
    )
    return nan_unless(all_finite(sound, objective, augmented, U, T), terms)


def _side_by_side(point: Point | ModelPoint) -> tuple[Point, list[int]]:
    """The point with all blocks' features in one, which predicts the same, and how many each block has."""
    if isinstance(point, Point):
        return point, [point.features.shape[1]]
    model = point.model
    if not isinstance(model, DeepResidualNetwork):
        raise InvalidInputError(
            f"point is of a {type(model).__name__}, but must be of a residual unit or a deep residual network: of "
            "another one whose output is linear in its features make a Point of arrays"
        )
    _, features = model.forward(jnp.asarray(point.X))
    V = jnp.concatenate(model.V, axis=1)
    at = Point(model.w, V, jnp.concatenate(features, axis=1), point.X, point.y, point.loss)
    return at, [each.shape[1] for each in features]


def _not_finite(at: Point, widths: list[int], max_norm: float | None, ridge: float) -> AugmentedFit:
    """What is said of a point that is not finite, or too large to be squared: how the fit was asked for."""
    return AugmentedFit(
        U=np.full(at.W.shape, np.nan),
        T=tuple(np.full((*at.W.shape[:-1], width), np.nan) for width in widths),
        objective=math.nan,
        linear_predictor_gap=math.nan,
        training_slack=math.nan,
        feature_gain=math.nan,
        slack_certificate=math.nan,
        norm_bound=math.nan,
        suboptimality=math.nan,
        status=Status.DIVERGED,
        separable=None,
        max_norm=max_norm,
        ridge=ridge,
    )
