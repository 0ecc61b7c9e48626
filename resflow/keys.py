"""One seed, and the random keys that everything in a notebook draws from."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Integer, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.errors import InvalidInputError, shown
from resflow.exported import exported

__all__ = ["RandomKeys", "check_key", "check_keys", "random_keys"]


class RandomKeys(NamedTuple):
    """Independent random keys, each for one purpose; the same seed gives the same ones.

    Attributes:
        model: For the weights around a feature map.
        features: For the feature map's own parameters θ.
        batches: For minibatches and the order of samples.
        data: For what is drawn besides: samples, starting points, splits that take a key.
    """

    model: PRNGKeyArray
    features: PRNGKeyArray
    batches: PRNGKeyArray
    data: PRNGKeyArray


def random_keys(seed: int | np.integer | Integer[Array, ""]) -> RandomKeys:
    """The keys of a seed; a traced seed under jit and vmap gives the same as a number.

    Args:
        seed: A whole number, at least 0.

    Raises:
        InvalidInputError: If it is not.

    >>> keys = random_keys(0)
    >>> jax.random.normal(keys.model).item() == jax.random.normal(random_keys(0).model).item()
    True
    """
    seed = as_number("seed", seed, "must be a whole number, at least 0", lambda seed: seed >= 0, whole=True)
    with jax.enable_x64(True) if isinstance(seed, int) and seed >= 2**31 else nullcontext():  # of more than 32 bits
        return _keys(seed)


def check_key(key: Any) -> None:
    """Check that a value is one random key.

    Raises:
        InvalidInputError: If it is none, or several.
    """
    if _keys_shape(key) != ():
        several = " (one of them is needed)" if _keys_shape(key) else ""
        raise InvalidInputError(f"key={shown(key)} must be a random key, as jax.random.key(0){several}")


def check_keys(keys: Any) -> int:
    """How many random keys there are in an array of them.

    Raises:
        InvalidInputError: If it is no such array with one axis, or an empty one.
    """
    shape = _keys_shape(keys)
    if shape is None or len(shape) != 1 or shape[0] == 0:
        raise InvalidInputError(
            f"keys={shown(keys)} must be an array of random keys, one each, as jax.random.split(jax.random.key(0), 8)"
        )
    return shape[0]


def _keys_shape(keys: Any) -> tuple[int, ...] | None:
    """The shape of an array of keys, also of those that are arrays of whole numbers; None of anything else."""
    if not isinstance(keys, jax.Array | np.ndarray):
        return None
    if jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key):
        return keys.shape
    return keys.shape[:-1] if keys.dtype == np.uint32 and keys.ndim and keys.shape[-1] in (2, 4) else None


@exported
def _keys(seed: Any) -> RandomKeys:
    key = jax.random.key(seed)
    model, features, batches = jax.random.split(key, 3)
    return RandomKeys(model, features, batches, data=jax.random.fold_in(key, 3))
