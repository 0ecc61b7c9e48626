"""The processes of one trial: found by a variable of their environment, told apart by what they were started as."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

__all__ = ["MARK", "of_trial", "played_by", "playing", "wait_until_gone"]

MARK = "RESFLOW_TRIAL"
"""The variable that every process of a trial inherits; its value is the trial's own."""

_PARTS = {
    "scheduler": ("dask", "scheduler"),
    "worker": ("multiprocessing.spawn", "spawn_main"),
    "kernel": ("ipykernel_launcher",),
}
_FORKING = {
    "multiprocessing.forkserver": ("origin", "worker"),
    "forking/server.py": ("forker", "kernel"),
}
"""As what processes are started that fork others, and the parts that both play: workers, points and their kernels."""


_CALLED = {"resflow-server": "server", "resflow-point": "point"}
"""What processes call themselves."""


def of_trial(value: str) -> list[psutil.Process]:
    """The processes of a trial that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def playing(part: str, value: str) -> Iterator[psutil.Process]:
    """The processes of a trial that play a part: one of those above, or starting kernel."""
    for process in of_trial(value):
        if (plays := played_by(process)) and part.endswith(plays):
            yield process


def played_by(process: psutil.Process) -> str:
    """The part that a process plays; "" if it has none, or is gone."""
    try:
        if part := _CALLED.get(process.name()):
            return part
        line, above = " ".join(process.cmdline()), process.parent()
        for started_as, (itself, fork) in _FORKING.items():
            if started_as in line:
                return fork if above is not None and started_as in " ".join(above.cmdline()) else itself
    except psutil.NoSuchProcess:
        return ""
    return next((name for name, words in _PARTS.items() if all(word in line for word in words)), "")


def wait_until_gone(value: str, seconds: float, *, but: set[int] = frozenset()) -> list[psutil.Process]:
    """Wait until no process of the trial is left but those of the given ids; returns what is left all the same."""
    deadline = time.monotonic() + seconds
    while left := [process for process in of_trial(value) if process.pid not in but]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left
