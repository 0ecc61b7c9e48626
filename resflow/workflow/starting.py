"""What to start a study from: a notebook that runs as it is, and a sweep of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from resflow.errors import InvalidInputError, shown
from resflow.workflow.placing import place

__all__ = ["NewNotebook", "write_notebook"]

_SKELETONS = Path(__file__).parents[1] / "skeletons"
_NAME = "NAME"
"""What stands in a skeleton for the notebook's name."""


class NewNotebook(NamedTuple):
    """A notebook and the file of its sweep."""

    notebook: Path
    sweep: Path


def write_notebook(name: str, *, foreign: bool = False) -> NewNotebook:
    """Write a notebook to start from, and beside it a sweep of it, in place of nothing.

    Args:
        name: Its path, with or without .ipynb. What the file is called is also the name of its runs' experiment.
        foreign: Whether it is one that knows nothing of residual networks and of this package.

    Raises:
        InvalidInputError: If the name cannot be used, or nothing can be written there.
    """
    stem = name.rpartition("/")[2].removesuffix(".ipynb")
    if not re.fullmatch(r"[^\W_][\w-]{0,49}", stem):
        raise InvalidInputError(
            f"name={shown(name)}: a notebook is called by up to 50 letters, digits, _ and -, a letter or digit first, "
            "with or without .ipynb behind: choose another name"
        )
    skeleton = _SKELETONS / ("foreign" if foreign else "residual_unit")
    parts = {suffix: skeleton.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".yaml", ".ipynb")}
    where = Path(name).parent
    if not where.is_dir():
        raise InvalidInputError(f"{shown(name)}: there is no folder {shown(str(where))}: make it first")
    place(where, {stem + suffix: text.replace(_NAME, stem).encode() for suffix, text in parts.items()})
    return NewNotebook(where / f"{stem}.ipynb", where / f"{stem}.yaml")
