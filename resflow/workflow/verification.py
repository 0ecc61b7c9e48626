"""What came of verifying runs, and verifying them by their stored points: from the arrays alone, without training."""

from __future__ import annotations

import importlib
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from resflow.errors import shown
from resflow.workflow import names
from resflow.workflow.compared import Compared, Outcome, compared_tables, difference
from resflow.workflow.kept_data import kept_data
from resflow.workflow.last_word import status_of
from resflow.workflow.names import FINISHED
from resflow.workflow.reports.metrics import as_recorded
from resflow.workflow.stored_points import UnverifiableError, read_points, row_of
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
    tables: Mapping[str, DataFrame] = MappingProxyType({})


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
        with (
            kept_data(Run(client, whole[0].info.run_id), Path.cwd()) as (data, variables),
            changed_environment(variables),
        ):
            found = recompute(points, [row_of(run) for run in whole], [run.data.tags for run in whole])
    except UnverifiableError as error:
        instead = (
            ""
            if row_of(whole[0]) is not None or first.get(names.STORED_POINT_DIGEST)
            else "; --rerun executes its notebook instead"
        )
        yield from (Verification(run, obstacle=f"{error}{instead}") for run in whole)
        return
    for run, again in zip(whole, found, strict=True):
        if isinstance(again, UnverifiableError):
            yield Verification(run, obstacle=str(again))
        else:
            own = Run(client, run.info.run_id)
            columns = [
                column for name, table in again.tables.items() for column in _columns(own, name, table, again.scale)
            ]
            yield Verification(run, (*compared(run, again), *columns), data=data)


def _columns(run: Run, name: str, again: DataFrame, scale: float) -> Iterator[Compared]:
    """Every column of a recorded table that was computed again, as one value: that of the row that is farthest off."""
    if (path := f"tables/{name}.csv") not in run.files("tables"):
        yield Compared(path, "gone", f"{len(again)} rows", Outcome.DIFFERS, math.inf)
    else:
        yield from compared_tables(path, run.read_text(path), again.to_csv(index=False), scale=scale, whole=False)


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
