"""What projected SGD draws its samples from: a data set with replacement, or a stream of fresh ones."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray, Real

from resflow.arrays import Array
from resflow.data.dataset import Dataset

__all__ = ["Bootstrap", "TeacherStream", "fresh_and_bootstrap"]


class Bootstrap(eqx.Module):
    """Samples drawn with replacement from a data set, whose mean loss is then the population's.

    Attributes:
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
    """

    X: Float[Array, "n d"]
    y: Float[Array, "n"]

    def draw(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """One sample."""
        row = jax.random.randint(key, (), 0, self.y.shape[0])
        return self.X[row], self.y[row]

    def population(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y over which F is evaluated: the data set, whatever the key."""
        return self.X, self.y

    @property
    def input_norm(self) -> float:
        """A bound on ‖x‖."""
        return float(jnp.max(jnp.linalg.norm(self.X, axis=1)))

    @property
    def labels(self) -> Real[np.ndarray, "m"]:
        """All labels there are."""
        return np.unique(self.y)


class TeacherStream(eqx.Module):
    """Fresh samples without end: x standard normal, shortened to ‖x‖ ≤ R; y = +1 with probability σ(s), else −1.

    s = 4 (uᵀx + nonlinearity · ((vᵀx)² − 1)/√2): with nonlinearity = 0 the linear predictor 4u is the best of all
    predictors under the logistic loss, so that no network has an excess below 0.

    Attributes:
        u: Unit vector, shape (d,).
        v: Unit vector, shape (d,).
        nonlinearity: Size of the part that no linear predictor can express.
        radius: R.
        evaluated_on: Fresh samples that F is estimated by, each time.
    """

    u: Float[Array, "d"]
    v: Float[Array, "d"]
    nonlinearity: float
    radius: float
    evaluated_on: int = eqx.field(static=True, default=500)

    def draw(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """One sample."""
        x_key, y_key = jax.random.split(key)
        x = jax.random.normal(x_key, self.u.shape)
        x = x * jnp.minimum(1.0, self.radius / jnp.linalg.norm(x))
        score = 4.0 * (self.u @ x + self.nonlinearity * ((self.v @ x) ** 2 - 1.0) / math.sqrt(2.0))
        return x, jnp.where(jax.random.uniform(y_key) < jax.nn.sigmoid(score), 1.0, -1.0)

    def population(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y by which F is estimated without bias: fresh samples."""
        return self.sample(self.evaluated_on, key=key)

    def sample(self, n: int, *, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y of n samples."""
        return jax.vmap(self.draw)(jax.random.split(key, n))

    @classmethod
    def random(cls, d: int, nonlinearity: float, *, seed: int, radius: float = 4.0) -> TeacherStream:
        """A stream whose u and v point in directions drawn at random."""
        u, v = (g / np.linalg.norm(g) for g in np.random.default_rng(seed).standard_normal((2, d)))
        return cls(jnp.asarray(u), jnp.asarray(v), nonlinearity, radius)

    @property
    def input_norm(self) -> float:
        """A bound on ‖x‖."""
        return self.radius

    @property
    def labels(self) -> Real[np.ndarray, "m"]:
        """All labels there are."""
        return np.array([-1.0, 1.0])


def fresh_and_bootstrap(
    data: Dataset, *, inputs: int, nonlinearity: float, seed: int, key: PRNGKeyArray
) -> dict[str, tuple[Any, np.ndarray, np.ndarray]]:
    """Both sources, by "fresh" and "bootstrap", each with X and y that its best linear predictor is fitted on.

    Args:
        data: The data set.
        inputs, nonlinearity, seed: Of the stream, see `TeacherStream.random`.
        key: Random key of the 100,000 samples of it.
    """
    stream = TeacherStream.random(inputs, nonlinearity, seed=seed)
    X, y = map(np.asarray, stream.sample(100_000, key=key))
    return {
        "fresh": (stream, X, y),
        "bootstrap": (Bootstrap(jnp.asarray(data.X), jnp.asarray(data.y)), data.X, data.y),
    }
