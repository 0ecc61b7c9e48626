"""How the execution of a notebook ended, read off the executed notebook and the exception it left with."""

from __future__ import annotations

from typing import Any, NamedTuple

from resflow.workflow.interruption import Terminated
from resflow.workflow.limits import first_line
from resflow.workflow.notebook_file import metadata_of

__all__ = ["LOST_KERNEL", "Outcome", "advice", "cell_place", "failed_cell", "outcome_of", "said_of", "say"]

LOST_KERNEL = "DeadKernelError"
"""How the error begins of a run whose kernel died, as it started or later: no fault of the notebook's is known."""

_MARK = "resflow: "

_ADVICE = {
    "active experiment ID does not match environment run ID": (
        "resflow has opened the run already, in the experiment of the notebook's name: leave out "
        "mlflow.set_experiment, and choose the experiment by the environment variable MLFLOW_EXPERIMENT_NAME"
    ),
    "Run with id={run_id} not found": (
        "resflow has opened the run already, in the store that it was started with: leave out mlflow.set_tracking_uri, "
        "and choose the store by the environment variable MLFLOW_TRACKING_URI"
    ),
    "Changing param values is not allowed": (
        "the run has had the notebook's parameters since it began: log another value under another name"
    ),
}
"""What to do about errors of MLflow that a notebook meets because it runs in a run of resflow's."""


class Outcome(NamedTuple):
    """How an execution ended, in MLflow's words, and why.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        error: The error or the signal; "" if it finished.
        cell: The cell that failed: its number in the executed notebook, from 1, and its first line.
        advice: What to do about the error, which ends in it, if resflow brought it about.
    """

    status: str
    error: str = ""
    cell: str = ""
    advice: str = ""


def outcome_of(nb: Any, error: BaseException | None = None) -> Outcome:
    """How an execution ended, by the executed notebook and the exception it left with, if any."""
    if error is not None:
        started = [each for each in enumerate(nb.cells, 1) if each[1].metadata.get("papermill", {}).get("start_time")]
        place = "".join(cell_place(cell.source, number) for number, cell in started[-1:])
        if isinstance(error, KeyboardInterrupt | Terminated):
            name = "SIGINT" if isinstance(error, KeyboardInterrupt) else error.signal.name
            return Outcome("KILLED", f"{name} in cell {place}" if place else f"{name} before the first cell")
        return Outcome("FAILED", f"{type(error).__name__}: {first_line(str(error))}", place)
    if (index := failed_cell(nb)) is not None:
        output = next((each for each in nb.cells[index].outputs if each.output_type == "error"), None)
        said = f"{output.ename}: {first_line(output.evalue)}" if output else "CellExecutionError"
        advised = advice(output.evalue, metadata_of(nb, "resflow").get("run_id", "")) if output else ""
        place = cell_place(nb.cells[index].source, index + 1)
        return Outcome("FAILED", said + f": {advised}" * bool(advised), place, advised)
    return Outcome("FINISHED")


def advice(error: str, run_id: str) -> str:
    """What to do about an error in a run, by its message; "" if it is none of those that resflow brings about."""
    return next((advised for message, advised in _ADVICE.items() if message.format(run_id=run_id) in error), "")


def say(error: BaseException, run_id: str, outcome: Outcome, problem: str = "") -> None:
    """Note on an exception, in one line, where the notebook ended, of what, and as which run; tracebacks show it."""
    place = f"cell {outcome.cell}: " if outcome.cell else ""
    error.add_note(f"{_MARK}{place}{outcome.error} (run {run_id}, {outcome.status})" + f"; {problem}" * bool(problem))


def said_of(error: BaseException) -> str:
    """The line that `say` noted on an exception; "" on one that did not leave a run."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(_MARK)]
    return notes[-1].removeprefix(_MARK) if notes else ""


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


def cell_place(source: str, number: int | None = None) -> str:
    """A cell by its number in the notebook, from 1, where it can be told, and its first line.

    >>> cell_place("x = 1\\ny = 2", 4), cell_place("x = 1")
    ('4: x = 1', 'x = 1')
    """
    line = first_line(source)
    return line if number is None else f"{number}: {line}"
