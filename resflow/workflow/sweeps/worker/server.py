"""The worker's side of `process`: one server a worker, one notebook at a time, each in a process to be ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil

from resflow.workflow.sweeps.worker.process import GRACE_SECONDS, Task

__all__ = ["PointServer"]

POLL_SECONDS = 0.1


class PointServer:
    """Executes notebooks one after another, each in a process of its own."""

    _here: PointServer | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resflow.workflow.sweeps.worker.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the driver, which ends the rest in order
        )

    @classmethod
    def here(cls) -> PointServer:
        """The server of this process, started if there is none or it died."""
        with cls._lock:
            if cls._here is None or cls._here._process.poll() is not None:
                cls._here = cls()
            return cls._here

    def execute(self, task: Task, watch: Callable[[], str]) -> tuple[int, str]:
        """Execute a notebook.

        Args:
            task: The notebook, and how to execute it.
            watch: Called several times a second; a reason that it gives to stop, anything but "", ends the process.

        Returns:
            Its exit code, minus the signal if one killed it, and why it was stopped; "" if it was not.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answers: list[int] = []
        reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return -signal.SIGKILL, ""
        reader.start()
        reason = ""
        stopped_at = 0.0
        family: list[psutil.Process] = []
        while reader.is_alive():
            reader.join(POLL_SECONDS)
            if answers and not reason and (reason := watch()):
                family = _family(self._process.pid)
                _send(answers[0], signal.SIGTERM)
                stopped_at = time.monotonic()
            if stopped_at and time.monotonic() - stopped_at > GRACE_SECONDS:
                _send(answers[0], signal.SIGKILL)
        for survivor in psutil.wait_procs(family, timeout=2)[1]:
            survivor.kill()
        if len(answers) == 1:  # the server died, and what it had at work is still telling what became of it
            _wait_until_gone(answers[0])
        return (answers[1] if len(answers) > 1 else -signal.SIGKILL), reason

    def _read(self, answers: list[int]) -> None:
        """Two lines, the process id and the exit code; fewer if the server dies."""
        assert self._process.stdout is not None
        for _ in range(2):
            if not (line := self._process.stdout.readline()):
                return
            answers.append(int(line))


def _family(pid: int) -> list[psutil.Process]:
    """What the execution at work below a server has started: all but itself and the server of kernels beside it."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += child.children(recursive=True)
    return found


def _wait_until_gone(pid: int) -> None:
    """Wait for a process that is ending itself, and kill it if it takes too long."""
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(POLL_SECONDS)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
