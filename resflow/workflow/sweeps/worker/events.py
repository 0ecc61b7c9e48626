"""What a worker tells the driver of a sweep while an execution is at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from resflow.workflow.progress import Steps, steps_told

__all__ = ["Event", "Started", "StepsDone", "StepsWatch", "message", "received"]

TOLD_EVERY = 1.0
"""Seconds between two times that a worker tells of steps."""


class Started(NamedTuple):
    """The event that an attempt at an execution began, and on which worker."""

    execution: str
    attempt: int
    host: str


class StepsDone(NamedTuple):
    """The event that steps of the work that an execution is at are done."""

    execution: str
    done: int
    total: int


Event = Started | StepsDone


def message(event: Event) -> tuple[Any, ...]:
    """An event as it is sent: the name of its kind, and its fields."""
    return type(event).__name__, *event


def received(message: Sequence[Any]) -> Event:
    """The event that was sent."""
    kind, *fields = message
    return {each.__name__: each for each in (Started, StepsDone)}[kind](*fields)


class StepsWatch:
    """Tells of an execution's steps, as its kernel tells of them in a file; not of each, and of none twice."""

    def __init__(self, tell: Callable[[StepsDone], None], execution: str) -> None:
        self._tell, self._execution = tell, execution
        self._told: Steps | None = None
        self._at = 0.0

    def look(self, file: Path) -> None:
        """Tell of what is new, if it is time."""
        now = time.monotonic()
        if now - self._at >= TOLD_EVERY and (steps := steps_told(file)) is not None and steps != self._told:
            self._told, self._at = steps, now
            self._tell(StepsDone(self._execution, *steps))
