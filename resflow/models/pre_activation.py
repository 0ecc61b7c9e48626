"""A residual network on vectors, of pre-activation blocks with layer normalization, to be trained and then probed."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array

__all__ = ["Block", "OnBatches", "PreActivationNetwork"]


class Block(eqx.Module):
    """h + V relu(U ν(h)), ν a layer normalization, U and V with biases."""

    norm: eqx.nn.LayerNorm
    U: eqx.nn.Linear
    V: eqx.nn.Linear

    def __init__(self, d: int, width: int, *, scale: float, key: PRNGKeyArray) -> None:
        U_key, V_key = jax.random.split(key)
        self.norm, self.U = eqx.nn.LayerNorm(d), eqx.nn.Linear(d, width, key=U_key)
        V = eqx.nn.Linear(width, d, key=V_key)
        self.V = eqx.tree_at(lambda V: V.weight, V, scale * V.weight)

    def __call__(self, h: Float[jax.Array, "d"]) -> Float[jax.Array, "d"]:
        return h + self.V(jax.nn.relu(self.U(self.norm(h))))


class PreActivationNetwork(eqx.Module):
    """p(x) = W ν(h_L) + b of one sample, with h_0 = x and a block between each h_{l−1} and h_l.

    References:
        He, Zhang, Ren and Sun 2016 (arXiv:1603.05027), with layer in place of batch normalization.
    """

    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(
        self, d: int, outputs: int | None, *, blocks: int, width: int, scale: float, key: PRNGKeyArray
    ) -> None:
        """Random weights, those of V times `scale`; outputs None for one without an axis."""
        head_key, *keys = jax.random.split(key, blocks + 1)
        self.blocks = tuple(Block(d, width, scale=scale, key=each) for each in keys)
        self.norm = eqx.nn.LayerNorm(d)
        self.head = eqx.nn.Linear(d, "scalar" if outputs is None else outputs, key=head_key)

    def __call__(self, x: Float[jax.Array, "d"]) -> Float[jax.Array, "*m"]:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class OnBatches(eqx.Module):
    """A network of one sample as one of batches, such as `resflow.train` takes."""

    network: PreActivationNetwork

    def __call__(self, X: Float[Array, "n d"]) -> Float[jax.Array, "n *m"]:
        return jax.vmap(self.network)(jnp.asarray(X))
