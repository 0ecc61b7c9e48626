"""Recorded values against the same computed again: the same bits, or how far apart, one by one and in tables."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from resflow.workflow.logged_values import is_finite

__all__ = ["ROUNDING", "Compared", "NoTableError", "Outcome", "compared_tables", "compared_values", "difference"]

ROUNDING = 1e-10
"""By how much a value may differ for rounding, for each unit of its size: of sums in another order, and of a linear fit
that ends at another of the points that rounding cannot tell apart. Beyond, something else was computed."""


class Outcome(StrEnum):
    """What came of computing a value again, from the best on."""

    SAME = "same bits"
    WITHIN = "within rounding"
    TOLERATED = "within the tolerance"
    DIFFERS = "differs"


class NoTableError(ValueError):
    """A file has the name of a table, and is none whose columns could be compared."""


class Compared(NamedTuple):
    """One value of a run, or several that belong together.

    Attributes:
        name: The metric, tag, column or file.
        recorded, again: What the run recorded, and what is computed now.
        outcome: How they compare; of several, how the worst of them does.
        units: How many units of rounding lie between them, each 2.2e-16 of the larger's size or of the scale.
        where: Which of several values these are, and how many there are; "" of one.
    """

    name: str
    recorded: float | str
    again: float | str
    outcome: Outcome
    units: float = 0.0
    where: str = ""


def difference(recorded: float, again: float, scale: float = 0.0, tolerance: float = ROUNDING) -> tuple[Outcome, float]:
    """How two values compare, and how many units of rounding lie between them.

    Args:
        recorded, again: The values.
        scale: The size of the numbers that they are differences of.
        tolerance: By how much they may differ beyond rounding, for each unit of the larger's size or of the scale.
    """
    if recorded == again or (math.isnan(recorded) and math.isnan(again)):
        return Outcome.SAME, 0.0
    if not is_finite(recorded) and math.isinf(again) and (recorded > 0) == (again > 0):  # as MLflow keeps infinity
        return Outcome.SAME, 0.0
    if not (math.isfinite(recorded) and math.isfinite(again)):
        return Outcome.DIFFERS, math.inf
    apart = abs(recorded - again) / max(abs(recorded), abs(again), scale)  # not 0: they are unlike
    units = apart / sys.float_info.epsilon
    if apart <= ROUNDING:
        return Outcome.WITHIN, units
    return Outcome.TOLERATED if apart <= tolerance else Outcome.DIFFERS, units


def compared_values(
    name: str,
    recorded: Sequence[float],
    again: Sequence[float],
    *,
    places: Sequence[str],
    of: str,
    scale: float = 0.0,
    tolerance: float = ROUNDING,
) -> Compared:
    """Values that belong together as one: shown is the first that is not the same, or else the last.

    Args:
        name: What they are called together.
        recorded, again: The values, as many on both sides.
        places: Where each stands, as "step 20".
        of: What they are together, as "21 steps".
        scale, tolerance: As for `difference`.
    """
    found = [difference(a, b, scale, tolerance) for a, b in zip(recorded, again, strict=True)]
    order = [*Outcome]
    worst = max((outcome for outcome, _ in found), key=order.index, default=Outcome.SAME)
    units = max((each for outcome, each in found if outcome is worst), default=0.0)
    unlike = [index for index, (outcome, _) in enumerate(found) if outcome is worst and worst is not Outcome.SAME]
    shown = unlike[0] if unlike else -1
    where = f"at {len(unlike)} of {of}, first {places[shown]}" if unlike else f"at all {of}"
    values = (recorded[shown], again[shown]) if found else (math.nan, math.nan)
    return Compared(name, *values, worst, units, where if len(found) > 1 else "")


def compared_tables(
    path: str, recorded: str, again: str, *, scale: float = 0.0, tolerance: float = ROUNDING, whole: bool = True
) -> Iterator[Compared]:
    """Every column of a table, as CSV, as one value.

    Args:
        path: What the table is called.
        recorded, again: Its text, as it was recorded and as it is now.
        scale, tolerance: As for `difference`.
        whole: Whether what is computed now has all columns that were recorded.

    Raises:
        NoTableError: If a row has another number of cells than the first, or a text is no CSV.
    """
    before, now = _columns(path, recorded), _columns(path, again)
    rows = [len(next(iter(each.values()), [])) for each in (before, now)]
    for (column, place), texts in before.items():
        name = f"{path}: {column or 'index'}" + f" ({place + 1})" * bool(place)
        if (column, place) not in now:
            if whole:
                yield Compared(name, f"{rows[0]} values", "no such column", Outcome.DIFFERS, math.inf)
        elif rows[0] != rows[1]:
            yield Compared(name, f"{rows[0]} values", f"{rows[1]} values", Outcome.DIFFERS, math.inf)
        else:
            yield _column(name, texts, now[column, place], scale, tolerance)
    if whole and (more := [column for column in now if column not in before]):
        yield Compared(f"{path}: {more[0][0]}", "no such column", f"{rows[1]} values", Outcome.DIFFERS, math.inf)


def _columns(path: str, text: str) -> dict[tuple[str, int], list[str]]:
    """The columns of a table by their names, and by how many of the same name stand before them."""
    try:
        head, *rows = [row for row in csv.reader(io.StringIO(text)) if row] or [[]]
    except csv.Error as error:
        raise NoTableError(f"{path}: {error}") from error
    if any(len(row) != len(head) for row in rows):
        raise NoTableError(f"{path}: not all rows have {len(head)} cells")
    keys = [(name, head[:index].count(name)) for index, name in enumerate(head)]
    return {key: [row[index] for row in rows] for index, key in enumerate(keys)}


def _column(name: str, before: list[str], now: list[str], scale: float, tolerance: float) -> Compared:
    numbers, others = _numbers(before), _numbers(now)
    if before != now and numbers is not None and others is not None:
        found = [difference(a, b, scale, tolerance) for a, b in zip(numbers, others, strict=True)]
    else:
        found = [(Outcome.SAME if a == b else Outcome.DIFFERS, 0.0) for a, b in zip(before, now, strict=True)]
    worst = max(found, key=lambda each: ([*Outcome].index(each[0]), each[1]), default=(Outcome.SAME, 0.0))
    apart = sum(outcome is Outcome.DIFFERS for outcome, _ in found)
    return Compared(name, f"{len(before)} values", f"{apart} of them otherwise", *worst)


def _numbers(texts: list[str]) -> list[float] | None:
    """A column's texts as numbers, an empty one as none; None if there is anything else among them."""
    try:
        return [float(text or "nan") for text in texts]
    except ValueError:
        return None
