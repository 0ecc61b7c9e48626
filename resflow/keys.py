"""One seed, and the random keys that everything in a notebook draws from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Integer, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.exported import exported

__all__ = ["RandomKeys", "random_keys"]


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
    return _keys(seed)


@exported
def _keys(seed: Any) -> RandomKeys:
    key = jax.random.key(seed)
    model, features, batches = jax.random.split(key, 3)
    return RandomKeys(model, features, batches, data=jax.random.fold_in(key, 3))
