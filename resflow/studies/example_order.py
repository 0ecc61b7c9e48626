"""SGD over a finite sum in three orders of its examples: with replacement, reshuffled, and balanced (GraB)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int, Key, Real, Shaped

from resflow.arrays import Array
from resflow.errors import InvalidInputError, nearest
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import trainable
from resflow.point import checked_samples

__all__ = ["ORDERS", "OrderedSGD", "balanced_order", "ordered_sgd", "over_seeds"]

ORDERS = ("with_replacement", "random_reshuffling", "grab")
"""Ways to choose the n examples of an epoch."""


class OrderedSGD(NamedTuple):
    """What SGD in one order came to, for S seeds.

    Attributes:
        objective: F before the first epoch and after each, shape (S, epochs + 1).
        prefix_norm: The largest norm of Σ_{i ≤ t} (g_i − m) over the steps t of each epoch, shape (S, epochs): g_i is
            the gradient of the i-th example visited, m the mean of the previous epoch's gradients (0 in the first).
        models: The models after the last epoch, stacked.
        last_order: The examples of the last epoch as they were visited, shape (S, n).
    """

    objective: Float[np.ndarray, "S rows"]
    prefix_norm: Float[np.ndarray, "S epochs"]
    models: Any
    last_order: Int[np.ndarray, "S n"]


class _Balance(NamedTuple):
    """What GraB keeps."""

    signed: jax.Array  # s
    mean: jax.Array  # of the gradients so far in this epoch, divided by n
    order: jax.Array  # of the next epoch, filled from both ends
    front: jax.Array
    back: jax.Array


def _start_balance(size: int, n: int) -> _Balance:
    zero = jnp.zeros(size)
    return _Balance(zero, zero, jnp.zeros(n, jnp.int32), jnp.int32(0), jnp.int32(n - 1))


def _balanced(state: _Balance, gradient: jax.Array, example: jax.Array, stale_mean: jax.Array) -> _Balance:
    """GraB's step, as `balanced_order` says: filling the next order from the back reverses the examples with −1."""
    centred = gradient - stale_mean
    # ‖s + c‖ ≤ ‖s − c‖ without the squares of both, which rounding would compare wrongly near a tie.
    plus = state.signed @ centred <= 0
    place = jnp.where(plus, state.front, state.back)
    return _Balance(
        state.signed + jnp.where(plus, centred, -centred),
        state.mean + gradient / len(state.order),
        state.order.at[place].set(example),
        state.front + plus,
        state.back - ~plus,
    )


def balanced_order(
    gradients: Float[Array, "n P"], order: Int[Array, "n"], mean: Float[Array, "P"]
) -> Int[jax.Array, "n"]:
    """GraB's next order: examples visited in `order` get signs, the +1 come first, then the −1 in reverse.

    Example t gets +1 if ‖s + (g_t − m)‖ ≤ ‖s − (g_t − m)‖ and −1 otherwise, and s grows by the signed g_t − m. Besides
    the gradients and the orders themselves it needs memory for two vectors of P numbers.

    Args:
        gradients: g, one row an example.
        order: The order of this epoch.
        mean: m, the mean gradient of the previous epoch.

    References:
        Lu 2022 (arXiv:2205.10733).
    """
    gradients, order, mean = jnp.asarray(gradients), jnp.asarray(order, jnp.int32), jnp.asarray(mean)
    start = _start_balance(gradients.shape[1], len(order))
    visit = lambda state, example: (_balanced(state, gradients[example], example, mean), None)  # noqa: E731
    return jax.lax.scan(visit, start, order)[0].order


def ordered_sgd(
    models: Any,
    X: Real[Array, "n d"],
    y: Shaped[Array, "n"],
    *,
    loss: str | Loss,
    order: str,
    learning_rate: float,
    epochs: int,
    keys: Key[jax.Array, "S"],
) -> OrderedSGD:
    """SGD with one example a step and a constant step size, all seeds side by side under vmap.

    Args:
        models: S models of one shape, stacked: every array with an axis of length S in front.
        X, y: Examples as rows, shape (n, d), and their labels, shape (n,).
        loss: A loss or its name.
        order: A name of `ORDERS`. GraB starts from a random order.
        learning_rate: Step size.
        epochs: Passes of n steps each.
        keys: S random keys, for the orders.

    Raises:
        InvalidInputError: If the order is unknown, or learning_rate or epochs out of range.

    References:
        Lu 2022 (arXiv:2205.10733).
    """
    if order not in ORDERS:
        raise InvalidInputError(
            f"order={order!r} is unknown: nearest is {nearest(order, ORDERS, 1)[0]!r}; "
            f"choose one of {', '.join(ORDERS)}"
        )
    if epochs < 1:
        raise InvalidInputError(f"epochs={epochs} must be at least 1")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise InvalidInputError(f"learning_rate={learning_rate} must be a positive finite number, e.g. 0.01")
    loss = as_loss(loss)
    X, y = (jnp.asarray(array, float) for array in checked_samples(X, y, loss))
    moving, fixed = eqx.partition(models, trainable(models))
    rate = jnp.asarray(learning_rate, float)
    objective, prefixes, final, last = _run(moving, fixed, X, y, rate, keys, loss, order, epochs)
    return OrderedSGD(np.asarray(objective), np.asarray(prefixes), eqx.combine(final, fixed), np.asarray(last))


def over_seeds(values: Mapping[tuple[float, str], Float[np.ndarray, "S epochs"]], *, of_mean: bool) -> pd.DataFrame:
    """What was measured after each epoch, as its mean over seeds with an interval.

    Args:
        values: By learning rate and order, one row a seed.
        of_mean: Whether the interval is that of the mean, at 95 % by the normal approximation (infinite for one seed);
            or else that of nine seeds in ten.

    Returns:
        Columns learning_rate, order, epoch (from 1), mean, low and high.
    """
    frames = []
    for (rate, order), measured in values.items():
        seeds, epochs = measured.shape
        mean = np.ascontiguousarray(measured.T).mean(axis=1)  # with the bits that an epoch has by itself
        low, high = np.quantile(measured, [0.05, 0.95], axis=0)
        if of_mean:
            error = 1.96 * measured.std(axis=0, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.full(epochs, np.inf)
            low, high = mean - error, mean + error
        columns = {"epoch": np.arange(1, epochs + 1), "mean": mean, "low": low, "high": high}
        frames.append(pd.DataFrame({"learning_rate": rate, "order": order} | columns))
    return pd.concat(frames, ignore_index=True)


@partial(exported, arrays_only=True)
def _run(moving, fixed, X, y, learning_rate, keys, loss, order, epochs):
    n = len(y)

    def run(moving, fixed, key):
        start, unravel = ravel_pytree(moving)

        def values(flat, X, y):
            return nan_unless(all_finite(flat), loss.value(eqx.combine(unravel(flat), fixed)(X), y))

        def one(flat, example):
            return values(flat, X[example][None], y[example][None])[0]

        def visit(carry, example):
            flat, balance, prefix, largest, stale_mean = carry
            gradient = jax.grad(one)(flat, example)
            prefix = prefix + gradient - stale_mean
            largest = jnp.maximum(largest, prefix @ prefix)
            balance = _balanced(balance, gradient, example, stale_mean)
            return (flat - learning_rate * gradient, balance, prefix, largest, stale_mean), None

        def epoch(carry, epoch_key):
            flat, balanced, stale_mean = carry
            if order == "grab":
                visited = balanced
            elif order == "random_reshuffling":
                visited = jax.random.permutation(epoch_key, n)
            else:
                visited = jax.random.randint(epoch_key, (n,), 0, n)
            visited = visited.astype(jnp.int32)
            begin = (flat, _start_balance(flat.size, n), jnp.zeros_like(flat), jnp.zeros(()), stale_mean)
            (flat, balance, _, largest, _), _ = jax.lax.scan(visit, begin, visited)
            measured = jnp.mean(values(flat, X, y)), jnp.sqrt(largest), visited
            return (flat, balance.order, balance.mean), measured

        first_key, epoch_key = jax.random.split(key)
        begin = start, jax.random.permutation(first_key, n).astype(jnp.int32), jnp.zeros_like(start)
        (final, *_), (objective, prefixes, visited) = jax.lax.scan(epoch, begin, jax.random.split(epoch_key, epochs))
        objective = jnp.concatenate([jnp.mean(values(start, X, y))[None], objective])
        return objective, prefixes, unravel(final), visited[-1]

    return eqx.filter_vmap(run)(moving, fixed, keys)
