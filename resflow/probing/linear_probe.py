"""The linear probe of a representation: a ridge fit with an intercept, by one rule for representations of any scale."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import KFold

from resflow.errors import InvalidInputError
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses import Loss
from resflow.probing.stream import Head

__all__ = ["LinearProbe", "fit_linear_probe"]

_FOLDS = 3
_STRENGTHS = tuple(10.0**power for power in range(-6, 3))
_START = 4
_CONSTANT = 1e3
"""The constant column: so large that the ridge term hardly holds the intercept."""
_UNFINISHED = 1e-6
"""How much of the mean loss at 0 a fit that did not converge may still have to gain."""


class LinearProbe(NamedTuple):
    """A linear predictor p = W h + b of a representation, and the evidence of its fit.

    Attributes:
        W: Weights in the units of the representation, shape (d,) or (m, d).
        b: Intercepts, shape () or (m,).
        objective: F_lin(h), its mean training loss, without the ridge term.
        ridge: λ, in units of the mean square of the representation's centred columns.
        separable: True where it, or the fit, shows that the classes are linearly separable; None where nothing does.
        finished: Whether the fit converged, or can gain no more than 1e-6 of the mean loss at 0.
        fit: The fit, in columns of mean square 1.
    """

    W: np.ndarray
    b: np.ndarray
    objective: float
    ridge: float
    separable: bool | None
    finished: bool
    fit: LinearFit

    def predictions(self, h: np.ndarray) -> np.ndarray:
        return Head(self.W, self.b).predictions(h)


def fit_linear_probe(
    h: np.ndarray,
    y: np.ndarray,
    loss: Loss,
    outputs: int | None,
    *,
    name: str,
    ridge: float | None = None,
    start: np.ndarray | None = None,
) -> LinearProbe:
    """The W, b that minimise mean ℓ(W h_i + b; y_i) + ½ λ s² ‖W‖², s² the mean square of the centred columns of h.

    So λ has no units, and the intercept is not penalised (but for a millionth). Unless it is given, λ is the power of
    ten from 1e-6 to 100 with the least loss in cross-validation by three folds, found by descent from 0.01: a neighbour
    is tried as long as it is better.

    Args:
        h: Representation, shape (n, d), checked.
        y: Labels, as the loss takes them.
        loss: The loss.
        outputs: How many outputs; None for one without an axis.
        name: What to call the representation in a message.
        ridge: λ, if it is known.
        start: Weights that the fit to these samples begins with: W of the fit at another λ.

    Raises:
        InvalidInputError: If λ is 0 and the classes are linearly separable.
    """
    mean, scale, columns = _standardized(h)
    classes = outputs if loss.labels == "classes" else None
    if ridge is None:
        ridge = _cross_validated(columns, y, loss, classes)
    try:
        fit = fit_linear_predictor(columns, y, loss=loss, ridge=ridge, classes=classes, start=start)
    except InvalidInputError as error:
        if ridge == 0 and "linearly separable" in str(error):  # a probe takes no max_norm
            raise InvalidInputError(
                f"{name}: the samples are linearly separable, so that no best linear predictor exists with ridge=0: "
                "pass a number above 0, or None to choose it"
            ) from None
        raise InvalidInputError(f"{name}: {error}") from None
    W = fit.W[..., :-1] / scale
    b = _CONSTANT * fit.W[..., -1] - W @ mean
    p = columns @ fit.W.T
    at_zero = float(np.mean(loss.value(np.zeros_like(p), y)))
    return LinearProbe(
        W=W,
        b=np.asarray(b),
        objective=fit.objective,
        ridge=ridge,
        separable=True if _all_right(p, y, loss) else fit.separable,
        finished=fit.converged or fit.suboptimality <= _UNFINISHED * at_zero,
        fit=fit,
    )


def _standardized(h: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Mean of the columns, root mean square of the centred ones, and these in its units beside a constant one."""
    n, d = h.shape
    columns = np.empty((n, d + 1))
    columns[:, :d] = h
    columns[:, d] = _CONSTANT
    inner = columns[:, :d]
    mean = inner.mean(axis=0)
    size = np.abs(inner).max(axis=0)
    inner -= mean
    inner[:, np.abs(inner).max(axis=0) <= 16.0 * np.finfo(float).eps * size] = 0.0  # constant, but for rounding
    scale = math.sqrt(float(np.mean(inner**2))) or 1.0
    inner /= scale
    return mean, scale, columns


def _cross_validated(columns: np.ndarray, y: np.ndarray, loss: Loss, classes: int | None) -> float:
    folds = list(KFold(min(_FOLDS, len(y)), shuffle=True, random_state=0).split(columns))
    known: dict[int, float] = {}

    def score(place: int) -> float:
        """The loss summed over samples that were left out; no number where there is no such strength."""
        if not 0 <= place < len(_STRENGTHS):
            return math.inf
        if place not in known:
            known[place] = 0.0
            for kept, out in folds:
                fit = fit_linear_predictor(columns[kept], y[kept], loss=loss, ridge=_STRENGTHS[place], classes=classes)
                known[place] += float(np.sum(loss.value(columns[out] @ fit.W.T, y[out])))
        return known[place]

    at = _START
    while (best := min((at, at + 1, at - 1), key=score)) != at:
        at = best
    return _STRENGTHS[at]


def _all_right(p: np.ndarray, y: np.ndarray, loss: Loss) -> bool:
    """Whether every sample lies strictly on its class's side."""
    if loss.labels == "binary":
        return bool((p * y > 0).all())
    if loss.labels != "classes":
        return False
    own = p[np.arange(len(y)), y.astype(int)]
    return bool(((p >= own[:, None]).sum(axis=1) == 1).all())
