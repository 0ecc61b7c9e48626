"""The smallest eigenvalue of a partial Hessian that is too large to factorise: from −‖R‖ to a Ritz value."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from resflow.floating import hypot, lower_root, norm, ratio, singular_vectors, spectral_norm
from resflow.hessian.lanczos import smallest_operator_eigenvalue
from resflow.point import Point

__all__ = ["Ends", "norm_and_ritz_value"]

_MAX_RESTARTS = 10
_TOLERANCE = 1e-6  # of the residual, relative to the largest eigenvalue: the value is off by the square of that


class Ends(NamedTuple):
    """Two bounds on λ_min − ridge_V, of which `upper` is the Rayleigh quotient of (A, B), of norm 1.

    With ∇²F[A, B], from the samples and without ridge, and an estimate of the effect of rounding on the bounds.
    """

    lower: jax.Array
    upper: jax.Array
    A: jax.Array
    B: jax.Array
    product_W: jax.Array
    product_V: jax.Array
    rounding: jax.Array


def norm_and_ritz_value(point: Point, ridge_difference) -> Ends:
    """λ_min of ∇²F + diag(δ, 0) in (W, V), δ = ridge_W − ridge_V, from below by ‖R‖ and from above by an iteration.

    Along (A, B) the Hessian is positive semidefinite but for 2⟨AB, R⟩ ≥ −2‖R‖‖A‖‖B‖ with R = mean ℓ'_i f_iᵀ, so that
    λ_min is at least the smaller eigenvalue of [[δ, ‖R‖], [‖R‖, 0]], −‖R‖ at δ = 0. From above stands the better one
    of two Rayleigh quotients: that of the best direction known without an iteration, R's first singular vectors joined
    by a vector a of small ‖W a‖, and that of a Lanczos iteration which goes on from the better of it and a random
    start. The samples are held in memory, in the precision of W.
    """
    dtype = point.W.dtype
    point = point.part(*(jnp.asarray(array, dtype) for array in (point.features, point.X, point.y)))
    return _ends(point, jnp.asarray(ridge_difference, dtype))


@jax.jit
def _ends(point: Point, delta) -> Ends:
    W, V, X, features = point.rows, point.V, point.X, point.features
    n, (m, d), k = X.shape[0], W.shape, V.shape[1]
    slopes = point.slopes.reshape(n, m)
    # One R, behind a barrier, for its singular values and vectors and for every product.
    R, p = jax.lax.optimization_barrier((slopes.T @ features / n, point.predictions.reshape(n, m)))
    U, gamma, Z = singular_vectors(R)

    def product(A, B):
        inner = A @ V + W @ B
        s = _curved(point, p, X @ A.T + features @ inner.T) / n
        along = s.T @ features
        return s.T @ X + along @ V.T + R @ B.T, W.T @ along + A.T @ R

    def flat(A, B):
        return jnp.concatenate([A.ravel(), B.ravel()])

    def with_ridge(A, B):
        along_W, along_V = product(A, B)
        return along_W + delta * A, along_V

    def unravel(x):
        return x[: m * d].reshape(m, d), x[m * d :].reshape(d, k)

    known, at_known = _known_direction(with_ridge, W, U[:, 0], gamma[0], Z[:, 0])
    start = flat(*known)
    found = smallest_operator_eigenvalue(
        lambda x: flat(*with_ridge(*unravel(x))),
        start,
        key=jax.random.key(0),
        max_restarts=_MAX_RESTARTS,
        tolerance=_TOLERANCE if start.dtype == jnp.float64 else None,
        candidate=start,
    )
    # What was known has a value of many digits, however small: an iteration that found as much has only rounding.
    lower_found = ~(found.lambda_min >= at_known - found.rounding)
    x = jnp.where(lower_found, found.direction, start)
    upper = jnp.where(lower_found, found.lambda_min, at_known)
    A, B = unravel(x)
    lower = jnp.minimum(lower_root(delta, gamma[0]), upper)
    product_W, product_V = product(A, B)
    return Ends(lower, upper, A, B, product_W, product_V, _rounding(point, p, slopes, A, B))


def _curved(point: Point, p, t):
    """ℓ''_i t_i as the change of ℓ' along t: the matrices ℓ'' themselves would be n m² numbers."""
    return jax.jvp(lambda p: point.row_loss.derivative(p, point.y), (p,), (t,))[1]


def _known_direction(product, W, u, gamma, z):
    """The best direction of the form (α u aᵀ, β a zᵀ), or (1 aᵀ, 0) if that is better, and its Rayleigh quotient.

    With W a = 0 the first has the quotient of [[h, γ], [γ, 0]], never above 0; it tells of a way down wherever R ≠ 0,
    however little. Of m ≥ d outputs there need not be such an a: softmax, which does not see what all outputs have in
    common, is flat along the second.
    """
    m, d = W.shape
    nothing = jnp.zeros((d, z.size), W.dtype)
    if m < d:  # the unit vector furthest from W's row space, without its part in it
        Q = jnp.linalg.qr(jnp.where(jnp.isfinite(W), W, 0.0).T)[0]
        place = jnp.argmin(jnp.sum(Q**2, axis=1))
        a = (-Q @ Q[place]).at[place].add(1.0)
        a = a - Q @ (Q.T @ a)
    else:
        a = singular_vectors(W.T)[0][:, -1]
    a = a / jnp.linalg.norm(a)
    z = jnp.where(jnp.any(z != 0), z, nothing[0].at[0].set(1.0))
    along_A, along_B = (jnp.outer(u, a), nothing), (jnp.zeros_like(W), jnp.outer(a, z))
    images = product(*along_A), product(*along_B)
    h, c, coupling = jnp.vdot(along_A[0], images[0][0]), jnp.zeros_like(gamma), gamma
    if m >= d:
        c, coupling = jnp.vdot(along_B[1], images[1][1]), jnp.vdot(along_B[1], images[0][1])
    difference = lower_root(h - c, coupling)
    value, length = c + difference, hypot(difference, coupling)
    best = ratio(difference, length) * along_A[0], jnp.where(length > 0, ratio(coupling, length), 1.0) * along_B[1]
    if m < d or m == 1:
        return best, value
    common = jnp.outer(jnp.full(m, m**-0.5, W.dtype), a)
    flatness = jnp.vdot(common, product(common, nothing)[0])
    better = flatness < value
    best = jnp.where(better, common, best[0]), jnp.where(better, nothing, best[1])
    return best, jnp.where(better, flatness, value)


def _rounding(point: Point, p, slopes, A, B):
    """An estimate of how far rounding in the predictions and in sums over samples moves both ends.

    As for a bracket, by what predictions, ℓ' and ℓ'' change by if terms that cancel in them are off by a rounding each.
    """
    W, V, X, features, n = point.rows, point.V, point.X, point.features, len(p)
    signs = jax.random.rademacher(jax.random.key(1), p.shape, p.dtype)
    cancelling = signs * (jnp.abs(X) @ jnp.abs(W).T + jnp.abs(features) @ (jnp.abs(W) @ jnp.abs(V)).T)
    t = signs * jnp.sqrt(X**2 @ (A**2).T + features**2 @ ((A @ V + W @ B) ** 2).T)
    curved = partial(_curved, point)
    s, change = jax.jvp(lambda p: curved(p, t), (p,), (cancelling,))
    in_K = jnp.sum(jnp.abs(t) * (jnp.abs(s) + jnp.abs(change))) / n
    in_R = (jnp.abs(slopes) + jnp.abs(curved(p, cancelling))).T @ jnp.abs(features) / n
    return 4.0 * jnp.finfo(p.dtype).eps * (in_K + (spectral_norm(in_R) if len(in_R) > 1 else norm(in_R)))
