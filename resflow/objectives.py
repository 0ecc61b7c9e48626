"""The objective of a whole model, as a function that JAX compiles once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from resflow.losses import Loss, as_loss

__all__ = ["MeanLoss"]


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
