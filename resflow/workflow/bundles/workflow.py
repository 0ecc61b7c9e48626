"""The notebook that a run executed, as it was written: without outputs, and without what papermill put into it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resflow.errors import InvalidInputError
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.parameters import Parameter, declared_in_notebook
from resflow.workflow.question import question_of

__all__ = ["Workflow", "workflow_in"]

_INJECTED = {"injected-parameters", "papermill-error-cell-tag"}


class Workflow(NamedTuple):
    """A notebook as it was written.

    Attributes:
        name: What it is called.
        text: Its file.
        parameters: What can be given to it.
        question: What it asks, in Markdown.
    """

    name: str
    text: str
    parameters: Sequence[Parameter]
    question: str

    @property
    def place(self) -> str:
        """Where it is in a bundle: notebooks of one name may differ."""
        return f"workflows/{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}.ipynb"


def workflow_in(folder: Path, files: Sequence[Path], source: str) -> Workflow | None:
    """The notebook that is among a run's files; None if there is none, or more than one and none of that name.

    Args:
        folder: Where the files are.
        files: Their paths from there.
        source: The path of the notebook that the run is said to have executed.
    """
    found = [file for file in files if file.suffix == ".ipynb" and len(file.parts) == 1]
    chosen = [file for file in found if file.name == Path(source).name] or found
    if len(chosen) != 1:
        return None
    try:
        notebook = read_notebook(folder / chosen[0])
        return Workflow(chosen[0].stem, _as_written(notebook), declared_in_notebook(notebook), question_of(notebook))
    except InvalidInputError:  # a file of the notebook's own that only has the name of one
        return None


def _as_written(notebook: Any) -> str:
    import nbformat

    notebook.cells = [cell for cell in notebook.cells if not _INJECTED.intersection(cell.metadata.get("tags", []))]
    for cell in notebook.cells:
        for key in ("papermill", "execution", "resflow"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("papermill", None)
    if isinstance(told := notebook.metadata.get("resflow"), dict):
        for key in ("run_id", "tracking_uri"):
            told.pop(key, None)
    return nbformat.writes(notebook)
