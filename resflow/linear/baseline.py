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

__all__ = ["check_baseline", "check_kind"]

_UNFINISHED = 1e-6
"""How much of the mean loss at 0 a fit that did not converge may still have to gain."""

_ROUNDINGS = 64.0


def check_kind(fit: Any, loss: Loss) -> None:
    """Check what a fit says of itself: that it is one, of this loss, with finite weights and mean loss.

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
    if not is_traced(fit.W, fit.objective) and not (np.isfinite(fit.W).all() and math.isfinite(fit.objective)):
        raise InvalidInputError("fit has weights or a mean loss that are not finite: fit the linear predictor again")


def check_baseline(fit: Any, X: Any, y: Any, loss: Loss, *, finished: bool = True) -> None:
    """Check that a fit is one of this loss to these samples, whose mean loss under its weights is what it says.

    Only rounding is forgiven: that of the precision the samples come in. Of traced arrays the shapes alone are checked.

    Args:
        fit: What was given as the fit.
        X: Samples, shape (n, d), checked.
        y: Labels, as `as_labels` takes them.
        loss: The loss.
        finished: Whether a fit that may still lie far above the least mean loss is refused.

    Raises:
        InvalidInputError: If it is another kind of fit, of another loss or other data, or not finished.
    """
    check_kind(fit, loss)
    shape = np.shape(fit.W)
    if shape[-1:] != np.shape(X)[1:]:
        raise InvalidInputError(
            f"fit has {shape[-1]} weights an output, but X has shape {np.shape(X)}: fit the linear predictor to the "
            "same samples"
        )
    y = as_labels(y, loss, n=len(X), m=shape[0] if len(shape) == 2 else None)
    if len(shape) != (2 if loss.labels == "classes" else y.ndim):
        raise InvalidInputError(
            f"fit has weights of shape {shape}, but y has shape {y.shape}: fit the linear predictor to the same labels"
        )
    if is_traced(X, y, fit.W, fit.objective):
        return
    unit = max([EPS, *(float(jnp.finfo(a.dtype).eps) for a in (X, y) if jnp.issubdtype(a.dtype, jnp.floating))])
    rows, labels = Rows(np.asarray(X)), np.asarray(y)
    weights = np.asarray(fit.W, dtype=np.float64)
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
    wrong = abs(found - fit.objective)
    if not wrong <= _ROUNDINGS * unit * (moved + abs(found)):
        raise InvalidInputError(
            f"fit has a mean loss of {fit.objective:.6g} by its own account, but its weights have {found:.6g} "
            "on this X and y: fit the linear predictor to the same samples, labels and loss"
        )
    at_zero = float(np.mean(loss.value(np.zeros_like(p), labels)))
    if finished and not fit.converged and not fit.suboptimality <= _UNFINISHED * at_zero:
        raise InvalidInputError(
            f"fit did not converge: its mean loss of {fit.objective:.6g} may lie {fit.suboptimality:.2g} above the "
            "least, and an unfinished baseline fakes a gain: raise max_iterations, scale the features, or pass "
            "ridge=... or max_norm=..."
        )
