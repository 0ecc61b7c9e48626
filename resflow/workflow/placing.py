"""New files put into a folder: whole or not at all, and in place of nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from resflow.errors import InvalidInputError, shown
from resflow.workflow.interruption import Interruptions
from resflow.workflow.scratch import temporary_folder

__all__ = ["give_name", "place"]

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without hard links say."""


def place(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made if it is missing.

    They are written in a temporary folder first, and then given their names: first that of the first file, or of the
    folder of `folder` that it is in, last that of the last. If that fails, what was placed is removed. After a kill
    some may be there without the last; the same call then completes them.

    Args:
        folder: Where they go; the folder that it is in must be there.
        contents: What they hold, by their paths from `folder`.

    Raises:
        InvalidInputError: If something is there by one of the names, but for a file that a killed call placed, or if
            nothing can be written there.
    """
    tops = list(dict.fromkeys(Path(path).parts[0] for path in contents))
    try:
        str(folder).encode()
        if not folder.parent.is_dir():
            raise InvalidInputError(f"{folder}: there is no folder {folder.parent}: make it first")
        if os.path.lexists(folder) and not folder.is_dir():
            raise InvalidInputError(f"{folder}: this is no folder: choose another name, or move it away")
        tops = [name for name in tops if name == tops[-1] or not _is_placed(folder, name, contents)]
        for name in tops:
            if os.path.lexists(folder / name):
                raise _taken(folder / name)
        with Interruptions():  # a signal waits until all is done
            _write(folder, tops, contents)
    except UnicodeEncodeError:
        raise InvalidInputError(f"{shown(str(folder))}: the name is not UTF-8: choose another") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
            raise
        where = shown(str(error.filename or folder), 300)
        raise InvalidInputError(f"{where} cannot be made: {error.strerror}: choose another folder or name") from None


def give_name(finished: Path, target: Path) -> None:
    """Give a finished file or folder its name, which no file or full folder has.

    Raises:
        InvalidInputError: If one has got it since.
    """
    try:
        if finished.is_dir():
            finished.rename(target)  # which may replace an empty folder
            return
        try:
            os.link(finished, target)
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.lexists(target):
                raise
            finished.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise _taken(target) from None
        raise


def _write(folder: Path, tops: list[str], contents: Mapping[str, bytes]) -> None:
    is_new = not folder.is_dir()
    if is_new:
        folder.mkdir()
    placed: list[Path] = []
    try:
        with temporary_folder(folder) as workshop:
            for path, content in contents.items():
                (workshop / path).parent.mkdir(parents=True, exist_ok=True)
                (workshop / path).write_bytes(content)
            for name in tops:
                give_name(workshop / name, folder / name)
                placed.append(folder / name)
    except BaseException:
        for done in reversed(placed):
            shutil.rmtree(done) if done.is_dir() else done.unlink()
        if is_new:
            folder.rmdir()
        raise


def _is_placed(folder: Path, name: str, contents: Mapping[str, bytes]) -> bool:
    """Whether a file is there as it is to be written."""
    path = folder / name
    return name in contents and path.is_file() and path.read_bytes() == contents[name]


def _taken(path: Path) -> InvalidInputError:
    return InvalidInputError(f"{path}: is there already: choose another name, or move it away")
