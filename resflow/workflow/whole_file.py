"""Files that are there whole or not at all, and of which a former one stays until then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resflow.workflow.scratch import temporary_folder

__all__ = ["written_whole"]


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yields where to write a file, which takes the target's place once this is left without an error.

    Of a symbolic link, the file that it leads to is replaced. In a folder where only the file itself can be written, it
    is written in place.
    """
    target = target.resolve()
    if not os.access(target.parent, os.W_OK):
        yield target
        return
    with temporary_folder(target.parent) as folder:
        yield (written := folder / target.name)
        if target.exists():
            shutil.copymode(target, written)
        written.replace(target)
