"""How far a sweep is, and how long it still takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import fmean

from resflow.numerals import with_signs
from resflow.workflow.goal import Goal
from resflow.workflow.limits import duration
from resflow.workflow.logged_values import finite
from resflow.workflow.progress import Pace, Steps

__all__ = ["Running", "Tally"]


@dataclass
class Running:
    """An execution at work.

    Attributes:
        points: How many points it is to finish.
        pace: How far its notebook is with its steps, if it tells of any.
    """

    points: int
    pace: Pace = field(default_factory=Pace)
    _since: float = field(default_factory=lambda: time.monotonic())

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self._since

    def seconds_left(self) -> float | None:
        """How long its steps still take; None while none are told, and once all are done."""
        return None if self.pace.share == 1.0 else self.pace.seconds_left()


@dataclass
class Tally:
    """How far a sweep is.

    Attributes:
        total: Points in all.
        cached: Points that were finished before.
        done: Points finished now.
        failed: Points that will not be finished now.
        running: Executions at work, by id.
        goal: What tells how good a point is; None if nobody said.
        best: Its best value yet; None if there is none.
        best_label: Where.
    """

    total: int = 0
    cached: int = 0
    done: int = 0
    failed: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    goal: Goal | None = None
    best: float | None = None
    best_label: str = ""
    capacity: int = 1
    executions_left: int = 0
    _seconds: list[float] = field(default_factory=list)

    def consider(self, value: float | None, place: str) -> None:
        """Take a finished point's metric into account."""
        value = finite(value)
        if self.goal is None or value is None:
            return
        if self.best is None or self.goal.is_better(value, than=self.best):
            self.best, self.best_label = value, place

    def best_words(self, digits: str) -> str:
        """The best value yet, by its metric's name, with a sign if it is a gap; "" while there is none."""
        if self.goal is None or self.best is None:
            return ""
        sign = "+" if self.goal.metric.endswith("gap") else ""
        return f"best {self.goal.metric} {self.best:{sign}{digits}}"

    def can_run(self, capacity: int) -> None:
        """So many executions can be at work at once."""
        self.capacity = max(1, capacity)

    def started(self, execution: str, points: int) -> None:
        """An execution is at work on so many points."""
        self.running[execution] = Running(points)

    def steps_told(self, execution: str, steps: Steps) -> None:
        """So many steps are done of the work that an execution is at."""
        if execution in self.running:
            self.running[execution].pace.told(steps)

    def ended(self, execution: str, done: int, failed: int, seconds: float) -> None:
        """An execution ended, and with it so many points."""
        self.running.pop(execution, None)
        self.done += done
        self.failed += failed
        self.executions_left -= 1
        self._seconds.append(seconds)

    @property
    def share(self) -> float:
        """The share of the points that is done, those at work by the share of their steps."""
        begun = sum(running.points * (running.pace.share or 0.0) for running in self.running.values())
        return min(1.0, (self.cached + self.done + self.failed + begun) / max(self.total, 1))

    def seconds_left(self) -> float | None:
        """How long the rest will take, by the steps of what is at work and by what ended; None while both are unknown.

        Executions that wait take as long as those that ended, or else as those at work will have.
        """
        left = [running.seconds_left() for running in self.running.values()]
        whole = [known + each.seconds for known, each in zip(left, self.running.values(), strict=True) if known]
        if not (took := self._seconds or whole):
            return None
        each = fmean(took)
        of_running = [
            max(each - running.seconds, 0.1 * running.seconds) if known is None else known
            for known, running in zip(left, self.running.values(), strict=True)
        ]
        waiting = max(0, self.executions_left - len(of_running))
        return max([*of_running, (sum(of_running) + waiting * each) / self.capacity])

    def plan(self) -> str:
        """What there is to do, in words."""
        if not self.executions_left:
            return f"all {self.total} points are finished"
        before = f", {self.cached} finished before" if self.cached else ""
        todo = f"{self.total - self.cached} of {self.total} points to do"
        return f"{todo} in {self.executions_left} executions{before}"

    def line(self) -> str:
        """All of it in one line, what matters most at its beginning, as narrow terminals show no more."""
        parts = [f"{self.cached + self.done}/{self.total} finished"]
        if (left := self.seconds_left()) is not None and self.executions_left:
            parts.append(f"about {duration(left)} left")
        if self.cached:
            parts.append(f"{self.cached} finished before")
        shares = [share for running in self.running.values() if (share := running.pace.share) is not None]
        at = f" at {fmean(shares):.0%} of their steps" if shares else ""
        parts += [f"{len(self.running)} running{at}"] * bool(self.running)
        parts += [f"{self.failed} failed"] * bool(self.failed)
        if self.best is not None:
            parts.append(with_signs(self.best_words(".4g")) + f" ({self.best_label})" * bool(self.best_label))
        return ", ".join(parts)
