"""What came of verifying runs, and verifying them by their stored points: from the arrays alone, without training."""

from __future__ import annotations

import importlib
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.errors import shown
from resflow.workflow import names
from resflow.workflow.beside import Call, call_here
from resflow.workflow.compared import Compared, NoTableError, Outcome, compared_tables, difference
from resflow.workflow.environment import kept_environment
from resflow.workflow.kept_data import kept_data
from resflow.workflow.last_word import status_of
from resflow.workflow.names import FINISHED
from resflow.workflow.reports.metrics import as_recorded
from resflow.workflow.stored_points import StoredPoints, UnverifiableError, read_points, row_of
from resflow.workflow.variables import changed_environment

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame

    from resflow.workflow.records import Run

__all__ = ["Recomputed", "Verification", "compared", "verified"]

_OWN = re.compile(r"resflow(\.\w+)+")
"""The modules that a file of points may name: whoever wrote it must not have others imported here."""


class Recomputed(NamedTuple):
    """Values of a run, computed again.

    Attributes:
        values: Metrics by the names of the library's fields, and tags, which are texts or truth values.
        scale: The size of the numbers that the metrics are differences of.
        tables: Columns of tables that were recorded by these names, row by row.
    """

    values: Mapping[str, float | str | bool]
    scale: float
    tables: Mapping[str, DataFrame]


class Verification(NamedTuple):
    """What came of verifying one run.

    Attributes:
        run: The run as it is in the store.
        values: Every value that was recorded and computed again.
        obstacle: Why nothing could be computed; "" where something could.
        left_out: What was recorded and not compared, and why.
        since: What else is otherwise now than when the run ran, as far as it was looked at.
        executed: Whether its notebook was executed again; else its values were computed from its stored point.
        source: From which source it was executed, if not from the present one.
        data: That its data file changed or is gone, and which copy was used; "" where it is as it was.
    """

    run: StoredRun
    values: tuple[Compared, ...] = ()
    obstacle: str = ""
    left_out: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    executed: bool = False
    source: str = ""
    data: str = ""

    @property
    def holds(self) -> bool:
        """Whether every value came out the same, up to rounding or the tolerance, and there was one."""
        return bool(self.values) and all(each.outcome is not Outcome.DIFFERS for each in self.values)

    @property
    def summary(self) -> str:
        """How many values came out how, and if some differ, what else does."""
        if not self.values:
            nothing = f"it recorded nothing that {'can be compared' if self.executed else 'its point tells'}"
            return f"could not be checked: {self.obstacle or nothing}"
        of_copy = [f"{self.data.partition('; ')[0]}: on the kept copy"] if self.data else []
        counts = {outcome: [each for each in self.values if each.outcome is outcome] for outcome in Outcome}
        told = [f"{len(counts[Outcome.SAME])} with the same bits"]
        for outcome in (Outcome.WITHIN, Outcome.TOLERATED):
            if within := counts[outcome]:
                told.append(f"{len(within)} {outcome} (at most {max(each.units for each in within):.2g} units)")
        if differing := counts[Outcome.DIFFERS]:
            told.append(f"{len(differing)} DIFFER: {', '.join(each.name for each in differing)}")
            if self.executed:
                told.append(f"since then {'; '.join(self.since) or 'nothing that is known has changed'}")
        return ", ".join(told + of_copy)

    def tag(self) -> dict[str, str]:
        """The tag that keeps it: when, how, what came out and on which platform."""
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        at = f" at {self.source}" if self.source else ""
        key, how = (names.EXECUTED, f"executed{at}") if self.executed else (names.VERIFIED, "from the stored point")
        return {key: f"{when}, {how}: {self.summary} ({platform.platform()})"}


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


def verified(client: MlflowClient, runs: Sequence[StoredRun], call: Call = call_here) -> Iterator[Verification]:
    """Verify runs by their stored points, members of a population together, as they were trained.

    Args:
        client: A client of their store.
        runs: The runs.
        call: Calls what computes.
    """
    together: dict[str, list[StoredRun]] = {}
    for run in runs:
        holder = run.data.tags.get(names.PARENT, "") if row_of(run) is not None else run.info.run_id
        together.setdefault(holder, []).append(run)
    for holder, group in together.items():
        yield from _of_holder(client, holder, group, call)


class _Stored(NamedTuple):
    """Runs whose points are in files that were read."""

    points: StoredPoints
    runs: list[StoredRun]
    rows: list[int | None]


def _of_holder(client: MlflowClient, holder: str, runs: Sequence[StoredRun], call: Call) -> Iterator[Verification]:
    """Verify runs whose points are among the artifacts of one."""
    from resflow.workflow.records import Run

    files: dict[str, list[StoredRun]] = {}
    for run in runs:
        if status_of(run) == FINISHED:
            files.setdefault(run.data.tags.get(names.STORED_POINT, "").partition("#")[0], []).append(run)
        else:
            yield Verification(run, obstacle=f"the run is {status_of(run)}")
    parts = []
    for _, group in sorted(files.items()):
        tags = group[0].data.tags
        try:
            place, digest = tags.get(names.STORED_POINT, ""), tags.get(names.STORED_POINT_DIGEST, "")
            parts.append(
                _Stored(read_points(Run(client, holder), place, digest), group, [row_of(run) for run in group])
            )
        except UnverifiableError as error:
            yield from _cannot(error, group)
    if not parts:
        return
    stored = _joined(parts)
    of_first = Run(client, stored.runs[0].info.run_id)
    try:
        with kept_data(of_first, Path.cwd()) as (data, variables):
            of_runs, cpu_devices = [run.data.tags for run in stored.runs], _cpu_devices(Run(client, holder))
            found = call(_recomputed, variables, stored.points, stored.rows, of_runs, cpu_devices)
    except UnverifiableError as error:
        yield from _cannot(error, stored.runs)
        return
    for run, again in zip(stored.runs, found, strict=True):
        if isinstance(again, UnverifiableError):
            yield Verification(run, obstacle=str(again))
        else:
            own = Run(client, run.info.run_id)
            columns = [
                column for name, table in again.tables.items() for column in _columns(own, name, table, again.scale)
            ]
            yield Verification(run, (*compared(run, again), *columns), data=data)


def _joined(parts: Sequence[_Stored]) -> _Stored:
    """The points of a population, which lie in one file a block of its members, as if they were in one."""
    if len(parts) == 1:
        return parts[0]
    import numpy as np

    members, rows = list[Any](), list[int | None]()
    for part in parts:
        rows += [len(members) + (row or 0) for row in part.rows]
        members += part.points.description["members"]
    arrays = {name: np.concatenate([part.points.arrays[name] for part in parts]) for name in parts[0].points.arrays}
    points = StoredPoints(parts[0].points.description | {"members": members}, arrays)
    return _Stored(points, [run for part in parts for run in part.runs], rows)


def _cpu_devices(run: Run) -> int:
    """On how many CPU devices a run computed; on one, if on none or that is not kept."""
    devices = kept_environment(run).get("devices", ())
    return max(1, sum(str(device).startswith("cpu:") for device in devices))


def _cannot(error: UnverifiableError, runs: Sequence[StoredRun]) -> Iterator[Verification]:
    """That runs whose points would lie in one place cannot be verified."""
    kept = row_of(runs[0]) is not None or runs[0].data.tags.get(names.STORED_POINT_DIGEST)
    yield from (Verification(run, obstacle=f"{error}{'' if kept else _INSTEAD}") for run in runs)


_INSTEAD = "; --rerun executes its notebook instead"


def _columns(run: Run, name: str, again: DataFrame, scale: float) -> Iterator[Compared]:
    """Every column of a recorded table that was computed again, as one value: that of the row that is farthest off."""
    if (path := f"tables/{name}.csv") not in run.files("tables"):
        yield Compared(path, "gone", f"{len(again)} rows", Outcome.DIFFERS, math.inf)
        return
    try:
        yield from compared_tables(path, run.read_text(path), again.to_csv(index=False), scale=scale, whole=False)
    except (UnicodeDecodeError, NoTableError):
        yield Compared(path, "damaged", f"{len(again)} rows", Outcome.DIFFERS, math.inf)


def _recomputed(
    variables: Mapping[str, str | None], points: StoredPoints, *of_runs: Any
) -> list[Recomputed | UnverifiableError]:
    """What whoever stored points computes of them again, the environment having these variables, too."""
    recompute = _verifier(points.description.get("verifier"))
    with changed_environment(variables):
        return recompute(points, *of_runs)


def _verifier(module: object) -> Callable[..., list[Recomputed | UnverifiableError]]:
    """The function `recompute` of the module that a file of points names: who stored them knows what they mean."""
    if not _OWN.fullmatch(str(module)):
        raise UnverifiableError(
            f"the stored point names {shown(module)} to verify it: modules other than resflow's own are not imported"
        )
    try:
        return importlib.import_module(str(module)).recompute
    except (ImportError, AttributeError, ValueError) as error:
        raise UnverifiableError(f"the stored point names {module!r} to verify it, which is not here: {error}") from None
