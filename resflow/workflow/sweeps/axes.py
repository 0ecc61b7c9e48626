"""The axes of a sweep: lists, linear and logarithmic ranges, and seeds, as values of a declared parameter."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from resflow.errors import InvalidInputError
from resflow.workflow.declared_types import check_declared
from resflow.workflow.parameters import Parameter
from resflow.workflow.sweeps.yaml_lines import Entry

__all__ = ["Axis", "read_axis"]

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
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        return min(max(_rounded(value, self.integer), low), high)


def read_axis(entry: Entry, parameter: Parameter) -> Axis:
    """The axis that `entry` describes, every value of it checked against the parameter it is for.

    Raises:
        InvalidInputError: If it is malformed or a value is not allowed.
    """
    if not entry.is_mapping:
        if not entry.is_list:
            entry.refuse(
                f"{entry.where} must be a list of values, as [1, 2, 4], or a range, as {{from: 1, to: 4, count: 4}}; "
                "a single value belongs under parameters"
            )
        return Axis(parameter.name, _listed(entry, parameter))
    parts = entry.named(_KEYS)
    kinds = [key for key in ("values", "from", "seeds") if key in parts]
    if len(kinds) != 1:
        entry.refuse(
            f"{entry.where} must have one of values, from (with to) and seeds, but has {' and '.join(kinds) or 'none'}"
        )
    known = {"values": {"values"}, "seeds": {"seeds", "first"}, "from": {"from", "to", "count", "step", "scale"}}
    for key in parts.keys() - known[kinds[0]] - {"run"}:
        parts[key].refuse(f"{parts[key].where} does not go with {kinds[0]}: leave it out")
    population = "run" in parts and parts["run"].choice(("notebook", "population")) == "population"
    if kinds[0] == "values":
        return Axis(parameter.name, _listed(parts["values"], parameter), population=population)
    if kinds[0] == "seeds":
        first = parts["first"].whole_number(0) if "first" in parts else 0
        count = _count(parts["seeds"], 1)
        return Axis(parameter.name, _checked(entry, parameter, range(first, first + count)), population=population)
    return _range(entry, parts, parameter, population)


def _range(entry: Entry, parts: dict[str, Entry], parameter: Parameter, population: bool) -> Axis:
    if "to" not in parts:
        entry.refuse(f"{entry.where} has from, but no to: give both ends of the range")
    low, high = parts["from"].number(), parts["to"].number()
    log = "scale" in parts and parts["scale"].choice(("linear", "log")) == "log"
    integer = parameter.annotation.split("|")[0].strip() == "int"
    if not low < high:
        entry.refuse(f"{entry.where}: from={low} must be less than to={high}")
    if log and low <= 0:
        entry.refuse(f"{entry.where}: from={low} must be positive where scale is log")
    if integer and (low != int(low) or high != int(high)):
        entry.refuse(f"{entry.where}: {parameter.name} is declared as int, so that from and to must be whole numbers")
    if "count" in parts and "step" in parts:
        parts["step"].refuse(f"{entry.where} has both count and step: leave one out")
    if "step" in parts:
        if log:
            parts["step"].refuse(f"{parts['step'].where} does not go with scale: log: give count")
        step = parts["step"].number()
        if not 0 < step <= high - low:
            parts["step"].refuse(f"{parts['step'].where}={step} must be positive and at most {high - low:g}")
        steps = math.floor((high - low) / step * (1 + 1e-12))
        if steps > MOST_VALUES:
            parts["step"].refuse(f"{parts['step'].where}={step} makes {steps + 1} values: at most {MOST_VALUES}")
        values = [_rounded(low + index * step, integer) for index in range(steps + 1)]
    elif "count" in parts:
        values = _spaced(low, high, _count(parts["count"], 2), log, integer)
    else:
        ends = _checked(entry, parameter, [low, high])
        return Axis(parameter.name, None, (ends[0], ends[1]), log, integer, population)
    if len(set(values)) < len(values):
        entry.refuse(
            f"{entry.where}: {len(values)} whole numbers from {low:g} to {high:g} are not distinct: "
            f"at most {len(set(values))} here, or scale: linear"
        )
    return Axis(parameter.name, _checked(entry, parameter, values), population=population)


def _spaced(low: float, high: float, count: int, log: bool, integer: bool) -> list[Any]:
    shares = [index / (count - 1) for index in range(count)]
    if log:
        inner = [low * (high / low) ** share for share in shares]
    else:
        inner = [low + share * (high - low) for share in shares]
    return [_rounded(value, integer) for value in (low, *inner[1:-1], high)]


def _rounded(value: float, integer: bool) -> Any:
    """To 12 digits, so that 1e-3 between 1e-4 and 1e-1 is 0.001 and not 0.0009999999999999998."""
    return round(value) if integer else float(f"{value:.12g}")


def _count(entry: Entry, least: int) -> int:
    count = entry.whole_number(least)
    if count > MOST_VALUES:
        entry.refuse(f"{entry.where}={count} must be at most {MOST_VALUES}")
    return count


def _listed(entry: Entry, parameter: Parameter) -> tuple[Any, ...]:
    if not entry.is_list:
        entry.refuse(f"{entry.where} must be a list of values, as [1, 2, 4]")
    values: list[Any] = []
    for item in entry.items():
        (value,) = _checked(item, parameter, [item.value])
        if any(value == other and type(value) is type(other) for other in values):
            item.refuse(f"{entry.where} has {value!r} twice: leave one out")
        values.append(value)
    if not values:
        entry.refuse(f"{entry.where} has no values: give at least one, or leave it out")
    return tuple(values)


def _checked(entry: Entry, parameter: Parameter, values: Any) -> tuple[Any, ...]:
    """The values as the parameter's declared type records them, if its type and its meaning allow them."""
    try:
        checked = tuple(check_declared(value, parameter.name, parameter.annotation) for value in values)
        for value in checked:
            if parameter.name != "dataset":  # which may be a file, whose place is not known here
                parameter.check(value)
    except InvalidInputError as error:
        entry.refuse(str(error))
    return checked
