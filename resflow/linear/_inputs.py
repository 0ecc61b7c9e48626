"""What `fit_linear_predictor` is given, checked once: samples, labels, options, and the sizes of columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from resflow.arrays import LARGEST, SMALLEST, as_array, as_number, check_size
from resflow.errors import InvalidInputError
from resflow.labels import as_labels, count_outputs
from resflow.linear._algebra import Rows
from resflow.losses import Loss

__all__ = ["check_columns", "checked_data", "checked_options"]


def checked_options(max_norm: Any, ridge: Any, max_iterations: Any) -> tuple[float, float, int]:
    """Radius of the ball, infinite for none, coefficient of the ridge term, and the most steps.

    Raises:
        InvalidInputError: If one is no number, or out of range.
    """
    size = f"between {SMALLEST:g} and {LARGEST:g}"
    radius = math.inf
    if max_norm is not None:
        allowed = f"must be at least 0 and then {size}, or None for no bound"
        radius = as_number("max_norm", max_norm, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST or r == math.inf)
    allowed = f"must be a finite number, at least 0 and then {size}; 0 is no ridge term"
    coefficient = as_number("ridge", ridge, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST)
    steps = as_number("max_iterations", max_iterations, "must be at least 1", lambda most: 1 <= most <= 1e9, whole=True)
    return radius, coefficient, steps


def checked_data(X: Any, y: Any, loss: Loss) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Samples, labels as the loss takes them, and the number of outputs, None for one without an axis.

    Raises:
        InvalidInputError: If they are no arrays of real numbers, do not fit each other, or the labels not the loss.
    """
    X = np.asarray(as_array("X", X, 2))
    if 0 in X.shape:
        raise InvalidInputError(f"X has shape {X.shape}, but there must be at least one sample and one feature")
    labels, m = np.asarray(as_labels(y, loss, n=len(X))), count_outputs(as_array("y", y), loss)
    return X, labels.astype(int if loss.labels == "classes" else np.float64), m


def check_columns(X: np.ndarray, squares: np.ndarray) -> None:
    """Check that the columns of X can be computed with, whose sums of squares are given.

    Those are finite if X is, up to overflow, so that X itself is read only where something is wrong.

    Raises:
        InvalidInputError: If a value is not finite, or a column of a size that cannot be squared.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.sqrt(squares / len(X))
        fine = (squares == 0.0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))
    if fine.all() and (squares > 0.0).all():
        return
    for part, block in Rows(X).blocks():
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InvalidInputError(
                f"X has a value that is not finite, the first in column {column}, row {part.start + row} (counted "
                "from 0): fill it in or drop that row"
            )
    # a column whose squares all underflow is not 0 either
    largest = np.max([np.abs(block).max(axis=0) for _, block in Rows(X).blocks()], axis=0)
    for column in np.flatnonzero(~fine | (squares == 0.0)):
        check_size(f"X's column {column}", float(largest[column]))
    for column in np.flatnonzero(~fine):
        check_size(f"X's column {column}", float(sizes[column]), "its values' root mean square is")
