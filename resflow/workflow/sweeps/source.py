"""Where a sweep's executions come from: a plan that is known at once, or a search that learns from each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from resflow.workflow.logged_values import finite
from resflow.workflow.goal import Goal
from resflow.workflow.run_parameters import parameters_of
from resflow.workflow.sweeps.axes import Axis
from resflow.workflow.sweeps.file import SweepFile
from resflow.workflow.sweeps.fingerprint import with_files_found
from resflow.workflow.sweeps.plan import Execution, Planner
from resflow.workflow.sweeps.runs import FINGERPRINT
from resflow.workflow.sweeps.search import Search

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

__all__ = ["FixedSource", "SearchSource", "Source"]


class Source(Protocol):
    """Gives executions, and is told what came of them."""

    @property
    def left(self) -> int:
        """How many executions are still to be taken."""
        ...

    def take(self, free: int) -> list[Execution]:
        """Executions to submit now that `free` workers are idle."""
        ...

    def told(self, execution: Execution, runs: Mapping[str, StoredRun]) -> None:
        """Learn which points of an execution are finished, by fingerprint."""
        ...


class FixedSource:
    """All executions at once: whoever schedules them sees how much there is."""

    def __init__(self, executions: Sequence[Execution]) -> None:
        self._executions = list(executions)

    @property
    def left(self) -> int:
        """How many executions are still to be taken."""
        return len(self._executions)

    def take(self, free: int) -> list[Execution]:
        """All executions, the first time."""
        taken, self._executions = self._executions, []
        return taken

    def told(self, execution: Execution, runs: Mapping[str, StoredRun]) -> None:
        """Nothing depends on it."""


class SearchSource:
    """As many executions as there are workers, each chosen by what was reached before."""

    def __init__(self, sweep: SweepFile, planner: Planner, earlier: Sequence[StoredRun]) -> None:
        """Begin with what is in the store.

        Args:
            sweep: The sweep.
            planner: Makes its executions.
            earlier: The sweep's finished points.
        """
        self._sweep = sweep
        self._planner = planner
        self.trials = _earlier_trials(sweep, planner, earlier)
        finished = {run.data.tags[FINGERPRINT]: run for run in earlier}
        self._metric = sweep.goal.metric if sweep.goal else ""
        self._known = {each.id: _reached(each, finished, self._metric) for each, _ in self.trials}
        reached = [(values, self._known[execution.id]) for execution, values in self.trials]
        self._search = Search(sweep, [(values, value) for values, value in reached if value is not None])
        self._left = max(0, sweep.strategy.count - len(self.trials))
        self._asked: dict[str, list[Any]] = {}

    @property
    def left(self) -> int:
        """How many trials are still to be made."""
        return self._left

    def values(self) -> list[float | None]:
        """What the trials so far reached, in their order."""
        return [self._known[execution.id] for execution, _ in self.trials]

    def take(self, free: int) -> list[Execution]:
        """New executions for the idle workers; a combination that was tried before is not tried again."""
        taken: list[Execution] = []
        for _ in range(100 * max(1, free)):
            if self._left == 0 or len(taken) >= free:
                break
            trial, values = self._search.ask()
            execution = self._planner.trial(values)
            if execution is None:
                self._search.tell(trial, None)
                continue
            self._left -= 1
            if execution.id in self._known:
                self._search.tell(trial, self._known[execution.id])
            elif execution.id in self._asked:
                self._asked[execution.id].append(trial)
            else:
                self._asked[execution.id] = [trial]
                taken.append(execution)
        return taken

    def told(self, execution: Execution, runs: Mapping[str, StoredRun]) -> None:
        """Tell the study; an execution of which a point is missing or has no such metric failed."""
        value = _reached(execution, runs, self._metric)
        for trial in self._asked.pop(execution.id, []):
            self._search.tell(trial, value)
        self._known[execution.id] = value


def _reached(execution: Execution, runs: Mapping[str, StoredRun], metric: str) -> float | None:
    """The metric of an execution, its mean over a population; None if it is not there or not finite."""
    values = []
    for point in execution.points:
        run = runs.get(point.fingerprint)
        if (value := finite(run.data.metrics.get(metric) if run else None)) is None:
            return None
        values.append(value)
    return finite(sum(values) / len(values))


def _earlier_trials(
    sweep: SweepFile, planner: Planner, runs: Sequence[StoredRun]
) -> list[tuple[Execution, dict[str, Any]]]:
    """The executions whose points are all among the runs, with their values, in the order they ended.

    A run's parameters are texts in the store. What they stand for is certain once the fingerprint comes out the same.
    """
    axes = [axis for axis in sweep.axes if not axis.population]
    finished = {run.data.tags[FINGERPRINT] for run in runs}
    found: dict[str, tuple[Execution, dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run.info.end_time or 0):
        values = {axis.name: _value(sweep, axis, parameters_of(run).get(axis.name, "")) for axis in axes}
        if None in values.values():
            continue  # a run of the sweep as it was when it had other axes
        execution = planner.trial(values)
        if execution and all(point.fingerprint in finished for point in execution.points):
            found.setdefault(execution.id, (execution, values))
    return list(found.values())


def _value(sweep: SweepFile, axis: Axis, text: str) -> Any:
    """The value on an axis that a run's parameter stands for; None if there is none such."""
    if axis.values is not None:
        texts = {str(with_files_found({"": value}, sweep.folder)[""]): value for value in axis.values}
        return texts.get(text)
    try:
        return int(text) if axis.integer else float(text)
    except ValueError:
        return None
