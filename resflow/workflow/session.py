"""The run that a notebook records to: its runner's, or one it opens for itself and whose status it keeps true."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import without_credentials
from resflow.workflow.declared_types import as_declared
from resflow.workflow.names import ERROR, FAILED, FAILED_CELL, FINISHED, KILLED, RUNNING
from resflow.workflow.outcome import cell_place
from resflow.workflow.parameters import Parameter, declared_in_cell, is_parameters_cell
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.question import question_of
from resflow.workflow.records import Run, client_in_use, create_run, open_client, run_name

__all__ = ["declared_in_namespace", "start_run"]

_current: _Session | None = None


def start_run(namespace: dict[str, Any], *, notebook: str) -> Run:
    """The run that a notebook records to, to be called once its parameters are set, with its `globals()` and its name.

    Under resflow's papermill engine it is the engine's run (MLFLOW_RUN_ID names it) and the engine answers for its
    status. Anywhere else, as in Jupyter, the notebook opens a run of its own: a cell that raises makes it FAILED,
    `Run.finish` FINISHED, and a kernel that ends without either KILLED.

    Raises:
        InvalidInputError: If MLFLOW_RUN_ID names no run of the store.
    """
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        run = Run(client_in_use(), run_id)
        from mlflow.exceptions import MlflowException

        try:
            run.name  # noqa: B018 (asks the store)
        except MlflowException as error:
            raise InvalidInputError(
                f"MLFLOW_RUN_ID={run_id} names no run of {without_credentials(run.tracking_uri)}: {error.message}"
            ) from None
    else:
        run = _open_run(namespace, notebook)
    run.tag_precision()
    return run


def _open_run(namespace: dict[str, Any], notebook: str) -> Run:
    """Open a run for the notebook with this namespace; a run that it opened before is left to what it became."""
    global _current
    if _current is None:
        atexit.register(_at_exit)
        if (ipython := sys.modules.get("IPython")) and (shell := ipython.get_ipython()):
            shell.events.register("post_run_cell", _after_cell)
    elif _current.status == RUNNING:
        _current.end(KILLED, error="given up: the notebook started another run")
    parameters = declared_in_namespace(namespace)
    values = {
        parameter.name: as_declared(namespace[parameter.name], parameter.annotation)
        for parameter in parameters
        if parameter.name in namespace
    }
    path = _file_of(notebook)
    written = _read(path) if path else None
    tags = provenance_tags(path or f"{notebook}.ipynb", written)
    question = question_of(written) if written else ""
    name = run_name(notebook, values, parameters)
    run = create_run(open_client(), notebook=notebook, name=name, parameters=values, tags=tags, question=question)
    _current = _Session(run, path)
    return Run(run.client, run.id, on_finish=_current.finish)


def declared_in_namespace(namespace: dict[str, Any]) -> list[Parameter]:
    """The parameters a notebook declared, by the cells it has run: IPython keeps their sources.

    The latest parameters cell names them; defaults are those of the earliest, so that values edited in place count as
    changed. Without a history of cells the module's annotations are taken, defaults unknown.
    """
    cells = [declared_in_cell(source) for source in namespace.get("In", []) if is_parameters_cell(source)]
    if cells:
        defaults = {parameter.name: parameter for cell in reversed(cells) for parameter in cell}
        return [Parameter(p.name, p.annotation, defaults[p.name].default, p.help) for p in cells[-1]]
    return [
        Parameter(
            name, annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation)), None
        )
        for name, annotation in namespace.get("__annotations__", {}).items()
    ]


class _Session:
    """The status of the run that this notebook answers for."""

    def __init__(self, run: Run, path: Path | None) -> None:
        self.run = run
        self.path = path
        self.status = RUNNING
        self.process = os.getpid()

    def end(self, status: str, **tags: str) -> None:
        self.run.end(status, **tags)
        self.status = status

    def finish(self) -> None:
        if self.status == FAILED:  # and mended since
            self.run.remove_tags([FAILED_CELL, ERROR])
        self.end(FINISHED)


def _after_cell(result: Any) -> None:
    error = result.error_before_exec or result.error_in_exec
    if _current is None or _current.status != RUNNING or error is None:
        return
    if isinstance(error, SystemExit) and not error.code:
        return
    status = KILLED if isinstance(error, KeyboardInterrupt) else FAILED
    place = cell_place(result.info.raw_cell, _number_of(result.info, _current.path))
    _current.end(status, failed_cell=place, error=f"{type(error).__name__}: {error}")


def _number_of(info: Any, path: Path | None) -> int | None:
    """Which cell of the notebook's file this is, from 1: by its id, or else if it is the only one of that text."""
    if path is None:
        return None
    try:
        cells = _read(path).cells
    except (OSError, ValueError):  # moved, or being written
        return None
    by_id = [number for number, cell in enumerate(cells, 1) if cell.get("id", "") == getattr(info, "cell_id", None)]
    same = by_id or [number for number, cell in enumerate(cells, 1) if cell.source == info.raw_cell]
    return same[0] if len(same) == 1 else None


def _read(path: Path) -> Any:
    import nbformat  # with what checks notebooks, which takes a second, and executed ones have no need of it

    return nbformat.read(path, as_version=4)


def _at_exit() -> None:
    if _current is not None and _current.status == RUNNING and _current.process == os.getpid():
        _current.end(KILLED, error="the kernel ended before the notebook was through")


def _file_of(notebook: str) -> Path | None:
    """The notebook's file, where it is known or stands where it would be looked for."""
    named = os.environ.get("JPY_SESSION_NAME", "")  # Jupyter's server says which notebook it started the kernel for
    for path in (Path(named), Path(f"{notebook}.ipynb"), Path("notebooks") / f"{notebook}.ipynb"):
        if path.name == f"{notebook}.ipynb" and path.is_file():
            return path.resolve()
    return None
