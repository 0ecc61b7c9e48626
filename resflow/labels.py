"""Labels from the ways in which people have them, as a loss takes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, as_array, as_floating, as_number, check_size, is_traced, largest
from resflow.errors import InvalidInputError
from resflow.losses import Loss

__all__ = ["as_labels", "count_outputs", "one_hot"]

_MOST_CLASSES = 10_000


def as_labels(y: Any, loss: Loss, *, n: int | None = None, m: int | None = None) -> Array:
    """Labels as the loss takes them, from the ways in which people have them; of traced ones the shape is checked.

        labels     accepted                                                         result
        real       numbers, shape (n,); for several outputs of the squared loss     floating-point numbers
                   rows, shape (n, m)
        binary     −1 and +1, 0 and 1, or truth values, shape (n,)                  −1.0 and +1.0
        classes    whole numbers 0, ..., m − 1, shape (n,), or rows with one 1      whole numbers
                   (one-hot), shape (n, m)

    Args:
        y: Labels.
        loss: The loss.
        n: How many samples there are, if known.
        m: How many outputs the model has; None for any number, or where it is not known.

    Raises:
        InvalidInputError: If they are no finite numbers of a size to compute with, do not fit n or m, or are not what
            the loss takes.
    """
    y = as_array("y", y)
    shapes = {1: "one label a sample, shape (n,)", 2: "one row a sample, shape (n, m)"}
    if loss.outputs == "one":
        del shapes[2]
    elif loss.outputs == "several" and loss.labels == "real":
        del shapes[1]
    if y.ndim not in shapes:
        raise InvalidInputError(
            f"y has shape {y.shape}, but the {loss.name} loss takes {', or '.join(shapes.values())}"
        )
    if n is not None and y.shape[0] != n:
        raise InvalidInputError(f"y has shape {y.shape}, but X has {n} samples: one label each is needed")
    if m is not None and y.ndim == 2 and y.shape[1] != m:
        numbers = ", or whole numbers of classes, shape (n,)" if loss.labels == "classes" else ""
        raise InvalidInputError(
            f"y has shape {y.shape}, but the model has {m} outputs: one column an output is needed{numbers}"
        )
    if is_traced(y):
        return _coded(y, loss)
    plain = np.asarray(y)
    if count := np.count_nonzero(~np.isfinite(plain)):
        raise InvalidInputError(f"y has {count} labels that are not finite: remove those samples")
    if loss.labels == "real":
        check_size("y", largest(plain))
    elif loss.labels == "binary":
        _check_binary(plain, loss)
    elif y.ndim == 2:
        _check_one_hot(plain, loss)
    else:
        _check_classes(plain, m)
    return _coded(y, loss)


def count_outputs(y: Array, loss: Loss) -> int | None:
    """How many outputs a model of such labels has, one-hot rows by their length; None for one without an axis."""
    if y.ndim == 2:
        return y.shape[1]
    return max(int(np.asarray(y).max()) + 1, 2) if loss.labels == "classes" else None


def _coded(y: Array, loss: Loss) -> Array:
    xp = jnp if isinstance(y, jax.Array) else np
    if loss.labels == "classes":
        return xp.argmax(y, axis=1) if y.ndim == 2 else y
    if loss.labels == "real":
        return as_floating(y)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        return xp.where(y > 0, 1.0, -1.0)
    if is_traced(y) or (np.asarray(y) == 0).any():
        return xp.where(y == 0, xp.asarray(-1.0, y.dtype), y)
    return y


def _check_binary(y: np.ndarray, loss: Loss) -> None:
    if not (((y == -1) | (y == 1)).all() or ((y == 0) | (y == 1)).all()):
        values = np.unique(y)
        shown = ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
        raise InvalidInputError(
            f"y has the labels {{{shown}}}, but the {loss.name} loss takes two classes, as −1 and +1, 0 and 1, or "
            "truth values: code them so, or choose the squared loss, or softmax for several classes"
        )


def _check_one_hot(y: np.ndarray, loss: Loss) -> None:
    if y.shape[1] < 2:
        raise InvalidInputError(
            f"y has shape {y.shape}, but for the {loss.name} loss rows of classes must be one-hot, with two columns or "
            "more: or pass whole numbers 0, ..., m − 1, shape (n,)"
        )
    wrong = np.flatnonzero((np.count_nonzero(y, axis=1) != 1) | (y.sum(axis=1) != 1))
    if wrong.size:
        raise InvalidInputError(
            f"y has the row {np.asarray(y[wrong[0]], dtype=float).tolist()[:6]} at {wrong[0]}, but for the {loss.name} "
            f"loss a row of classes must have one 1 and zeros else: or pass whole numbers 0, ..., m − 1"
        )


def _check_classes(y: np.ndarray, m: int | None) -> None:
    wrong = np.flatnonzero((y < 0) | (np.floor(y) != y))
    if wrong.size:
        raise InvalidInputError(
            f"y has the label {y[wrong[0]]:g} in row {wrong[0]}, but classes must be whole numbers 0, 1, ..., m − 1"
        )
    count, present = max(int(y.max()) + 1, 2), len(np.unique(y))
    if m is not None and count > m:
        raise InvalidInputError(
            f"y has the label {int(y.max())}, but the model has {m} outputs: one a class is needed, and classes count "
            f"from 0 to {m - 1}"
        )
    if m is None and (count > _MOST_CLASSES or (count > 100 and count > 4 * present)):
        raise InvalidInputError(
            f"y has the label {int(y.max())}, but only {present} classes occur: code them as 0, ..., {present - 1}, "
            f"or the fit is of {count} classes"
        )


def one_hot(y: Real[Any, "n"], m: int) -> Float[Any, "n m"]:
    """Classes 0, ..., m − 1 as rows of zeros with one 1, in float64 for NumPy arrays.

    >>> one_hot(np.array([1, 0]), 3)
    array([[0., 1., 0.], [1., 0., 0.]])
    """
    m = as_number("m", m, f"must be from 1 to {_MOST_CLASSES}", lambda m: 1 <= m <= _MOST_CLASSES, whole=True)
    y = as_array("y", y, 1)
    wrong = np.setdiff1d([] if is_traced(y) else y, np.arange(m))
    if wrong.size:
        raise InvalidInputError(
            f"y has the label {wrong[0]:g}, but with m={m} classes must be whole numbers from 0 to {m - 1}"
        )
    xp = jnp if isinstance(y, jax.Array) else np
    return (y[:, None] == xp.arange(m)).astype(jnp.result_type(float) if xp is jnp else np.float64)
