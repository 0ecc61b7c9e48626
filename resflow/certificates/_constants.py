"""How fast the objective of a residual unit and its derivatives can change: constants computed from the data."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, analyse, as_array, check_labels, check_samples, is_traced
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.losses.scalar import Loss, as_loss


class LipschitzConstants(NamedTuple):
    """Constants μ₀, μ₁, μ₂ of F, ∇F and ∇²F in W = (w, V) on the ball max{‖w‖, ‖V‖} ≤ radius; NaN from data that
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


def lipschitz_constants(
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    radius: float | Real[Array, ""],
) -> LipschitzConstants:
    """Constants of F, ∇F and ∇²F on max{‖w‖, ‖V‖} ≤ b, from the norms of the samples.

    Write ξ_i = ‖x_i‖, φ_i = ‖f_i‖. On the ball, p_i = wᵀ(x_i + V f_i) has

        |p_i| ≤ P_i = b (ξ_i + b φ_i),    ‖Dp_i‖ ≤ J_i = sqrt((ξ_i + b φ_i)² + b² φ_i²),    ‖D²p_i‖ ≤ φ_i,    D³p_i = 0,

    for Dp_i = (x_i + V f_i, w f_iᵀ), and D²p_i[(a,B),(a,B)] = 2 aᵀB f_i ≤ φ_i (‖a‖² + ‖B‖²). By the chain rule

        D F  = mean ℓ'_i Dp_i,
        D²F  = mean ℓ''_i Dp_i² + ℓ'_i D²p_i,
        D³F  = mean ℓ'''_i Dp_i³ + 3 ℓ''_i Dp_i D²p_i   (on the diagonal, where a symmetric form attains its norm),

    so that with L_i = max{|ℓ'(−P_i; y_i)|, |ℓ'(P_i; y_i)|}, the largest |ℓ'| on [−P_i, P_i] as ℓ' never decreases, and
    c₂, c₃ the suprema of ℓ'' and |ℓ'''|,

        μ₀ = mean L_i J_i,    μ₁ = mean c₂ J_i² + L_i φ_i,    μ₂ = mean c₃ J_i³ + 3 c₂ J_i φ_i.

    L_i is finite for the squared loss too. The ball is convex: bounds on derivatives are Lipschitz constants, in the
    Euclidean norm of (w, V).

    Args:
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name, with finite `curvature` and `curvature_lipschitz`.
        radius: b ≥ 0, a bound on ‖w‖ and on the spectral norm of V.

    Raises:
        InvalidInputError: If the loss lacks one of the two constants, or radius is negative or not a number.
    """
    loss = as_loss(loss)
    check_curvature_constants(loss)
    check_at_least_zero("radius", radius)
    as_array("features", features, 2)
    check_samples(X)
    check_labels(y, loss)
    return analyse(lipschitz_constants_terms, features, X, y, radius, loss=loss)


@partial(jax.jit, static_argnames="loss")
def lipschitz_constants_terms(
    features: Float[Array, "n k"],
    X: Float[Array, "n d"],
    y: Real[Array, "n"],
    radius: float | Float[Array, ""],
    *,
    loss: Loss,
) -> LipschitzConstants:
    """`lipschitz_constants` of a loss that has its constants, unchecked."""
    curvature, curvature_lipschitz = check_curvature_constants(loss)
    x_norm, f_norm = jnp.linalg.norm(X, axis=1), jnp.linalg.norm(features, axis=1)
    a_norm = x_norm + radius * f_norm
    j_norm = jnp.hypot(a_norm, radius * f_norm)
    reach = radius * a_norm
    slope = jnp.maximum(jnp.abs(loss.derivative(-reach, y)), jnp.abs(loss.derivative(reach, y)))
    constants = LipschitzConstants(
        mu0=jnp.mean(slope * j_norm),
        mu1=jnp.mean(curvature * j_norm**2 + slope * f_norm),
        mu2=jnp.mean(curvature_lipschitz * j_norm**3 + 3.0 * curvature * j_norm * f_norm),
        radius=jnp.asarray(radius, x_norm.dtype),
    )
    return nan_unless(all_finite(x_norm, f_norm, slope, y, radius), constants)


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
