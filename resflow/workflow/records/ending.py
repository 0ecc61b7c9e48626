"""What becomes of runs that ended, or that nobody ends: marked, and completed from below."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from resflow.workflow import names
from resflow.workflow.last_word import last_word
from resflow.workflow.names import FINISHED, KILLED
from resflow.workflow.records.opening import mark_cut_off_runs
from resflow.workflow.records.reading import every_run, experiments, open_runs, tagged
from resflow.workflow.records.run import Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["adopt_metrics", "end_children", "end_cut_off", "end_lost"]


def adopt_metrics(client: MlflowClient, run_id: str) -> None:
    """Log what exactly one of the runs below a run recorded, and it did not itself.

    MLflow's autologging ends the run that it finds once a model is fitted, and what the notebook logs after that goes
    to a second run, below the first. It is all the same execution, by whose metrics it is compared with others. What
    several of the runs below recorded belongs to each of them, and members of a population are points of their own.
    """
    own = Run(client, run_id)
    run = own.stored
    found: dict[str, list[float]] = {}
    for child in every_run(client, [run.info.experiment_id], tagged(names.PARENT, run_id)):
        if names.ROLE not in child.data.tags:
            for name, value in child.data.metrics.items():
                found.setdefault(name, []).append(value)
    own.log_metrics(
        {name: values[0] for name, values in found.items() if len(values) == 1 and name not in run.data.metrics}
    )


def end_children(client: MlflowClient, run_id: str, status: str, error: str) -> None:
    """End the runs nested in a run that are not over, at any depth: nobody is left who would."""
    for child in open_runs(client, list(experiments(client)), tagged(names.PARENT, run_id)):
        end_children(client, child.info.run_id, status, error)
        # one that resflow writes is whole only if whoever wrote it says so
        ended = KILLED if status == FINISHED and names.OUTCOME in child.data.tags else status
        Run(client, child.info.run_id).end(ended, error=error if ended != FINISHED else "")


def end_lost(client: MlflowClient, run_id: str, reason: str) -> None:
    """Say of a run whose process is gone, and of what it left open, that it was killed."""
    end_children(client, run_id, KILLED, reason)
    Run(client, run_id).end(KILLED, error=reason)


def end_cut_off(client: MlflowClient, experiment_id: str, *conditions: str, patience: float, reason: str) -> None:
    """Wait until every run that meets the conditions is over, for `patience` seconds, and mark the rest KILLED."""
    deadline = time.monotonic() + patience
    while runs := [run for run in open_runs(client, [experiment_id], *conditions) if not last_word(run)]:
        mark_cut_off_runs(client, [experiment_id])
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    for run in runs:
        Run(client, run.info.run_id).end(KILLED, error=reason)
