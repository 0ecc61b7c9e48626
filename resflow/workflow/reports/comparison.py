"""Runs as data frames: what a sweep or an experiment tried, and what came of it. Reads MLflow and writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from resflow.errors import InvalidInputError, nearest
from resflow.workflow.goal import Goal
from resflow.workflow.last_word import status_of
from resflow.workflow.logged_values import is_finite
from resflow.workflow.records import every_run
from resflow.workflow.reports.statistics import SUMMARY_COLUMNS
from resflow.workflow.run_parameters import parameters_of

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

__all__ = ["Comparison", "load_comparison", "load_sweep", "read_histories"]

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
    experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    parents = _latest_first(client, list(experiments), "tags.`resflow.role` = 'sweep'")
    sweeps: dict[str, MlflowRun] = {}
    for parent in parents:  # latest first
        sweeps.setdefault(parent.data.tags.get("resflow.sweep", ""), parent)
    kind, chosen = _choose(client, name, sweeps, experiments)
    if kind == "sweep":
        return load_sweep(client, sweeps[chosen])
    (experiment_id,) = (key for key, value in experiments.items() if value == chosen)
    return _comparison(chosen, kind, None, experiment_id, [], _latest_first(client, [experiment_id], ""))


def load_sweep(client: MlflowClient, parent: MlflowRun) -> Comparison:
    """The runs of the sweep that a parent run stands for: those made for it, and those it found finished."""
    name, experiment_id = parent.data.tags["resflow.sweep"], parent.info.experiment_id
    found = _latest_first(client, [experiment_id], f"tags.`resflow.sweep` = {_quoted(name)}")
    found += _latest_first(client, [experiment_id], f"tags.`resflow.also_in.{name}` != ''")
    axes = json.loads(parent.data.tags.get("resflow.axes", "[]"))
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
        return [(run_id, point.step, _value(point.value)) for point in client.get_metric_history(run_id, metric)]

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
        known = [*sweeps, *(each for each in experiments.values() if each not in ("Default", NOTEBOOK))]
        if not known:
            raise InvalidInputError(f"no sweep or experiment is called {name!r}: {client.tracking_uri} holds none yet")
        raise InvalidInputError(
            f"no sweep or experiment is called {name!r}: nearest are {', '.join(nearest(name, known))}"
        )
    token = None
    while True:
        page = client.search_runs(
            list(experiments), order_by=["attributes.start_time DESC"], max_results=100, page_token=token
        )
        for run in page:
            if not _compares(run):
                sweep = run.data.tags.get("resflow.sweep")
                return ("sweep", sweep) if sweep in sweeps else ("experiment", experiments[run.info.experiment_id])
        if not (token := page.token):
            raise InvalidInputError(f"{client.tracking_uri} holds no runs yet: there is nothing to compare")


def _compares(run: MlflowRun) -> bool:
    return run.data.tags.get("mlflow.source.name", "").endswith(f"{NOTEBOOK}.ipynb")


def _comparison(
    name: str, kind: str, parent_id: str | None, experiment_id: str, axes: Sequence[str], found: list[MlflowRun]
) -> Comparison:
    by_id = {run.info.run_id: run for run in found}
    found = [run for run in reversed(found) if _role(run) != "sweep" and not _compares(run)]
    index = pd.Index([run.info.run_id for run in found], name="run_id", dtype=object)
    info = pd.DataFrame([_info(run) for run in found], index=index, columns=list(_INFO))
    texts = [_inherited(run, by_id) for run in found]
    info["superseded"] |= _repeated(info, [_point(run, text) for run, text in zip(found, texts, strict=True)])
    metrics = pd.DataFrame(
        [{key: _value(value) for key, value in run.data.metrics.items()} for run in found], index=index, dtype=float
    )
    # a population stands for its members, unless it ended before it had any
    holders = {run.data.tags.get("mlflow.parentRunId") for run in found}
    kept = ~(info["role"].eq("population") & info.index.isin(list(holders)))
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
        "role": _role(run),
        "verdict": tags.get("verdict"),
        "started": pd.Timestamp(info.start_time, unit="ms"),
        "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else float("nan"),
        "superseded": "resflow.superseded_fingerprint" in tags,  # set aside, to be done again
    }


def _role(run: MlflowRun) -> str:
    return run.data.tags.get("resflow.role", "run")


def _inherited(run: MlflowRun, by_id: dict[str, MlflowRun]) -> dict[str, str]:
    """A run's parameters, and for what it doesn't say itself those of the runs it is nested in."""
    parent = by_id.get(run.data.tags.get("mlflow.parentRunId", ""))
    above = _inherited(parent, by_id) if parent is not None and _role(parent) != "sweep" else {}
    return above | parameters_of(run)


def _typed(column: pd.Series) -> pd.Series:
    """Numbers, if every value there is says one; else texts as they are."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().eq(column.notna()).all() and column.notna().any() else column


def _point(run: MlflowRun, parameters: dict[str, str]) -> tuple[Any, ...]:
    """What two runs of one point have in common; which members a population is given may differ."""
    named = sorted((key, value) for key, value in parameters.items() if key != "population")
    return (_role(run) == "population", run.data.tags.get("mlflow.source.name"), *named)


def _repeated(info: pd.DataFrame, points: list[tuple[Any, ...]]) -> pd.Series:
    """Rows whose point another row stands for: the latest one that finished, or else simply the latest."""
    ranked = info[["started"]].assign(point=points, finished=info["status"].eq("FINISHED") & ~info["superseded"])
    ranked = ranked.sort_values(["finished", "started"], ascending=False, kind="stable")
    return ranked.duplicated("point").reindex(info.index) & info["status"].ne("RUNNING")


def _value(value: float) -> float:
    return value if value != value or is_finite(value) else math.copysign(math.inf, value)


def _latest_first(client: MlflowClient, experiment_ids: list[str], condition: str) -> list[MlflowRun]:
    return list(every_run(client, experiment_ids, condition, newest_first=True))


def _quoted(text: str) -> str:
    """A text in MLflow's filter language, which knows no escapes."""
    if "'" in text and '"' in text:
        raise InvalidInputError(f"the sweep's name {text!r} has both kinds of quotes: MLflow cannot search for it")
    return f'"{text}"' if "'" in text else f"'{text}'"
