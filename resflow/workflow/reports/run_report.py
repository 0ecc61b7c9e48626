"""A run's own report: its executed notebook as one HTML file, attached to it, when it ends or again later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow import names
from resflow.workflow.last_word import status_of
from resflow.workflow.names import FINISHED, RUNNING, Role, role_of
from resflow.workflow.notebook_file import executed_notebook
from resflow.workflow.outcome import failed_cell

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from resflow.workflow.records import Run

__all__ = ["LONGEST_TABLE", "attach_report", "find_run", "report_again"]

LONGEST_TABLE = 100_000
"""Characters of a recorded table that a page brings along; longer ones lie beside it."""


def attach_report(run: Run, nb: Any, notebook: str, error: str = "") -> str:
    """Attach the HTML of an executed notebook to its run, and the whole of what the page shows the beginning of.

    Args:
        run: The run.
        nb: The notebook with its outputs.
        notebook: What it is called.
        error: Why it ended, if it did not run through.

    Returns:
        The HTML text.
    """
    from resflow.workflow.reports.excerpts import whole_outputs
    from resflow.workflow.reports.notebook_html import notebook_to_html
    from resflow.workflow.reports.result import result_of

    for name, whole in whole_outputs(nb):
        run.log_text(whole, name)
    failure = error if failed_cell(nb) is None else ""
    result = result_of(run.stored, nb)._replace(tables=tuple(_tables(run)))
    html = notebook_to_html(nb, title=notebook, failure=failure, result=result, attached=True)
    run.log_text(html, f"{notebook}.html")
    return html


def find_run(client: MlflowClient, name: str) -> Run | None:
    """The run with that id; None if no run has it.

    Raises:
        InvalidInputError: If the run was deleted.
    """
    from mlflow.exceptions import MlflowException

    from resflow.workflow.records import Run

    run = Run(client, name)
    try:
        stored = run.stored
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    if stored.info.lifecycle_stage != "active":
        raise InvalidInputError(f"the run {name} was deleted in MLflow: restore it first")
    return run


def report_again(run: Run) -> tuple[str, str]:
    """Write a run's report again from the notebook that is attached to it.

    Returns:
        What the notebook is called, and the HTML text.

    Raises:
        InvalidInputError: If the run is not over, or has no executed notebook, or a damaged one.
    """
    stored = run.stored
    if status_of(stored) == RUNNING:
        raise InvalidInputError(f"the run {run.id} is still running: its report is written when it ends")
    if not (path := run.executed_notebook()):
        if role_of(stored) == Role.MEMBER:
            above = stored.data.tags.get(names.PARENT, "")
            raise InvalidInputError(
                f"the run {run.id} is a member of a population, which has one notebook for all: report {above} instead"
            )
        raise InvalidInputError(
            f"the run {run.id} has no executed notebook attached: only what `resflow run`, a sweep or papermill with "
            "--engine resflow ran has one"
        )
    error = "" if status_of(stored) == FINISHED else stored.data.tags.get(names.ERROR, "")
    notebook = PurePosixPath(path).stem
    node = executed_notebook(run.read_bytes(path), f"run {run.id}, {path}")
    return notebook, attach_report(run, node, notebook, error)


def _tables(run: Run) -> Iterator[tuple[str, str]]:
    """Every attached table with its text; none of what is too long to be shown, or no text."""
    for path in run.files("tables"):
        text = ""
        if path.endswith(".csv"):
            with suppress(UnicodeDecodeError):
                text = run.read_text(path)
        yield path, text if len(text) <= LONGEST_TABLE else ""
