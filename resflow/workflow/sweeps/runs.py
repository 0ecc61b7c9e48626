"""A sweep's runs in MLflow: which points are finished, and how runs are set aside, shared and brought to an end."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from resflow.workflow.last_word import is_finished, last_word
from resflow.workflow.tracking import Run, every_run, mark_cut_off_runs, open_runs, patiently

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = [
    "AXES",
    "FINGERPRINT",
    "ROLE",
    "SWEEP",
    "claim",
    "drop_duplicates",
    "end_cut_off",
    "find_parent",
    "finished_points",
    "points_of_sweep",
    "set_aside",
    "tagged",
]

SWEEP = "resflow.sweep"
ROLE = "resflow.role"
FINGERPRINT = "resflow.fingerprint"
AXES = "resflow.axes"
PARENT = "mlflow.parentRunId"
SUPERSEDED = "resflow.superseded_fingerprint"
ALSO_IN = "resflow.also_in."


def tagged(key: str, value: str) -> str:
    """MLflow's condition that a tag has a value."""
    return f"tags.`{key}` = '{value}'"


def find_parent(client: MlflowClient, experiment_id: str, name: str) -> StoredRun | None:
    """The parent run of the sweep of that name; None if it was never started."""
    condition = f"{tagged(SWEEP, name)} AND {tagged(ROLE, 'sweep')}"
    return next(every_run(client, [experiment_id], condition, newest_first=True), None)


def finished_points(
    client: MlflowClient, experiment_id: str, fingerprints: Collection[str] | None = None
) -> dict[str, StoredRun]:
    """The finished run of each fingerprint in an experiment: the first one, should there be several.

    Args:
        client: A client of the store.
        experiment_id: MLflow's id of the experiment.
        fingerprints: Those that are asked for; all if None.
    """
    return {fingerprint: runs[0] for fingerprint, runs in _by_fingerprint(client, experiment_id, fingerprints).items()}


def points_of_sweep(client: MlflowClient, experiment_id: str, name: str) -> list[StoredRun]:
    """The finished points of a sweep: runs and members made for it, and those it shares with other sweeps.

    A member's parameters are completed by those of the execution it is nested in.
    """
    finished = "attributes.status = 'FINISHED' AND "
    own = every_run(client, [experiment_id], f"{finished}{tagged(SWEEP, name)}")
    shared = every_run(client, [experiment_id], f"{finished}tags.`{ALSO_IN}{name}` != ''")
    found = {run.info.run_id: run for run in (*own, *shared) if FINGERPRINT in run.data.tags and is_finished(run)}
    executions: dict[str, StoredRun] = {}
    for run in found.values():
        if run.data.tags.get(ROLE) == "member" and (above := run.data.tags.get(PARENT)):
            if above not in executions:
                executions[above] = client.get_run(above)
            for name, value in executions[above].data.params.items():
                run.data.params.setdefault(name, value)
    return list(found.values())


def claim(client: MlflowClient, runs: Mapping[str, StoredRun], name: str, parent_id: str) -> None:
    """Tag finished runs that were made for another sweep as points of this one too."""
    for run in runs.values():
        if run.data.tags.get(SWEEP) != name and run.data.tags.get(ALSO_IN + name) != parent_id:
            Run(client, run.info.run_id).set_tags({ALSO_IN + name: parent_id})


def set_aside(client: MlflowClient, run: StoredRun, **reason: str) -> None:
    """Let a finished run no longer count as its point: what names the point and the sweep moves to other tags."""
    tags = run.data.tags
    Run(client, run.info.run_id).set_tags(
        {SUPERSEDED: tags[FINGERPRINT], "resflow.superseded_sweep": tags.get(SWEEP, "")}
        | {f"resflow.{key}": value for key, value in reason.items()}
    )
    # The fingerprint last: whoever is stopped on the way finds the run again, and does the rest.
    for key in [*(key for key in tags if key == SWEEP or key.startswith(ALSO_IN)), FINGERPRINT]:
        if key in tags:
            patiently(client.delete_tag, run.info.run_id, key)


def drop_duplicates(client: MlflowClient, experiment_id: str, fingerprints: Collection[str]) -> int:
    """Set every finished run aside whose fingerprint another finished run had first; returns how many.

    A worker that was given up for dead may have finished all the same, after another had done its work again.
    """
    count = 0
    for runs in _by_fingerprint(client, experiment_id, fingerprints).values():
        for duplicate in runs[1:]:
            set_aside(client, duplicate, duplicate_of=runs[0].info.run_id)
            count += 1
    return count


def end_cut_off(client: MlflowClient, experiment_id: str, condition: str, *, patience: float, reason: str) -> int:
    """Wait until every run that meets `condition` is over, for `patience` seconds, and mark the rest KILLED.

    Returns:
        How many were marked.
    """
    deadline = time.monotonic() + patience
    while runs := [run for run in open_runs(client, [experiment_id], condition) if not last_word(run)]:
        mark_cut_off_runs(client, [experiment_id])
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    for run in runs:
        Run(client, run.info.run_id).end("KILLED", error=reason)
    return len(runs)


def _by_fingerprint(
    client: MlflowClient, experiment_id: str, fingerprints: Collection[str] | None
) -> dict[str, list[StoredRun]]:
    """The finished runs of each fingerprint, the one that ended first in front."""
    condition = f"attributes.status = 'FINISHED' AND tags.`{FINGERPRINT}` != ''"
    if fingerprints is not None and len(fingerprints) == 1:
        condition = f"attributes.status = 'FINISHED' AND {tagged(FINGERPRINT, next(iter(fingerprints)))}"
    wanted = None if fingerprints is None else set(fingerprints)
    found: dict[str, list[StoredRun]] = {}
    for run in every_run(client, [experiment_id], condition):
        fingerprint = run.data.tags[FINGERPRINT]
        if (wanted is None or fingerprint in wanted) and is_finished(run):
            found.setdefault(fingerprint, []).append(run)
    for runs in found.values():
        runs.sort(key=lambda run: (run.info.end_time or 0, run.info.run_id))
    return found
