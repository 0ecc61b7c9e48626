"""What parameters of this project's own notebooks mean by their names, checked before anything is spent on them.

Another notebook may call anything `loss` or `seed`. So a notebook asks for these checks, in its metadata:
`"resflow": {"checks": "resflow.notebook.checks"}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resflow import known
from resflow.errors import InvalidInputError, check_known, nearest, shown
from resflow.workflow.names import FINGERPRINT

__all__ = ["VARYING", "check_dataset_name", "check_population", "check_values"]

VARYING = ("seed", "learning_rate", "init_scale", "ridge", "max_norm")
"""What may differ between the members of a population: parameters that leave the shapes of arrays unchanged."""


def check_values(values: Mapping[str, Any]) -> None:
    """Check values by what their names mean in this project's notebooks.

    Raises:
        InvalidInputError: If a value cannot be used, whatever else is chosen.
    """
    for name, value in values.items():
        if name in _CHECKS and value is not None:
            _CHECKS[name](name, value)


def check_population(name: str, population: Any) -> None:
    """Check that a population's members are dicts of what may vary between them.

    Raises:
        InvalidInputError: If they are not, or a value of theirs cannot be used.
    """
    if not isinstance(population, list | tuple) or not population:
        raise InvalidInputError(
            f"{name}={shown(population)} must be a list of at least one point, as [{{'seed': 0}}], or None"
        )
    for place, point in enumerate(population):
        if not isinstance(point, Mapping):
            raise InvalidInputError(f"{name}[{place}]={shown(point)} must be a dict such as {{'seed': 0}}")
        for key in point:
            if key not in (*VARYING, FINGERPRINT):
                raise InvalidInputError(
                    f"{name}[{place}] has {key}, which cannot differ within a population: "
                    f"nearest is {nearest(key, VARYING, 1)[0]} of {', '.join(VARYING)}"
                )
        check_values({key: value for key, value in point.items() if key != FINGERPRINT})


def _number(allowed: str, holds: Callable[[float], bool]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, int | float) or not (abs(value) < math.inf and holds(value)):
            raise InvalidInputError(f"{name}={shown(value)} must be {allowed}")

    return check


def _at_least(least: int) -> Callable[[str, Any], None]:
    return _number(f"at least {least}", lambda value: value >= least)


def _name(check: Callable[[str], None]) -> Callable[[str, Any], None]:
    """A check of a name, which must be a text of some length."""

    def check_text(name: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > 1000:
            raise InvalidInputError(f"{name}={shown(value)} must be a name of at most 1000 characters")
        check(value)

    return check_text


def _one_of(name: str, names: Sequence[str]) -> Callable[[str, Any], None]:
    return _name(lambda value: check_known(name, value, names))


def check_dataset_name(name: str) -> None:
    """Check that `load_dataset` knows the name, or that a file begins as it should, without loading the data.

    Raises:
        InvalidInputError: As `resflow.load_dataset`.
    """
    if known.is_file_name(name):
        from resflow.data.files import check_file  # which imports JAX

        check_file(name)
    else:
        known.check_table(name)


_COUNTS = (
    "width", "depth", "blocks", "inner", "batch_size", "log_every", "seeds", "epochs", "parts", "counts", "shortest",
    "longest",
)  # fmt: skip

_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_COUNTS, _at_least(1)),
    **dict.fromkeys(("steps", "seed"), _at_least(0)),
    **dict.fromkeys(
        ("radius", "learning_rate", "max_norm"), _number("a positive finite number", lambda value: value > 0)
    ),
    **dict.fromkeys(("test_fraction", "delta"), _number("between 0 and 1, both excluded", lambda value: 0 < value < 1)),
    "ridge": _number("zero or a positive finite number", lambda value: value >= 0),
    "loss": _name(known.check_loss),
    "dataset": _name(check_dataset_name),
    "activation": _one_of("activation", known.ACTIVATIONS),
    "architecture": _one_of("architecture", known.ARCHITECTURES),
    "hessian": _one_of("hessian", known.HESSIANS),
    "population": check_population,
}
"""What a parameter of that name must satisfy; None passes, where the declared type allows it."""
