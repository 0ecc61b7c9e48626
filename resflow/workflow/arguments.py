"""What commands are given, checked before anything begins: values of parameters, and files to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError, shown
from resflow.workflow.parameters import declared_in_notebook, parse_overrides, undeclared_names
from resflow.workflow.variables import unchanged_environment

__all__ = ["check_output", "checked_values"]


def check_output(output: Path, notebook: Path | None = None) -> None:
    """Check that a file can be written there, other than the notebook itself."""
    try:
        str(output).encode()
        if not output.parent.is_dir():
            raise InvalidInputError(f"{output}: there is no folder {output.parent}: make it first")
        if output.exists() and not output.is_file():
            kind = "a folder" if output.is_dir() else "no ordinary file"
            raise InvalidInputError(f"{output}: this is {kind}: name a file")
        if notebook is not None and output.exists() and output.samefile(notebook):
            raise InvalidInputError(f"{output}: this is the notebook itself: name another file, or leave it out")
        if not os.access(output if output.exists() else output.parent, os.W_OK):
            raise InvalidInputError(f"{output}: cannot be written here: the file or its folder is read-only")
    except UnicodeEncodeError:
        raise InvalidInputError(f"{shown(str(output))}: the name is not UTF-8: choose another") from None
    except OSError as error:  # such as a name that is too long
        raise InvalidInputError(f"{shown(str(output))}: cannot be written: {error.strerror}") from None


def checked_values(
    notebook: Any, pairs: tuple[tuple[str, str], ...], meanwhile: Callable[[], Any] = lambda: None
) -> dict[str, Any]:
    """The parameters to inject, checked as far as they can be without a kernel.

    Args:
        notebook: The notebook that has them.
        pairs: Names and what is written for them.
        meanwhile: Called once these are known to be values of parameters, before their meaning is checked, for which
            much may have to be imported.
    """
    declared = declared_in_notebook(notebook)
    values = parse_overrides(declared, pairs, undeclared_names(notebook))
    meanwhile()
    with unchanged_environment():
        for parameter in declared:
            parameter.check(values.get(parameter.name, parameter.default))
    return values
