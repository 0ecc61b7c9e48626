"""How a model compares with a linear predictor on samples that neither was fitted to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Real, Shaped

from resflow.arrays import Array, as_array, check_samples
from resflow.errors import InvalidInputError
from resflow.labels import as_labels
from resflow.linear.baseline import check_kind
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss, as_loss

__all__ = ["HeldOutGap", "held_out_gap"]


class HeldOutGap(NamedTuple):
    """How a model compares with a linear predictor on samples that neither was fitted to.

    NaN where a prediction is not finite, although its loss may be.

    Attributes:
        gap: Mean loss of the model minus that of the linear predictor. Negative: the model is better.
        standard_error: Of the gap, from the n differences sample by sample; NaN for a single sample.
        objective: Mean loss of the model.
        objective_error: Its standard error.
        linear_objective: Mean loss of the linear predictor.
        linear_objective_error: Its standard error.
    """

    gap: float
    standard_error: float
    objective: float
    objective_error: float
    linear_objective: float
    linear_objective_error: float


def held_out_gap(
    predictions: Real[Array, "n *m"],
    X: Real[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss,
    fit: LinearFit,
) -> HeldOutGap:
    """The gap of a model's predictions to a linear predictor fitted on other samples, with its standard error.

    Unlike the gap on the training set it has no certificate: the theory bounds the training objective only.

    Args:
        predictions: The model's p(x_i), shape (n,) or (n, m).
        X: Samples as rows, shape (n, d), in the units that the linear predictor was fitted in.
        y: Labels, as a `Point` takes them.
        loss: A loss or its name.
        fit: The linear predictor, of `fit_linear_predictor` on the training set.

    Raises:
        InvalidInputError: If labels do not suit the loss.
    """
    loss = as_loss(loss)
    check_kind(fit, loss)
    p, X = np.asarray(as_array("predictions", predictions), dtype=float), np.asarray(check_samples(X), dtype=float)
    m = p.shape[1] if p.ndim == 2 else None
    y = np.asarray(as_labels(y, loss, n=len(X), m=m), dtype=float)
    if p.shape != (len(X), *fit.W.shape[:-1]) or fit.W.shape[-1] != X.shape[1]:
        raise InvalidInputError(
            f"predictions have shape {p.shape}, X {X.shape} and the linear predictor {fit.W.shape}, but they must be "
            "(n,), (n, d) and (d,), or (n, m), (n, d) and (m, d)"
        )

    def losses(p: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it says so itself
            return np.where(np.isfinite(p).reshape(len(p), -1).all(axis=1), loss.value(p, y), np.nan)

    model, linear = losses(p), losses(X @ np.asarray(fit.W).T)

    def mean_and_error(values: np.ndarray) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan

    return HeldOutGap(*mean_and_error(model - linear), *mean_and_error(model), *mean_and_error(linear))
