"""The way down from a strict saddle: along the direction of negative curvature."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Real

from resflow.arrays import Array, analyse, check_point
from resflow.floating import all_finite, nan_unless, norm
from resflow.losses.scalar import Loss, as_loss
from resflow.spectrum.smallest_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.stationarity._newton_step import mean_decrease

__all__ = ["Escape", "escape"]

_HALVINGS = 60
_SUFFICIENT = 0.25


class Escape(NamedTuple):
    """A step along a direction d = (a, B) of norm 1, and what it gained.

    Attributes:
        w: Output weights after the step, shape (d,).
        V: Mixing matrix after the step, shape (d, k).
        escaped: True if the curvature along d is negative and the step gained at least a quarter of what slope and
            curvature promise: decrease ≥ ¼ (|slope| step + ½ |curvature| step²). Else the point is where it was. All
            numbers but w and V are NaN where point or direction is not finite.
        objective: F after the step, mean loss per sample.
        decrease: F before minus F after, accurate even where it is below the rounding of F.
        step: Its length.
        slope: ⟨∇F, d⟩. Positive only where d leads further down than −d all the same.
        curvature: ⟨d, ∇²F d⟩.
        direction_w: a, shape (d,).
        direction_V: B, shape (d, k).
    """

    w: Float[Array, "d"]
    V: Float[Array, "d k"]
    escaped: Bool[Array, ""]
    objective: Float[Array, ""]
    decrease: Float[Array, ""]
    step: Float[Array, ""]
    slope: Float[Array, ""]
    curvature: Float[Array, ""]
    direction_w: Float[Array, "d"]
    direction_V: Float[Array, "d k"]


def escape(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    saddle: SmallestEigenvalue | None = None,
) -> Escape:
    """The best of the steps t d, over both signs, with F(W) − F(W + t d) ≥ ¼ (|⟨∇F, d⟩| |t| + ½ |⟨d, ∇²F d⟩| t²).

    Along d = (a, B) the prediction is a polynomial, p + t (aᵀ(x + Vf) + wᵀBf) + t² aᵀBf. So the trial steps cost no
    product with the features: 61 lengths, from 16 (1 + ‖(w, V)‖) down by halves, are all tried at once. Short steps
    succeed wherever the curvature is negative, so a strict saddle is always left.

    NumPy arrays are analysed in float64, JAX arrays in their own precision; works under jit and vmap.

    Args:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        saddle: The direction, of `smallest_partial_eigenvalue` at this point; computed if None.

    Returns:
        The point after the step, and the numbers it rests on.

    Raises:
        InvalidInputError: If shapes disagree or labels do not suit the loss.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 2: at w = 0 above the linear predictor this curvature is negative.
    """
    loss = as_loss(loss)
    check_point(w, V, features, X, y, loss)
    if saddle is None:
        saddle = smallest_partial_eigenvalue(w, V, features, X, y, loss=loss)
    a, B = saddle.direction_w, saddle.direction_V
    return Escape(*analyse(_line_search, w, V, features, X, y, a, B, loss=loss))


@partial(jax.jit, static_argnames="loss")
def _line_search(w, V, features, X, y, a, B, *, loss: Loss) -> tuple:
    length = jnp.hypot(norm(a), norm(B))
    a, B = a / length, B / length
    x, along = X + features @ V.T, features @ B.T
    p, first, second = x @ w, x @ a + along @ w, along @ a
    derivative = loss.derivative(p, y)
    slope = jnp.mean(derivative * first)
    curvature = jnp.mean(loss.second_derivative(p, y) * first**2) + 2.0 * jnp.mean(derivative * second)
    turn = jnp.where(slope > 0, -1.0, 1.0)
    a, B, first, slope = turn * a, turn * B, turn * first, turn * slope

    longest = 16.0 * (1.0 + jnp.hypot(norm(w), norm(V)))
    lengths = longest * 0.5 ** jnp.arange(_HALVINGS + 1, dtype=p.dtype)
    # Against a slope of rounding's size either sign may lead further down: at a saddle both do.
    steps = jnp.concatenate([lengths, -lengths])
    gains = jax.lax.map(lambda t: mean_decrease(loss, p, t * first + t**2 * second, y), steps)
    promised = jnp.abs(slope) * jnp.abs(steps) + 0.5 * jnp.abs(curvature) * steps**2
    enough = jnp.isfinite(gains) & (gains >= _SUFFICIENT * promised) & (gains > 0) & (curvature < 0)
    best = jnp.argmax(jnp.where(enough, gains, -jnp.inf))
    escaped = enough[best]
    t = jnp.where(escaped, steps[best], 0.0)
    sign = jnp.where(t < 0, -1.0, 1.0)
    gain = jnp.where(escaped, gains[best], 0.0)
    value = jnp.mean(loss.value(p + t * first + t**2 * second, y))
    numbers = (escaped, value, gain, jnp.abs(t), sign * slope, curvature, sign * a, sign * B)
    moved = jnp.where(escaped, w + t * a, w), jnp.where(escaped, V + t * B, V)
    return *moved, *nan_unless(all_finite(p, value, slope, curvature), numbers)
