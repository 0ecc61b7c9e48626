"""Values and derivatives of the losses at many predictions at once, for the passes of a fit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflow.losses import Logistic, Loss, Softmax

__all__ = ["loss_terms", "softmax_columns"]

_NO_OVERFLOW = 600.0
"""Differences of predictions whose exponentials can be added up, of as many classes as there may be."""


def loss_terms(loss: Loss, p: Any, y: Any, *, curved: bool = True) -> tuple[Any, Any, Any]:
    """ℓ, ℓ' and, if it is asked for, ℓ'' at once; the logistic and softmax losses share one exponential among
    them.

    These two take probabilities for labels, too: ℓ is then the mean over the labels. Two classes as −1 and +1 have the
    mean label y, and several a row of probabilities. NumPy arrays, or for one output JAX arrays.
    """
    if type(loss) is Softmax and (y.ndim == 2 or not curved):
        value, slope = softmax_columns(p.T.copy(), y)
        return value, slope.T, loss.second_derivative(p, y) if curved else np.empty(0)
    if type(loss) is not Logistic:
        return loss.value(p, y), loss.derivative(p, y), loss.second_derivative(p, y) if curved else np.empty(0)
    xp = jnp if isinstance(p, jax.Array) else np
    size, sign = xp.abs(p), xp.where(p >= 0.0, 1.0, -1.0)
    tail = xp.exp(-size)
    sigmoid = 1.0 / (1.0 + tail)
    # how much of the label is on the side where p is not, and where it is
    against, along = 0.5 * (1.0 - sign * y), 0.5 * (1.0 + sign * y)
    slope = sign * (against - along * tail) * sigmoid
    return against * size + xp.log1p(tail), slope, tail * sigmoid * sigmoid


def softmax_columns(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ℓ and ℓ' of the softmax loss of predictions as columns, in C order, which are overwritten: few rows are fast to
    add up.

    Relative to p_y nothing cancels: a loss or an ℓ' of 1e-300 keeps its digits.
    """
    if y.ndim == 2:
        p -= p.max(axis=0)
        sigma = np.exp(p)
        sums = sigma.sum(axis=0)
        return np.einsum("ij,ji->j", np.log(sums) - p, y), sigma / sums - y.T
    flat, own = p.reshape(-1), y * p.shape[1] + np.arange(len(y))
    p -= flat[own]
    flat[own] = -np.inf
    if p.max() <= _NO_OVERFLOW:
        sums = np.exp(p, out=p).sum(axis=0)
        value, whole = np.log1p(sums), sums + 1.0
    else:
        top = np.maximum(p.max(axis=0), 0.0)
        sums, one = np.exp(np.subtract(p, top, out=p), out=p).sum(axis=0), np.exp(-top)
        value = np.where(top > 0.0, top + np.log(sums + one), np.log1p(sums))
        whole = sums + one
    flat[own] = -sums
    p /= whole
    return value, p
