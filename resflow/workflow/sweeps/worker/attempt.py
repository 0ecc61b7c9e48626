"""What a worker does with one execution of a sweep: see whether it is needed, run it in a process that can be ended.

Dask runs a task at least once: one whose worker dies is given to another. So the store is asked before each attempt,
and each attempt has a process, a folder and a tag of its own.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import moved_to_environment
from resflow.workflow.last_word import last_word
from resflow.workflow.limits import first_line
from resflow.workflow.names import ATTEMPT, ERROR, EXECUTION, FAILED, FINISHED, KILLED, LOST, RUN_TAGS, SESSION
from resflow.workflow.outcome import LOST_KERNEL
from resflow.workflow.progress import PROGRESS
from resflow.workflow.records import Run, client_of, end_lost, every_run, finished_points, tagged
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.sources import sources_digest
from resflow.workflow.store_errors import StoreError
from resflow.workflow.sweeps.plan import Point
from resflow.workflow.sweeps.worker.events import Event, Started, StepsWatch, message
from resflow.workflow.sweeps.worker.job import Job
from resflow.workflow.sweeps.worker.process import Task
from resflow.workflow.sweeps.worker.server import PointServer

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["Outcome", "execute"]


class Outcome(NamedTuple):
    """What became of an execution.

    Attributes:
        status: FINISHED, FAILED (the notebook's own fault), KILLED (the time limit, or no longer wanted) or LOST (its
            process died more often than retries allow).
        run_id: Its last run; "" if none was made.
        error: Why it is not FINISHED, in one line.
        seconds: What the last attempt took.
        attempts: How many there were.
    """

    status: str
    run_id: str = ""
    error: str = ""
    seconds: float = 0.0
    attempts: int = 1


def execute(job: Job) -> Outcome:
    """Execute a job until it is finished, failed, or lost too often; on a Dask worker, until it is no longer wanted."""
    from mlflow.exceptions import MlflowException

    # A kernel reads the sources anew: of others than those in its fingerprint no run may be made.
    if sources_digest() != job.library:
        return Outcome(
            FAILED,
            error=f"{_host()} has other sources of resflow than the driver had at its start: install the same, "
            "or, if they were edited, start the sweep again",
        )
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    is_wanted, tell = _connection(job.place.session)
    uri = moved_to_environment(job.place.tracking_uri)
    try:
        # the driver has looked at the store, and a thousand executions need not
        return _Attempts(client_of(uri), uri, job, is_wanted, tell).until_over()
    except (OSError, MlflowException, StoreError, InvalidInputError) as error:  # a full disk, a store out of reach
        return Outcome(FAILED, error=f"on {_host()}: {type(error).__name__}: {first_line(str(error))}")


def _connection(session: str) -> tuple[Callable[[], bool], Callable[[Event], None]]:
    """Whether the task this thread works on is still wanted, and how to tell Dask what it does."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # called directly
        return (lambda: True), (lambda event: None)
    key = worker.get_current_task()

    def is_wanted() -> bool:
        # A task is forgotten or cancelled when its client takes it back or is gone; its thread is left running.
        task = worker.state.tasks.get(key)
        return task is not None and task.state not in ("cancelled", "released", "forgotten")

    return is_wanted, lambda event: worker.log_event(f"resflow-{session}", message(event))


class _Attempts:
    """The attempts at a job."""

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        job: Job,
        is_wanted: Callable[[], bool],
        tell: Callable[[Event], None],
    ) -> None:
        self.client, self.uri, self.job, self.is_wanted, self.tell = client, uri, job, is_wanted, tell

    def until_over(self) -> Outcome:
        last, without_run = None, 0
        while True:
            earlier = self._earlier_runs()
            points = [point.fingerprint for point in self.job.points]
            finished = finished_points(self.client, self.job.place.experiment_id, points)
            if finished.keys() >= set(points):
                run_id = "" if self.job.execution.is_population else finished[self.job.execution.id].info.run_id
                return Outcome(FINISHED, run_id, attempts=len(earlier))
            attempt = len(earlier) + without_run + 1
            if attempt > self.job.limits.retries + 1:
                return last or Outcome(LOST, earlier[-1].info.run_id, "its worker died", attempts=len(earlier))
            self.tell(Started(self.job.execution.id, attempt, _host()))
            todo = [point for point in self.job.points if point.fingerprint not in finished]
            last = self._attempt(todo)._replace(attempts=attempt)
            if last.status != LOST:
                return last
            without_run += not last.run_id

    def _runs(self, *conditions: str) -> list[StoredRun]:
        return list(every_run(self.client, [self.job.place.experiment_id], *conditions))

    def _earlier_runs(self) -> list[StoredRun]:
        """The attempts that were made since the driver started; what died under way is brought to its end."""
        runs = self._runs(tagged(SESSION, self.job.place.session), tagged(EXECUTION, self.job.execution.id))
        for run in runs:
            if not last_word(run):  # of a worker that is gone: this one has the task now
                end_lost(self.client, run.info.run_id, "cut off: the worker that ran it is gone")
        return runs

    def _attempt(self, todo: list[Point]) -> Outcome:
        """One attempt, in a process of its own."""
        attempt, limit = uuid.uuid4().hex, self.job.limits.time_limit
        started = time.monotonic()
        progress = StepsWatch(self.tell, self.job.execution.id)

        def watch() -> str:
            progress.look(file)
            if limit and time.monotonic() - started > limit:
                return f"it took longer than the time limit of {limit:g} s"
            return "" if self.is_wanted() else "the sweep was stopped"

        with temporary_folder() as folder:
            file = folder / "progress"
            environment = self._environment(attempt) | {PROGRESS: str(file)}
            task = Task(
                str(folder), self.job.notebook, self.job.notebook_name, self.job.injected(todo), environment,
            )  # fmt: skip
            code, reason = PointServer.here().execute(task, watch)
            said = _last_line(task.log.read_text(errors="replace")) if task.log.exists() else ""
        run = next(iter(self._runs(tagged(ATTEMPT, attempt))), None)
        return self._judge(run, reason, code, said)._replace(seconds=time.monotonic() - started)

    def _judge(self, run: StoredRun | None, reason: str, code: int, said: str) -> Outcome:
        """What an attempt came to, by its run and, where there is none, by how the process ended."""
        how = f"its process died with signal {-code}" if code < 0 else f"its process ended with exit code {code}"
        how += f": {said}" if code > 0 and said else ""
        if run is None:
            if reason:
                return Outcome(KILLED, error=reason)
            return Outcome(LOST if code < 0 else FAILED, error=how)
        status, error = last_word(run), run.data.tags.get(ERROR, "")
        if not status:
            end_lost(self.client, run.info.run_id, reason or how)
            # One that ended by itself could not write how: it would not the next time either.
            status, error = (LOST if code < 0 else FAILED), how
        elif status == KILLED:
            if reason:
                Run(self.client, run.info.run_id).set_tags({ERROR: f"{reason} ({error})"})
            status = LOST
        elif status == FAILED and error.startswith(LOST_KERNEL):
            status = LOST
        if reason and status == LOST:
            status, error = KILLED, reason
        return Outcome(status, run.info.run_id, error)

    def _environment(self, attempt: str) -> dict[str, str]:
        """The environment of the process: where to record, as what, and on how many threads."""
        job = self.job
        own = {ATTEMPT: attempt, SESSION: job.place.session, EXECUTION: job.execution.id}
        removed = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
        environment = {key: value for key, value in os.environ.items() if key not in removed}
        environment |= {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_NAME": job.experiment,
            RUN_TAGS: json.dumps(job.tags | own),
        }
        if job.limits.threads:
            # NPROC is what XLA sizes its pool by; the others are of the BLAS libraries that NumPy and SciPy may use.
            threads = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            environment |= dict.fromkeys(threads, str(job.limits.threads))
        return environment


def _last_line(log: str) -> str:
    """The last line of a log that is no part of a traceback, as is left of one where the disk became full."""
    lines = [line for line in log.splitlines() if line.strip() and not line[0].isspace()]
    return next((line for line in reversed(lines) if not line.startswith("Traceback ")), "")


def _host() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"
