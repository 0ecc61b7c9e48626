"""What is killed, by which signal and when: drawn from a seed, so that a failure can be had again."""

from __future__ import annotations

import random
import signal
from typing import NamedTuple

__all__ = ["Strike", "strike"]

VICTIMS = {
    "sweep": ("driver", "origin", "worker", "server", "point", "forker", "kernel", "starting kernel"),
    "cluster": ("driver", "scheduler", "worker", "server", "point", "forker", "kernel", "starting kernel"),
    "papermill": ("papermill", "forker", "kernel", "starting kernel"),
}
"""Who may be struck in a sweep on this machine, in one on a Dask cluster, and in a single execution by papermill."""

ASKED = ("driver", "papermill")
"""Who has a terminal: they are also asked to end by Ctrl-C and by a terminal that closes."""

KINDS = ("sweep", "sweep", "cluster", "papermill")


class Strike(NamedTuple):
    """One blow.

    Attributes:
        kind: What is run: a key of `VICTIMS`.
        victim: Which of its processes is struck.
        number: The signal.
        delay: Seconds after the first such process has appeared.
    """

    kind: str
    victim: str
    number: signal.Signals
    delay: float


def strike(seed: int) -> Strike:
    """The blow of that seed; every kind and victim has its turn in as few seeds as there are of them."""
    rng = random.Random(seed)
    turns = [(kind, victim) for kind in KINDS for victim in VICTIMS[kind]]
    kind, victim = random.Random(0).sample(turns, len(turns))[seed % len(turns)]
    numbers = [signal.SIGKILL, signal.SIGTERM]
    if victim in ASKED:
        numbers += [signal.SIGKILL, signal.SIGINT, signal.SIGHUP]
    longest = 0.5 if victim == "starting kernel" else 6.0 if victim in ("driver", "scheduler", "papermill") else 2.5
    return Strike(kind, victim, rng.choice(numbers), rng.uniform(0.0, longest))
