"""Errors told in one line, the traceback in a file; what one of the store leaves open is looked up in the store."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import sqlite_file, without_secrets
from resflow.workflow.limits import one_line
from resflow.workflow.project import project_root
from resflow.workflow.sqlite_check import check_sqlite
from resflow.workflow.store_errors import RESTORE, StoreError, UnusableStoreError, VagueStoreError, explained

__all__ = ["in_plain_words", "told_plainly", "with_traceback_file"]

MARK = " (traceback in "

KEPT = 30
"""Files with tracebacks in a project's folder for them; the oldest give way."""


@contextmanager
def told_plainly(store: str) -> Iterator[None]:
    """Errors of the store at the address `store` leave this block as one line, which names a file with the traceback.

    Raises:
        StoreError: Where the world failed.
        UnusableStoreError: Where the user can mend it.
    """
    try:
        yield
        return
    except Exception as error:
        found = in_plain_words(error, store)
        if found is None:
            raise
        told = type(found)(with_traceback_file(str(found), error))
    raise told  # out here, so that Python does not tell again what the file tells


def in_plain_words(error: BaseException, store: str) -> StoreError | UnusableStoreError | None:
    """What `error` means, if the store at the address `store` or the world around us is behind it; else None."""
    if isinstance(error, InvalidInputError) and not isinstance(error, UnusableStoreError):
        return None
    told = explained(error, store)
    if told is not None and not isinstance(told, VagueStoreError):
        return told
    in_mlflow = _fell_in_mlflow(error)
    if in_mlflow and isinstance(error, OSError):
        shown = f"the store {without_secrets(store)} cannot be made or read there ({one_line(error)})"
        return UnusableStoreError(f"{shown}: check the address and its folder")
    if (told is not None or in_mlflow) and (found := _examined(store)):
        return found
    if told is None and in_mlflow:
        told = StoreError(
            f"MLflow failed on the store {without_secrets(store)} ({type(error).__name__}: {one_line(error)}): "
            + (f"if it was altered or damaged, {RESTORE}" if sqlite_file(store) else "check that it runs a like MLflow")
        )
    return StoreError(str(told)) if told is not None else None


def with_traceback_file(message: str, error: BaseException, log: Iterable[str] = ()) -> str:
    """The message and where the traceback is; as it is if it says so already."""
    if MARK in message:
        return message
    file = _traceback_file(error, log)
    return f"{message}{MARK}{file})" if file else f"{message} (no place is left for a file with the traceback)"


def _traceback_file(error: BaseException, log: Iterable[str]) -> str:
    """Write the traceback, and what was logged before, to a file for this user alone; its path, "" if it has no place.

    The file goes to mlruns/errors of the project if that can be written, else to the system's temporary folder.
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
    from resflow.workflow.provenance import versions_of

    found = versions_of(("resflow", "mlflow", "sqlalchemy", "papermill", "jax"))
    versions = ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {found[name]}" for name in found)])
    return "\n".join([time.strftime("%Y-%m-%d %H:%M:%S"), f"command: {sys.argv}", versions, ""])


def _project_folder() -> Path:
    folder = project_root() / "mlruns" / "errors"
    if folder.parent.is_dir():
        folder.mkdir(exist_ok=True)
    for old in sorted(folder.glob("resflow-error-*.txt"))[: -KEPT + 1]:
        old.unlink(missing_ok=True)
    return folder


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


def _examined(store: str) -> StoreError | UnusableStoreError | None:
    """What a thorough look at a SQLite store finds, if anything."""
    database = sqlite_file(store)
    if database is None or not database.exists():
        return None
    try:
        check_sqlite(database, thorough=True)
    except Exception as error:
        found = explained(error, store)
        return None if isinstance(found, VagueStoreError) else found
    return None


def _fell_in_mlflow(error: BaseException) -> bool:
    """True if the error arose in MLflow, called by resflow, and not in resflow itself."""
    rooms = [frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max((place for place, room in enumerate(rooms) if room == "resflow"), default=-1)
    return "mlflow" in rooms[last + 1 :]
