"""What a sweep shows while it runs: a live line in a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resflow.workflow.run_display import FIRST_LINE, LONGEST_WAIT
from resflow.workflow.sweeps.tally import Tally

__all__ = ["Display", "JsonDisplay", "LineDisplay", "LiveDisplay"]


class Display:
    """Shows events of a sweep; used as a context in which it is live."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """Say something in passing."""
        raise NotImplementedError

    def event(self, kind: str, text: str, **fields: Any) -> None:
        """Tell of an event: its kind, what to say to people, and its fields for machines."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Show how far it is; called several times a second."""


class LineDisplay(Display):
    """One line an event, on standard output, and one at growing intervals in which nothing is said."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._wait, self._said = FIRST_LINE, time.monotonic()

    def note(self, text: str) -> None:
        click.echo(text)
        sys.stdout.flush()
        self._said = time.monotonic()

    def event(self, kind: str, text: str, **fields: Any) -> None:
        if kind in ("finished", "failed"):
            self.note(f"{text}; {self.tally.line()}")
        elif kind != "started":
            self.note(text)

    def refresh(self) -> None:
        if time.monotonic() - self._said >= self._wait:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self.note(self.tally.line())


class LiveDisplay(Display):
    """A line that keeps changing at the bottom of the terminal; what failed stays above it."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        console = Console(highlight=False)
        bar = BarColumn(bar_width=min(24, console.width // 5))
        self._progress = Progress(bar, TextColumn("{task.description}", markup=False), console=console, transient=True)
        self._task = self._progress.add_task("", total=1)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        self._progress.stop()

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def event(self, kind: str, text: str, **fields: Any) -> None:
        if kind not in ("started", "finished"):
            self.note(text)
        self.refresh()

    def refresh(self) -> None:
        self._progress.update(self._task, completed=self.tally.share, description=self.tally.line())


class JsonDisplay(Display):
    """One JSON object a line."""

    def note(self, text: str) -> None:
        self._write({"event": "note", "text": text})

    def event(self, kind: str, text: str, **fields: Any) -> None:
        tally = self.tally
        counts = {
            "total": tally.total, "cached": tally.cached, "done": tally.done, "failed": tally.failed,
            "running": len(tally.running), "best": tally.best, "seconds_left": tally.seconds_left(),
        }  # fmt: skip
        self._write({"event": kind, **fields, **counts})

    def _write(self, fields: Mapping[str, Any]) -> None:
        # JSON has no infinities and no NaN: they are null
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
        click.echo(json.dumps({"time": round(time.time(), 3), **clean}, default=str))
