"""Objectives of a whole model, as functions that JAX compiles once: a mean loss, and one with a ridge term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from resflow.losses import Loss, as_loss

__all__ = ["MeanLoss", "RidgeLoss"]


@dataclass(frozen=True)
class MeanLoss:
    """F = mean_i ℓ(model(X)_i; y_i), of any model that maps X to predictions.

    Attributes:
        loss: ℓ, or its name.
    """

    loss: str | Loss

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", as_loss(self.loss))

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n *m"]) -> Float[Array, ""]:
        return jnp.mean(as_loss(self.loss).value(model(X), y))


@dataclass(frozen=True)
class RidgeLoss:
    """F + (ridge/2) ‖weights‖²: with it the theory's guarantee is gone.

    Attributes:
        loss: ℓ, or its name, in F = mean_i ℓ(model(X)_i; y_i).
        ridge: Strength, in units of the mean loss per squared unit of the weights.
        weights: Which of the model's arrays, a function at module level: of a model to a pytree, e.g. (w, V).
    """

    loss: str | Loss
    ridge: float
    weights: Callable[[Any], Any]

    def __call__(self, model: Any, X: Float[Array, "n d"], y: Real[Array, "n *m"]) -> Float[Array, ""]:
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(self.weights(model))]
        return MeanLoss(self.loss)(model, X, y) + 0.5 * self.ridge * sum(squares)
