"""Data sets from the user's own files: CSV, TSV, Parquet and NPZ, with a named target."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from resflow.data.archive import check_archive, load_archive
from resflow.data.dataset import Dataset
from resflow.data.delimited import check_delimited, load_delimited
from resflow.data.names import is_one_line, plain
from resflow.data.parquet import check_parquet, load_parquet
from resflow.errors import InvalidInputError, nearest_file, shown
from resflow.known import FILE_SUFFIXES

__all__ = ["check_file", "load_file", "read_instead"]

_FORMATS: dict[str, tuple[Callable[[Path], None], Callable[[Path, str], Dataset]]] = {
    ".csv": (check_delimited, load_delimited),
    ".tsv": (check_delimited, load_delimited),
    ".parquet": (check_parquet, load_parquet),
    ".npz": (check_archive, load_archive),
}

INSTEAD = "RESFLOW_DATA_INSTEAD"
"""The environment variable by which other files are read in the place of some: a JSON object of names."""


def read_instead(name: str) -> Path:
    """The file of that name, or the one that is read instead; a first ~ is the home folder.

    Raises:
        RuntimeError: If it is an unknown user's home.
    """
    return Path(json.loads(os.environ.get(INSTEAD) or "{}").get(name, name)).expanduser()


def _existing(name: str) -> Path:
    """The path of that name, where there must be a file; a first ~ is the home folder."""
    if not is_one_line(name):
        raise InvalidInputError(f"dataset={shown(name)} holds a control character: rename the file")
    path = Path(name)
    try:
        path = read_instead(name)
        if path.is_file():
            return path
        found = "this is a folder" if path.is_dir() else "there is no such file"
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, an unknown user's home
        found = f"there is no such file that can be read ({getattr(error, 'strerror', None) or error})"
    near = plain(nearest_file(path, *FILE_SUFFIXES))
    raise InvalidInputError(f"dataset={shown(name)}: {found} (looked for {plain(str(path.absolute()))}){near}")


def check_file(name: str) -> None:
    """Check that the file is there, and what its beginning or its directory says, as `load_file` does."""
    path = _existing(name)
    _format(path)[0](path)


def load_file(name: str, target: str | None) -> Dataset:
    """The data set in a file, as `resflow.load_dataset` describes.

    Raises:
        InvalidInputError: If the file or the target is missing, or the file is not read as it is written.
    """
    path = _existing(name)
    if target is None and path.name.lower().endswith(".npz"):
        target = "y"
    if target is None or not str(target).strip():
        raise InvalidInputError(f"{path}: name the column to predict, e.g. target=y")
    return _format(path)[1](path, str(target))


def _format(path: Path) -> tuple[Callable[[Path], None], Callable[[Path, str], Dataset]]:
    return next(functions for suffix, functions in _FORMATS.items() if path.name.lower().endswith(suffix))
