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
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow.credentials import moved_to_environment
from resflow.workflow.last_word import last_word
from resflow.workflow.outcome import LOST_KERNEL, first_line
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.sweeps.fingerprint import sources_digest
from resflow.workflow.sweeps.point_server import PointServer
from resflow.workflow.sweeps.runs import finished_points, tagged
from resflow.workflow.tracking import Run, end_children, every_run

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["ATTEMPT", "EXECUTION", "SESSION", "Outcome", "execute"]

ATTEMPT = "resflow.attempt"
EXECUTION = "resflow.execution"
SESSION = "resflow.session"


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


def execute(job: dict[str, Any], report: Callable[[dict[str, Any]], None] | None = None) -> Outcome:
    """Execute a job until it is finished, failed, or lost too often; on a Dask worker, until it is no longer wanted.

    Args:
        job: What `sweep_jobs.job_of` describes.
        report: Told of each attempt as it starts; on a Dask worker its log of events by default.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # A kernel reads the sources anew: of others than those in its fingerprint no run may be made.
    if sources_digest() != job["library"]:
        return Outcome(
            "FAILED",
            error=f"{_host()} has other sources of resflow than the driver had at its start: install the same, "
            "or, if they were edited, start the sweep again",
        )
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    is_wanted, report = _connection(job["session"], report)
    job["tracking_uri"] = moved_to_environment(job["tracking_uri"])
    try:
        return _until_over(MlflowClient(tracking_uri=job["tracking_uri"]), job, is_wanted, report)
    except (OSError, MlflowException) as error:  # a full disk, a store that cannot be reached
        return Outcome("FAILED", error=f"on {_host()}: {type(error).__name__}: {first_line(str(error))}")


def _until_over(
    client: MlflowClient, job: dict[str, Any], is_wanted: Callable[[], bool], report: Callable[[dict[str, Any]], None]
) -> Outcome:
    last, without_run = None, 0
    while True:
        earlier = _earlier_runs(client, job)
        if (run_id := _finished(client, job)) is not None:
            return Outcome("FINISHED", run_id, attempts=len(earlier))
        attempt = len(earlier) + without_run + 1
        if attempt > job["retries"] + 1:
            return last or Outcome("LOST", earlier[-1].info.run_id, "its worker died", attempts=len(earlier))
        report({"event": "started", "execution": job["id"], "attempt": attempt, "host": _host()})
        last = _attempt(client, job, is_wanted)._replace(attempts=attempt)
        if last.status != "LOST":
            return last
        without_run += not last.run_id


def _connection(
    session: str, report: Callable[[dict[str, Any]], None] | None
) -> tuple[Callable[[], bool], Callable[[dict[str, Any]], None]]:
    """Whether the task this thread works on is still wanted, and where to tell what it does."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # called directly
        return (lambda: True), (report or (lambda event: None))
    key = worker.get_current_task()

    def is_wanted() -> bool:
        # A task is forgotten or cancelled when its client takes it back or is gone; its thread is left running.
        task = worker.state.tasks.get(key)
        return task is not None and task.state not in ("cancelled", "released", "forgotten")

    return is_wanted, report or (lambda event: worker.log_event(f"resflow-{session}", event))


def _earlier_runs(client: MlflowClient, job: dict[str, Any]) -> list[StoredRun]:
    """The attempts that were made since the driver started; what died under way is brought to its end."""
    condition = f"{tagged(SESSION, job['session'])} AND {tagged(EXECUTION, job['id'])}"
    runs = list(every_run(client, [job["experiment_id"]], condition))
    for run in runs:
        if not last_word(run):  # of a worker that is gone: this one has the task now
            _end(client, run.info.run_id, "cut off: the worker that ran it is gone")
    return runs


def _end(client: MlflowClient, run_id: str, reason: str) -> None:
    """Say of a run whose process is gone, and of what it left open, that it was killed."""
    end_children(client, run_id, "KILLED", reason)
    Run(client, run_id).end("KILLED", error=reason)


def _finished(client: MlflowClient, job: dict[str, Any]) -> str | None:
    """The run in which the job is finished, or None; `job` then says what is left to do of it."""
    if job["population"] is None:
        finished = finished_points(client, job["experiment_id"], [job["id"]])
        return finished[job["id"]].info.run_id if finished else None
    finished = finished_points(client, job["experiment_id"], [point["fingerprint"] for point in job["population"]])
    job["population"] = [point for point in job["population"] if point["fingerprint"] not in finished]
    return None if job["population"] else ""


def _attempt(client: MlflowClient, job: dict[str, Any], is_wanted: Callable[[], bool]) -> Outcome:
    """One attempt, in a process of its own."""
    attempt = uuid.uuid4().hex
    started = time.monotonic()

    def reason_to_stop() -> str:
        if job["time_limit"] and time.monotonic() - started > job["time_limit"]:
            return f"it took longer than the time limit of {job['time_limit']:g} s"
        return "" if is_wanted() else "the sweep was stopped"

    with temporary_folder() as folder:
        log = folder / "log.txt"
        own = {"folder": str(folder), "log": str(log), "environment": _environment(job, attempt)}
        code, reason = PointServer.here().execute(job | own, reason_to_stop)
        said = _last_line(log.read_text(errors="replace")) if log.exists() else ""
    run = next(every_run(client, [job["experiment_id"]], tagged(ATTEMPT, attempt)), None)
    outcome = _judge(client, run, reason, code, said)
    return outcome._replace(seconds=time.monotonic() - started)


def _judge(client: MlflowClient, run: StoredRun | None, reason: str, code: int, said: str) -> Outcome:
    """What an attempt came to, by its run and, where there is none, by how the process ended."""
    how = f"its process died with signal {-code}" if code < 0 else f"its process ended with exit code {code}"
    how += f": {said}" if code > 0 and said else ""
    if run is None:
        if reason:
            return Outcome("KILLED", error=reason)
        return Outcome("LOST" if code < 0 else "FAILED", error=how)
    status, error = last_word(run), run.data.tags.get("resflow.error", "")
    if not status:
        _end(client, run.info.run_id, reason or how)
        # One that ended by itself could not write how: it would not the next time either.
        status, error = ("LOST" if code < 0 else "FAILED"), how
    elif status == "KILLED":
        if reason:
            Run(client, run.info.run_id).set_tags({"resflow.error": f"{reason} ({error})"})
        status = "LOST"
    elif status == "FAILED" and error.startswith(LOST_KERNEL):
        status = "LOST"
    if reason and status == "LOST":
        status, error = "KILLED", reason
    return Outcome(status, run.info.run_id, error)


def _last_line(log: str) -> str:
    """The last line of a log that is no part of a traceback, as is left of one where the disk became full."""
    lines = [line for line in log.splitlines() if line.strip() and not line[0].isspace()]
    return next((line for line in reversed(lines) if not line.startswith("Traceback ")), "")


def _environment(job: dict[str, Any], attempt: str) -> dict[str, str]:
    """The environment of the process: where to record, as what, and on how many threads."""
    removed = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
    environment = {key: value for key, value in os.environ.items() if key not in removed}
    environment |= {
        "MLFLOW_TRACKING_URI": job["tracking_uri"],
        "MLFLOW_EXPERIMENT_NAME": job["experiment"],
        "RESFLOW_RUN_TAGS": json.dumps(job["tags"] | {ATTEMPT: attempt, SESSION: job["session"], EXECUTION: job["id"]}),
    }
    if threads := job["threads"]:
        # NPROC is what XLA sizes its pool by; the others are of the BLAS libraries that NumPy and SciPy may use.
        names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment |= dict.fromkeys(names, str(threads))
    return environment


def _host() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"
