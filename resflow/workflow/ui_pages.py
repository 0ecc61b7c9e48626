"""Addresses of the pages of MLflow's UI that links lead to, from the command `resflow ui` and from reports alike."""

from __future__ import annotations

from urllib.parse import quote

from resflow.workflow.addresses import without_credentials
from resflow.workflow.goal import Goal

__all__ = [
    "ABOVE_LINEAR",
    "FIRST_PORT",
    "HOST",
    "LOWEST_GAP",
    "WORST_GAP",
    "run_page",
    "runs_page",
    "server_address",
    "ui_address",
]

HOST, FIRST_PORT = "127.0.0.1", 5000
"""Where `resflow ui` serves, or at the first free port behind it."""

ABOVE_LINEAR = "metrics.linear_predictor_gap > 0.000000001"
"""MLflow's condition for runs above their best linear predictor, rounding apart."""

LOWEST_GAP, WORST_GAP = Goal("linear_predictor_gap"), Goal("linear_predictor_gap", maximize=True)
"""By which runs are sorted where nothing else is said, and runs above linear."""

_MACHINE_LEARNING = "workflowType=machine_learning"
"""Without this MLflow opens its pages for generative AI, where runs are called evaluations."""


def server_address(tracking_uri: str) -> str:
    """The address of a store's own server, which has a UI, without credentials; "" if the store is behind none.

    >>> server_address("https://me:secret@runs.example/mlflow/"), server_address("sqlite:////runs/mlflow.db")
    ('https://runs.example/mlflow', '')
    """
    return without_credentials(tracking_uri).rstrip("/") if tracking_uri.startswith(("http://", "https://")) else ""


def ui_address(tracking_uri: str, port: int = FIRST_PORT) -> str:
    """Where a UI on a store is: the store's own server, or else this machine's at a port once it is started there."""
    return server_address(tracking_uri) or f"http://{HOST}:{port}"


def run_page(experiment_id: str, run_id: str, address: str = "") -> str:
    """The page of a run.

    Args:
        experiment_id: MLflow's id of its experiment.
        run_id: And of the run.
        address: The UI's address; "" for a link as the UI itself understands.
    """
    return _at(address, f"#/experiments/{experiment_id}/runs/{run_id}?{_MACHINE_LEARNING}")


def runs_page(
    experiment_id: str, address: str = "", *, condition: str = "", by: Goal | None = None, charts: bool = False
) -> str:
    """The page of an experiment's runs.

    MLflow folds runs into their parents unless they are sorted by a metric: a sweep's page would show but one run.

    Args:
        experiment_id: MLflow's id of the experiment.
        address: As for `run_page`.
        condition: Which of them; all without.
        by: By what metric they are sorted, the best first, sweeps and their runs side by side.
        charts: Whether they are shown as charts; the list is one click away.
    """
    options = [*["compareRunsMode=CHART"] * charts, _MACHINE_LEARNING]
    if by is not None:
        options += [f"orderByKey={quote(f'metrics.`{by.metric}`')}", f"orderByAsc={str(not by.maximize).lower()}"]
    options += [f"searchFilter={quote(condition)}"] * bool(condition)
    return _at(address, f"#/experiments/{experiment_id}/runs?{'&'.join(options)}")


def _at(address: str, place: str) -> str:
    return f"{address.rstrip('/')}/{place}" if address else place
