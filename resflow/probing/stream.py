"""A network's residual stream as arrays, with its head and labels: checked once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from resflow.arrays import as_array, check_samples, check_size, largest
from resflow.errors import InvalidInputError
from resflow.labels import as_labels
from resflow.losses import Loss
from resflow.tensors import plain_array

__all__ = ["Head", "Stream", "as_head", "as_representations", "as_stream"]


class Head(NamedTuple):
    """The last layer p = W h + b, of shape (m, d) and (m,), or (d,) and () for one output; in float64."""

    W: np.ndarray
    b: np.ndarray

    def predictions(self, h: np.ndarray) -> np.ndarray:
        return np.asarray(h, dtype=np.float64) @ self.W.T + self.b


class Stream(NamedTuple):
    """The representations h_0, ..., h_L of some samples, shape (n, d_l) each, and labels as the loss takes them."""

    representations: tuple[np.ndarray, ...]
    y: np.ndarray

    @property
    def blocks_add(self) -> bool:
        """Whether all representations have one width, so that h_l − h_{l−1} is what block l adds."""
        return len({h.shape[1] for h in self.representations}) == 1

    def is_dead(self, block: int) -> bool:
        """Whether a block, counted from 1, leaves every sample as it was."""
        return np.array_equal(self.representations[block - 1], self.representations[block])

    def side_by_side(self) -> np.ndarray:
        """(h_0, h_1 − h_0, ..., h_L − h_{L−1}), of which p is a linear function where all widths are equal."""
        hs = [np.asarray(h, dtype=np.float64) for h in self.representations]
        return np.column_stack([hs[0], *(after - before for before, after in pairwise(hs))])


def as_representations(representations: Any, name: str) -> tuple[np.ndarray, ...]:
    """The representations h_0, ..., h_L of the same samples, shape (n, d_l) each.

    Args:
        representations: A list of them.
        name: What to call it in a message.

    Raises:
        InvalidInputError: If there are fewer than two, or one is no array of finite numbers for the same samples.
    """
    if not isinstance(representations, list | tuple):
        raise InvalidInputError(
            f"{name} is a {type(representations).__name__}, but must be a list [h_0, ..., h_L] of arrays of shape "
            "(n, d_l), one before the first block and one after each"
        )
    if len(representations) < 2:
        raise InvalidInputError(
            f"{name} has length {len(representations)}, but must have at least 2: h_0 before the first block and one "
            "after each block"
        )
    hs = tuple(np.asarray(check_samples(plain_array(h), f"{name}[{place}]")) for place, h in enumerate(representations))
    n = len(hs[0])
    for place, h in enumerate(hs):
        if len(h) != n:
            raise InvalidInputError(
                f"{name}[{place}] has shape {h.shape}, but {name}[0] has {n} samples: pass the same samples, in the "
                "same order, after every block"
            )
    if n < 2:
        raise InvalidInputError(f"{name}[0] has shape {hs[0].shape}, but there must be at least 2 samples")
    return hs


def as_stream(representations: tuple[np.ndarray, ...], y: Any, loss: Loss, outputs: int | None, name: str) -> Stream:
    """Checked representations with their labels, as many outputs as the head has; None for one without an axis.

    Raises:
        InvalidInputError: If the labels do not fit the samples, the outputs or the loss.
    """
    y = plain_array(y)
    if outputs is None and loss.labels != "classes" and np.ndim(y) == 2 and np.shape(y)[1] == 1:
        y = np.asarray(y)[:, 0]  # as the head's single row is one output
    try:
        labels = np.asarray(as_labels(y, loss, n=len(representations[0]), m=outputs))
    except InvalidInputError as error:
        raise error if name == "y" else InvalidInputError(f"{name}: {error}") from None
    if loss.labels != "classes" and labels.shape[1:] != (() if outputs is None else (outputs,)):
        raise InvalidInputError(
            f"{name} has shape {labels.shape}, but the head has {outputs or 1} outputs: one column an output is needed"
        )
    return Stream(representations, labels)


def as_head(head: Any, width: int, loss: Loss) -> Head:
    """The head (W, b) of a network whose last representation has `width` columns; b None for none.

    One row of W is taken as one output where the loss has one.

    Raises:
        InvalidInputError: If shapes do not fit, or a value is not finite.
    """
    if not (isinstance(head, tuple | list) and len(head) == 2):
        raise InvalidInputError(
            f"head is a {type(head).__name__}, but must be a pair (W, b) of weights and biases; (W, None) for none"
        )
    W = np.asarray(as_array("head[0]", plain_array(head[0]), finite=True), dtype=np.float64)
    if W.ndim == 2 and W.shape[0] == 1 and loss.outputs != "several":
        W = W[0]
    shapes = {"one": (1,), "several": (2,), "any": (1, 2)}[loss.outputs]
    if W.ndim not in shapes or W.shape[-1] != width or (W.ndim == 2 and loss.outputs == "several" and len(W) < 2):
        allowed = " or ".join({1: f"({width},)", 2: f"(m, {width})"}[axes] for axes in shapes)
        raise InvalidInputError(
            f"head[0] has shape {W.shape}, but with the {loss.name} loss and a last representation of {width} columns "
            f"W must have shape {allowed}: transpose it, or pass the representation that the head reads"
        )
    check_size("head[0]", largest(W))
    b = np.zeros(W.shape[:-1])
    if head[1] is not None:
        b = np.asarray(as_array("head[1]", plain_array(head[1]), finite=True), dtype=np.float64)
        if b.size == 1 and W.ndim == 1:
            b = b.reshape(())
        if b.shape != W.shape[:-1]:
            raise InvalidInputError(
                f"head[1] has shape {b.shape}, but W has {W.shape}: b must have one entry an output, or be None"
            )
        check_size("head[1]", largest(b))
    return Head(W, b)
