"""Random points of residual units with vector-valued output, of full and deficient rank, with plain references."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resflow.losses.vector import as_vector_loss


class VectorPoint(NamedTuple):
    """The arrays of one point, in the order in which resflow takes them."""

    W: Any
    V: Any
    features: Any
    X: Any
    Y: Any


def random_points(seed: int, count: int, n: int, d: int, k: int, m: int, loss: str, ranks: Any) -> VectorPoint:
    """Random points whose scales are random too, with W of the given ranks, a leading axis of length count on all."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.standard_normal((2, count, 1, 1)))
    left = rng.standard_normal((count, m, min(m, d))) * (np.arange(min(m, d)) < np.reshape(ranks, (-1, 1, 1)))
    W = scale[0] * (left @ rng.standard_normal((count, min(m, d), d)))
    X = rng.standard_normal((count, n, d))
    features = np.tanh(X @ rng.standard_normal((count, d, k)))
    if as_vector_loss(loss).class_labels:
        Y = rng.integers(0, m, (count, n)).astype(float)
    else:
        Y = rng.standard_normal((count, n, m))
    return VectorPoint(W, scale[1] * rng.standard_normal((count, d, k)) / k, features, X, Y)


def reference_objective(W: Any, V: Any, features: Any, X: Any, Y: Any, loss: str) -> Any:
    """F once more, in a form that automatic differentiation gets right."""
    p = (X + features @ V.T) @ W.T
    if loss == "softmax":
        return jnp.mean(jax.nn.logsumexp(p, axis=1) - jnp.take_along_axis(p, Y.astype(int)[:, None], axis=1)[:, 0])
    return jnp.mean(0.5 * jnp.sum((p - Y) ** 2, axis=1))
