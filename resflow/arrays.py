"""The boundary between a caller's arrays and the analysis: shapes, labels and precision are settled here, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from resflow.errors import InvalidInputError
from resflow.losses.scalar import Loss

__all__ = ["Array", "analyse", "check_labels", "check_point", "is_traced"]

Array: TypeAlias = np.ndarray | jax.Array
"""What an array argument may be: a NumPy array, a JAX array, or a tracer of one."""


def is_traced(*arrays: Any) -> bool:
    """True if any of the arrays is being traced by jit, vmap or grad, so that its values are not known yet."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def analyse(function: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """Call `function(*arrays, **options)`, in float64 unless the caller chose a precision by passing JAX arrays.

    If any argument is a JAX array, the arrays go in as they are and the result keeps their precision.
    Otherwise they are NumPy arrays (or lists): the function runs in float64, whatever JAX's global setting,
    and its result comes back as NumPy arrays. Changes no global setting.
    """
    if any(isinstance(array, jax.Array) for array in arrays):
        return function(*(jnp.asarray(array) for array in arrays), **options)
    with jax.enable_x64(True):
        result = function(*(jnp.asarray(array, dtype=jnp.float64) for array in arrays), **options)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[()] if isinstance(leaf, jax.Array) else leaf, result)


def check_labels(y: Any, loss: Loss) -> None:
    """Check that the labels suit the loss; traced labels pass unseen.

    Raises:
        InvalidInputError: If a label is not finite, or is not −1 or +1 under a loss for binary labels.
    """
    if is_traced(y):
        return
    y = np.asarray(y)
    if not np.isfinite(y).all():
        raise InvalidInputError(
            f"y has {np.count_nonzero(~np.isfinite(y))} labels that are not finite: remove those samples"
        )
    if loss.binary_labels and not np.isin(y, (-1, 1)).all():
        values = np.unique(y)
        shown = ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
        raise InvalidInputError(
            f"y has the labels {{{shown}}}, but the {loss.name} loss takes −1 and +1 only: "
            "code two classes as −1 and +1, or choose the squared loss"
        )


def check_point(w: Any, V: Any, features: Any, X: Any, y: Any, loss: Loss) -> None:
    """Check that the arrays of one point of a residual unit fit together.

    Raises:
        InvalidInputError: If shapes disagree, naming both, or if labels do not suit the loss.
    """
    shapes = {name: np.shape(array) for name, array in (("w", w), ("V", V), ("features", features), ("X", X), ("y", y))}
    for name, rank in (("w", 1), ("V", 2), ("features", 2), ("X", 2), ("y", 1)):
        if len(shapes[name]) != rank:
            raise InvalidInputError(f"{name} has shape {shapes[name]}, but must have {rank} axes")
    (n, d), k = shapes["X"], shapes["features"][1]
    if n == 0:
        raise InvalidInputError(f"X has shape {(n, d)}, but there must be at least one sample")
    expected = {"w": (d,), "V": (d, k), "features": (n, k), "y": (n,)}
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise InvalidInputError(
                f"{name} has shape {shapes[name]}, but must be {shape} to fit X {(n, d)} and features {(n, k)}"
            )
    check_labels(y, loss)
