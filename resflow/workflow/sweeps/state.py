"""A sweep as it stands: what is planned, what of it is finished in the store, what failed, and how far it is."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from resflow.workflow.names import FAILED, FINISHED, MISSING, PARENT, Role, role_of
from resflow.workflow.records import (
    Run,
    claim,
    drop_duplicates,
    experiments,
    finished_points,
    gather,
    points_of_sweep,
    set_aside,
)
from resflow.workflow.sweeps.file.axes import size
from resflow.workflow.sweeps.plan import Execution, Planner, Point, Result
from resflow.workflow.sweeps.plan.search import FixedSource, SearchSource
from resflow.workflow.sweeps.tally import Tally
from resflow.workflow.sweeps.worker.attempt import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["Sweep"]

LOOKED_AT = 20
"""Finished executions by which it is estimated how long the others take."""


class Sweep:
    """A sweep file, its plan, and what became of it so far; nobody else changes any of it.

    Attributes:
        file: The sweep file.
        client: A client of the store.
        is_search: True if each execution is chosen by what those before it reached.
        executions: What is planned, as far as it is known.
        finished: The finished run of each point, by fingerprint.
        tally: How far it is.
    """

    def __init__(self, planner: Planner, executions: list[Execution], client: MlflowClient) -> None:
        """See what of a plan is finished; nothing is written."""
        self.file, self.client, self.executions = planner.sweep, client, executions
        self.tally = Tally(goal=self.file.goal)
        self.is_search = self.file.strategy.kind == "optuna"
        self.finished: dict[str, StoredRun] = {}
        self._planner = planner
        self._submitted: dict[str, Execution] = {}
        self._failures: dict[str, Outcome] = {}
        self._experiment_id = next(iter(experiments(client, self.file.experiment)), "")
        self._search: SearchSource | None = None
        self._look()

    def _look(self) -> None:
        """See what is finished."""
        if self.is_search:
            self._look_for_trials()
        elif self._experiment_id:
            self.finished = self._finished_of(self.points)

    def _look_for_trials(self) -> None:
        """See which trials of a search are finished; other points are of other axes, or of what was cut off."""
        found: dict[str, StoredRun] = {}
        if self._experiment_id:
            found = points_of_sweep(self.client, self._experiment_id, self.file.name)
        self._search = SearchSource(self.file, self._planner, found)
        self.executions = list(self._search.trials)
        self.finished = {point.fingerprint: found[point.fingerprint] for point in self.points}

    def seconds_to_do(self) -> float | None:
        """How long one worker has to do, if an execution takes as long as those finished did; None if none is."""
        left = sum(bool(self.todo(execution)) for execution in self.executions)
        done = [run for each in self.executions if (run := self.finished.get(each.points[0].fingerprint))]
        took = []
        for run in done[:LOOKED_AT] if left else []:
            executed = run if role_of(run) != Role.MEMBER else Run(self.client, run.data.tags[PARENT]).stored
            if executed.info.end_time:
                took.append((executed.info.end_time - executed.info.start_time) / 1000)
        return fmean(took) * left if took else None

    def _finished_of(self, points: list[Point]) -> dict[str, StoredRun]:
        return finished_points(self.client, self._experiment_id, [point.fingerprint for point in points])

    @property
    def points(self) -> list[Point]:
        """Every point that is known so far."""
        return [point for execution in self.executions for point in execution.points]

    def open(self, experiment_id: str, parent_id: str, *, again: bool) -> None:
        """Begin with what is finished in an experiment: every point once, tagged as one of this sweep's.

        With `again`, what is finished is set aside, so that it is done again.
        """
        self._experiment_id = experiment_id
        self._look()
        self.drop_duplicates()
        if again:
            for run in [*self.finished.values(), *self._begun().values()]:
                set_aside(self.client, run)
            self._look()
        planned = {point.fingerprint for point in self.points} | self._begun().keys()
        gather(self.client, experiment_id, self.file.name, parent_id, planned)
        claim(self.client, self.finished, self.file.name, parent_id)
        for point in self.points:
            self._consider(point)
        self.tally.cached, self.tally.total = len(self.finished), len(self.points)
        if self._search is not None:
            self.tally.total += self._search.left * int(size(self.file.population_axes))

    def _begun(self) -> dict[str, StoredRun]:
        """The finished points of executions that a search did not finish."""
        return {} if self._search is None else self._search.begun

    def drop_duplicates(self) -> None:
        """Set aside what finished twice."""
        drop_duplicates(self.client, self._experiment_id, list(self.finished))

    def settle(self, parent_id: str) -> None:
        """Set aside what finished twice, here or in another sweep that was at work, and claim what stands for it."""
        self.drop_duplicates()
        if not self.is_search:
            self.finished |= self._finished_of(self.points)
        claim(self.client, self.finished, self.file.name, parent_id)

    def source(self) -> FixedSource:
        """Where the executions come from that are still to be made."""
        todo = [execution for execution in self.executions if self.todo(execution)]
        source = self._search or FixedSource(todo)
        self.tally.executions_left = source.left
        return source

    def add(self, execution: Execution) -> None:
        """An execution is about to be made, which a search may have found only now."""
        self._submitted[execution.id] = execution
        if self.is_search and execution not in self.executions:
            self.executions.append(execution)
            for point in execution.points:
                if run := self._begun().pop(point.fingerprint, None):
                    self.finished[point.fingerprint] = run
                    self.tally.cached += 1
                    self._consider(point)

    def submitted(self, key: str) -> Execution:
        """The execution of that id, which was added before."""
        return self._submitted[key]

    def todo(self, execution: Execution) -> list[Point]:
        """The points of an execution that are not finished."""
        return [point for point in execution.points if point.fingerprint not in self.finished]

    def ended(self, execution: Execution, outcome: Outcome) -> Outcome:
        """See which points of an execution that ended are finished; the outcome, FAILED if it is not but some miss."""
        todo = self.todo(execution)
        runs = self._finished_of(todo)
        self.finished |= runs
        for point in todo:
            self._consider(point)
        if missing := len(todo) - len(runs):
            if outcome.status == FINISHED:
                error = f"{missing} of {len(todo)} points of the population were not recorded"
                outcome = outcome._replace(status=FAILED, error=error)
            self._failures[execution.id] = outcome
        self.tally.ended(execution.id, len(runs), missing, outcome.seconds)
        return outcome

    def results(self) -> list[Result]:
        """What became of every point so far."""
        results = []
        for execution in self.executions:
            failure = self._failures.get(execution.id, Outcome(MISSING))
            for point in execution.points:
                if run := self.finished.get(point.fingerprint):
                    results.append(Result(point, FINISHED, run, run.info.run_id))
                else:
                    results.append(Result(point, failure.status, None, failure.run_id, failure.error))
        return results

    def _consider(self, point: Point) -> None:
        run = self.finished.get(point.fingerprint)
        if run is not None and self.tally.goal is not None:
            self.tally.consider(run.data.metrics.get(self.tally.goal.metric), point.label)
