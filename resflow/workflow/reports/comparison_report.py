"""A sweep's report: the comparing notebook executed, as one HTML file, attached to the sweep's parent run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.workflow.examples import own_or_shipped
from resflow.workflow.reports.comparison import NOTEBOOK, Comparison, load_comparison
from resflow.workflow.reports.headline import headline
from resflow.workflow.reports.overview import towards
from resflow.workflow.ui_pages import ui_address

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["REPORT", "comparing_notebook", "write_report"]

REPORT = "report.html"
"""What the report is called among the artifacts of a sweep's parent run."""


def comparing_notebook() -> Path:
    """The project's own notebooks/compare_runs.ipynb, or else the one that comes with this package."""
    return own_or_shipped(NOTEBOOK)


def write_report(client: MlflowClient, name: str, values: Mapping[str, Any]) -> tuple[Comparison, str]:
    """Execute the comparing notebook for the sweep or experiment of that name, and render it.

    It is executed in no run of its own, so that comparing leaves no trace among what is compared. A sweep's parent run
    gets the report as its artifact `report.html`.

    Args:
        client: A client of the store.
        name: The sweep or experiment.
        values: Parameters of the notebook beside its `source`.

    Returns:
        What was compared, and the HTML text.

    Raises:
        InvalidInputError: If there is nothing of that name, or nothing in it that finished with the metric asked for.
        PapermillExecutionError: If a cell of the notebook raises.
    """
    from resflow.workflow.parameters import effective_values
    from resflow.workflow.records import Run
    from resflow.workflow.reports.notebook_html import notebook_to_html
    from resflow.workflow.reports.result import RunResult

    comparison = load_comparison(client, name)
    comparison = towards(comparison, values.get("metric", ""), values.get("direction", ""))
    values = {**values, "source": comparison.name}
    executed = _execute(comparing_notebook(), values, client.tracking_uri)
    address = effective_values(executed).get("address") or ui_address(client.tracking_uri)
    title = f"{comparison.kind} {comparison.name}"
    result = RunResult(title, summary=headline(comparison, address=str(address)))
    text = notebook_to_html(executed, title=title, result=result)
    if comparison.parent_id:
        Run(client, comparison.parent_id).log_text(text, REPORT)
    return comparison, text


def _execute(notebook: Path, values: dict[str, Any], tracking_uri: str) -> Any:
    import papermill
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    from resflow.workflow.execution import private_transport
    from resflow.workflow.kernel_manager import RestingKernelManager
    from resflow.workflow.kernels import PYTHON
    from resflow.workflow.notebook_file import path_for_papermill
    from resflow.workflow.run_display import displayed
    from resflow.workflow.scratch import temporary_folder
    from resflow.workflow.variables import changed_environment

    # What papermill has to say of parameters the command has checked already, and better.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    node = parameterize_notebook(load_notebook_node(str(notebook)), values, kernel_name=PYTHON)
    with (
        temporary_folder() as folder,
        private_transport(PYTHON) as transport,
        displayed(node.cells) as (display, _),
        changed_environment({"MLFLOW_TRACKING_URI": tracking_uri, **dict.fromkeys(_UNWANTED)}),
    ):
        options = {"progress_bar": False, "config": transport, "on_cell_start": display}
        options |= {"kernel_manager_class": RestingKernelManager}
        return papermill.execute_notebook(node, path_for_papermill(folder / notebook.name), **options)


_UNWANTED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MPLBACKEND")
"""What a kernel must not inherit: a run that this process is part of, and a backend that shows figures elsewhere."""
