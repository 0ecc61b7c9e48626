"""What a sweep shows while it runs: a live line in a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from resflow.workflow.goal import Goal
from resflow.workflow.logged_values import finite

__all__ = ["Display", "JsonDisplay", "LineDisplay", "LiveDisplay", "Tally", "duration", "label"]


@dataclass
class Tally:
    """How far a sweep is.

    Attributes:
        total: Points in all.
        cached: Points that were finished before.
        done: Points finished now.
        failed: Points that will not be finished now.
        running: Executions at work, by id, with what to call them.
        goal: What tells how good a point is; None if nobody said.
        best: Its best value yet; None if there is none.
        best_label: Where.
    """

    total: int = 0
    cached: int = 0
    done: int = 0
    failed: int = 0
    running: dict[str, str] = field(default_factory=dict)
    goal: Goal | None = None
    best: float | None = None
    best_label: str = ""
    capacity: int = 1
    executions_left: int = 0
    _seconds: list[float] = field(default_factory=list)

    def consider(self, value: float | None, place: str) -> None:
        """Take a finished point's value of the goal's metric into account."""
        value = finite(value)
        if (
            self.goal is not None
            and value is not None
            and (self.best is None or self.goal.is_better(value, than=self.best))
        ):
            self.best, self.best_label = value, place

    def best_words(self, digits: str) -> str:
        """The best value yet, by its metric's name, with a sign if it is a gap; "" while there is none."""
        if self.goal is None or self.best is None:
            return ""
        sign = "+" if self.goal.metric.endswith("gap") else ""
        return f"best {self.goal.metric} {self.best:{sign}{digits}}"

    def ended(self, seconds: float) -> None:
        """Count an execution that ended."""
        self.executions_left -= 1
        self._seconds.append(seconds)

    def seconds_left(self) -> float | None:
        """How long the rest will take, if it takes as long as what was done now; None while nothing was."""
        if not self._seconds:
            return None
        rounds = self.executions_left / max(1, min(self.capacity, max(1, self.executions_left)))
        return rounds * sum(self._seconds) / len(self._seconds)

    def line(self) -> str:
        """All of it in one line."""
        parts = [f"{self.cached + self.done}/{self.total} finished"]
        if self.cached:
            parts[0] += f" ({self.cached} before)"
        parts += [f"{len(self.running)} running"] + [f"{self.failed} failed"] * bool(self.failed)
        if self.best is not None:
            parts.append(self.best_words(".4g") + f" ({self.best_label})" * bool(self.best_label))
        if (left := self.seconds_left()) is not None and self.executions_left:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)


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
    """One line an event, on standard output."""

    def note(self, text: str) -> None:
        click.echo(text)

    def event(self, kind: str, text: str, **fields: Any) -> None:
        if kind in ("finished", "failed"):
            click.echo(f"{text}; {self.tally.line()}")
        elif kind != "started":
            click.echo(text)


class LiveDisplay(Display):
    """A line that keeps changing at the bottom of the terminal; what failed stays above it."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._progress = Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}"), console=Console(highlight=False)
        )
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
        tally = self.tally
        done = tally.cached + tally.done + tally.failed
        self._progress.update(
            self._task, total=max(tally.total, 1), completed=done, description=tally.line().replace("[", "\\[")
        )


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


def label(values: Mapping[str, Any]) -> str:
    """Values of axes as people write them."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.24), duration(75), duration(7300)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
