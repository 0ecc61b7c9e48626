"""The way down from a strict saddle: along the direction of negative curvature."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from resflow.arrays import Array, analyse
from resflow.errors import InvalidInputError, shown
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless, norm
from resflow.hessian.partial_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.point import Point, check_point
from resflow.stationarity._trust_region import mean_decrease

__all__ = ["Escape", "escape"]

_HALVINGS = 60
_SUFFICIENT = 0.25


class Escape(NamedTuple):
    """A step along a direction D = (A, B) of norm 1, and what it gained.

    Attributes:
        point: The point after the step.
        escaped: True if the curvature along D is negative and the step gained at least a quarter of what slope and
            curvature promise: decrease ≥ ¼ (|slope| step + ½ |curvature| step²). Else the point is where it was. All
            numbers but the point's own are NaN where point or direction is not finite.
        objective: F after the step, mean loss per sample.
        decrease: F before minus F after, accurate even where it is below the rounding of F.
        step: Its length.
        slope: ⟨∇F, D⟩. Positive only where D leads further down than −D all the same.
        curvature: ⟨D, ∇²F D⟩.
        direction: D: A, of W's shape, and B, shape (d, k).
    """

    point: Point
    escaped: Bool[Array, ""]
    objective: Float[Array, ""]
    decrease: Float[Array, ""]
    step: Float[Array, ""]
    slope: Float[Array, ""]
    curvature: Float[Array, ""]
    direction: tuple[Float[Array, "*m d"], Float[Array, "d k"]]


def escape(point: Point, *, saddle: SmallestEigenvalue | None = None) -> Escape:
    """The best of the steps t D, over both signs, with F before − F after ≥ ¼ (|⟨∇F, D⟩| |t| + ½ |⟨D, ∇²F D⟩| t²).

    Along D = (A, B) the prediction is a polynomial, p + t (A(x + Vf) + W B f) + t² A B f. So the trial steps cost no
    product with the features: 61 lengths, from 16 (1 + ‖(W, V)‖) down by halves, are all tried at once. Short steps
    succeed wherever the curvature is negative, so a strict saddle is always left.

    Args:
        point: A residual unit's point, of any number of outputs.
        saddle: The direction, of `smallest_eigenvalue` at this point; computed if None.

    Raises:
        InvalidInputError: If point is none of a residual unit, or saddle has no direction of its shapes.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 2: at w = 0 above the linear predictor this curvature is negative.
    """
    check_point(point, of_unit=True)
    saddle = smallest_partial_eigenvalue(point) if saddle is None else saddle
    direction = getattr(saddle, "direction", None)
    found = [np.shape(part) for part in direction] if isinstance(direction, tuple | list) else []
    if found != [point.W.shape, point.V.shape]:
        raise InvalidInputError(
            f"saddle is {shown(saddle)}, but must be what smallest_eigenvalue gives at this point, with a direction "
            f"(A, B) of the shapes of W and V, {point.W.shape} and {point.V.shape}"
        )
    W, V, *numbers = analyse(_line_search, point, *saddle.direction)
    return Escape(point.at(W, V), *numbers)


@exported
def _line_search(point: Point, A, B) -> tuple:
    W, V, loss, y, shape = point.rows, point.V, point.row_loss, point.y, point.W.shape
    A = A.reshape(W.shape)
    length = jnp.hypot(norm(A), norm(B))
    A, B = A / length, B / length
    x, along = point.inner, point.features @ B.T
    p, first, second = x @ W.T, x @ A.T + along @ W.T, along @ A.T
    derivative, n = loss.derivative(p, y), len(p)
    slope = jnp.sum(derivative * first) / n
    curved = jnp.einsum("ni,nij,nj->", first, loss.second_derivative(p, y), first)
    curvature = curved / n + 2.0 * jnp.sum(derivative * second) / n
    turn = jnp.where(slope > 0, -1.0, 1.0)
    A, B, first, slope = turn * A, turn * B, turn * first, turn * slope

    longest = 16.0 * (1.0 + jnp.hypot(norm(W), norm(V)))
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
    direction = (sign * A).reshape(shape), sign * B
    numbers = (escaped, value, gain, jnp.abs(t), sign * slope, curvature, direction)
    moved = jnp.where(escaped, W + t * A, W).reshape(shape), jnp.where(escaped, V + t * B, V)
    return *moved, *nan_unless(all_finite(p, value, slope, curvature), numbers)
