"""Which folder is the project, and where in it the embedded store keeps what."""

from __future__ import annotations

import os
import re
from pathlib import Path

from resflow.errors import InvalidInputError

__all__ = ["artifact_root", "database_of", "database_uri", "project_root", "store_in_use"]


def project_root(start: str | os.PathLike[str] | None = None) -> Path:
    """The folder the store belongs to: the nearest one at or above `start` that is marked as a project, else `start`.

    Marks are `pyproject.toml`, `.git`, and an `mlruns` folder that holds resflow's store or README, or nothing at all.
    Any other `mlruns` is one that MLflow drops wherever a program of its own happens to run; it marks nothing. Without
    `start` the search begins at the current directory.

    Raises:
        InvalidInputError: If the current directory was removed.
    """
    try:
        start = Path(start or Path.cwd()).resolve()
    except FileNotFoundError:
        raise InvalidInputError("the current folder is no longer there: change to one that is (cd)") from None
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").is_file() or (folder / ".git").exists() or _is_store_folder(folder / "mlruns"):
            return folder
    return start


def artifact_root(root: Path) -> str:
    """The address below which the embedded store of `root` keeps artifacts: a file URI, safe for any folder name."""
    return (root / "mlruns" / "artifacts").as_uri()


def database_of(root: Path) -> Path:
    """The database of the embedded store of `root`."""
    return root / "mlruns" / "mlflow.db"


def database_uri(database: Path) -> str:
    """The address of an embedded store's database.

    Raises:
        InvalidInputError: If its path cannot be written as one.
    """
    # SQLAlchemy takes ? for the start of options and decodes %xx, but MLflow makes folders of the undecoded name.
    if unfit := re.search("[?%\ud800-\udfff]", str(database)):
        raise InvalidInputError(
            f"the project folder {str(database.parent.parent)!a} has a {unfit[0]!a} in its name, which MLflow's "
            "database address cannot carry: rename the folder, or set MLFLOW_TRACKING_URI"
        )
    return f"sqlite:///{database}"


def store_in_use(folder: Path | None = None) -> str:
    """The address of the store that a command in a folder, or here, is about; "" if unknown. It need not exist."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    try:
        return f"sqlite:///{database_of(project_root(folder))}"
    except (InvalidInputError, OSError):
        return ""


def _is_store_folder(folder: Path) -> bool:
    try:
        entries = {entry.name for entry in folder.iterdir()}
    except OSError:  # there is none, or it may not be read
        return False
    return not entries or not entries.isdisjoint({"mlflow.db", "mlflow.db.lock", "README.md"})
