"""How fast the objective of a residual unit and its derivatives can change: constants computed from the data."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, as_array, is_traced
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss
from resflow.point import Point, analyse_point, sum_over_samples


class LipschitzConstants(NamedTuple):
    """Constants μ₀, μ₁, μ₂ of F, ∇F and ∇²F in (W, V) on the ball max{‖W‖, ‖V‖} ≤ radius; NaN from data that
    is not finite.

    Attributes:
        mu0: Bounds ‖∇F‖ on the ball.
        mu1: Bounds ‖∇²F‖ on the ball.
        mu2: Bounds the norm of the third derivative on the ball.
        radius: The ball's radius b.
    """

    mu0: Float[Array, "..."]
    mu1: Float[Array, "..."]
    mu2: Float[Array, "..."]
    radius: Float[Array, "..."]


def lipschitz_constants(point: Point, radius: float | Real[Array, ""]) -> LipschitzConstants:
    """Constants of F, ∇F and ∇²F on max{‖W‖, ‖V‖} ≤ b (spectral norms), from the norms of the samples.

    Write ξ_i = ‖x_i‖, φ_i = ‖f_i‖. On the ball, p_i = W(x_i + V f_i) has

        ‖p_i‖ ≤ P_i = b (ξ_i + b φ_i),    ‖Dp_i‖ ≤ J_i = sqrt((ξ_i + b φ_i)² + b² φ_i²),    ‖D²p_i‖ ≤ φ_i,    D³p_i = 0,

    for Dp_i[A, B] = A(x_i + V f_i) + W B f_i, and D²p_i[(A,B),(A,B)] = 2 AB f_i is at most φ_i (‖A‖_F² + ‖B‖_F²). By
    the chain rule

        D F  = mean ℓ'_i Dp_i,
        D²F  = mean ℓ''_i Dp_i² + ℓ'_i D²p_i,
        D³F  = mean ℓ'''_i Dp_i³ + 3 ℓ''_i Dp_i D²p_i   (on the diagonal, where a symmetric form attains its norm),

    so that with L_i a bound on ‖ℓ'‖ over ‖p‖ ≤ P_i, and c₂, c₃ the suprema of the norms of ℓ'' and ℓ''',

        μ₀ = mean L_i J_i,    μ₁ = mean c₂ J_i² + L_i φ_i,    μ₂ = mean c₃ J_i³ + 3 c₂ J_i φ_i.

    L_i is finite for the squared loss too. The ball is convex: bounds on derivatives are Lipschitz constants, in the
    Euclidean norm of (W, V).

    Args:
        point: Its features, samples and labels; the loss with finite `curvature` and `curvature_lipschitz`.
        radius: b ≥ 0, a bound on the spectral norms of W and V.

    Raises:
        InvalidInputError: If the loss lacks one of the two constants, or radius is negative or not a number.
    """
    check_curvature_constants(point.loss)
    check_at_least_zero("radius", radius)
    return analyse_point(lipschitz_constants_terms, point, radius)


def lipschitz_constants_terms(point: Point, radius: float | Float[Array, ""]) -> LipschitzConstants:
    """`lipschitz_constants` of a loss that has its constants, unchecked."""
    return _assemble(sum_over_samples(_sums, point, radius), point.X.shape[0], radius)


@exported
def _assemble(sums, n, radius) -> LipschitzConstants:
    mu0, mu1, mu2, sound = (total / n for total in sums)
    constants = LipschitzConstants(mu0, mu1, mu2, jnp.asarray(radius, mu0.dtype))
    return nan_unless(all_finite(sound, radius), constants)


def _sums(point: Point, radius):
    curvature, curvature_lipschitz = check_curvature_constants(point.loss)
    x_norm, f_norm = jnp.linalg.norm(point.X, axis=1), jnp.linalg.norm(point.features, axis=1)
    a_norm = x_norm + radius * f_norm
    j_norm = jnp.hypot(a_norm, radius * f_norm)
    slope = point.loss.steepest(radius * a_norm, point.y, point.outputs)
    mu0 = jnp.sum(slope * j_norm)
    mu1 = jnp.sum(curvature * j_norm**2 + slope * f_norm)
    mu2 = jnp.sum(curvature_lipschitz * j_norm**3 + 3.0 * curvature * j_norm * f_norm)
    return mu0, mu1, mu2, nan_unless(all_finite(x_norm, f_norm, slope, point.y), jnp.zeros((), x_norm.dtype))


def check_curvature_constants(loss: Loss) -> tuple[float, float]:
    """The suprema of ℓ'' and |ℓ'''| of a loss that has both; without them there is no Theorem 3."""
    if loss.curvature is None or loss.curvature_lipschitz is None:
        missing = "curvature" if loss.curvature is None else "curvature_lipschitz"
        raise InvalidInputError(
            f"the {loss.name} loss has no {missing}: Theorem 3 needs finite bounds of ℓ'' and ℓ''', "
            "so define both on the loss, or pass mu2"
        )
    return loss.curvature, loss.curvature_lipschitz


def check_at_least_zero(name: str, value: object) -> None:
    """Check that a number, or every number of an array, is at least 0; traced ones pass unseen."""
    if is_traced(value):
        return
    wrong = np.asarray(as_array(name, value), dtype=float)
    wrong = wrong[~(wrong >= 0)]
    if wrong.size:
        raise InvalidInputError(f"{name}={wrong.flat[0]:g} must be at least 0")
