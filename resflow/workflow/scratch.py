"""Temporary folders that are gone when their user is, and locks that leave no file: by kill -9, too, at the next use.

Whoever uses a folder holds a lock on a file in it, which the system releases whatever becomes of the process. A folder
that nobody holds is removed by the next process that makes or leaves one. Locks hold across containers that share a
folder, where process numbers tell nothing, and are inherited by forks, which remove nothing: a fork that drops what it
inherited, as those of `multiprocessing` do, would else take it from its parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["TakenError", "kept", "only_holder", "sweep_up", "temporary_folder"]

_HELD = ".resflow-held"
"""The file in a folder by whose lock it is known to be in use, and to be one of these."""

_NAMES = re.compile(r"resflow-[a-z0-9_]{8}")
_LOCKS = re.compile(r"resflow-(sweep|import)-\d+-[0-9a-f]{16}\.lock")

_BEING_MADE = 60.0
"""Seconds after which an empty folder is not one that is being made."""

_MOMENT = 0.3
"""Seconds for which a lock may be held by who only looks whether it is held."""


class TakenError(Exception):
    """Another process holds it."""


@contextmanager
def temporary_folder(within: Path | None = None) -> Iterator[Path]:
    """A new folder, of this user alone, removed when it is left; what killed processes left behind is removed, too.

    Args:
        within: Where it is made; the system's folder for such if None.
    """
    sweep_up(within)
    maker = os.getpid()
    while True:
        folder = Path(tempfile.mkdtemp(prefix="resflow-", dir=within))
        with kept(folder) as is_ours:
            if not is_ours:
                continue  # swept up between its making and its lock
            try:
                yield folder
            finally:
                if os.getpid() == maker:
                    with contextlib.suppress(OSError):  # what is left is tried again by whoever comes next
                        _remove(folder)
        sweep_up(within)
        return


@contextmanager
def kept(folder: Path) -> Iterator[bool]:
    """Keep a folder of `temporary_folder`, in a process that may outlive its maker; yields whether it is there."""
    held = folder / _HELD
    try:
        descriptor = os.open(held, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield _is_same(descriptor, held)
    finally:
        os.close(descriptor)


@contextmanager
def only_holder(path: Path) -> Iterator[None]:
    """Hold the lock that the file `path` stands for; the file is gone afterwards.

    Raises:
        TakenError: If another process holds it.
    """
    deadline = time.monotonic() + _MOMENT
    maker = os.getpid()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_MOMENT / 10)
                    continue
                raise TakenError(f"{path} is held by another process") from None
            if not _is_same(descriptor, path):
                continue  # the process that held it has just removed the file
            try:
                yield
            finally:
                if os.getpid() == maker:
                    path.unlink(missing_ok=True)  # while it is locked: whoever has it open will see that it is gone
            return
        finally:
            os.close(descriptor)


def sweep_up(within: Path | None = None) -> None:
    """Remove this user's temporary folders and locks that no process holds any more.

    Args:
        within: Where they are; in the system's folder for such if None. Elsewhere an empty folder may be anybody's.
    """
    with contextlib.suppress(OSError), os.scandir(within or tempfile.gettempdir()) as entries:
        for entry in list(entries):
            if not entry.name.startswith("resflow-"):
                continue
            with contextlib.suppress(OSError):  # another process may be removing it
                status = entry.stat(follow_symlinks=False)
                if status.st_uid != os.getuid():
                    continue
                if _LOCKS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    _remove_unheld(Path(entry.path), Path(entry.path))
                elif _NAMES.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    folder = Path(entry.path)
                    if os.path.lexists(folder / _HELD):
                        _remove_unheld(folder, folder / _HELD)
                    elif within is None and time.time() - status.st_mtime > _BEING_MADE:
                        folder.rmdir()  # if it is empty: anything else is not one of these


def _remove_unheld(path: Path, held: Path) -> None:
    """Remove a folder or a lock if nobody holds it."""
    descriptor = os.open(held, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_same(descriptor, held):
            return  # of another process by now
        if path.is_dir():
            _remove(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a folder, last the file by which it is known: should something be written meanwhile, another will try."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _HELD:
            entry.unlink(missing_ok=True)
    if [entry.name for entry in folder.iterdir()] == [_HELD]:
        (folder / _HELD).unlink(missing_ok=True)
        folder.rmdir()


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
