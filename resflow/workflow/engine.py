"""The papermill engine `resflow`: one notebook, one MLflow run, and a status that is true however it ends."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.workflow import kernels
from resflow.workflow.addresses import without_credentials, without_secrets
from resflow.workflow.artifact_list import attach_list
from resflow.workflow.checkpoints import Checkpoints
from resflow.workflow.environment import attach_environment
from resflow.workflow.interruption import Interruptions
from resflow.workflow.limits import RUN_NAME, first_line, shortened
from resflow.workflow.names import ATTACHMENT_ERROR, POINT, RUN_TAGS
from resflow.workflow.notebook_file import metadata_of
from resflow.workflow.outcome import Outcome, outcome_of, say
from resflow.workflow.parameters import declared_in_notebook
from resflow.workflow.project import project_root
from resflow.workflow.run_parameters import RunParameters
from resflow.workflow.store_errors import StoreError

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["AttachmentError", "ResflowEngine", "scrub_errors"]

logger = logging.getLogger("papermill")


class AttachmentError(StoreError):
    """The notebook ran through, but what the run should show could not be attached to it."""


class ResflowEngine:
    """Executes a notebook as papermill does, in an MLflow run that exists before the kernel starts.

    The run's parameters are the notebook's, with the values they have in this execution. The kernel finds it by
    MLFLOW_RUN_ID: the first `mlflow.start_run()` of a notebook is the engine's run, by whatever name and for whatever
    part of the notebook; every later one makes a run of its own below it, as `nested=True` does. However the execution
    ends, the executed notebook and its HTML are attached, the runs below that were left open end too, and the status is
    set: FAILED if a cell raises, takes too long or loses its kernel, KILLED by Ctrl-C and by termination signals. What
    the notebook makes of the status on the way, as by leaving `with mlflow.start_run():`, does not count.

    An exception that leaves the engine carries a note of one line, which `outcome.said_of` returns: cell, error, run.

    An engine by its methods, not by inheritance: papermill imports this module while it is itself being imported.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute `nb` in a run of its own; papermill calls this.

        Args:
            nb: The notebook.
            kernel_name: Its kernel.
            output_path: Where it is written as it is executed.
            options: As for papermill's own engine; `source` is the file of a notebook in memory, and `begun` is called
                with the run as soon as there is one.

        Raises:
            AttachmentError: If all went well, but the executed notebook or its HTML could not be attached.
        """
        from resflow.workflow.execution import RunExecution

        source = _source(nb, options)
        notebook = Path(source if source not in ("", "-") else "notebook").stem
        with Interruptions() as interruptions:
            parameters = RunParameters(nb)
            begun, shown = options.pop("begun", None), options.pop("progress_bar", True)
            run = _new_run(nb, source, notebook, parameters)
            about: dict[str, str] = {}
            conclude = partial(_conclude, run, nb, notebook, parameters, about)
            place = {"run_id": run.id, "tracking_uri": without_credentials(run.tracking_uri)}
            nb.metadata["resflow"] = metadata_of(nb, "resflow") | place
            kernels.complete_kernelspec(nb, kernel_name)
            threading.Thread(target=_prepare_report).start()  # which takes as long as a small notebook
            try:
                with interruptions.raised():
                    if begun is not None:
                        begun(run)
                    checkpoints = Checkpoints(project_root(), nb, kernel_name)
                    options |= {"run": run, "parameters": parameters, "interruptions": interruptions}
                    options |= {"checkpoints": checkpoints}
                    options |= {"shown": bool(shown), "about": about, "progress_bar": False}
                    RunExecution.execute_notebook(nb, kernel_name, output_path=output_path, **options)
            except BaseException as error:
                outcome = outcome_of(nb, error)
                say(error, run.id, outcome, conclude(outcome))
                raise
            if (outcome := outcome_of(nb)).status != "FINISHED":
                conclude(outcome)  # papermill raises what the cell raised
                if outcome.advice:
                    logger.error("%s", outcome.advice)
            elif problem := conclude(outcome):
                failure = AttachmentError(problem)
                say(failure, run.id, Outcome("FAILED", problem))
                raise failure
            else:
                checkpoints.discard()
        return nb

    @staticmethod
    def nb_kernel_name(nb: Any, name: str | None = None) -> str:
        """The kernel a notebook asks for, or one of its language, unless another is named; papermill calls this."""
        return name or kernels.kernel_name(nb)

    @staticmethod
    def nb_language(nb: Any, language: str | None = None) -> str:
        """The language a notebook is written in, unless another is named; papermill calls this."""
        return language or kernels.kernel_language(nb)


def _source(nb: Any, options: dict[str, Any]) -> str:
    """The path of the notebook's file, which whoever gives papermill a notebook in memory says by the option `source`.

    papermill would write such a notebook, as its own path, into itself.
    """
    source = options.pop("source", options.get("input_path"))
    if not isinstance(options.get("input_path"), str):
        nb.metadata.papermill["input_path"] = source if isinstance(source, str) else None
    return source if isinstance(source, str) else ""


def _new_run(nb: Any, source: str, notebook: str, parameters: RunParameters) -> Run:
    from resflow.plots.labels import point_name
    from resflow.workflow.provenance import provenance_tags
    from resflow.workflow.question import question_of
    from resflow.workflow.records import create_run, open_client, run_name

    of_sweep = json.loads(os.environ.get(RUN_TAGS, "{}"))  # a sweep says in the environment to what the run belongs
    if POINT in of_sweep:
        of_sweep[POINT] = point_name({name: parameters.values[name] for name in json.loads(of_sweep[POINT])})
    named = shortened(f"{notebook} {of_sweep[POINT]}", RUN_NAME) if POINT in of_sweep else ""
    return create_run(
        open_client(),
        notebook=notebook,
        name=named or run_name(notebook, parameters.values, declared_in_notebook(nb)),
        parameters=parameters.certain,
        tags=provenance_tags(source or notebook, nb) | of_sweep,
        question=question_of(nb),
    )


def _prepare_report() -> None:
    from resflow.workflow.reports.notebook_html import prepare

    prepare()


def _conclude(
    run: Run, nb: Any, notebook: str, parameters: RunParameters, about: dict[str, str], outcome: Outcome
) -> str:
    """Attach the executed notebook and its HTML and say how the run ended; returns what went wrong, in one line.

    A run whose notebook or HTML could not be attached is not FINISHED but FAILED. If not even that can be written,
    nothing was said of it, and it becomes KILLED when the store is opened next.
    """
    from resflow.workflow.records import adopt_metrics, end_children
    from resflow.workflow.reports.run_report import attach_report

    scrub_errors(nb)
    problems: list[str] = []

    def tried(step: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except Exception as error:  # whatever it is must neither hide why the notebook ended nor stop the other steps
            logger.error("%s failed", step, exc_info=error)
            problems.append(f"{step} failed: {type(error).__name__}: {first_line(str(error))}")

    def attach() -> None:
        import nbformat

        tried("logging the parameters", parameters.complete, run)
        if about:
            tried("saying which kernel it had", run.set_tags, about)
        tried("taking over what runs below it measured", adopt_metrics, run.client, run.id)
        tried("attaching the environment", attach_environment, run, once=True)
        tried("attaching the notebook", lambda: run.log_text(nbformat.writes(nb), f"{notebook}.ipynb"))
        tried("attaching its HTML", attach_report, run, nb, notebook, outcome.error)
        if outcome.status == "FINISHED":
            tried("listing what is attached", attach_list, run)

    def end(status: str, error: str) -> None:
        tags = {"error": error, "failed_cell": outcome.cell, "attachment_error": "; ".join(problems)}
        why = error or f"left open by the run {run.id}, which ended"
        tried("ending the runs below it", end_children, run.client, run.id, status, why)
        tried("setting the status", run.end, status, **{key: value for key, value in tags.items() if value})

    if outcome.status == "KILLED":  # which is said first, as there may be no time for more
        end("KILLED", outcome.error)
        attach()
        if problems:
            tried("tagging it with that", run.set_tags, {ATTACHMENT_ERROR: "; ".join(problems)})
    else:
        attach()
        whole = outcome.status != "FINISHED" or not problems
        end(outcome.status if whole else "FAILED", outcome.error if whole else "; ".join(problems))
    return "; ".join(problems)


def scrub_errors(nb: Any) -> None:
    """Take credentials out of a notebook's tracebacks, as those of a database that cannot be reached have them."""
    for output in (each for cell in nb.cells for each in cell.get("outputs", []) if each.output_type == "error"):
        output.evalue = without_secrets(output.evalue)
        output.traceback = [without_secrets(line) for line in output.traceback]
