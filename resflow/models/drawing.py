"""Random arrays of new models, drawn by one program each, which is looked up where programs are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from resflow.arrays import as_number
from resflow.exported import exported
from resflow.keys import check_key

__all__ = ["checked_inputs", "drawn", "normals"]


def checked_inputs(d: Any) -> int:
    """The number of inputs of a model.

    Raises:
        InvalidInputError: If it is no whole number, or below 1.
    """
    return as_number("d", d, "must be at least 1: the number of inputs", lambda d: d >= 1, whole=True)


def drawn(make: Callable[..., Any], *arguments: Any, key: PRNGKeyArray) -> Any:
    """The module `make(*arguments, key=key)`, its arrays drawn by one program and not by one for each of its steps.

    Args:
        make: A class or function of this package, or of those that it is built on.
        arguments: What tells modules of it apart, but for their arrays; hashable.
        key: Random key.
    """
    check_key(key)
    like = eqx.filter_eval_shape(partial(make, *arguments), key=key)
    arrays = iter(_arrays(key, make=make, arguments=arguments))
    return jax.tree.map(lambda leaf: next(arrays) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, like)


@partial(exported, static=("make", "arguments"))
def _arrays(key: PRNGKeyArray, *, make: Callable[..., Any], arguments: tuple[Any, ...]) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(make(*arguments, key=key), eqx.is_array))


def normals(key: PRNGKeyArray, *, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    """Arrays of standard normal numbers, of these shapes; of several each by a key of its own, split off."""
    check_key(key)
    return _normals(key, shapes=shapes)


@partial(exported, static=("shapes",))
def _normals(key: PRNGKeyArray, *, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    keys = jax.random.split(key, len(shapes)) if len(shapes) > 1 else [key]
    return [jax.random.normal(each, shape) for each, shape in zip(keys, shapes, strict=True)]
