"""A run's recorded values against the same computed again from its stored point: the same bits, or how far apart."""

from __future__ import annotations

import csv
import importlib
import io
import math
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from resflow.workflow import names
from resflow.workflow.last_word import status_of
from resflow.workflow.logged_values import is_finite
from resflow.workflow.names import FINISHED
from resflow.workflow.reports.metrics import as_recorded
from resflow.workflow.stored_points import UnverifiableError, read_points, row_of

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame

    from resflow.workflow.records import Run

__all__ = ["ROUNDING", "Compared", "Outcome", "Recomputed", "Verification", "compared", "difference", "verified"]

ROUNDING = 1e-10
"""By how much a value may differ for rounding, for each unit of its size: of sums in another order, and of a linear fit
that ends at another of the points that rounding cannot tell apart. Beyond, something else was computed."""


class Outcome(StrEnum):
    """What came of computing a value again."""

    SAME = "same bits"
    WITHIN = "within rounding"
    DIFFERS = "differs"


class Recomputed(NamedTuple):
    """Values of a run, computed again.

    Attributes:
        values: Metrics by the names of the library's fields, and tags, which are texts or truth values.
        scale: The size of the numbers that the metrics are differences of.
        tables: Columns of tables that were recorded by these names, row by row.
    """

    values: Mapping[str, float | str | bool]
    scale: float
    tables: Mapping[str, DataFrame] = MappingProxyType({})


class Compared(NamedTuple):
    """One value of a run.

    Attributes:
        name: The metric or tag.
        recorded, again: What the run recorded, and what is computed now.
        outcome: How they compare.
        units: How many units of rounding lie between them, each 2.2e-16 of the larger's size or of the scale.
    """

    name: str
    recorded: float | str
    again: float | str
    outcome: Outcome
    units: float = 0.0


class Verification(NamedTuple):
    """What came of verifying one run.

    Attributes:
        run: The run as it is in the store.
        values: Every value that was recorded and computed again.
        obstacle: Why nothing could be computed; "" where something could.
    """

    run: StoredRun
    values: tuple[Compared, ...] = ()
    obstacle: str = ""

    @property
    def holds(self) -> bool:
        """Whether every value came out the same, up to rounding, and there was one."""
        return bool(self.values) and all(each.outcome is not Outcome.DIFFERS for each in self.values)

    @property
    def summary(self) -> str:
        """How many values came out how."""
        if not self.values:
            return f"could not be checked: {self.obstacle or 'it recorded nothing that its point tells'}"
        counts = {outcome: [each for each in self.values if each.outcome is outcome] for outcome in Outcome}
        told = [f"{len(counts[Outcome.SAME])} with the same bits"]
        if within := counts[Outcome.WITHIN]:
            told.append(f"{len(within)} within rounding (at most {max(each.units for each in within):.2g} units)")
        if differing := counts[Outcome.DIFFERS]:
            told.append(f"{len(differing)} DIFFER: {', '.join(each.name for each in differing)}")
        return ", ".join(told)

    def tag(self) -> dict[str, str]:
        """The tag that keeps it: when, how, what came out and on which platform."""
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return {names.VERIFIED: f"{when}, from the stored point: {self.summary} ({platform.platform()})"}


def compared(run: StoredRun, again: Recomputed) -> tuple[Compared, ...]:
    """Every value that a run recorded and that was computed again, in the latter's order."""
    found = []
    for key, value in again.values.items():
        if isinstance(value, str | bool):
            if (recorded := run.data.tags.get(key)) is not None:
                same = Outcome.SAME if recorded == str(value) else Outcome.DIFFERS
                found.append(Compared(key, recorded, str(value), same))
        elif (metric := run.data.metrics.get(as_recorded(key))) is not None:
            found.append(Compared(as_recorded(key), metric, value, *difference(metric, value, again.scale)))
    return tuple(found)


def difference(recorded: float, again: float, scale: float = 0.0) -> tuple[Outcome, float]:
    """How two values of a metric compare, and how many units of rounding lie between them."""
    if recorded == again or (math.isnan(recorded) and math.isnan(again)):
        return Outcome.SAME, 0.0
    if not is_finite(recorded) and math.isinf(again) and (recorded > 0) == (again > 0):  # as MLflow keeps infinity
        return Outcome.SAME, 0.0
    if not (math.isfinite(recorded) and math.isfinite(again)):
        return Outcome.DIFFERS, math.inf
    apart = abs(recorded - again) / max(abs(recorded), abs(again), scale)  # not 0: they are unlike
    return Outcome.WITHIN if apart <= ROUNDING else Outcome.DIFFERS, apart / sys.float_info.epsilon


def verified(client: MlflowClient, runs: Sequence[StoredRun]) -> Iterator[Verification]:
    """Verify runs by their stored points, members of a population whose points are in one file together."""
    together: dict[tuple[str, str], list[StoredRun]] = {}
    for run in runs:
        path = run.data.tags.get(names.STORED_POINT, "").partition("#")[0]
        holder = run.data.tags.get(names.PARENT, "") if row_of(run) is not None else run.info.run_id
        together.setdefault((holder, path), []).append(run)
    for (holder, _), group in together.items():
        yield from _of_file(client, holder, group)


def _of_file(client: MlflowClient, holder: str, runs: Sequence[StoredRun]) -> Iterator[Verification]:
    from resflow.workflow.records import Run

    whole = [run for run in runs if status_of(run) == FINISHED]
    yield from (
        Verification(run, obstacle=f"the run is {status_of(run)}") for run in runs if status_of(run) != FINISHED
    )
    if not whole:
        return
    first = whole[0].data.tags
    try:
        points = read_points(
            Run(client, holder), first.get(names.STORED_POINT, ""), first.get(names.STORED_POINT_DIGEST, "")
        )
        recompute = _verifier(points.description.get("verifier"))
    except UnverifiableError as error:
        yield from (Verification(run, obstacle=str(error)) for run in whole)
        return
    found = recompute(points, [row_of(run) for run in whole], [run.data.tags for run in whole])
    for run, again in zip(whole, found, strict=True):
        if isinstance(again, UnverifiableError):
            yield Verification(run, obstacle=str(again))
        else:
            own = Run(client, run.info.run_id)
            columns = [column for name, table in again.tables.items() for column in _columns(own, name, table, again)]
            yield Verification(run, (*compared(run, again), *columns))


def _columns(run: Run, name: str, again: DataFrame, scales: Recomputed) -> Iterator[Compared]:
    """Every column of a recorded table that was computed again, as one value: that of the row that is farthest off."""
    if (path := f"tables/{name}.csv") not in run.files("tables"):
        yield Compared(path, "gone", f"{len(again)} rows", Outcome.DIFFERS, math.inf)
        return
    rows = [*csv.DictReader(io.StringIO(run.read_text(path)))]
    for column in again.columns.intersection(list(rows[0]) if rows else []):
        before, now = [row[column] for row in rows], again[column].tolist()
        if len(before) != len(now):
            found = [(Outcome.DIFFERS, math.inf)]
        elif any(isinstance(value, str | bool) for value in now):
            found = [
                (Outcome.SAME if str(a) == str(b) else Outcome.DIFFERS, 0.0) for a, b in zip(before, now, strict=True)
            ]
        else:
            numbers = [float(text or "nan") for text in before]
            found = [difference(a, float(b), scales.scale) for a, b in zip(numbers, now, strict=True)]
        worst = max(found, key=lambda each: ([*Outcome].index(each[0]), each[1]), default=(Outcome.SAME, 0.0))
        apart = sum(outcome is Outcome.DIFFERS for outcome, _ in found)
        yield Compared(f"{path}: {column}", f"{len(before)} values", f"{apart} of them otherwise", *worst)


def _verifier(module: object) -> Callable[..., list[Recomputed | UnverifiableError]]:
    """The function `recompute` of the module that a file of points names: who stored them knows what they mean."""
    try:
        return importlib.import_module(str(module)).recompute
    except (ImportError, AttributeError, ValueError) as error:
        raise UnverifiableError(f"the stored point names {module!r} to verify it, which is not here: {error}") from None
