"""Whether a linear fit is what a point may be held against: of this loss and this data, and finished."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from resflow.arrays import is_traced
from resflow.errors import InvalidInputError
from resflow.labels import as_labels
from resflow.linear._algebra import EPS, Rows
from resflow.linear.fit import LinearFit
from resflow.losses import Loss

__all__ = ["check_baseline", "check_kind", "check_mean_loss"]

_UNFINISHED = 1e-6
"""How much of the mean loss at 0 a fit that did not converge may still have to gain."""

_ROUNDINGS = 64.0


def check_kind(fit: Any, loss: Loss, *, ridge: Any = 0.0) -> None:
    """Check what a fit says of itself: that it is one, of this loss, with finite weights and mean loss.

    A fit with a ridge term is no best linear predictor where there is one without, as the squared and the pseudo-Huber
    loss always have; for classes, which may be separable, it stands for the best one in a ball.

    Args:
        fit: What was given as the fit.
        loss: The loss.
        ridge: Coefficient of the ridge term in what the fit is compared with.

    Raises:
        InvalidInputError: If it is not that.
    """
    if not isinstance(fit, LinearFit):
        raise InvalidInputError(f"fit is a {type(fit).__name__}, but must be what fit_linear_predictor returns")
    if fit.loss != loss.name:
        raise InvalidInputError(
            f"fit is of the loss {fit.loss!r}, but loss={loss.name!r}: fit the linear predictor with that loss"
        )
    if fit.weighted:
        raise InvalidInputError(
            "fit is of weighted samples, but a point's mean loss is over all of them alike: fit the linear predictor "
            "without sample_weight and class_weight"
        )
    if loss.labels not in ("binary", "classes") and not is_traced(ridge) and fit.ridge not in (0.0, ridge):
        raise InvalidInputError(
            f"fit has ridge={fit.ridge:g}, but what it is compared with has "
            f"{f'ridge={ridge:g}' if ridge else 'no ridge term'}: with the {loss.name} loss that fakes a gain; fit the "
            "linear predictor with the same ridge, or in a ball by max_norm=..."
        )
    if not is_traced(fit.W, fit.objective) and not (np.isfinite(fit.W).all() and math.isfinite(fit.objective)):
        raise InvalidInputError("fit has weights or a mean loss that are not finite: fit the linear predictor again")


def check_baseline(fit: Any, X: Any, y: Any, loss: Loss, *, finished: bool = True, ridge: Any = 0.0) -> None:
    """Check that a fit is one of this loss to these samples, whose mean loss under its weights is what it says.

    Only rounding is forgiven: that of the precision the samples come in. Of traced arrays the shapes alone are checked.

    Args:
        fit: What was given as the fit.
        X: Samples, shape (n, d), checked.
        y: Labels, as `as_labels` takes them.
        loss: The loss.
        finished: Whether a fit that may still lie far above the least mean loss is refused.
        ridge: As of `check_kind`.

    Raises:
        InvalidInputError: If it is another kind of fit, of another loss or other data, or not finished.
    """
    check_kind(fit, loss, ridge=ridge)
    shape = np.shape(fit.W)
    _check_width(shape, X)
    y = as_labels(y, loss, n=len(X), m=shape[0] if len(shape) == 2 else None)
    if len(shape) != (2 if loss.labels == "classes" else y.ndim):
        raise InvalidInputError(
            f"fit has weights of shape {shape}, but y has shape {y.shape}: fit the linear predictor to the same labels"
        )
    if is_traced(X, y, fit.W, fit.objective):
        return
    labels = check_mean_loss(fit.W, fit.objective, X, y, loss)
    p = np.zeros((len(labels), *shape[:-1]))
    at_zero = float(np.mean(loss.value(p, labels)))
    if finished and not fit.converged and not fit.suboptimality <= _UNFINISHED * at_zero:
        raise InvalidInputError(
            f"fit did not converge: its mean loss of {fit.objective:.6g} may lie {fit.suboptimality:.2g} above the "
            "least, and an unfinished baseline fakes a gain: raise max_iterations, scale the features, or pass "
            "ridge=... or max_norm=..."
        )


def check_mean_loss(W: Any, objective: Any, X: Any, y: Any, loss: Loss) -> np.ndarray:
    """Check that linear weights have the mean loss that is said of them, and give the labels as a NumPy array.

    Args:
        W: Weights, shape (d,) or (m, d).
        objective: What their mean loss is said to be.
        X: Samples, shape (n, d), checked.
        y: Labels as the loss takes them.
        loss: The loss.

    Raises:
        InvalidInputError: If they are of another number of features, or their mean loss is another one.
    """
    _check_width(np.shape(W), X)
    dtypes = [a.dtype for a in (X, y, W) if jnp.issubdtype(a.dtype, jnp.floating)]
    unit = max([EPS, *(float(jnp.finfo(dtype).eps) for dtype in dtypes)])
    rows, labels = Rows(np.asarray(X)), np.asarray(y)
    weights, said = np.asarray(W, dtype=np.float64), float(objective)
    p = np.empty((rows.n, *weights.shape[:-1]))
    sizes, single = np.empty_like(p), True
    with np.errstate(over="ignore", invalid="ignore"):
        for part, block in rows.blocks():
            p[part], sizes[part] = block @ weights.T, np.abs(block) @ np.abs(weights.T)
            single = single and np.array_equal(block.astype(np.float32), block)
        sizes += np.abs(labels) if p.shape == labels.shape else 0.0
        found = float(np.mean(loss.value(p, labels)))
        moved = float(np.sum(np.abs(loss.derivative(p, labels)) * sizes)) / rows.n
    if single:  # float32 samples, in float64 by now
        unit = max(unit, float(np.finfo(np.float32).eps))
    if not abs(found - said) <= _ROUNDINGS * unit * (moved + abs(found)):
        raise InvalidInputError(
            f"fit has a mean loss of {said:.6g} by its own account, but its weights have {found:.6g} "
            "on this X and y: fit the linear predictor to the same samples, labels and loss"
        )
    return labels


def _check_width(shape: tuple[int, ...], X: Any) -> None:
    if shape[-1:] != np.shape(X)[1:]:
        raise InvalidInputError(
            f"fit has {shape[-1]} weights an output, but X has shape {np.shape(X)}: fit the linear predictor to the "
            "same samples"
        )
