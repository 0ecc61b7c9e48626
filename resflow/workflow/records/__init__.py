"""The only writer to MLflow and the only reader: a store's client is opened here, and called by nobody else."""

from resflow.workflow.records.belonging import claim, drop_duplicates, gather, set_aside
from resflow.workflow.records.client import client_in_use, client_of, experiment_id_of, patiently, usable_experiment
from resflow.workflow.records.copying import (
    CopiedRun,
    MetricValue,
    copied,
    download,
    everything_below,
    is_unfinished_copy,
    origin_of,
    values_of,
)
from resflow.workflow.records.ending import (
    adopt_metrics,
    end_children,
    end_cut_off,
    end_lost,
)
from resflow.workflow.records.logged_models import CopiedModel, copied_models, download_model, models_of_runs
from resflow.workflow.records.opening import open_client
from resflow.workflow.records.reading import (
    every_run,
    experiments,
    finished_points,
    history_of,
    parent_of_sweep,
    parents_of_sweeps,
    points_of_sweep,
    runs_of_sweep,
    tagged,
)
from resflow.workflow.records.restoring import Copy, copies_of, restore
from resflow.workflow.records.run import Run, create_run, record_run, run_name

__all__ = [
    "CopiedModel",
    "CopiedRun",
    "Copy",
    "MetricValue",
    "Run",
    "adopt_metrics",
    "claim",
    "client_in_use",
    "client_of",
    "copied",
    "copied_models",
    "copies_of",
    "create_run",
    "download",
    "download_model",
    "drop_duplicates",
    "end_children",
    "end_cut_off",
    "end_lost",
    "every_run",
    "everything_below",
    "experiment_id_of",
    "experiments",
    "finished_points",
    "gather",
    "history_of",
    "is_unfinished_copy",
    "models_of_runs",
    "open_client",
    "origin_of",
    "parent_of_sweep",
    "parents_of_sweeps",
    "patiently",
    "points_of_sweep",
    "record_run",
    "restore",
    "run_name",
    "runs_of_sweep",
    "set_aside",
    "tagged",
    "usable_experiment",
    "values_of",
]
