"""One start of a sweep: what is missing is executed on a cluster, and a parent run keeps what becomes of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from resflow.workflow.outcome import first_line
from resflow.workflow.sweeps import attempt
from resflow.workflow.sweeps.cluster import ClusterLostError, cores, local_cluster, running_cluster
from resflow.workflow.sweeps.jobs import Limits, job_of
from resflow.workflow.sweeps.parent import Parent
from resflow.workflow.sweeps.plan import Execution, Point
from resflow.workflow.sweeps.progress import Display, Tally, duration, label
from resflow.workflow.sweeps.runs import SWEEP, claim, drop_duplicates, end_cut_off, finished_points, set_aside, tagged
from resflow.workflow.sweeps.source import Source
from resflow.workflow.sweeps.sweep import Options, Result, Sweep
from resflow.workflow.sweeps.tables import plan_table, results_table

if TYPE_CHECKING:
    from distributed import Client, Future
    from mlflow.entities import Run as StoredRun

__all__ = ["Driver"]

logger = logging.getLogger(__name__)

PATIENCE = 25.0
"""Seconds for runs of a driver that is gone, or that are being stopped, to say themselves that they were killed."""

BELOW = "tags.`resflow.role` != 'sweep'"


class Driver:
    """One start of a sweep, from what is finished to what was reached."""

    def __init__(self, sweep: Sweep, options: Options, display: Display, parent: Parent) -> None:
        self.sweep = sweep
        self.options = options
        self.display = display
        self.tally: Tally = display.tally
        self.parent = parent
        self.session = uuid.uuid4().hex
        self.client = sweep.client
        self.experiment_id = parent.experiment_id
        self.failures: dict[str, attempt.Outcome] = {}
        self.events: deque[dict[str, Any]] = deque()
        self.executions: dict[str, Execution] = {}
        self.problems: list[str] = []
        sweep.experiment_id = parent.experiment_id

    def prepare(self) -> None:
        """Bring what an earlier driver left to its end, and see what is to be done."""
        self.parent.describe(self.sweep.file)
        below = f"{tagged(SWEEP, self.sweep.file.name)} AND {BELOW}"
        reason = "cut off: the driver of the sweep is gone"
        end_cut_off(self.client, self.experiment_id, below, patience=PATIENCE, reason=reason)
        self.sweep.look()
        drop_duplicates(self.client, self.experiment_id, list(self.sweep.finished))
        if self.options.again:
            for run in self.sweep.finished.values():
                set_aside(self.client, run)
            self.sweep.finished = {}
            self.sweep.look()
        claim(self.client, self.sweep.finished, self.sweep.file.name, self.parent.run.id)
        self.parent.run.log_table(plan_table(self.sweep), "plan")
        strategy, tally = self.sweep.file.strategy, self.tally
        tally.goal = self.sweep.file.goal
        for execution in self.sweep.executions:
            self.executions[execution.id] = execution
            for point in execution.points:
                if found := self.sweep.finished.get(point.fingerprint):
                    self._consider(point, found)
        tally.cached, tally.total = len(self.sweep.finished), len(self.sweep.points)
        if self.sweep.is_search:
            tally.total = max(strategy.count, len(self.sweep.executions)) * self._points_each()

    def run(self) -> None:
        """Execute what is missing."""
        source = self.sweep.source()
        missing = source.left
        self.tally.executions_left = missing
        counts = {"executions": missing, "parent_run_id": self.parent.run.id, "sweep": self.sweep.file.name}
        self.display.event("begun", f"{self.sweep.file.name}: {self.tally.line()}", **counts)
        if not missing:
            return
        cluster, threads = self._cluster(missing)
        with cluster as dask:
            limits = Limits(self.options.retries, self.options.time_limit, threads)
            dask.subscribe_topic(f"resflow-{self.session}", lambda event: self.events.append(event[1]))
            try:
                self._run_on(dask, source, limits)
            finally:
                self._withdraw()

    def _cluster(self, missing: int) -> tuple[AbstractContextManager[Client], int]:
        if self.options.scheduler:
            return running_cluster(self.options.scheduler), 0
        workers = min(self.options.workers or cores(), missing)
        threads = max(1, cores() // workers) if workers > 1 else 0
        return local_cluster(workers, self.options.retries), threads

    def _run_on(self, dask: Client, source: Source, limits: Limits) -> None:
        pending: dict[Future, Execution] = {}
        self._pending = pending
        waiting = False
        while True:
            capacity = _capacity(dask)
            self.tally.capacity = max(1, capacity)
            for execution in source.take(max(0, capacity - len(pending))):
                pending[self._submit(dask, execution, limits)] = execution
            if not pending and (capacity or not self.sweep.is_search):
                return
            if not capacity and not waiting:
                self.display.note("no workers yet: waiting for the cluster to have some")
            waiting = not capacity
            time.sleep(0.1)
            self.parent.show_life()
            while self.events:
                self._started(self.events.popleft())
            for future in [future for future in pending if future.done()]:
                execution = pending.pop(future)
                source.told(execution, self._ended(execution, future))
            self.display.refresh()

    def _submit(self, dask: Client, execution: Execution, limits: Limits) -> Future:
        self.executions.setdefault(execution.id, execution)
        if self.sweep.is_search and execution not in self.sweep.executions:
            self.sweep.executions.append(execution)
        job = job_of(
            self.sweep.file,
            execution,
            self.sweep.todo(execution),
            limits=limits,
            session=self.session,
            parent_id=self.parent.run.id,
            experiment_id=self.experiment_id,
            tracking_uri=self.client.tracking_uri,
        )
        return dask.submit(attempt.execute, job, key=f"resflow-{self.session}-{execution.id}", pure=False, retries=0)

    def _started(self, event: dict[str, Any]) -> None:
        execution = self.executions[event["execution"]]
        self.tally.running[execution.id] = self._label(execution)
        again = f" again (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        kind = "repeated" if again else "started"
        fields = {"values": self._values(execution), "attempt": event["attempt"], "worker": event["host"]}
        self.display.event(kind, f"started{again} {self._label(execution)}", **fields)

    def _ended(self, execution: Execution, future: Future) -> dict[str, StoredRun]:
        """Take note of what came of an execution; its finished points."""
        outcome = _outcome(future)
        todo = self.sweep.todo(execution)
        runs = finished_points(self.client, self.experiment_id, [point.fingerprint for point in todo])
        self.sweep.finished |= runs
        for point in todo:
            if point.fingerprint in runs:
                self._consider(point, runs[point.fingerprint])
        missing = len(todo) - len(runs)
        self.tally.running.pop(execution.id, None)
        self.tally.done += len(runs)
        self.tally.failed += missing
        self.tally.ended(outcome.seconds)
        fields = outcome._asdict() | {"values": self._values(execution), "points": len(execution.points)}
        if missing:
            if outcome.status == "FINISHED":
                error = f"{missing} of {len(todo)} points of the population were not recorded"
                outcome = outcome._replace(status="FAILED", error=error)
            self.failures[execution.id] = outcome
            text = f"failed {self._label(execution)}: {outcome.error}"
            self.display.event("failed", text, **fields | {"status": outcome.status, "error": outcome.error})
        else:
            text = f"finished {self._label(execution)} in {duration(outcome.seconds)}"
            self.display.event("finished", text, **fields)
        finished = self.sweep.finished
        return {p.fingerprint: finished[p.fingerprint] for p in execution.points if p.fingerprint in finished}

    def _withdraw(self) -> None:
        """Take unfinished tasks back; their processes end, and say that their runs were killed."""
        if pending := list(getattr(self, "_pending", {})):
            for future in pending:
                future.cancel()
            self._tried("ending its runs", self._end_own, "the sweep was stopped")

    def _end_own(self, reason: str) -> None:
        own = f"{tagged(attempt.SESSION, self.session)}"
        end_cut_off(self.client, self.experiment_id, own, patience=PATIENCE, reason=reason)

    def stop(self, reason: str) -> None:
        """The sweep was cut short: its parent is KILLED."""
        self._tried("ending its runs", self._end_own, reason)
        self._tried("recording the results", self._record)
        self._tried("setting the status", self.parent.run.end, "KILLED", error=reason)

    def conclude(self) -> tuple[list[Result], str]:
        """The sweep is through: duplicates are dropped, and the parent shows what came of it.

        Returns:
            What became of every point, and what could not be recorded of the sweep itself, "" if all was: that is done
            again by the next start.
        """
        self._tried("dropping duplicates", drop_duplicates, self.client, self.experiment_id, list(self.sweep.finished))
        results = self.results()
        self._tried("recording the results", self._record)
        self._tried("drawing the overview", self._draw)
        failed = sum(result.state != "FINISHED" for result in results)
        reasons = [f"{failed} of {len(results)} points are not finished"] * bool(failed) + self.problems
        if reasons:
            self._tried("setting the status", self.parent.run.end, "FAILED", error="; ".join(reasons))
        else:
            self._tried("setting the status", self.parent.run.end, "FINISHED")
        return results, "; ".join(self.problems)

    def _tried(self, step: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Do a step of those that conclude a sweep; one that fails is told, and keeps no other from being done."""
        try:
            function(*arguments, **options)
        except Exception as error:
            logger.debug("%s failed", step, exc_info=error)
            self.problems.append(f"{step} failed: {type(error).__name__}: {first_line(str(error))}")

    def _record(self) -> None:
        results = self.results()
        self.parent.run.log_table(results_table(results), "results")
        finished = sum(result.state == "FINISHED" for result in results)
        self.parent.run.log_metrics({"points": len(results), "points_finished": finished})
        name = f"sweep {self.sweep.file.name}: {finished} of {len(results)}"
        if self.tally.goal is not None and self.tally.best is not None:
            self.parent.run.log_metrics({f"best_{self.tally.goal.metric}": self.tally.best})
            name += f", {self.tally.best_words('.4f')}"
        self.parent.run.rename(name)

    def _draw(self) -> None:
        from resflow.workflow.reports.overview import attach_overview

        attach_overview(self.client, self.parent.run.id)

    def results(self) -> list[Result]:
        """What became of every point so far."""
        results = []
        for execution in self.sweep.executions:
            failure = self.failures.get(execution.id)
            for point in execution.points:
                if run := self.sweep.finished.get(point.fingerprint):
                    results.append(Result(point, "FINISHED", run, run.info.run_id))
                elif failure:
                    results.append(Result(point, failure.status, None, failure.run_id, failure.error))
                else:
                    results.append(Result(point, "MISSING"))
        return results

    def _consider(self, point: Point, run: StoredRun) -> None:
        if goal := self.tally.goal:
            self.tally.consider(run.data.metrics.get(goal.metric), label(point.values))

    def _values(self, execution: Execution) -> dict[str, Any]:
        within = {axis.name for axis in self.sweep.file.axes if axis.population}
        return {name: value for name, value in execution.points[0].values.items() if name not in within}

    def _label(self, execution: Execution) -> str:
        values = label(self._values(execution))
        if execution.is_population:
            return f"{len(execution.points)} points" + (f" of {values}" if values else "")
        return values

    def _points_each(self) -> int:
        each = 1
        for axis in self.sweep.file.axes:
            each *= len(axis.values or ()) if axis.population else 1
        return each


def _capacity(dask: Client) -> int:
    """How many tasks the cluster works on at once."""
    try:
        return sum(dask.nthreads().values())
    except OSError as error:
        raise ClusterLostError(f"the cluster no longer answers: {error}") from error


def _outcome(future: Future) -> attempt.Outcome:
    """What a task came to; one that Dask gave up says so."""
    from distributed import CancelledError, KilledWorker

    try:
        return attempt.Outcome(*future.result())
    except KilledWorker as error:
        return attempt.Outcome("LOST", error=f"{error.allowed_failures + 1} workers that ran it died")
    except CancelledError as error:
        raise ClusterLostError(f"the cluster has lost the sweep's tasks: {error}") from error
