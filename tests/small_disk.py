"""A small disk of its own that can be filled to the last byte, and the moments at which a command finds it full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["SmallDisk", "small_disk"]


class SmallDisk:
    """A file system in memory of a few megabytes.

    Attributes:
        folder: Where it is mounted.
        environment: Variables of the environment for those who work on it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self._filler = folder / "filler"

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leaving: int) -> None:
        """Fill it but for so many bytes, in whole pages of memory."""
        self.empty()
        if (size := self.free - leaving) > 0:
            with self._filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    def empty(self) -> None:
        """Make space again."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[SmallDisk]:
    """Mount a small disk at a new folder while this is entered; skip the test where that is not allowed."""
    folder.mkdir()
    mount = shutil.which("mount") or "/bin/mount"
    try:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}M,mode=755", "resflow-test", str(folder)]
        done = subprocess.run([mount, *options], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
