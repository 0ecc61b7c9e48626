"""Which runs count as a sweep's: those it made or shares, as long as they are of its plan, each point once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from resflow.workflow import names
from resflow.workflow.names import Role, role_of
from resflow.workflow.records.reading import finished_runs, is_finished, runs_of_sweep
from resflow.workflow.records.run import Run

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["claim", "drop_duplicates", "gather", "set_aside"]


def gather(client: MlflowClient, experiment_id: str, sweep: str, parent_id: str, planned: Collection[str]) -> None:
    """Nest what a sweep made in its parent run, which may be a new one, and let go of points that it no longer plans.

    Those are runs of another notebook, of other data, or of values that its file does not name any more. They stay
    points that any sweep may claim, this one too.

    Args:
        client: A client of the store.
        experiment_id: Where the sweep is.
        sweep: Its name.
        parent_id: Its parent run.
        planned: The fingerprints of all its points; of a search, of those it has begun.
    """
    for run in runs_of_sweep(client, experiment_id, sweep):
        tags, role = run.data.tags, role_of(run)
        if role == Role.SWEEP:
            continue
        is_own = tags.get(names.SWEEP) == sweep
        if is_own and role != Role.MEMBER and tags.get(names.PARENT) != parent_id:
            Run(client, run.info.run_id).set_tags({names.PARENT: parent_id})
        if is_finished(run) and tags.get(names.FINGERPRINT, "") not in {"", *planned}:
            own = Run(client, run.info.run_id)
            own.set_tags({names.FORMER_SWEEP: sweep})
            own.remove_tags([names.ALSO_IN + sweep, *([names.SWEEP] if is_own else [])])


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
    """Set every finished run aside whose fingerprint another finished run had first, which stands for it everywhere.

    A worker that was given up for dead may have finished all the same, after another had done its work again; or two
    sweeps with the same point were at work at once.
    """
    for first, *others in finished_runs(client, experiment_id, fingerprints).values():
        for duplicate in others:
            if shared := _sweeps_of(client, duplicate, but=first):
                Run(client, first.info.run_id).set_tags(shared)
            set_aside(client, duplicate, {names.DUPLICATE_OF: first.info.run_id})


def _sweeps_of(client: MlflowClient, run: StoredRun, *, but: StoredRun) -> dict[str, str]:
    """The tags by which another run counts in the sweeps that a run counts in, and the other does not."""
    tags = run.data.tags
    found = {key: value for key, value in tags.items() if key.startswith(names.ALSO_IN)}
    sweep, parent = tags.get(names.SWEEP), tags.get(names.PARENT)
    if sweep and parent:
        if role_of(run) == Role.MEMBER:
            parent = client.get_run(parent).data.tags.get(names.PARENT, parent)
        found[names.ALSO_IN + sweep] = parent
    return {
        key: value
        for key, value in found.items()
        if key not in but.data.tags and key != names.ALSO_IN + but.data.tags.get(names.SWEEP, "")
    }
