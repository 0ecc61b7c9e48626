"""The axes of a sweep: lists, linear and logarithmic ranges, and seeds, as values of a declared parameter."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resflow.workflow.declared_types import check_declared
from resflow.workflow.parameters import Parameter
from resflow.workflow.sweeps.file.data_files import with_file_found
from resflow.workflow.sweeps.file.yaml_lines import Entry

__all__ = ["Axis", "checked_values", "combinations", "read_axis", "size"]

_KINDS = {"values": (), "from": ("to", "count", "step", "scale"), "seeds": ("first",)}
"""The forms of an axis by the name that tells them apart, and the names that go with it."""
_KEYS = ("values", "from", "to", "count", "step", "scale", "seeds", "first", "run")
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Axis:
    """One parameter that varies.

    Attributes:
        name: The parameter's name.
        values: Its values in order; None for a range that is open to every value between its ends.
        ends: Lowest and highest value of an open range.
        log: True if an open range is uniform in the logarithm.
        integer: True if an open range has whole numbers only.
        population: True if one execution trains all values, False for one execution each.
    """

    name: str
    values: tuple[Any, ...] | None
    ends: tuple[float, float] = (0.0, 0.0)
    log: bool = False
    integer: bool = False
    population: bool = False

    def draw(self, rng: random.Random) -> Any:
        """A value at random."""
        if self.values is not None:
            return rng.choice(self.values)
        low, high = self.ends
        if self.integer and not self.log:
            return rng.randint(int(low), int(high))
        return self.within(math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high))

    def within(self, number: float) -> float:
        """The value of an open range that a number between its ends stands for, but for rounding."""
        return min(max(round(number) if self.integer else float(f"{number:.12g}"), self.ends[0]), self.ends[1])


def size(axes: Iterable[Axis]) -> float:
    """How many combinations of their values the axes have."""
    return math.prod(math.inf if axis.values is None else len(axis.values) for axis in axes)


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """All combinations of the values of axes that are no open ranges; those of the last axis vary fastest."""
    for values in itertools.product(*(axis.values or () for axis in axes)):
        yield {axis.name: value for axis, value in zip(axes, values, strict=True)}


def checked_values(entry: Entry, parameter: Parameter, folder: Path, values: Iterable[Any]) -> tuple[Any, ...]:
    """The values as the parameter's declared type records them.

    Raises:
        InvalidInputError: If its type or its meaning does not allow one, or the file is not in `folder` that one names.
    """
    with entry.blamed():
        checked = tuple(check_declared(value, parameter.name, parameter.annotation) for value in values)
        for value in checked:
            parameter.check(with_file_found(value, folder))
    return checked


def read_axis(entry: Entry, parameter: Parameter, folder: Path) -> Axis:
    """The axis that `entry` describes, every value of it checked against the parameter it is for.

    Raises:
        InvalidInputError: If it is malformed or a value is not allowed.
    """
    if entry.is_list:
        return Axis(parameter.name, _listed(entry, parameter, folder))
    if not entry.is_mapping:
        entry.refuse(
            f"{entry.where} must be a list of values, as [1, 2, 4], or a range, as {{from: 1, to: 4, count: 4}}; "
            "a single value belongs under parameters"
        )
    parts = entry.named(_KEYS)
    kinds = [kind for kind in _KINDS if kind in parts]
    if len(kinds) != 1:
        entry.refuse(
            f"{entry.where} must have one of values, from (with to) and seeds, but has {' and '.join(kinds) or 'none'}"
        )
    (kind,) = kinds
    for key in parts.keys() - {kind, *_KINDS[kind], "run"}:
        parts[key].refuse(f"{parts[key].where} does not go with {kind}: leave it out")
    population = "run" in parts and parts["run"].choice(("notebook", "population")) == "population"
    if kind == "from":
        return _range(entry, parts, parameter, folder, population)
    if kind == "values":
        values = _listed(parts["values"], parameter, folder)
    else:
        first = parts["first"].whole_number(0) if "first" in parts else 0
        count = parts["seeds"].whole_number(1, MOST_VALUES)
        if first + count > 2**63:
            parts["first"].refuse(f"{entry.where} has seeds of more than 2^63 - 1: let it begin with a smaller one")
        values = checked_values(entry, parameter, folder, range(first, first + count))
    return Axis(parameter.name, values, population=population)


def _range(entry: Entry, parts: dict[str, Entry], parameter: Parameter, folder: Path, population: bool) -> Axis:
    if "to" not in parts:
        entry.refuse(f"{entry.where} has from, but no to: give both ends of the range")
    low, high = parts["from"].number(), parts["to"].number()
    log = "scale" in parts and parts["scale"].choice(("linear", "log")) == "log"
    kinds = {kind.strip() for kind in parameter.annotation.split("|")}
    integer = "int" in kinds and "float" not in kinds
    if not low < high:
        entry.refuse(f"{entry.where}: from={low} must be less than to={high}")
    if math.isinf(high - low):
        entry.refuse(f"{entry.where}: from={low} and to={high} are further apart than any number")
    if log and low <= 0:
        entry.refuse(f"{entry.where}: from={low} must be positive where scale is log")
    if integer:
        if low != int(low) or high != int(high):
            entry.refuse(
                f"{entry.where}: {parameter.name} is declared as int, so that from and to must be whole numbers"
            )
        low, high = int(low), int(high)
    if "count" in parts and "step" in parts:
        parts["step"].refuse(f"{entry.where} has both count and step: leave one out")
    if "step" in parts:
        if log:
            parts["step"].refuse(f"{parts['step'].where} does not go with scale: log: give count")
        values = _stepped(parts["step"], low, high, integer)
    elif "count" in parts:
        values = _spaced(low, high, parts["count"].whole_number(2, MOST_VALUES), log, integer)
    else:
        low, high = checked_values(entry, parameter, folder, [low, high])
        return Axis(parameter.name, None, (low, high), log, integer, population)
    if (distinct := len(set(values))) < len(values):
        what = "whole numbers" if integer else "numbers"
        entry.refuse(
            f"{entry.where}: {len(values)} {what} from {low:g} to {high:g} are not distinct: "
            f"at most {distinct} here, or scale: linear"
        )
    return Axis(parameter.name, checked_values(entry, parameter, folder, values), population=population)


def _stepped(entry: Entry, low: float, high: float, integer: bool) -> list[Any]:
    step = entry.number()
    if not 0 < step <= high - low:
        entry.refuse(f"{entry.where}={step} must be positive and at most {high - low:g}")
    if integer and step != int(step):
        entry.refuse(f"{entry.where}={step} must be a whole number, as the parameter is declared as int")
    steps = (high - low) / step * (1 + 1e-12)  # where a whole number of steps ends at `to` but for rounding
    if steps >= MOST_VALUES:
        entry.refuse(f"{entry.where}={step} makes more than {MOST_VALUES} values: make it larger")
    count = math.floor(steps) + 1
    if integer:
        return [int(low + index * int(step)) for index in range(count)]
    return _rounded([low, *(min(low + index * step, high) for index in range(1, count))])


def _spaced(low: float, high: float, count: int, log: bool, integer: bool) -> list[Any]:
    shares = [index / (count - 1) for index in range(1, count - 1)]
    if integer and not log:
        return [low, *(low + round(share * (high - low)) for share in shares), high]
    inner = [low ** (1 - share) * high**share if log else low + share * (high - low) for share in shares]
    if integer:
        return [low, *(min(max(round(value), low), high) for value in inner), high]
    return [low, *_rounded(inner), high]


def _rounded(values: list[float]) -> list[float]:
    """To 12 digits, so that 1e-3 between 1e-4 and 1e-1 is not 0.0009999999999999998; to more to tell them apart."""
    for digits in (12, 15, 17):
        shorter = [float(f"{value:.{digits}g}") for value in values]
        if len(set(shorter)) == len(values):
            break
    return shorter


def _listed(entry: Entry, parameter: Parameter, folder: Path) -> tuple[Any, ...]:
    if not entry.is_list:
        entry.refuse(f"{entry.where} must be a list of values, as [1, 2, 4]")
    values: dict[Any, Any] = {}
    for item in entry.items():
        (value,) = checked_values(item, parameter, folder, [item.value])
        key = _key(value)
        if key in values:
            other = values[key]
            alike = f"{value!r} twice" if repr(value) == repr(other) else f"{other!r} and {value!r}, which are equal"
            item.refuse(f"{entry.where} has {alike}: leave one out")
        values[key] = value
    if not values:
        entry.refuse(f"{entry.where} has no values: give at least one, or leave it out")
    return tuple(values.values())


def _key(value: Any) -> Any:
    """What two values have in common that are the same point: equal ones have, and NaN with itself."""
    if isinstance(value, list):
        return ("list", *map(_key, value))
    if isinstance(value, dict):
        return ("dict", *sorted((name, repr(_key(each))) for name, each in value.items()))
    return ("nan",) if value != value else value
