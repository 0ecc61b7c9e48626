"""Objective and gradient of any model, with what rounding may have done to the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from resflow.arrays import in_full_precision
from resflow.floating import all_finite, nan_unless

__all__ = ["Slope", "slope"]

_DRAWN = 65_521  # a prime: rows of one matrix are not changed alike


class Slope(NamedTuple):
    """F and ‖∇F‖ at a point, NaN where the point or they are not finite.

    Attributes:
        objective: F.
        grad_norm: ‖∇F‖.
        sensitivity: How far ∇F moves, by a norm, for a change of every parameter and of every number in the data by a
            random part of itself, relative to the size of these parts.
        level_sensitivity: How far F moves for it.
        norm: ‖ϑ‖ of the D parameters.
        parameters: D.
    """

    objective: float
    grad_norm: float
    sensitivity: float
    level_sensitivity: float
    norm: float
    parameters: int


@in_full_precision
def slope(objective: Callable[..., Any], moving: Any, fixed: Any, data: tuple[Any, ...]) -> Slope:
    """F and its gradient at a point and, to see what rounding does, once more at one next to it: two gradients.

    What a program computes is, up to a few roundings, the gradient for numbers that each differ by a rounding from
    those that it was given. So each is changed by a random part of itself of size √eps, large enough for the change of
    the gradient to be seen, and small enough for it to be in proportion.
    """
    dtype = jnp.result_type(*jax.tree.leaves(moving))
    step = jnp.sqrt(jnp.finfo(dtype).eps)
    value, gradient = _gradient(objective, moving, fixed, data)
    level, beside = _gradient(objective, *_nudged(moving, fixed, data, step))
    moved = abs(float(level) - float(value))
    value, *norms = _norms(value, gradient, beside, moving, fixed, data)
    grad_norm, change, norm = map(float, norms)
    size = sum(leaf.size for leaf in jax.tree.leaves(moving))
    return Slope(float(value), grad_norm, change / float(step), moved / float(step), norm, size)


@eqx.filter_jit
def _gradient(objective, moving, fixed, data):
    return eqx.filter_value_and_grad(lambda moving: objective(eqx.combine(moving, fixed), *data))(moving)


@eqx.filter_jit
def _nudged(moving, fixed, data, step):
    """The arguments of `_gradient` at a point beside it."""
    numbers, rest = eqx.partition((moving, data), eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(numbers)
    # Drawn once and repeated: a draw for every number would cost as much as the gradient.
    draw = jax.random.normal(jax.random.key(0), (_DRAWN,), step.dtype)
    leaves = [leaf * (1.0 + step * jnp.resize(draw, leaf.shape)).astype(leaf.dtype) for leaf in leaves]
    moving, data = eqx.combine(jax.tree.unflatten(structure, leaves), rest)
    return moving, fixed, data


@eqx.filter_jit
def _norms(value, gradient, beside, moving, fixed, data):
    """F, ‖∇F‖, how far the gradient beside is from it, and ‖ϑ‖."""
    change = jax.tree.map(jnp.subtract, beside, gradient)
    grad_norm, *further = (_norm(tree) for tree in (gradient, change, moving))
    finite = all_finite(moving, fixed, data, value, grad_norm)
    return *nan_unless(finite, (value, grad_norm)), *further


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)))
