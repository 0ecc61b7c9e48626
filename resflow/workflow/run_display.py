"""What is shown while a notebook is executed: a bar in a terminal, elsewhere a line at growing intervals."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resflow.workflow.limits import duration, one_line, shortened
from resflow.workflow.progress import PROGRESS, Pace, steps_told
from resflow.workflow.scratch import temporary_folder

__all__ = ["FIRST_LINE", "LONGEST_WAIT", "RunDisplay", "displayed"]

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
        self._pace = Pace()
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
            self._pace = Pace()

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"cell {self._index + 1} of {len(self._cells)}"] + [self._phase] * bool(self._phase)
        if (last := self._pace.last) is not None:
            parts.append(f"{last.done:,} of {last.total:,} steps")
        parts.append(duration(time.monotonic() - self._began))
        if (left := self._pace.seconds_left()) is not None:
            parts[-1:] = [f"about {duration(left)} left"]
        return ", ".join(parts)

    def _work(self) -> None:
        wait, due = FIRST_LINE, FIRST_LINE
        while not self._over.wait(POLL_SECONDS):
            with self._lock:
                self._pace.told(steps_told(self._file))
                share = self._pace.share
                share = self._index / len(self._cells) if share is None else share
                text = self.line()
            if self._live is not None:
                self._live.update(self._task, completed=share, description=text, refresh=True)
            elif time.monotonic() - self._began >= due:
                print(text, file=sys.stderr, flush=True)
                wait = min(2 * wait, LONGEST_WAIT)
                due += wait


@contextmanager
def displayed(cells: list[Any]) -> Iterator[tuple[Callable[..., None], dict[str, str]]]:
    """Show how far a notebook is while it is executed.

    Yields:
        nbclient's hook `on_cell_start`, and what the kernel's environment says of where to tell of steps.
    """
    with temporary_folder() as folder, RunDisplay(cells, folder / "progress") as display:
        yield lambda cell_index, **_: display.cell_start(cell_index), {PROGRESS: str(folder / "progress")}


def _phase(cells: list[Any], index: int) -> str:
    """The nearest heading above a cell, which says what is being done."""
    for cell in reversed(cells[:index]):
        if cell.cell_type == "markdown" and (found := re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)):
            return shortened(one_line(found[-1]), _LONGEST_PHASE)
    return ""
