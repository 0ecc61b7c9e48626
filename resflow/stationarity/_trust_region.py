"""One trust-region step in the coordinates outside which a partial Hessian is zero, and what it gains."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflow.floating import all_finite, nan_unless
from resflow.hessian.partial_hessian import PartialHessian, reduced_matrix
from resflow.losses import Loss
from resflow.point import Point

__all__ = ["ReducedModel", "decrease", "mean_decrease", "reduced_model", "trust_region_step"]

_NODES, _WEIGHTS = (0.5 * np.asarray(part) for part in np.polynomial.legendre.leggauss(4))
_NODES = _NODES + 0.5


class ReducedModel(NamedTuple):
    """F + gᵀs + ½ sᵀMs in coordinates s = (A, C, u) / scale of the directions of `PartialHessian`.

    Attributes:
        gradient: scale · (∇_W F in R's left singular vectors, Qᵀ∇_V F, 0).
        eigenvalues: Of M, ascending, shape (md + qk + (d − q) min(m, k),).
        eigenvectors: As columns.
        scale: A length for A, and another for C and u.
        hessian: What the coordinates are taken from.
        complement: N, an orthonormal basis of what is orthogonal to Q, shape (d, d − q).
    """

    gradient: jax.Array
    eigenvalues: jax.Array
    eigenvectors: jax.Array
    scale: jax.Array
    hessian: PartialHessian
    complement: jax.Array

    def directions(self, s: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The change of (W, V) that the coordinates stand for, W with an axis of outputs."""
        x, u = jnp.split(self.scale * s, [self.hessian.K.shape[0]])
        m, free = self.hessian.gamma.shape[0], self.complement.shape[1]
        u = (u.reshape(-1, free) if free else jnp.zeros((0, 0))) @ self.complement.T
        return self.hessian.direction(x, jnp.zeros((m, self.complement.shape[0])).at[: len(u)].set(u))

    def newton_step_norm(self) -> jax.Array:
        """The length in (W, V) of M⁺g, over the eigenvalues that are positive beyond rounding."""
        h, q = self.eigenvalues, self.eigenvectors.T @ self.gradient
        positive = h > len(h) * jnp.finfo(h.dtype).eps * jnp.max(jnp.abs(h))
        s = self.eigenvectors @ jnp.where(positive, q / jnp.where(positive, h, 1.0), 0.0)
        return nan_unless(all_finite(q), jnp.linalg.norm(self.scale * s))


def reduced_model(hessian: PartialHessian, gradient: tuple[Any, Any], V_norm: jax.Array) -> ReducedModel:
    """The model at a point, from its partial Hessian, ∇F in (W, V), W with an axis of outputs, and ‖V‖.

    W and V are measured in units of their own size: F depends on the product W V, and minima with a small W and a
    large V lie in valleys that a ball in (W, V) is far too narrow for. Near W = 0 the unit is what V makes of it.
    """
    M, N = reduced_matrix(hessian)
    along_A, along_C = hessian.U.T @ gradient[0], hessian.Q.T @ gradient[1]
    flat = jnp.concatenate([along_A.ravel(), along_C.ravel(), jnp.zeros(len(M) - hessian.K.shape[0])])
    V_scale = 1.0 + V_norm
    scale = jnp.where(jnp.arange(len(M)) < along_A.size, jnp.maximum(hessian.W_norm, 1.0 / V_scale), V_scale)
    scaled = scale[:, None] * M * scale
    finite = all_finite(scaled, flat)  # LAPACK must not be given what is not
    eigenvalues, eigenvectors = nan_unless(finite, tuple(jnp.linalg.eigh(jnp.where(finite, scaled, 0.0))))
    return ReducedModel(scale * flat, eigenvalues, eigenvectors, scale, hessian, N)


def trust_region_step(model: ReducedModel, radius: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The minimiser of gᵀs + ½ sᵀMs over ‖s‖ ≤ radius, exactly, what it promises, and whether it lies inside.

    With M's eigenvalues h_i and q = Qᵀg the step is −q_i / (h_i + μ), μ ≥ max(0, −h_1) the root of the secular
    equation ‖s(μ)‖ = radius, found by bisection in the logarithm of μ + h_1. In the hard case, where q has nothing
    along h_1's eigenvector and the others do not reach the boundary, that eigenvector makes up the length.
    """
    h, Q = model.eigenvalues, model.eigenvectors
    q = Q.T @ model.gradient
    eps, tiny = jnp.finfo(h.dtype).eps, jnp.finfo(h.dtype).tiny
    size = jnp.max(jnp.abs(h))
    flat = jnp.abs(h) <= len(h) * eps * size
    # Where the Hessian is zero but for rounding so is the gradient: minima of residual units form manifolds.
    h = jnp.where(flat, 0.0, h)
    idle = flat & (jnp.abs(q) <= jnp.sqrt(eps) * jnp.linalg.norm(q))
    q = jnp.where(idle, 0.0, q)
    lowest = jnp.minimum(h[0], 0.0)

    def coordinates(shift):  # shift = μ + lowest ≥ 0, so that h + μ = (h − lowest) + shift loses no digits
        denominator = (h - lowest) + shift
        return -q / jnp.where(denominator > 0, denominator, jnp.inf)

    free = coordinates(0.0)
    reachable = jnp.all((h - lowest > 0) | (q == 0))  # otherwise ‖s(0)‖ is infinite
    interior = reachable & (lowest == 0) & (jnp.linalg.norm(free) <= radius)

    upper = jnp.linalg.norm(q) / radius
    low, high = jnp.log(jnp.maximum(upper, tiny)) - 80.0, jnp.log(jnp.maximum(upper, tiny))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        long = jnp.linalg.norm(coordinates(jnp.exp(middle))) > radius
        return jnp.where(long, middle, low), jnp.where(long, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    boundary = coordinates(jnp.exp(high))
    s = jnp.where(interior, free, boundary)
    # The hard case, exact or all but: what is missing to the boundary is made up along the lowest eigenvector.
    missing = jnp.sqrt(jnp.maximum(radius**2 - s @ s, 0.0))
    hard = (lowest < 0) & (jnp.linalg.norm(s) < (1.0 - 1e-8) * radius)
    along = jnp.where(s[0] != 0, s[0], jnp.where(q[0] > 0, -1.0, 1.0))
    s = jnp.where(hard, s.at[0].set(jnp.sign(along) * jnp.hypot(s[0], missing)), s)
    predicted = -(q @ s + 0.5 * s @ (h * s))
    return Q @ s, predicted, interior


def decrease(point: Point, A, B) -> Any:
    """F(W, V) − F(W + A, V + B), W and A with an axis of outputs, accurate even where it is far below F's rounding."""
    W, x = point.rows, point.inner
    # δ_i as it stands: the difference of two predictions would have lost it.
    return mean_decrease(point.row_loss, x @ W.T, x @ A.T + point.features @ ((W + A) @ B).T, point.y)


def mean_decrease(loss: Loss, p, delta, y) -> Any:
    """mean ℓ(p_i; y_i) − mean ℓ(p_i + δ_i; y_i); if small, the integral of −ℓ' along the way, by Gauss's rule."""
    values = loss.value(p, y)
    difference = jnp.mean(values) - jnp.mean(loss.value(p + delta, y))
    slope = sum(weight * loss.derivative(p + node * delta, y) for node, weight in zip(_NODES, _WEIGHTS, strict=True))
    along = -jnp.sum(slope * delta) / len(p)
    return jnp.where(jnp.abs(difference) > 1e-6 * jnp.mean(jnp.abs(values)), difference, along)
