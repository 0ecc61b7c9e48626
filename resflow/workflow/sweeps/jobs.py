"""What a worker is told of an execution: everything, so that it needs no file of the driver's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resflow.workflow.credentials import complete_address
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.sweeps.file import SweepFile
from resflow.workflow.sweeps.fingerprint import library_digest
from resflow.workflow.sweeps.plan import Execution, Point
from resflow.workflow.sweeps.runs import FINGERPRINT, PARENT, ROLE, SWEEP

__all__ = ["Limits", "job_of"]

_FROM_DRIVER = ("mlflow.source.name", "mlflow.source.git.commit", "resflow.git_dirty", "mlflow.user")


@dataclass(frozen=True)
class Limits:
    """What an execution may use.

    Attributes:
        retries: How often it is repeated after its process, kernel or worker died.
        time_limit: Seconds for each attempt; 0 for any number.
        threads: Threads of XLA and BLAS; 0 for as many as they choose.
    """

    retries: int = 2
    time_limit: float = 0.0
    threads: int = 0


def job_of(
    sweep: SweepFile,
    execution: Execution,
    todo: list[Point],
    *,
    limits: Limits,
    session: str,
    parent_id: str,
    experiment_id: str,
    tracking_uri: str,
) -> dict[str, Any]:
    """A job for `attempt.execute`, which can be written as JSON.

    Args:
        sweep: The sweep.
        execution: One execution of its notebook.
        todo: Those of its points that are not finished yet.
        limits: What it may use.
        session: What this start of the sweep is called.
        parent_id: The sweep's parent run.
        experiment_id: MLflow's id of the experiment.
        tracking_uri: The store.
    """
    source = provenance_tags(sweep.notebook)
    tags = sweep.tags | {key: source[key] for key in _FROM_DRIVER if key in source}
    tags |= {SWEEP: sweep.name, PARENT: parent_id, ROLE: "population" if execution.is_population else "run"}
    if not execution.is_population:
        tags[FINGERPRINT] = execution.id
    population = [point.values | {"fingerprint": point.fingerprint} for point in todo]
    axes = {axis.name for axis in sweep.axes if axis.population}
    for point in population:
        for name in point.keys() - axes - {"fingerprint"}:  # notebook axes, which are parameters of the execution
            del point[name]
    return {
        "id": execution.id,
        "notebook": sweep.notebook_text,
        "notebook_name": sweep.notebook.name,
        "parameters": execution.parameters,
        "population": population if execution.is_population else None,
        "tags": tags,
        "experiment": sweep.experiment,
        "experiment_id": experiment_id,
        "tracking_uri": complete_address(tracking_uri),
        "library": library_digest(),
        "session": session,
        "retries": limits.retries,
        "time_limit": limits.time_limit,
        "threads": limits.threads,
    }
