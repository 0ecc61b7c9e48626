"""The samples of each step: orders of whole epochs, drawn before a block of steps that needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from resflow.training._shuffle import random_order

__all__ = ["Orders", "Schedule"]


class Orders(NamedTuple):
    """The orders of the epochs at hand, of one model or with a leading axis of several.

    Attributes:
        rows: Two spans of epochs, flat, shape (..., 2 · steps of a span · batch size): the last two that were drawn.
            None where every step takes all samples.
        drawn: Which span was drawn last, the same for all models; −1 before the first.
    """

    rows: Any
    drawn: Any


class Schedule:
    """Which samples each step takes, without replacement within an epoch, whose last incomplete batch is left out.

    Epochs are drawn a span at a time, as many as make up a block of steps: so a block needs two spans at most, and
    each epoch is drawn once, whatever the blocks.
    """

    def __init__(self, n: int, batch_size: int, block: int) -> None:
        self._n, self._size = n, batch_size
        self._of_epoch = n // batch_size
        self._epochs = -(-block // self._of_epoch)
        self._steps = self._epochs * self._of_epoch

    def none_yet(self) -> jax.Array:
        """Room for the orders of one model."""
        return jnp.zeros(2 * self._steps * self._size, jnp.int32)

    def ahead(self, orders: Orders, keys: Any, end: jax.Array, each: Callable[[Any], Any]) -> Orders:
        """The orders for the steps of a block before `end`.

        Args:
            orders: For the block before.
            keys: The key of each model.
            end: The step after the last of the block, which has one at least.
            each: Makes of a function of one key one of all keys.
        """
        span = (end - 1) // self._steps

        def draw(orders: Orders) -> Orders:
            new = each(lambda key: self._draw(key, span))(keys)
            return Orders(jnp.concatenate([orders.rows[..., new.shape[-1] :], new], axis=-1), span)

        return jax.lax.cond(span > orders.drawn, draw, lambda orders: orders, orders)

    def rows_at(self, orders: Orders, step: jax.Array) -> jax.Array:
        """The samples of a step, of one model, shape (batch size,)."""
        place = 1 - (orders.drawn - step // self._steps)
        start = (place * self._steps + step % self._steps) * self._size
        return jax.lax.dynamic_slice_in_dim(orders.rows, start, self._size)

    def _draw(self, key: Any, span: jax.Array) -> jax.Array:
        def order(epoch: jax.Array) -> jax.Array:
            return random_order(jax.random.fold_in(key, epoch), self._n)[: self._of_epoch * self._size]

        if self._epochs == 1:
            return order(span)
        return jax.vmap(order)(span * self._epochs + jnp.arange(self._epochs)).ravel()
