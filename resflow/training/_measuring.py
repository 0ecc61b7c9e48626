"""What a measure is to be: a function of a model, X and y that gives numbers by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from resflow.errors import InvalidInputError, shown

__all__ = ["by_name", "check_measure"]

_OF_RESULTS = {"member", "row", "step"}
"""Columns of a history that no measurement may be called."""


def by_name(measured: Any) -> dict[str, jax.Array]:
    """What a measure gave, as arrays.

    Raises:
        InvalidInputError: If that is no dict of numbers or arrays, or has a name that results have for their own.
    """
    if not isinstance(measured, Mapping) or not all(isinstance(name, str) for name in measured):
        raise InvalidInputError(
            f"measure gives {shown(measured)}, but must give numbers by their names: return a dict such as "
            "{'norm': ...}"
        )
    if taken := _OF_RESULTS & measured.keys():
        raise InvalidInputError(f"measure records {sorted(taken)[0]!r}, a name of the history's own: choose another")
    arrays = {}
    for name, value in measured.items():
        try:
            arrays[name] = jnp.asarray(value)
        except (TypeError, ValueError):
            raise InvalidInputError(
                f"measure records {name}={shown(value)}, but must record a number or an array"
            ) from None
    return arrays


def check_measure(measure: Any, X: Any, y: Any) -> None:
    """Have a measure check the samples that it is to be evaluated on, if it can.

    Raises:
        InvalidInputError: If it is of other ones, or can measure nothing.
    """
    if measure is not None and not callable(measure):
        raise InvalidInputError(f"measure={shown(measure)} must be a function of a model, X and y")
    if hasattr(measure, "check"):
        measure.check(X, y)
