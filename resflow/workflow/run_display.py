"""What is shown while a notebook is executed: a bar in a terminal, elsewhere a line at growing intervals."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resflow.workflow.limits import duration, one_line, shortened
from resflow.workflow.progress import Steps, steps_told

__all__ = ["RunDisplay"]

POLL_SECONDS = 0.25
FIRST_LINE, LONGEST_WAIT = 10.0, 600.0
"""Seconds until the first line, and between two of them at most; in between they double."""

_LONGEST_PHASE = 28


class RunDisplay:
    """Shows on standard error which cell is at work, how many steps are done, and how long they will still take.

    A context that is left before anything else is said: the bar is gone then.

    Args:
        cells: The notebook's cells.
        file: Where its kernel tells of steps.
    """

    def __init__(self, cells: list[Any], file: Path) -> None:
        self._cells, self._file = cells, file
        self._over, self._lock = threading.Event(), threading.Lock()
        self._index, self._phase = 0, ""
        self._began = time.monotonic()
        self._first: tuple[Steps, float] | None = None
        self._last: Steps | None = None
        self._live = None
        if sys.stderr.isatty():
            text = TextColumn("{task.description}", markup=False)
            console = Console(stderr=True, highlight=False)
            self._live = Progress(BarColumn(16), text, console=console, auto_refresh=False, transient=True)
            self._task = self._live.add_task("", total=1.0)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> RunDisplay:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def cell_start(self, index: int) -> None:
        """A cell is at work from now on; what was told of steps before was of another."""
        with self._lock:
            self._index, self._phase = index, _phase(self._cells, index)
            self._file.unlink(missing_ok=True)
            self._first = self._last = None

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"cell {self._index + 1} of {len(self._cells)}"] + [self._phase] * bool(self._phase)
        if self._last is not None:
            parts.append(f"{self._last.done:,} of {self._last.total:,} steps")
        parts.append(duration(time.monotonic() - self._began))
        if (left := self._seconds_left()) is not None:
            parts[-1:] = [f"about {duration(left)} left"]
        return ", ".join(parts)

    def _work(self) -> None:
        wait, due = FIRST_LINE, FIRST_LINE
        while not self._over.wait(POLL_SECONDS):
            with self._lock:
                self._look()
                share = self._last.done / self._last.total if self._last else self._index / len(self._cells)
                text = self.line()
            if self._live is not None:
                self._live.update(self._task, completed=share, description=text, refresh=True)
            elif time.monotonic() - self._began >= due:
                print(text, file=sys.stderr, flush=True)
                wait = min(2 * wait, LONGEST_WAIT)
                due += wait

    def _look(self) -> None:
        told = steps_told(self._file)
        if told is not None and (self._last is None or told.total != self._last.total or told.done < self._last.done):
            self._first = told, time.monotonic()
        self._last = told

    def _seconds_left(self) -> float | None:
        if self._first is None or self._last is None or self._last.done <= self._first[0].done:
            return None
        begun, at = self._first
        return (time.monotonic() - at) * (self._last.total - self._last.done) / (self._last.done - begun.done)


def _phase(cells: list[Any], index: int) -> str:
    """The nearest heading above a cell, which says what is being done."""
    for cell in reversed(cells[:index]):
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)):
            return shortened(one_line(found[-1]), _LONGEST_PHASE)
    return ""
