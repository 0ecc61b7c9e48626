"""The papermill engine `resflow`: one notebook, one MLflow run, and a status that is true however it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nbformat
import zmq
from jupyter_client.manager import KernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger
from traitlets.config import Config

from resflow.workflow.interruption import Interruptions, Terminated

if TYPE_CHECKING:
    from resflow.workflow.tracking import Run

__all__ = ["AttachmentError", "Outcome", "ResflowEngine", "failed_cell", "outcome_of"]


class AttachmentError(RuntimeError):
    """The notebook ran through, but what the run should show could not be attached to it."""


class Outcome(NamedTuple):
    """How the execution of a notebook ended: FINISHED, FAILED or KILLED, and why."""

    status: str
    error: str = ""
    cell: str = ""


class ResflowEngine(NBClientEngine):
    """Executes a notebook as papermill does, in an MLflow run that exists before the kernel starts.

    The run's parameters are the notebook's, with the values they have in this execution. The kernel finds it by
    MLFLOW_RUN_ID. However the execution ends, the executed notebook and its HTML are attached and the status is set:
    FAILED if a cell raises, takes too long or loses its kernel, KILLED by Ctrl-C and by termination signals.
    """

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute `nb` in a run of its own; papermill calls this.

        Raises:
            AttachmentError: If all went well, but the executed notebook or its HTML could not be attached.
        """
        source = options.get("input_path") or ""
        notebook = Path(source if source not in ("", "-") else "notebook").stem
        with Interruptions() as interruptions:
            run = _new_run(nb, source, notebook)
            nb.metadata["resflow"] = {"run_id": run.id, "tracking_uri": run.tracking_uri}
            try:
                with interruptions.raised():
                    options |= {"run": run, "interruptions": interruptions}
                    super().execute_notebook(nb, kernel_name, output_path=output_path, **options)
            except BaseException as error:
                outcome = outcome_of(nb, error)
                if problem := _conclude(run, nb, notebook, outcome):
                    error.add_note(problem)
                raise
            outcome = outcome_of(nb)
            problem = _conclude(run, nb, notebook, outcome)
            if problem and outcome.status == "FINISHED":
                raise AttachmentError(problem)
        return nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        *,
        run: Run,
        interruptions: Interruptions,
        **options: Any,
    ) -> None:
        """Execute the notebook in a kernel that knows the run; as papermill's own, but for the environment."""
        options = {
            key: value for key, value in options.items() if key not in ("input_path", "timeout", "startup_timeout")
        }
        client = PapermillNotebookClient(
            nb_man,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log=logger,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
            **({"config": _encrypted()} | options),
        )
        # A kernel that is asked politely has five seconds; whoever sends signals waits less.
        interruptions.before_raising = lambda: setattr(client, "shutdown_kernel", "immediate")
        try:
            client.execute(env=_kernel_environment(run))
        finally:
            # nbclient cleans up after execution only: a signal may have come while the kernel was being started
            if client.km is not None and client.km.has_kernel:
                client.shutdown_kernel = "immediate"
                client._cleanup_kernel()


def outcome_of(nb: Any, error: BaseException | None = None) -> Outcome:
    """How an execution ended, by the executed notebook and the exception it left with, if any."""
    if error is not None:
        place = _place(nb, _last_started(nb))
        if isinstance(error, KeyboardInterrupt | Terminated):
            name = "SIGINT" if isinstance(error, KeyboardInterrupt) else error.signal.name
            return Outcome("KILLED", f"{name} in cell {place}" if place else f"{name} before the first cell")
        first_line = next(iter(str(error).strip().splitlines()), "")
        return Outcome("FAILED", f"{type(error).__name__}: {first_line}", place)
    if (index := failed_cell(nb)) is not None:
        output = next((each for each in nb.cells[index].outputs if each.output_type == "error"), None)
        return Outcome(
            "FAILED", f"{output.ename}: {output.evalue}" if output else "CellExecutionError", _place(nb, index)
        )
    return Outcome("FINISHED")


def failed_cell(nb: Any) -> int | None:
    """The index of the cell at which papermill calls an executed notebook failed; None if it ran through."""
    for index, cell in enumerate(nb.cells):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        quits = [error for error in errors if error.ename == "SystemExit" and error.evalue in ("", "0")]
        if len(errors) > len(quits):
            return index
        if not quits and cell.metadata.get("papermill", {}).get("exception") is True:
            return index
    return None


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
        tags=provenance_tags(source or notebook, nb),
    )


def _kernel_environment(run: Run) -> dict[str, str]:
    """The environment that hands the run to the kernel, by the names that MLflow itself reads as well."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_EXPERIMENT_NAME"}
    return environment | {
        "MLFLOW_RUN_ID": run.id,
        "MLFLOW_EXPERIMENT_ID": run.experiment_id,
        "MLFLOW_TRACKING_URI": run.tracking_uri,
    }


def _encrypted() -> Config:
    """Encrypt what goes to and from the kernel where both sides can: else others on this machine may listen."""
    able = hasattr(KernelManager, "transport_encryption") and zmq.has("curve")
    return Config({"KernelManager": {"transport_encryption": "auto"}} if able else {})


def _conclude(run: Run, nb: Any, notebook: str, outcome: Outcome) -> str:
    """Attach the executed notebook and its HTML and set the status; returns what went wrong with that, in one line."""
    tags = {key: value for key, value in (("error", outcome.error), ("failed_cell", outcome.cell)) if value}

    def attach_notebook() -> None:
        run.log_text(nbformat.writes(nb), f"{notebook}.ipynb")

    def attach_html() -> None:
        from resflow.workflow.report import notebook_to_html

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


def _last_started(nb: Any) -> int | None:
    started = [index for index, cell in enumerate(nb.cells) if cell.metadata.get("papermill", {}).get("start_time")]
    return started[-1] if started else None


def _place(nb: Any, index: int | None) -> str:
    """A cell by its number in the executed notebook, from 1, and its first line."""
    if index is None:
        return ""
    return f"{index + 1}: {next(iter(nb.cells[index].source.strip().splitlines()), '')}"
