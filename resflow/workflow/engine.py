"""The papermill engine `resflow`: one notebook, one MLflow run, and a status that is true however it ends."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.workflow.interruption import Interruptions
from resflow.workflow.outcome import Outcome, failed_cell, outcome_of

if TYPE_CHECKING:
    from resflow.workflow.tracking import Run

__all__ = ["AttachmentError", "ResflowEngine"]

logger = logging.getLogger("papermill")

RUN_TAGS = "RESFLOW_RUN_TAGS"
"""Environment variable with further tags of the run, as a JSON object."""


class AttachmentError(RuntimeError):
    """The notebook ran through, but what the run should show could not be attached to it."""


class ResflowEngine:
    """Executes a notebook as papermill does, in an MLflow run that exists before the kernel starts.

    The run's parameters are the notebook's, with the values they have in this execution. The kernel finds it by
    MLFLOW_RUN_ID. However the execution ends, the executed notebook and its HTML are attached and the status is set:
    FAILED if a cell raises, takes too long or loses its kernel, KILLED by Ctrl-C and by termination signals.

    An engine by its methods, not by inheritance: papermill imports this module while it is itself being imported.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute `nb` in a run of its own; papermill calls this.

        Raises:
            AttachmentError: If all went well, but the executed notebook or its HTML could not be attached.
        """
        from resflow.workflow.execution import RunExecution

        source = options.get("input_path") or ""
        notebook = Path(source if source not in ("", "-") else "notebook").stem
        with Interruptions() as interruptions:
            run = _new_run(nb, source, notebook)
            nb.metadata["resflow"] = {"run_id": run.id, "tracking_uri": run.tracking_uri}
            try:
                with interruptions.raised():
                    options |= {"run": run, "interruptions": interruptions}
                    RunExecution.execute_notebook(nb, kernel_name, output_path=output_path, **options)
            except BaseException as error:
                if problem := _conclude(run, nb, notebook, outcome_of(nb, error)):
                    error.add_note(problem)
                raise
            outcome = outcome_of(nb)
            problem = _conclude(run, nb, notebook, outcome)
            if problem and outcome.status == "FINISHED":
                raise AttachmentError(problem)
        return nb

    @staticmethod
    def nb_kernel_name(nb: Any, name: str | None = None) -> str:
        """The kernel a notebook asks for, unless another is named; papermill calls this."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @staticmethod
    def nb_language(nb: Any, language: str | None = None) -> str:
        """The language a notebook is written in, unless another is named; papermill calls this."""
        from papermill.utils import nb_language

        return nb_language(nb, language)


def _new_run(nb: Any, source: str, notebook: str) -> Run:
    from resflow.workflow.parameters import declared_in_notebook, effective_values
    from resflow.workflow.provenance import provenance_tags
    from resflow.workflow.tracking import create_run, open_client, run_name

    values = effective_values(nb)
    return create_run(
        open_client(),
        notebook=notebook,
        name=run_name(notebook, values, declared_in_notebook(nb)),
        parameters=values,
        # A sweep says in the environment to what the run belongs.
        tags=provenance_tags(source or notebook, nb) | json.loads(os.environ.get(RUN_TAGS, "{}")),
    )


def _conclude(run: Run, nb: Any, notebook: str, outcome: Outcome) -> str:
    """Attach the executed notebook and its HTML and set the status; returns what went wrong with that, in one line."""
    tags = {key: value for key, value in (("error", outcome.error), ("failed_cell", outcome.cell)) if value}

    def attach_notebook() -> None:
        import nbformat

        run.log_text(nbformat.writes(nb), f"{notebook}.ipynb")

    def attach_html() -> None:
        from resflow.workflow.reports.notebook_html import notebook_to_html

        failure = outcome.error if failed_cell(nb) is None else ""
        run.log_text(notebook_to_html(nb, title=notebook, failure=failure), f"{notebook}.html")

    def set_status() -> None:
        run.end(outcome.status, **tags)

    # A run that says FINISHED has everything; one being killed says so first, as there may be no time for more.
    steps = [attach_notebook, attach_html, set_status]
    if outcome.status == "KILLED":
        steps = [set_status, attach_notebook, attach_html]
    problems = []
    for step in steps:
        try:
            step()
        except Exception as error:  # whatever it is must neither hide why the notebook ended nor stop the other steps
            logger.error("%s failed", step.__name__, exc_info=error)
            problems.append(f"{step.__name__} failed: {type(error).__name__}: {error}")
    if not problems:
        return ""
    message = f"run {run.id} ({outcome.status}): " + "; ".join(problems)
    try:
        run.set_tags({"resflow.attachment_error": message})
    except Exception as error:
        logger.error("the run could not be tagged with it either", exc_info=error)
    return message
