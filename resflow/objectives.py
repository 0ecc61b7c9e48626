"""The objective of a whole model, as a function that JAX compiles once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from resflow.losses import Loss, as_loss
from resflow.point import check_predictions, checked_samples

__all__ = ["MeanLoss", "checked_data"]


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


def checked_data(objective: Any, model: Any, data: tuple[Any, ...]) -> tuple[Any, ...]:
    """The data that an objective takes besides a model: of a mean loss X and y, with labels as the loss has them.

    Raises:
        InvalidInputError: If X and y do not suit the loss or the model. Of other objectives nothing is known.
    """
    loss = getattr(objective, "loss", None)
    if not (isinstance(loss, Loss) and len(data) == 2):
        return data
    X, y = checked_samples(*data, loss)
    check_predictions(model, X, y, loss)
    return X, y
