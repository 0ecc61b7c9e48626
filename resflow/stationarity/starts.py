"""Where a search for stationary points starts: from diverse random points, and from points on the way down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.models.residual_unit import trainable
from resflow.parallel import in_threads
from resflow.point import checked_data

__all__ = ["descent_starts", "random_starts"]


def random_starts(model: Any, count: int, *, key: PRNGKeyArray, scales: tuple[float, float] = (0.03, 3.0)) -> Any:
    """`count` copies of a model with every trainable array drawn anew, normally distributed.

    Each array of each copy has a standard deviation of its own, log-uniform between the two scales: starts near
    w = 0 with a large V are among them, and starts with everything large.

    Args:
        model: Any pytree; its trainable arrays give shapes and precision, and get a leading axis.
        count: Length of that axis, at least 1.
        key: Random key.
        scales: Smallest and largest standard deviation.

    Raises:
        InvalidInputError: If count is below 1 or the scales are not positive and ascending.
    """
    if count < 1:
        raise InvalidInputError(f"count={count} must be at least 1: the number of starts")
    if not 0 < scales[0] <= scales[1]:
        raise InvalidInputError(f"scales={scales} must be positive and ascending, e.g. (0.03, 3.0)")
    moving, fixed = eqx.partition(model, trainable(model))
    leaves, structure = jax.tree.flatten(moving)
    drawn = []
    for leaf, leaf_key in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
        scale_key, value_key = jax.random.split(leaf_key)
        low, high = jnp.log(scales[0]), jnp.log(scales[1])
        scale = jnp.exp(jax.random.uniform(scale_key, (count,) + (1,) * leaf.ndim, minval=low, maxval=high))
        drawn.append((scale * jax.random.normal(value_key, (count, *leaf.shape))).astype(leaf.dtype))
    return eqx.combine(jax.tree.unflatten(structure, drawn), fixed)


def descent_starts(
    objective: Callable[..., Any],
    starts: Any,
    *data: Any,
    key: PRNGKeyArray,
    max_steps: int = 500,
    learning_rate: float = 0.05,
) -> Any:
    """The starts after 0 to max_steps Adam steps each: points on the way down, from where a search finds minima.

    Random points lead a search to saddles almost only; points of a descent lead it to what training meets.

    Args:
        objective: F(model, *data).
        starts: As `random_starts` gives them.
        data: What the objective takes besides the model; for a `MeanLoss` labels as a `Point` takes them.
        key: Random key for the number of steps, uniform.
        max_steps: The largest number of steps.
        learning_rate: Of Adam.

    Raises:
        InvalidInputError: If X and y do not suit a `MeanLoss`.

    References:
        Frye 2019 (arXiv:1901.10603), which starts from points of training runs.
    """
    moving, fixed = eqx.partition(starts, trainable(starts))
    count = len(jax.tree.leaves(moving)[0])
    data = checked_data(objective, eqx.combine(jax.tree.map(lambda leaf: leaf[0], moving), fixed), data)
    steps = jax.random.randint(key, (count,), 0, max_steps + 1)

    descend = partial(_descend, objective, fixed, data, learning_rate)
    return eqx.combine(in_threads(descend, (moving, steps)), fixed)


@partial(exported, arrays_only=True)
def _descend(objective, fixed, data, learning_rate, starts):
    adam = optax.adam(learning_rate)
    gradient = jax.grad(lambda point: objective(eqx.combine(point, fixed), *data))

    def update(_, carry):
        point, state = carry
        change, state = adam.update(gradient(point), state, point)
        return optax.apply_updates(point, change), state

    def run(arguments):
        point, count = arguments
        return jax.lax.fori_loop(0, count, update, (point, adam.init(point)))[0]

    return jax.lax.map(run, starts)
