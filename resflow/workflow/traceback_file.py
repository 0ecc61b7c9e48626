"""The whole traceback of an error in a file of its own, so that one line on the terminal can be enough."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from resflow.workflow.addresses import without_secrets
from resflow.workflow.project import project_root

__all__ = ["keep_traceback"]

KEPT = 30
"""Files in a project's folder for them; the oldest give way."""

PACKAGES = ("resflow", "mlflow", "sqlalchemy", "papermill", "jax")


def keep_traceback(error: BaseException, log: Iterable[str] = ()) -> str:
    """Write the traceback of `error`, and what led to it, to a file for this user alone; never fails itself.

    The file goes to mlruns/errors of the project if that can be written, else to the system's temporary folder.

    Args:
        error: What happened.
        log: Lines that libraries logged before.

    Returns:
        The file's path; "" if it could be written nowhere.
    """
    try:
        text = without_secrets("\n".join([_circumstances(), *log, "", *traceback.format_exception(error)]))
    except Exception as trouble:  # an exception whose own text cannot be made, say
        text = f"{type(error).__name__}, of which no traceback could be made: {type(trouble).__name__}"
    for folder in (_project_folder, lambda: Path(tempfile.gettempdir())):
        try:
            return _write(folder(), text)
        except (OSError, ValueError):
            continue
    return ""


def _circumstances() -> str:
    versions = [f"Python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "\n".join([time.strftime("%Y-%m-%d %H:%M:%S"), f"command: {sys.argv}", ", ".join(versions), ""])


def _project_folder() -> Path:
    folder = project_root() / "mlruns"
    if not folder.is_dir():
        raise NotADirectoryError(folder)
    (folder / "errors").mkdir(exist_ok=True)
    for old in sorted((folder / "errors").glob("resflow-error-*.txt"))[: -KEPT + 1]:
        old.unlink(missing_ok=True)
    return folder / "errors"


def _write(folder: Path, text: str) -> str:
    name = time.strftime("resflow-error-%Y%m%d-%H%M%S-")
    handle, path = tempfile.mkstemp(prefix=name, suffix=".txt", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    except OSError:
        Path(path).unlink(missing_ok=True)  # half a traceback on a full disk
        raise
    return path
