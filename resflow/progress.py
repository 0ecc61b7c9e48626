"""How far a compiled program is, told by it while it runs: a few times a second, by a call to the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from tqdm import tqdm

__all__ = ["Progress", "count_step", "next_report", "reported"]

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are."""

SECONDS = 0.25
"""Between two reports: what one costs is then less than a hundredth of it, even where all cores are busy."""

_GROWTH = 4  # of the steps between two reports, at most: the first ones are too quick to be timed well
_LAST_STEP = np.iinfo(np.int32).max

_reporters: dict[int, _Reporter] = {}
_numbers = count()


@contextmanager
def reported(
    progress: bool | Progress, steps: int, members: int = 1, chunk: int = 1, unit: str = "step"
) -> Iterator[jax.Array | None]:
    """Within, the program that is given the number yielded tells how far it is; None if nobody wants to know.

    Where all goes well, the last report is that all steps are done, those that a diverging model did not take included.

    Args:
        progress: Whom to tell; True for a bar on standard error.
        steps: Steps of each member.
        members: How many are trained, each of whose steps counts.
        chunk: Members side by side.
        unit: What a step is called in the bar.
    """
    if not progress:
        yield None
        return
    number, total = next(_numbers), steps * members
    with tqdm(total=total, unit=unit, disable=progress is not True) as bar:
        tell = (lambda done, total: bar.update(done - bar.n)) if progress is True else progress
        _reporters[number] = _Reporter(tell, steps, total, chunk)
        try:
            yield jnp.asarray(number, jnp.int32)
            tell(total, total)
        finally:
            del _reporters[number]


def next_report(number: jax.Array, place: Any, step: jax.Array) -> jax.Array:
    """Within a compiled program: tell that so many steps are done, and get the step of the next report.

    Args:
        number: Of `reported`.
        place: Which of several devices this is, each of which trains one chunk of members after another.
        step: The steps done; 0 begins a chunk.
    """
    return io_callback(_report, jax.ShapeDtypeStruct((), jnp.int32), number, place, step)


def count_step(number: jax.Array) -> None:
    """Within a compiled program: tell that one more step is done, each of which takes far longer than this call.

    Args:
        number: Of `reported`.
    """
    io_callback(_count, None, number)


def _count(number: Any) -> None:
    _reporters[int(number)].count()


def _report(number: Any, place: Any, step: Any) -> np.ndarray:
    return np.asarray(_reporters[int(number)].report(int(place), int(step)), np.int32)


class _Place:
    """What one device reported last."""

    def __init__(self, stride: int) -> None:
        self.chunks, self.step, self.at, self.stride = 0, 0, 0.0, stride

    def advance(self, step: int) -> int:
        """Take a report; the step of the next one, by how long the steps since the last one took."""
        now = time.monotonic()
        if step == 0:
            self.chunks += 1
        else:
            timed = (step - self.step) * SECONDS / max(now - self.at, 1e-9)
            self.stride = max(1, int(min(timed, _GROWTH * self.stride)))
        self.step, self.at = step, now
        return min(step + self.stride, _LAST_STEP)


class _Reporter:
    """One training, whose devices report on threads of their own."""

    def __init__(self, tell: Progress, steps: int, total: int, chunk: int) -> None:
        self._tell, self._steps, self._total, self._chunk = tell, steps, total, chunk
        self._places: dict[int, _Place] = {}
        self._lock, self._told, self._counted = Lock(), -SECONDS, 0

    def report(self, place: int, step: int) -> int:
        with self._lock:
            following = self._places.setdefault(place, _Place(1 + self._steps // 100)).advance(step)
            done = sum(((each.chunks - 1) * self._steps + each.step) for each in self._places.values())
            self._say(done * self._chunk)
            return following

    def count(self) -> None:
        with self._lock:
            self._counted += 1
            self._say(self._counted)

    def _say(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told >= SECONDS / 2:  # one chunk may begin soon after another
            self._told = now
            self._tell(min(done, self._total), self._total)
