"""How far a notebook is, told by its kernel to who executes it, through a small file that the environment names.

Whatever the language, a kernel may write that file itself: how many steps are done and how many there are, with a
space between them, in place of what was there before. Nothing of it enters the notebook.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["PROGRESS", "Pace", "Steps", "steps_told", "tell_steps"]

PROGRESS = "RESFLOW_PROGRESS"
"""The environment variable that names the file."""

SECONDS = 0.2
"""Between two times that it is written."""

_told = -SECONDS


class Steps(NamedTuple):
    """How many steps are done, and how many there are."""

    done: int
    total: int


def tell_steps(done: int, total: int) -> None:
    """Tell who executes this notebook how many steps of the work at hand are done, and how many there are.

    To be called from a notebook's loop as often as you like, or to be given to what calls such a function, as
    `resflow.train` does. Where nobody executes the notebook but Jupyter or papermill itself, nothing happens.
    """
    global _told
    now = time.monotonic()
    if (path := os.environ.get(PROGRESS)) and (now - _told >= SECONDS or done in (0, total)):
        _told = now
        written = f"{path}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk, or nobody looks any more: the work itself goes on
            Path(written).write_text(f"{done:d} {total:d}", encoding="ascii")
            os.replace(written, path)


def steps_told(file: Path) -> Steps | None:
    """What a kernel told last; None if it told nothing, or nothing that makes sense."""
    try:
        done, total = map(int, file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None
    return Steps(done, total) if 0 <= done <= total and total else None


class Pace:
    """How far the work at hand is, and how fast it goes on, by what is told of its steps.

    Attributes:
        last: What was told last; None if nothing was.
    """

    def __init__(self) -> None:
        self.last: Steps | None = None
        self._first: tuple[Steps, float] | None = None

    def told(self, steps: Steps | None) -> None:
        """Take in what is told now; fewer steps than before, or of another number, are those of other work."""
        last = self.last
        if steps is not None and (last is None or steps.total != last.total or steps.done < last.done):
            self._first = steps, time.monotonic()
        self.last = steps

    @property
    def share(self) -> float | None:
        """The share of the steps that is done; None if nothing was told."""
        return None if self.last is None else self.last.done / self.last.total

    def seconds_left(self) -> float | None:
        """How long the other steps will take if they go on as fast; None while that cannot be told."""
        if self._first is None or self.last is None or self.last.done <= self._first[0].done:
            return None
        begun, at = self._first
        return (time.monotonic() - at) * (self.last.total - self.last.done) / (self.last.done - begun.done)
