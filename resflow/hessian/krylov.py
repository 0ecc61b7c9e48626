"""What a Krylov space says of the smallest eigenvalue: its best vector, and how low one may be that it has not seen."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from matfree import decomp

__all__ = ["lowest_ritz_vector"]

_DOUBT = 1e-6


def lowest_ritz_vector(product, start, steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The unit vector of the smallest Ritz value in the start's Krylov space, and the largest modulus of a Ritz value.

    And how low an eigenvalue may be that it has not seen, if the start is random: with probability 1 − 1e-6 none lies
    below. With Ritz values θ_i and the couplings β_i of the k steps, the last one's to what the space leaves out among
    them, an eigenvector's part c of the start obeys |c| Π|λ − θ_i| ≤ Πβ_i exactly: the right side is the norm of the
    Lanczos polynomial of degree k, the left its part along the eigenvector. |c| < c₀ has a probability of at most
    c₀ sqrt(2D/π), so that below θ_1 − Δ with c₀ Π(θ_i − θ_1 + Δ) = Πβ_i there is no eigenvalue.

    Once the Krylov space is invariant, what matfree goes on with is rounding amplified to norm 1, or not a number, and
    the Ritz values are silently wrong: everything from there on is left out.
    """
    lanczos = decomp.tridiag_sym(steps, materialize=False, reortho="full", custom_vjp=False)
    basis, (diagonal, off_diagonal), remainder, *_ = lanczos(product, start)
    eps = jnp.finfo(start.dtype).eps
    size = jnp.abs(diagonal).at[1:].max(jnp.abs(off_diagonal))
    size = jax.lax.cummax(jnp.where(jnp.isfinite(size), size, 0.0))
    # Not `<=`, for after an exact breakdown it is not a number.
    broken = ~(jnp.abs(off_diagonal) > 32.0 * eps * size[:-1])
    dimension = jnp.where(jnp.any(broken), jnp.argmax(broken) + 1, steps) if steps > 1 else 1
    inside = jnp.arange(steps) < dimension
    above_all = jnp.where(size[-1] > 0, 4.0 * size[-1], 1.0)  # for the rows left out, so that their values come last
    coupling = jnp.where(inside[1:], off_diagonal, 0.0)
    T = jnp.diag(jnp.where(inside, diagonal, above_all)) + jnp.diag(coupling, 1) + jnp.diag(coupling, -1)
    values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(T), T, 0.0))
    x = jnp.where(inside, vectors[:, 0], 0.0) @ jnp.where(inside[:, None], basis, 0.0)
    largest = jnp.maximum(jnp.abs(values[0]), jnp.abs(values[dimension - 1]))

    # Beyond the dimension couplings and Ritz values do not count; what rounding leaves of the last is no less than it.
    couplings = jnp.append(off_diagonal, jnp.linalg.norm(remainder))
    couplings = jnp.maximum(jnp.where(jnp.isfinite(couplings), couplings, 0.0), 32.0 * eps * size[-1])
    share = math.log(_DOUBT) + 0.5 * math.log(math.pi / (2.0 * start.size))
    room = jnp.sum(jnp.where(inside, jnp.log(couplings), 0.0)) - share
    above = jnp.maximum(values - values[0], 0.0)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        fits = jnp.sum(jnp.where(inside, jnp.log(above + jnp.exp(middle)), 0.0)) <= room
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    tiny = jnp.finfo(start.dtype).tiny
    ends = jnp.full((), math.log(tiny), start.dtype), jnp.log(jnp.maximum(size[-1], tiny)) - share + 1.0
    _, gap = jax.lax.fori_loop(0, 60, halve, ends)
    return x / jnp.linalg.norm(x), largest, values[0] - jnp.where(size[-1] > 0, jnp.exp(gap), 0.0)
