"""What becomes of runs that ended, or that nobody ends: marked, set aside, shared, and completed from below."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from resflow.workflow import names
from resflow.workflow.last_word import last_word
from resflow.workflow.names import FINISHED, KILLED
from resflow.workflow.records.opening import mark_cut_off_runs
from resflow.workflow.records.reading import every_run, experiments, finished_runs, open_runs, tagged
from resflow.workflow.records.run import Run

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["adopt_metrics", "claim", "drop_duplicates", "end_children", "end_cut_off", "end_lost", "set_aside"]


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


def claim(client: MlflowClient, runs: Mapping[str, StoredRun], sweep: str, parent_id: str) -> None:
    """Tag finished runs that were made for another sweep as points of this one too."""
    for run in runs.values():
        if run.data.tags.get(names.SWEEP) != sweep and run.data.tags.get(names.ALSO_IN + sweep) != parent_id:
            Run(client, run.info.run_id).set_tags({names.ALSO_IN + sweep: parent_id})


def set_aside(client: MlflowClient, run: StoredRun, reason: Mapping[str, str] | None = None) -> None:
    """Let a finished run no longer count as its point: what names the point and the sweep moves to other tags."""
    tags, own = run.data.tags, Run(client, run.info.run_id)
    former = {names.SUPERSEDED: tags[names.FINGERPRINT], names.SUPERSEDED_SWEEP: tags.get(names.SWEEP, "")}
    own.set_tags({**former, **(reason or {})})
    # The fingerprint last: whoever is stopped on the way finds the run again, and does the rest.
    own.remove_tags([*(key for key in tags if key == names.SWEEP or key.startswith(names.ALSO_IN)), names.FINGERPRINT])


def drop_duplicates(client: MlflowClient, experiment_id: str, fingerprints: Collection[str]) -> None:
    """Set every finished run aside whose fingerprint another finished run had first.

    A worker that was given up for dead may have finished all the same, after another had done its work again.
    """
    for first, *others in finished_runs(client, experiment_id, fingerprints).values():
        for duplicate in others:
            set_aside(client, duplicate, {names.DUPLICATE_OF: first.info.run_id})
