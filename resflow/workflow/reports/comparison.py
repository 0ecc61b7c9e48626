"""Runs as data frames: what a sweep or an experiment tried, and what came of it. Reads MLflow and writes nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd

from resflow.errors import InvalidInputError, nearest
from resflow.plots.labels import point_name
from resflow.workflow import names, records
from resflow.workflow.goal import Goal
from resflow.workflow.last_word import status_of
from resflow.workflow.logged_values import is_finite
from resflow.workflow.names import Role, role_of
from resflow.workflow.reports.metrics import GAP, as_recorded, spellings
from resflow.workflow.reports.statistics import SUMMARY_COLUMNS
from resflow.workflow.run_parameters import parameters_of

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

__all__ = ["RUN_ID", "Comparison", "load_comparison", "load_sweep", "read_histories"]

RUN_ID = re.compile("[0-9a-f]{32}")
"""What MLflow calls runs by."""
NOTEBOOK = "compare_runs"
"""The notebook that compares; where it ran as a run itself, that is not one of the runs to compare."""


@dataclass(frozen=True)
class Comparison:
    """The runs of one sweep or experiment.

    Attributes:
        name: What it is called.
        kind: "sweep" or "experiment".
        parent_id: The sweep's parent run; None for an experiment.
        experiment_id: The experiment of the parent run, or the experiment itself.
        axes: The parameters that vary: those a sweep names, or those an experiment's runs differ in.
        runs: One row a run, earliest first, indexed by run_id: experiment_id, run_name, status, role, verdict (None
            without one), started, seconds, superseded (True if another row stands for the same point: it was repeated),
            and a column for every parameter, a number where all its values are. One that is called as another column
            here or in a summary, such as median, has " (parameter)" behind its name.
        metrics: The last value of every metric, with the same index.
        goal: What the runs are compared by: what the sweep's file says, or else the latest run's notebook, if a run
            recorded that; None if neither says anything.
    """

    name: str
    kind: str
    parent_id: str | None
    experiment_id: str
    axes: tuple[str, ...]
    runs: pd.DataFrame
    metrics: pd.DataFrame
    goal: Goal | None = None

    @property
    def points(self) -> pd.DataFrame:
        """Every finished run once: run_id, run_name, verdict, the axes, and all metrics."""
        runs = self.runs[(self.runs["status"] == "FINISHED") & ~self.runs["superseded"]]
        columns = ["run_name", "experiment_id", "verdict", *self.axes]
        metrics = self.metrics.loc[runs.index, [name for name in self.metrics if name not in columns]]
        return runs[columns].join(metrics).reset_index()

    @property
    def run_names(self) -> pd.Series:
        """What tells every finished run from the others, in the order of `points`: the values of what varies.

        A run that nothing tells from the others has its own name.
        """
        points = self.points
        varying = [axis for axis in self.axes if points[axis].nunique(dropna=False) > 1]
        named = [point_name(dict(zip(varying, row, strict=True))) for row in points[varying].itertuples(index=False)]
        return pd.Series([name or str(own) for name, own in zip(named, points["run_name"], strict=True)], points.index,
                         dtype=object)  # fmt: skip

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs have each status, the superseded among them counted as "superseded"."""
        shown = self.runs["status"].where(~self.runs["superseded"], "superseded")
        return {str(name): int(count) for name, count in shown.value_counts().items()}


def load_comparison(client: MlflowClient, name: str = "") -> Comparison:
    """The runs of the sweep or experiment of that name; a sweep goes before an experiment of the same name.

    Args:
        client: A client of the store.
        name: What to compare; "" means whatever the latest run belongs to.

    Raises:
        InvalidInputError: If there is nothing of that name, or nothing at all.
    """
    experiments = records.experiments(client)
    sweeps = records.parents_of_sweeps(client, list(experiments))
    kind, chosen = _choose(client, name, sweeps, experiments)
    if kind == "sweep":
        return load_sweep(client, sweeps[chosen])
    (experiment_id,) = (key for key, value in experiments.items() if value == chosen)
    return _comparison(chosen, kind, None, experiment_id, [], list(records.every_run(client, [experiment_id])))


def load_sweep(client: MlflowClient, parent: MlflowRun) -> Comparison:
    """The runs of the sweep that a parent run stands for: those made for it, and those it found finished."""
    name, experiment_id = parent.data.tags[names.SWEEP], parent.info.experiment_id
    found = sorted(records.runs_of_sweep(client, experiment_id, name), key=lambda run: run.info.start_time)
    axes = json.loads(parent.data.tags.get(names.AXES, "[]"))
    comparison = _comparison(name, "sweep", parent.info.run_id, experiment_id, axes, found)
    return replace(comparison, goal=Goal.in_tags(parent.data.tags) or comparison.goal)


def read_histories(client: MlflowClient, run_ids: Iterable[str], metric: str) -> pd.DataFrame:
    """The values of one metric along training, of many runs.

    Args:
        client: A client of the store.
        run_ids: The runs.
        metric: The metric's name.

    Returns:
        Columns run_id, step and value, in the order of the runs and of steps; nothing of runs without that metric.
    """

    def read(run_id: str) -> list[tuple[str, int, float]]:
        found = (records.history_of(client, run_id, name) for name in spellings(metric))
        return [(run_id, point.step, _value(point.value)) for point in next(filter(None, found), [])]

    # A database on this machine answers in 3 to 7 ms a run, threads or not; a server's answers are worth overlapping.
    with ThreadPoolExecutor(8 if client.tracking_uri.startswith("http") else 1) as pool:
        rows = [row for history in pool.map(read, run_ids) for row in history]
    frame = pd.DataFrame(rows, columns=["run_id", "step", "value"]).astype({"step": int, "value": float})
    order = {run_id: place for place, run_id in enumerate(dict.fromkeys(frame["run_id"]))}
    return frame.sort_values(
        ["run_id", "step"],
        key=lambda column: column.map(order) if column.name == "run_id" else column,
        kind="stable",
        ignore_index=True,
    ).drop_duplicates(["run_id", "step"], keep="last")


def _choose(client: MlflowClient, name: str, sweeps: dict[str, Any], experiments: dict[str, str]) -> tuple[str, str]:
    """What is meant by `name`: ("sweep" or "experiment", its name)."""
    if name:
        if name in sweeps:
            return "sweep", name
        if name in experiments.values():
            return "experiment", name
        what = (
            "run, sweep or experiment has the id or the name"
            if RUN_ID.fullmatch(name)
            else "sweep or experiment is called"
        )
        known = [*sweeps, *(each for each in experiments.values() if each not in ("Default", NOTEBOOK))]
        if not known:
            raise InvalidInputError(f"no {what} {name!r}: {client.tracking_uri} holds none yet")
        raise InvalidInputError(f"no {what} {name!r}: nearest are {', '.join(nearest(name, known))}")
    for run in records.every_run(client, list(experiments), newest_first=True):
        if not _compares(run):
            sweep = run.data.tags.get(names.SWEEP)
            return ("sweep", sweep) if sweep in sweeps else ("experiment", experiments[run.info.experiment_id])
    raise InvalidInputError(f"{client.tracking_uri} holds no runs yet: there is nothing to compare")


def _compares(run: MlflowRun) -> bool:
    return PurePosixPath(run.data.tags.get(names.SOURCE, "")).name == f"{NOTEBOOK}.ipynb"


def _comparison(
    name: str, kind: str, parent_id: str | None, experiment_id: str, axes: Sequence[str], found: list[MlflowRun]
) -> Comparison:
    by_id = {run.info.run_id: run for run in found}
    found = [run for run in found if role_of(run) != Role.SWEEP and not _compares(run)]
    index = pd.Index([run.info.run_id for run in found], name="run_id", dtype=object)
    info = pd.DataFrame([_info(run) for run in found], index=index, columns=list(_INFO))
    texts = [_inherited(run, by_id) for run in found]
    info["superseded"] |= _repeated(info, names.same_points(found, texts))
    metrics = pd.DataFrame(
        [{key: _value(value) for key, value in _metrics(run).items()} for run in found], index=index, dtype=float
    )
    # a population stands for its members, unless it ended before it had any
    holders = {run.data.tags.get(names.PARENT) for run in found}
    kept = ~(info["role"].eq(Role.POPULATION) & (info.index.isin(list(holders)) | info["status"].eq("FINISHED")))
    parameters = pd.DataFrame(texts, index=index)[kept].dropna(axis="columns", how="all")
    parameters = (parameters.apply(_typed) if len(parameters) else parameters).rename(columns=_column)
    varying = [column for column in parameters if parameters[column].nunique(dropna=False) > 1]
    named = [axis for axis in map(_column, axes) if axis in parameters]
    runs = info[kept].join(parameters)
    goal = next((goal for run in reversed(found) if (goal := Goal.in_tags(run.data.tags))), None)
    if goal and (goal.metric not in metrics or metrics.loc[kept, goal.metric].isna().all()):
        goal = None
    return Comparison(name, kind, parent_id, experiment_id, tuple(named or varying), runs, metrics[kept], goal)


_INFO = ("experiment_id", "run_name", "status", "role", "verdict", "started", "seconds", "superseded")


def _column(parameter: str) -> str:
    """The column of a parameter, apart from those that say what became of the runs, and from that of links to them."""
    return f"{parameter} (parameter)" if parameter in {*_INFO, *SUMMARY_COLUMNS, "run"} else parameter


def _info(run: MlflowRun) -> dict[str, Any]:
    info, tags = run.info, run.data.tags
    return {
        "experiment_id": info.experiment_id,
        "run_name": info.run_name,
        "status": status_of(run),
        "role": role_of(run),
        "verdict": tags.get(names.VERDICT),
        "started": pd.Timestamp(info.start_time, unit="ms"),
        "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else float("nan"),
        "superseded": names.SUPERSEDED in tags,  # set aside, to be done again
    }


def _metrics(run: MlflowRun) -> dict[str, float]:
    """A run's metrics; of one that measured its gap by the names they have now, whichever version recorded them."""
    metrics = run.data.metrics
    return {as_recorded(name): value for name, value in metrics.items()} if GAP in metrics else metrics


def _inherited(run: MlflowRun, by_id: dict[str, MlflowRun]) -> dict[str, str]:
    """A run's parameters, and for what it doesn't say itself those of the runs it is nested in."""
    parent = by_id.get(run.data.tags.get(names.PARENT, ""))
    above = _inherited(parent, by_id) if parent is not None and role_of(parent) != Role.SWEEP else {}
    return above | parameters_of(run)


def _typed(column: pd.Series) -> pd.Series:
    """Numbers, if every value there is says one; else texts as they are."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().eq(column.notna()).all() and column.notna().any() else column


def _repeated(info: pd.DataFrame, points: list[Hashable]) -> pd.Series:
    """Rows whose point another row stands for: the latest one that finished, or else simply the latest."""
    ranked = info[["started"]].assign(point=points, finished=info["status"].eq("FINISHED") & ~info["superseded"])
    ranked = ranked.sort_values(["finished", "started"], ascending=False, kind="stable")
    return ranked.duplicated("point").reindex(info.index) & info["status"].ne("RUNNING")


def _value(value: float) -> float:
    return value if value != value or is_finite(value) else math.copysign(math.inf, value)
