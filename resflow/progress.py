"""How far a long computation is, told a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from tqdm import tqdm

__all__ = ["Progress", "count_step", "counted", "in_turns", "reported"]

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are."""

SECONDS = 0.25
"""Between two reports: what one costs is then less than a hundredth of it, even where all cores are busy."""

_GROWTH = 4  # of the steps between two reports, at most: the first ones are too quick to be timed well

_counters: dict[int, Callable[[], None]] = {}
_numbers = count()


@runtime_checkable
class Keeper(Protocol):
    """Keeps the state of a long computation."""

    def found(self, state: Any) -> tuple[Any, int]:
        """A state to go on from and the tick before which it is; that given and 0 if there is none."""

    def reached(self, state: Any, tick: int, last: int) -> None:
        """Is told the state before a tick, the last of all included."""


@contextmanager
def reported(progress: bool | Progress, total: int, unit: str = "step") -> Iterator[Callable[[int], None] | None]:
    """Within, whoever calls what is yielded tells how many steps are done; None if nobody wants to know.

    Where all goes well, the last report is that all are done, those that a diverging model did not take included.

    Args:
        progress: Whom to tell; True for a bar on standard error.
        total: How many steps there are.
        unit: What a step is called in the bar.
    """
    if not progress:
        yield None
        return
    with tqdm(total=total, unit=unit, disable=progress is not True) as bar:
        told = -1

        def tell(done: int) -> None:
            nonlocal told
            if told < (done := min(done, total)):
                told = done
                _ = bar.update(done - bar.n) if progress is True else progress(done, total)

        yield tell
        tell(total)


def in_turns(
    advance: Callable[[Any, Any, Any], Any],
    state: Any,
    last: int,
    tell: Callable[[int], None] | None,
    steps_before: Callable[[int], int],
    keep: Keeper | None = None,
) -> Any:
    """Do the ticks 0 to `last` of a compiled computation: in one call, or in several if somebody is to be told.

    Args:
        advance: Does the ticks from one to another, given the state before them; returns that after them.
        state: Before the first tick.
        last: How many ticks there are.
        tell: Of `reported`.
        steps_before: How many steps are done before a tick.
        keep: Keeps the state now and then, and may have one to go on from.

    Returns:
        The state after the last tick, which has been waited for.
    """
    state, first = (state, 0) if keep is None else keep.found(state)
    stride = last if tell is None and keep is None else 1 + last // 100
    while first < last:
        began, stop = time.monotonic(), min(first + stride, last)
        if tell is not None:
            tell(steps_before(first))
        state = jax.block_until_ready(advance(state, np.int32(first), np.int32(stop)))
        timed = stride * SECONDS / max(time.monotonic() - began, 1e-9)
        if keep is not None:
            keep.reached(state, stop, last)
        first, stride = stop, max(1, int(min(timed, _GROWTH * stride)))
    return state


@contextmanager
def counted(progress: bool | Progress, total: int, unit: str) -> Iterator[jax.Array | None]:
    """Within, a program that is given the number yielded may tell of its steps by `count_step`; None as `reported`."""
    with reported(progress, total, unit) as tell:
        if tell is None:
            yield None
            return
        number, done, told = next(_numbers), count(1), -SECONDS

        def one_more() -> None:
            nonlocal told
            steps, now = next(done), time.monotonic()
            if now - told >= SECONDS:
                told = now
                tell(steps)

        _counters[number] = one_more
        try:
            yield jnp.asarray(number, jnp.int32)
        finally:
            del _counters[number]


def count_step(number: jax.Array) -> None:
    """Within a compiled program: tell that one more step is done, each of which takes far longer than this call.

    A program with such a call is compiled anew in every process: JAX keeps none in its cache that calls the host.

    Args:
        number: Of `counted`.
    """
    io_callback(_count, None, number)


def _count(number: Any) -> None:
    _counters[int(number)]()
