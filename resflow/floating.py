"""What floating-point numbers cannot hold: points that are not finite, and norms beyond the range of squares."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

__all__ = [
    "all_finite",
    "hypot",
    "lower_root",
    "nan_unless",
    "norm",
    "product",
    "ratio",
    "singular_vectors",
    "spectral_norm",
]


def all_finite(*trees: Any) -> jax.Array:
    """Whether every floating-point number in some pytrees is finite; all else in them counts as finite.

    A product with what is not finite is not finite either, so that looking at the predictions of a model tells of its
    weights and inputs, for less than looking at these.
    """
    leaves = [leaf for leaf in jax.tree.leaves(trees) if eqx.is_inexact_array(leaf) or isinstance(leaf, float)]
    finite = jnp.asarray(True)
    for leaf in leaves:
        finite &= jnp.all(jnp.isfinite(leaf))
    return finite


def nan_unless(finite: Any, tree: Any) -> Any:
    """The pytree as it is, or with NaN for floating-point numbers, −1 for whole ones and False for truth values.

    For results at a point: a number that is computed from what is not finite may look like any other.
    """

    def keep(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.bool_):
            return leaf & finite
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.where(finite, leaf, -1)
        return jnp.where(finite, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(keep, tree)


def norm(x: Any, axis: int | None = None) -> jax.Array:
    """The Euclidean norm of all entries, or along an axis, of numbers whose squares may underflow or overflow.

    By fixed powers of two: a scale of the numbers' own would have to be the same wherever a compiled program uses it,
    which XLA, that computes the same sum twice and rounds it otherwise, does not keep to.
    """
    x = jnp.asarray(x)
    square = jnp.sum(x * x, axis=axis)
    exponent, safe = (540, 1e280) if x.dtype == jnp.float64 else (68, 1e30)

    def scaled(power: int) -> jax.Array:
        # Behind a barrier, as XLA would make (2^p)², which overflows, of two such factors.
        y = jax.lax.optimization_barrier(x * 2.0**power)
        return jnp.sqrt(jnp.sum(y * y, axis=axis)) * 2.0**-power

    inside = jnp.sqrt(square)
    return jnp.where(square < 1.0 / safe, scaled(exponent), jnp.where(square > safe, scaled(-exponent), inside))


def spectral_norm(V: Any) -> jax.Array:
    """The largest singular value of a matrix, NaN where it is not finite, which LAPACK must not be given."""
    finite = all_finite(V)
    return jnp.where(finite, jnp.linalg.norm(jnp.where(finite, V, 0.0), 2), jnp.nan)


def singular_vectors(R: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U, γ and Z of R = U diag(γ) Zᵀ, shape (m, k): all m left singular vectors, zeros for those without a right one.

    Of R = 0 with one row Z is the first unit vector. Where R is not finite, γ is NaN.
    """
    m, k = R.shape
    if m == 1:
        gamma = norm(R)
        z = jnp.where(gamma > 0, ratio(R[0], gamma), jnp.zeros(k, R.dtype).at[0].set(1.0))
        return jnp.ones((1, 1), R.dtype), gamma[None], z[:, None]
    finite = all_finite(R)
    # LAPACK must not be given what is not finite.
    U, gamma, Zt = jnp.linalg.svd(jnp.where(finite, R, 0.0), full_matrices=m > k)
    missing = max(m - k, 0)
    return U, jnp.pad(nan_unless(finite, gamma), (0, missing)), jnp.pad(Zt[:m].T, ((0, 0), (0, missing)))


def ratio(numerator: Any, denominator: Any) -> jax.Array:
    """numerator / denominator, 0 where the denominator is 0."""
    return jnp.where(denominator == 0, 0.0, numerator / jnp.where(denominator == 0, 1.0, denominator))


def product(*factors: Any) -> jax.Array:
    """The product of numbers of which some may be infinite: 0 where any is 0."""
    result, zero = jnp.asarray(factors[0]), jnp.asarray(factors[0]) == 0
    for factor in factors[1:]:
        result, zero = result * factor, zero | (factor == 0)
    return jnp.where(zero, 0.0, result)


def lower_root(h: Any, t: Any) -> jax.Array:
    """(h − sqrt(h² + 4t²))/2, the smaller eigenvalue of [[h, t], [t, 0]], without cancellation."""
    larger = 0.5 * (jnp.abs(h) + hypot(h, 2.0 * t))
    return jnp.where(h >= 0, -t * ratio(t, larger), -larger)


def hypot(a: Any, b: Any) -> jax.Array:
    """sqrt(a² + b²) without overflow; `jnp.hypot` minds infinities too and takes ten times as long to compile."""
    a, b = jnp.abs(a), jnp.abs(b)
    larger = jnp.maximum(a, b)
    return larger * jnp.sqrt(1.0 + ratio(jnp.minimum(a, b), larger) ** 2)
