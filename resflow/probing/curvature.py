"""How the training objective curves at a network: its smallest Hessian eigenvalue, and where that direction leads."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from resflow.arrays import as_numpy, in_full_precision
from resflow.errors import InvalidInputError, check_known
from resflow.hessian.lanczos import HessianEigenvalue, smallest_operator_eigenvalue
from resflow.hessian.partial_eigenvalue import smallest_partial_eigenvalue
from resflow.hessian.partial_hessian import hessian_vector_product
from resflow.known import HESSIANS
from resflow.numerals import number_text
from resflow.point import Point
from resflow.probing.stream import Head, Stream

__all__ = ["STEPS", "Curvature", "LastLayer", "check_hessian", "curvature_of", "last_block_curvature"]

STEPS = np.array([sign * 2.0**power for power in range(-20, 5) for sign in (1.0, -1.0)])
"""Lengths at which the objective is looked at along a direction of norm 1."""
_ROUNDINGS = 256.0


class LastLayer(NamedTuple):
    """The linear layer that a network's last block ends in, h_L = h_{L−1} + V f + c.

    Attributes:
        name: What the network calls it.
        V: Its weights, shape (d, k).
        c: Its biases, shape (d,); None for none.
        features: f of the training samples, shape (n, k).
    """

    name: str
    V: np.ndarray
    c: np.ndarray | None
    features: np.ndarray


class Curvature(NamedTuple):
    """λ_min of the Hessian of the mean training loss between two bounds, and where its direction leads.

    lambda_min_lower ≤ λ_min ≤ lambda_min, up to `rounding`. NaN where the network is not finite.

    Attributes:
        of: What the Hessian is taken in: "network" for all of its parameters; "last block" for the head (W, b) and
            V, c of the `layer`, p = W(h_{L−1} + V f + c) + b, or without a layer a linear map V behind what the last
            block adds, p = W(h_{L−1} + V(h_L − h_{L−1})) + b at V = I.
        parameters: How many these are.
        lambda_min: λ, the Rayleigh quotient of the direction.
        lambda_min_lower: No eigenvalue lies below.
        lambda_min_residual: ‖Hv − λv‖ of the direction v, of norm 1.
        converged: Whether λ is as exact as was asked for.
        certain: False where the lower end holds with probability 1 − 1e-6 over a random start only.
        rounding: Estimate of the effect of rounding on the bounds.
        grad_norm: ‖∇F‖ in the same parameters.
        fall: By how much F is lower at the best of 50 steps along ±v, of lengths 2^−20 to 16; 0 where none is lower by
            more than rounding, as where a network has kinks all around.
        step: That step t of θ + t v.
        grad_fall: By how much F is lower at the best of such steps along −∇F/‖∇F‖, of each no more than t ‖∇F‖ counted,
            which is what the slope itself promises.
        direction: v, with the structure of the parameters; of a torch module a dictionary by their names, of the last
            block a dictionary of W, b, V and c.
        layer: The name of the linear layer that the last block ends in, where it is known.
    """

    of: str
    parameters: int
    lambda_min: float
    lambda_min_lower: float
    lambda_min_residual: float
    converged: bool
    certain: bool
    rounding: float
    grad_norm: float
    fall: float
    step: float
    grad_fall: float
    direction: Any
    layer: str = ""

    @property
    def sign(self) -> int:
        """−1 where λ_min is negative for certain; 1 where it is not, as far as rounding lets tell; 0 if unknown."""
        if self.lambda_min < -self.rounding:
            return -1
        return 1 if self.lambda_min_lower >= -self.rounding else 0

    def __str__(self) -> str:
        below = number_text(self.lambda_min_lower, 3)
        residual = number_text(self.lambda_min_residual, 2)
        return f"λ_min = {number_text(self.lambda_min, 3)}, not below {below}, residual {residual}"

    def metrics(self) -> dict[str, float]:
        """The numbers by name, for a tracker."""
        return {
            "curvature/lambda_min": self.lambda_min,
            "curvature/lambda_min_lower": self.lambda_min_lower,
            "curvature/lambda_min_upper": self.lambda_min,
            "curvature/lambda_min_residual": self.lambda_min_residual,
            "curvature/lambda_min_converged": float(self.converged),
        } | ({"norms/grad_norm": self.grad_norm} if self.of == "network" else {})


def check_hessian(hessian: str | None) -> None:
    """Check that it names what a Hessian may be taken in, "auto" for what fits, or None.

    Raises:
        InvalidInputError: If it does not.
    """
    if hessian is not None:
        check_known("hessian", hessian, HESSIANS)


def curvature_of(
    found: HessianEigenvalue,
    *,
    of: str,
    direction: Any,
    parameters: int,
    grad_norm: float,
    levels: np.ndarray,
    downhill: np.ndarray,
) -> Curvature:
    """What an eigenvalue and the objective along its direction say together.

    Args:
        found: The eigenvalue, as NumPy numbers.
        of, direction, parameters, grad_norm: As the attributes.
        levels: The objective at 0 and, along the direction, at every one of `STEPS`.
        downhill: The same along −∇F/‖∇F‖.
    """
    falls = _falls(levels)
    best = int(np.argmax(falls))
    return Curvature(
        of=of,
        parameters=parameters,
        lambda_min=float(found.lambda_min),
        lambda_min_lower=float(found.lambda_min_lower),
        lambda_min_residual=float(found.lambda_min_residual),
        converged=bool(found.converged),
        certain=bool(found.certain),
        rounding=float(found.rounding),
        grad_norm=grad_norm,
        fall=float(falls[best]),
        step=float(STEPS[best]) if falls[best] > 0.0 else 0.0,
        grad_fall=float(np.max(np.minimum(_falls(downhill), np.maximum(STEPS, 0.0) * grad_norm))),
        direction=direction,
    )


def _falls(levels: np.ndarray) -> np.ndarray:
    """By how much each level is below the first, 0 where it is not by more than rounding."""
    with np.errstate(invalid="ignore"):
        falls = levels[0] - np.where(np.isfinite(levels[1:]), levels[1:], np.inf)
    return np.where(falls > _ROUNDINGS * np.finfo(float).eps * abs(levels[0]), falls, 0.0)


def last_block_curvature(
    stream: Stream, head: Head, loss: Any, *, bias: bool, layer: LastLayer | None = None, max_restarts: int = 20
) -> Curvature:
    """λ_min in the head and the linear layer of the last block, as of the residual unit that these make.

    The unit is W(x + V f) with x = h_{L−1}; of a layer with biases f has a constant column. Without a layer f is
    h_L − h_{L−1} and V = I. With a bias of the head x has a constant column, whose row of V is no parameter: the
    bracket of the unit's Hessian in all of (W, V) bounds λ_min from below, as that of a larger matrix, and its
    direction without the row is where a Lanczos iteration without it goes on from.

    Args:
        stream: The training samples.
        head: The head.
        loss: The loss.
        bias: Whether the head has biases.
        layer: The linear layer that the last block ends in, if it is known.
        max_restarts: Of the Lanczos iteration.

    Raises:
        InvalidInputError: If the last two representations differ in width.
    """
    before, after = (np.asarray(h, dtype=np.float64) for h in stream.representations[-2:])
    if before.shape[1] != after.shape[1]:
        raise InvalidInputError(
            f"hessian='last block' needs h_{{L-1}} and h_L of one width, but they have {before.shape[1]} and "
            f"{after.shape[1]} columns: what the last block adds is no difference of the two"
        )
    n, d = before.shape
    if layer is None:
        inner, f = np.eye(d), after - before
    else:
        inner, f = np.asarray(layer.V, dtype=np.float64), np.asarray(layer.features, dtype=np.float64)
        if layer.c is not None:
            inner, f = np.column_stack([inner, layer.c]), np.column_stack([f, np.ones(n)])
        before = after - f @ inner.T  # h_{L−1} but for rounding, so that the scores are the network's own
    X, W, V = before, head.W, inner
    if bias:
        X, V = np.column_stack([before, np.ones(n)]), np.vstack([inner, np.zeros(inner.shape[1])])
        W = np.concatenate([W, head.b[..., None]], axis=-1)
    point = Point(W, V, f, X, stream.y, loss)
    unit = smallest_partial_eigenvalue(point)
    A, B = (np.asarray(part, dtype=np.float64) for part in unit.direction)
    with jax.enable_x64(True):
        start = jax.tree.map(jnp.asarray, point)
        found = as_numpy(_refined(start, jnp.asarray(A).reshape(-1, X.shape[1]), jnp.asarray(B), d, max_restarts))
    a, b = (np.asarray(part) for part in found.direction)
    a = a.reshape(W.shape)
    lower = max(float(unit.lambda_min_lower), float(found.lambda_min_lower) if found.certain else -np.inf)
    closed = found.lambda_min - lower <= 1e-6 * abs(found.lambda_min)
    found = found._replace(
        lambda_min_lower=np.minimum(lower, found.lambda_min) if np.isfinite(found.lambda_min) else found.lambda_min,
        converged=found.converged or bool(closed),
        certain=True,
        rounding=max(float(found.rounding), float(unit.rounding)),
    )
    full = np.zeros_like(V)
    full[:d] = b

    def along(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([float(point.at(W + t * a, V + t * b).objective) for t in (0.0, *STEPS)])

    grad_W, grad_V = (np.array(part, dtype=np.float64) for part in point.gradient)
    grad_V[d:] = 0.0
    grad_norm = float(np.hypot(np.linalg.norm(grad_W), np.linalg.norm(grad_V)))
    size = max(grad_norm, np.finfo(float).tiny)
    direction = {"W": a[..., :d], "V": b} | ({"b": a[..., d]} if bias else {})
    if layer is not None and layer.c is not None:
        direction |= {"V": b[:, :-1], "c": b[:, -1]}
    found_of = curvature_of(
        found,
        of="last block",
        direction=direction,
        parameters=a.size + b.size,
        grad_norm=grad_norm,
        levels=along(a, full),
        downhill=along(-grad_W / size, -grad_V / size),
    )
    return found_of._replace(layer="" if layer is None else layer.name)


@in_full_precision
@eqx.filter_jit
def _refined(point: Point, A: jax.Array, B: jax.Array, d: int, max_restarts: int) -> HessianEigenvalue:
    """λ_min in W and the first d rows of V, from where a direction in all rows points."""
    like, unravel = ravel_pytree((A, B[:d]))
    rest = B.shape[0] - d

    def product(v: jax.Array) -> jax.Array:
        a, b = unravel(v)
        a, b = hessian_vector_product(point, a, jnp.pad(b, ((0, rest), (0, 0))))
        return ravel_pytree((a, b[:d]))[0]

    size = jnp.linalg.norm(like)
    candidate = jnp.where(size > 0, like / size, jnp.zeros_like(like).at[0].set(1.0))
    key = jax.random.key(0)
    result = smallest_operator_eigenvalue(product, like, key=key, candidate=candidate, max_restarts=max_restarts)
    return result._replace(direction=unravel(result.direction))
