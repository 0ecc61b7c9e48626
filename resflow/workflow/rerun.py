"""A run's notebook executed again from its own record: in a store that nobody else sees and that is gone afterwards."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow import names
from resflow.workflow.checkpoints import FOLDER
from resflow.workflow.declared_types import SourceText
from resflow.workflow.environment import kept_environment
from resflow.workflow.kept_data import KEEP
from resflow.workflow.limits import one_line
from resflow.workflow.logged_values import as_params
from resflow.workflow.notebook_file import path_for_papermill, read_notebook
from resflow.workflow.outcome import said_of
from resflow.workflow.parameters import effective_values
from resflow.workflow.project import artifact_root, project_root
from resflow.workflow.provenance import notebook_digest
from resflow.workflow.run_parameters import parameters_of
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.store import ensure_store
from resflow.workflow.stored_points import UnverifiableError

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["executed_again", "folder_of", "notebook_of", "scratch_store"]


@contextmanager
def scratch_store() -> Iterator[dict[str, str | None]]:
    """A new store that is gone afterwards: yields what `changed_environment` needs for it to be the one in use."""
    with temporary_folder() as folder:
        yield {
            "MLFLOW_TRACKING_URI": ensure_store(folder),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": artifact_root(folder),  # where MLflow puts experiments that say nothing
            **dict.fromkeys(("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", names.RUN_TAGS)),
            KEEP: None,
            FOLDER: "",  # all of it again: no training goes on from where one was cut off
        }


def notebook_of(run: Run) -> Any:
    """The notebook that a run executed, with the parameters it was given and without outputs.

    Raises:
        UnverifiableError: If none is attached, or it is not the one that the run says it executed.
    """
    tags = run.stored.data.tags
    if not (path := run.executed_notebook()):
        raise UnverifiableError("no executed notebook is attached to it")
    with temporary_folder() as folder:
        (file := folder / Path(path).name).write_bytes(run.read_bytes(path))
        try:
            node = read_notebook(file)
        except InvalidInputError as error:
            raise UnverifiableError(f"the attached notebook changed: {error}") from None
    if notebook_digest(node) != tags.get(names.NOTEBOOK_DIGEST):
        raise UnverifiableError(f"the attached notebook {path} is not the one that the run executed, by its digest")
    recorded = parameters_of(run.stored)
    for name, value in effective_values(node).items():
        (given,) = as_params({name: value})
        if not isinstance(value, SourceText) and recorded.get(given.key, given.value) != given.value:
            raise UnverifiableError(
                f"the attached notebook {path} has {name}={given.value}, and {recorded[given.key]} was recorded"
            )
    return node


def folder_of(run: Run) -> Path:
    """The folder that a run's notebook was executed in; the current one where there is none such here."""
    folder = project_root() / kept_environment(run).get("folder", "")
    return folder if folder.is_dir() else Path.cwd()


def executed_again(run: Run, node: Any) -> tuple[Run | None, str]:
    """Execute a run's notebook again, in the store that is in use and the folder that the run was in.

    Args:
        run: The run.
        node: Its notebook, of `notebook_of`.

    Returns:
        The new run, if it came to one, and why it did not run through; "" if it did.
    """
    from resflow.workflow.kernel_environment import start_server
    from resflow.workflow.kernels import check_kernel, kernel_name

    root, source = project_root(), run.stored.data.tags.get(names.SOURCE, "notebook.ipynb")
    begun: list[Run] = []
    with contextlib.chdir(folder_of(run)), temporary_folder() as scratch:
        try:
            check_kernel(kernel := kernel_name(node))
        except InvalidInputError as error:
            return None, str(error)
        start_server(node, kernel)

        import papermill
        from papermill.exceptions import PapermillExecutionError

        logging.getLogger("papermill").setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                papermill.execute_notebook(
                    node,
                    path_for_papermill(scratch / "again.ipynb"),
                    engine_name="resflow",
                    kernel_name=kernel,
                    request_save_on_cell_execute=False,
                    autosave_cell_every=0,
                    begun=begun.append,
                    source=str(root / source) if (root / source).is_file() else source,
                )
        except PapermillExecutionError as error:
            return _last(begun), f"cell {error.cell_index + 1} raised {error.ename}: {one_line(error.evalue, 300)}"
        except Exception as error:
            if not (said := said_of(error)):
                raise  # of no run
            return _last(begun), one_line(said, 300)
    return begun[-1], ""


def _last(begun: list[Run]) -> Run | None:
    return begun[-1] if begun else None
