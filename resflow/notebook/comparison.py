"""Many runs side by side, as the notebook that compares them reads and shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resflow.workflow.records import open_client
from resflow.workflow.reports import overview
from resflow.workflow.reports.comparison import Comparison, load_comparison
from resflow.workflow.reports.statistics import above_linear, second_axis

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["above_linear", "load_runs", "overview", "second_axis"]


def load_runs(source: str = "", *, metric: str = "", direction: str = "") -> tuple[MlflowClient, Comparison]:
    """The runs of a sweep or an experiment, with what they are compared by, and the client that read them.

    Args:
        source: Its name; whatever the latest run belongs to if empty.
        metric: The final value to compare; what the sweep's file names, or the gap, if empty.
        direction: "maximize" or "minimize"; may be left empty where it is known.

    Raises:
        InvalidInputError: If there are no such runs, or they did not record the metric.
    """
    client = open_client()
    return client, overview.towards(load_comparison(client, source), metric, direction)
