"""Where the trainings of a run keep how far they are: `.resflow_cache/checkpoints`, by what is computed in the run.

An execution that was cut off leaves its folder, and the next one of the same notebook with the same parameters, by the
same code and versions, goes on from there. That of a run that is FINISHED is thrown away, and so is what nobody came
back to for a week.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from resflow.workflow.cache_folder import CACHE, cache_folder
from resflow.workflow.sources import code_digest, library_digest

__all__ = ["FOLDER", "Checkpoints"]

FOLDER = "RESFLOW_CHECKPOINTS"
"""The environment variable by which a kernel is told; one that is set already, if to nothing, is left as it is."""

FORGOTTEN = 7 * 24 * 3600.0
"""Seconds after which a folder that nothing was written to is thrown away."""

_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy")
_RESUMED = "resumed"


class Checkpoints:
    """The folder of one execution.

    Args:
        root: The project's folder.
        notebook: As it is executed, its parameters injected.
        kernel: The kernel's name.
    """

    def __init__(self, root: Path, notebook: Any, kernel: str) -> None:
        self._folder: Path | None = None
        if FOLDER not in os.environ:
            kept = root / CACHE / "checkpoints"  # made by who first keeps something
            if kept.is_dir():
                cache_folder(root, kept.name)
                _forget(kept)
            computed = (
                code_digest(notebook),
                kernel,
                library_digest(),
                platform.python_version(),
                *map(_version, _PACKAGES),
            )
            self._folder = kept / hashlib.sha256(json.dumps(computed).encode()).hexdigest()[:32]
        self._before = self._resumed()

    @property
    def environment(self) -> dict[str, str]:
        """What the kernel is told."""
        return {} if self._folder is None else {FOLDER: str(self._folder)}

    @property
    def resumed(self) -> int:
        """How many trainings of this execution went on from where an earlier one was cut off."""
        return self._resumed() - self._before

    def _resumed(self) -> int:
        with contextlib.suppress(OSError):
            return len((self._folder / _RESUMED).read_text().splitlines()) if self._folder is not None else 0
        return 0

    def discard(self) -> None:
        """Throw the folder away."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _forget(kept: Path) -> None:
    for folder in kept.iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            if time.time() - folder.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(folder, ignore_errors=True)
