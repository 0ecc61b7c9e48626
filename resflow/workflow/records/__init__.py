"""The only writer to MLflow and the only reader: a store's client is opened here, and called by nobody else."""

from resflow.workflow.records.client import client_of, experiment_id_of, patiently
from resflow.workflow.records.ending import (
    adopt_metrics,
    claim,
    drop_duplicates,
    end_children,
    end_cut_off,
    end_lost,
    set_aside,
)
from resflow.workflow.records.opening import mark_cut_off_runs, open_client
from resflow.workflow.records.reading import (
    artifact_folder,
    every_run,
    experiments,
    finished_points,
    history_of,
    open_runs,
    parent_of_sweep,
    parents_of_sweeps,
    points_of_sweep,
    runs_of_sweep,
    stored_run,
    tagged,
)
from resflow.workflow.records.run import Run, create_run, record_run, run_name

__all__ = [
    "Run",
    "adopt_metrics",
    "artifact_folder",
    "claim",
    "client_of",
    "create_run",
    "drop_duplicates",
    "end_children",
    "end_cut_off",
    "end_lost",
    "every_run",
    "experiment_id_of",
    "experiments",
    "finished_points",
    "history_of",
    "mark_cut_off_runs",
    "open_client",
    "open_runs",
    "parent_of_sweep",
    "parents_of_sweeps",
    "patiently",
    "points_of_sweep",
    "record_run",
    "run_name",
    "runs_of_sweep",
    "set_aside",
    "stored_run",
    "tagged",
]
