"""One start of a sweep: what is missing is executed on a cluster, and a parent run keeps what becomes of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow.interruption import Interruptions
from resflow.workflow.limits import duration, first_line
from resflow.workflow.names import DRIVER_SEEN, FAILED, FINISHED, KILLED, LOST, ROLE, SESSION, SWEEP, Role
from resflow.workflow.progress import Steps
from resflow.workflow.records import Run, end_cut_off, tagged
from resflow.workflow.sweeps.parent import held, open_parent
from resflow.workflow.sweeps.plan import Execution, Result
from resflow.workflow.sweeps.plan.search import FixedSource
from resflow.workflow.sweeps.plan.tables import plan_table, results_table
from resflow.workflow.sweeps.progress import Display
from resflow.workflow.sweeps.state import Sweep
from resflow.workflow.sweeps.worker import attempt
from resflow.workflow.sweeps.worker.cluster import ClusterLostError, cores, local_cluster, running_cluster
from resflow.workflow.sweeps.worker.events import Event, StepsDone, received
from resflow.workflow.sweeps.worker.job import Job, Limits, Place

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Conclusion", "Options", "run_sweep"]

logger = logging.getLogger(__name__)

SEEN_EVERY = 20.0
"""Seconds after which the driver says in the store that it is at work."""

PATIENCE = 25.0
"""Seconds for runs of a driver that is gone, or that are being stopped, to say themselves that they were killed."""


@dataclass(frozen=True)
class Options:
    """How to run a sweep.

    Attributes:
        again: True to set finished runs aside and repeat them.
        limits: What an execution may use; how many workers there are decides on its threads.
        workers: Worker processes on this machine; 0 for one a core, but no more than there are executions.
        scheduler: The address of a running Dask cluster, used instead; "" for none.
    """

    again: bool
    limits: Limits
    workers: int
    scheduler: str


class Conclusion(NamedTuple):
    """What a start of a sweep came to.

    Attributes:
        results: What became of each of its points.
        headline: What came out, in lines; none without results that say how good they are.
        problem: What could not be recorded of the sweep itself; "" if all was.
    """

    results: list[Result]
    headline: list[str]
    problem: str


def run_sweep(sweep: Sweep, options: Options, display: Display) -> Conclusion:
    """Run what is missing of a sweep, which is held meanwhile; its parent run says truly how that ended.

    Raises:
        InvalidInputError: If another process drives the sweep, or no cluster answers.
    """
    with Interruptions() as interruptions, held(sweep.client, sweep.file):
        driver = _Driver(sweep, options, display, open_parent(sweep.client, sweep.file), interruptions)
        try:
            with interruptions.raised():
                driver.prepare()
                with display:
                    driver.run()
        except BaseException as error:
            driver.stop(f"{type(error).__name__}: {error}".rstrip(": "))
            raise
        return driver.conclude()


class _Driver:
    """One start of a sweep, from what is finished to what was reached."""

    def __init__(
        self, sweep: Sweep, options: Options, display: Display, parent: Run, interruptions: Interruptions
    ) -> None:
        self.sweep, self.options, self.display, self.parent = sweep, options, display, parent
        self.interruptions = interruptions
        self.tally = sweep.tally
        self.place = Place(sweep.client.tracking_uri, parent.experiment_id, parent.id, uuid.uuid4().hex)
        self.topic = f"resflow-{self.place.session}"
        self.events: deque[Event] = deque()
        self.pending: dict[Future, Execution] = {}
        self.problems: list[str] = []
        self.headline: list[str] = []
        self.seen = 0.0

    def prepare(self) -> None:
        """Bring what an earlier driver left to its end, and see what is to be done."""
        if self.sweep.file.description:
            self.parent.describe(self.sweep.file.description)
        self.parent.log_text(self.sweep.file.text, "sweep.yaml")
        of_sweep = tagged(SWEEP, self.sweep.file.name), f"tags.`{ROLE}` != '{Role.SWEEP}'"
        self._end_open("cut off: the driver of the sweep is gone", *of_sweep)
        self.sweep.open(self.place.experiment_id, self.place.parent_id, again=self.options.again)
        self.parent.log_table(plan_table(self.sweep.executions, self.sweep.finished), "plan")

    def run(self) -> None:
        """Execute what is missing."""
        source = self.sweep.source()
        missing = source.left
        counts = {"executions": missing, "parent_run_id": self.place.parent_id, "sweep": self.sweep.file.name}
        self.display.event("begun", f"{self.sweep.file.name}: {self.tally.plan()}", **counts)
        if not missing:
            return
        cluster, threads = self._cluster(missing)
        with ExitStack() as stack:
            with self.interruptions.waiting():  # workers that are half started cannot be ended in order
                dask = stack.enter_context(cluster)
            dask.subscribe_topic(self.topic, lambda event: self.events.append(received(event[1])))
            try:
                self._run_on(dask, source, replace(self.options.limits, threads=threads))
            finally:
                self._withdraw()

    def _cluster(self, missing: int) -> tuple[AbstractContextManager[Client], int]:
        if self.options.scheduler:
            return running_cluster(self.options.scheduler), 0
        workers = min(self.options.workers or cores(), missing)
        threads = max(1, cores() // workers) if workers > 1 else 0
        return local_cluster(workers, self.options.limits.retries), threads

    def _run_on(self, dask: Client, source: FixedSource, limits: Limits) -> None:
        waiting = False
        while True:
            capacity = _capacity(dask)
            self.tally.can_run(capacity)
            for execution in source.take(max(0, capacity - len(self.pending))):
                self.pending[self._submit(dask, execution, limits)] = execution
            if not self.pending and (capacity or not self.sweep.is_search):
                return
            if not capacity and not waiting:
                self.display.note("no workers yet: waiting for the cluster to have some")
            waiting = not capacity
            time.sleep(0.1)
            if time.monotonic() - self.seen > SEEN_EVERY:
                self.parent.set_tags({DRIVER_SEEN: f"{time.time():.0f}"})
                self.seen = time.monotonic()
            while self.events:
                self._told(self.events.popleft())
            for future in [future for future in self.pending if future.done()]:
                execution = self.pending.pop(future)
                self._ended(execution, _outcome(future))
                source.told(execution, self.sweep.finished)
            self.display.refresh()

    def _submit(self, dask: Client, execution: Execution, limits: Limits) -> Future:
        self.sweep.add(execution)
        job = Job.of(self.sweep.file, execution, self.sweep.todo(execution), self.place, limits)
        return dask.submit(attempt.execute, job, key=f"{self.topic}-{execution.id}", pure=False, retries=0)

    def _told(self, event: Event) -> None:
        if isinstance(event, StepsDone):
            self.tally.steps_told(event.execution, Steps(event.done, event.total))
            return
        execution = self.sweep.submitted(event.execution)
        self.tally.started(execution.id, len(self.sweep.todo(execution)))
        again = f" again (attempt {event.attempt})" if event.attempt > 1 else ""
        fields = {"values": execution.values, "attempt": event.attempt, "worker": event.host}
        self.display.event("repeated" if again else "started", f"started{again} {execution.label}", **fields)

    def _ended(self, execution: Execution, outcome: attempt.Outcome) -> None:
        outcome = self.sweep.ended(execution, outcome)
        fields = outcome._asdict() | {"values": execution.values, "points": len(execution.points)}
        if self.sweep.todo(execution):
            self.display.event("failed", f"failed {execution.label}: {outcome.error}", **fields)
        else:
            self.display.event("finished", f"finished {execution.label} in {duration(outcome.seconds)}", **fields)

    def _withdraw(self) -> None:
        """Take unfinished tasks back; their processes end, and say that their runs were killed."""
        if self.pending:
            for future in self.pending:
                future.cancel()
            self._tried("ending its runs", self._end_own, "the sweep was stopped")

    def _end_own(self, reason: str) -> None:
        self._end_open(reason, tagged(SESSION, self.place.session))

    def _end_open(self, reason: str, *conditions: str) -> None:
        end_cut_off(self.sweep.client, self.place.experiment_id, *conditions, patience=PATIENCE, reason=reason)

    def stop(self, reason: str) -> None:
        """The sweep was cut short: its parent is KILLED."""
        self._tried("ending its runs", self._end_own, reason)
        self._tried("recording the results", self._record)
        self._tried("setting the status", self.parent.end, KILLED, error=reason)

    def conclude(self) -> Conclusion:
        """The sweep is through: duplicates are dropped, and the parent shows what came of it.

        What could not be recorded is done again by the next start.
        """
        self._tried("dropping duplicates", self.sweep.settle, self.place.parent_id)
        results = self.sweep.results()
        self._tried("recording the results", self._record)
        self._tried("drawing the overview", self._draw)
        failed = sum(result.state != FINISHED for result in results)
        reasons = [f"{failed} of {len(results)} points are not finished"] * bool(failed) + self.problems
        status = FAILED if reasons else FINISHED
        self._tried("setting the status", self.parent.end, status, error="; ".join(reasons))
        return Conclusion(results, self.headline, "; ".join(self.problems))

    def _tried(self, step: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Do a step of those that conclude a sweep; one that fails is told, and keeps no other from being done."""
        try:
            function(*arguments, **options)
        except Exception as error:
            logger.debug("%s failed", step, exc_info=error)
            self.problems.append(f"{step} failed: {type(error).__name__}: {first_line(str(error))}")

    def _record(self) -> None:
        results, run = self.sweep.results(), self.parent
        run.log_table(results_table(results), "results")
        finished = sum(result.state == FINISHED for result in results)
        run.log_metrics({"points": len(results), "points_finished": finished})
        name = f"sweep {self.sweep.file.name}: {finished} of {len(results)}"
        if self.tally.goal is not None and self.tally.best is not None:
            run.log_metrics({self.tally.goal.best_metric: self.tally.best})
            name += f", {self.tally.best_words('.4f')}"
        run.rename(name)

    def _draw(self) -> None:
        from resflow.workflow.reports.overview import attach_overview

        self.headline = attach_overview(self.sweep.client, self.place.parent_id)


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
        return attempt.Outcome(LOST, error=f"{error.allowed_failures + 1} workers that ran it died")
    except CancelledError as error:
        raise ClusterLostError(f"the cluster has lost the sweep's tasks: {error}") from error
