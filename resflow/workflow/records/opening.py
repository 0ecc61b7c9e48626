"""Opening the project's store: runs that nobody answers for any more are ended first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resflow.workflow.last_word import last_word
from resflow.workflow.names import KILLED, OUTCOME, OWNER, RUNNING
from resflow.workflow.plainly import told_plainly
from resflow.workflow.project import project_root
from resflow.workflow.provenance import owner_is_gone
from resflow.workflow.records.client import client_in_use
from resflow.workflow.records.reading import experiments, open_runs
from resflow.workflow.records.run import Run
from resflow.workflow.store import is_embedded

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["mark_cut_off_runs", "open_client"]


def open_client() -> MlflowClient:
    """The client of `client_in_use`; in the project's own store, runs whose process is gone are marked KILLED first."""
    client = client_in_use()
    if is_embedded(client.tracking_uri, project_root()):
        with told_plainly(client.tracking_uri):
            mark_cut_off_runs(client, list(experiments(client)))
    return client


def mark_cut_off_runs(client: MlflowClient, experiment_ids: list[str]) -> None:
    """End the runs that are not over although the process that owned them on this machine is gone: as KILLED.

    A run that was opened once more after its last word, as by `mlflow.start_run(run_id=...)`, ends as it had ended.
    """
    for run in open_runs(client, experiment_ids):
        if not owner_is_gone(run.data.tags.get(OWNER, "")):
            continue
        # Asked again once the owner is known to be gone: it may have ended its run just before it went.
        own = Run(client, run.info.run_id)
        run = own.stored
        if run.info.status != RUNNING and (last_word(run) or OUTCOME not in run.data.tags):
            continue
        if said := last_word(run):
            own.set_status(said)
        else:
            own.end(KILLED, error="cut off: the process that ran it is gone")
