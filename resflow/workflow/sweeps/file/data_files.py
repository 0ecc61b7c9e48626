"""Which values of parameters name data files, and where these are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

__all__ = ["names_file", "with_file_found", "with_files_found"]

DATA_FILES = (".csv", ".tsv", ".parquet", ".npz")
"""How a text ends that names a data file, whichever parameter it is the value of; in capitals, too.

Such a name is looked up beside the sweep file, and where there is a file, its content counts and not its name. A text
that ends in anything else counts as it is.
"""


def with_files_found(parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The parameters with names of data files made absolute, as seen from `folder`."""
    return {name: with_file_found(value, folder) for name, value in parameters.items()}


def with_file_found(value: Any, folder: Path) -> Any:
    """A value, made absolute if it is the name of a data file."""
    return str((folder / value).resolve()) if names_file(value) else value


def names_file(value: Any) -> TypeGuard[str]:
    """True if a value is the name of a data file, whether or not there is one."""
    return isinstance(value, str) and value.lower().endswith(DATA_FILES)
