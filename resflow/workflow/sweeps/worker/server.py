"""The worker's side of `process`: one server a worker, one notebook at a time, each in a process to be ended.

The workers of a machine find theirs made beforehand, by `servers_beside`; any other worker starts one.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from resflow.workflow.sweeps.worker.process import GRACE_SECONDS, Task, serve_first

__all__ = ["PointServer", "servers_beside"]

_FOLDER, _SOCKET = "resflow.servers-of-points", "server-"

POLL_SECONDS = 0.1


class PointServer:
    """Executes notebooks one after another, each in a process of its own."""

    _here: PointServer | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.pid, self._connection = _forked_beforehand() or _started()
        self._answers = self._connection.makefile()

    @classmethod
    def here(cls) -> PointServer:
        """The server of this process, started if there is none or it died."""
        with cls._lock:
            if cls._here is not None and cls._here._is_gone():
                cls._here.close()
                cls._here = None
            cls._here = cls._here or cls()
            return cls._here

    def execute(self, task: Task, watch: Callable[[], str]) -> tuple[int, str]:
        """Execute a notebook.

        Args:
            task: The notebook, and how to execute it.
            watch: Called several times a second; a reason that it gives to stop, anything but "", ends the process.

        Returns:
            Its exit code, minus the signal if one killed it, and why it was stopped; "" if it was not.
        """
        answers: list[int] = []
        reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        try:
            self._connection.sendall(json.dumps(task).encode() + b"\n")
        except ConnectionError:
            return -signal.SIGKILL, ""
        reader.start()
        reason = ""
        stopped_at = 0.0
        family: list[psutil.Process] = []
        while reader.is_alive():
            reader.join(POLL_SECONDS)
            if answers and not reason and (reason := watch()):
                family = _family(self.pid)
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
        with contextlib.suppress(ConnectionError):
            for _ in range(2):
                if not (line := self._answers.readline()):
                    return
                answers.append(int(line))

    def close(self) -> None:
        """Let the server end, with what it has at work."""
        with contextlib.suppress(OSError):  # it may be gone
            self._connection.shutdown(socket.SHUT_RDWR)
        self._answers.close()
        self._connection.close()

    def _is_gone(self) -> bool:
        return bool(select.select([self._connection], [], [], 0)[0])  # it says nothing that was not asked


def _forked_beforehand() -> tuple[int, socket.socket] | None:
    """The process id and a connection of a server that `servers_beside` made and nobody has yet, if there is one."""
    from dask import config

    folder = config.get(_FOLDER, None)
    for path in Path(folder).glob(f"{_SOCKET}*") if folder else ():
        taken = path.with_name(f"taken-{path.name}")
        connection = socket.socket(socket.AF_UNIX)
        try:
            path.rename(taken)
            connection.connect(str(taken))
        except OSError:  # another worker was faster, or it died
            connection.close()
            continue
        return int(path.name.removeprefix(_SOCKET)), connection
    return None


def _started() -> tuple[int, socket.socket]:
    """The same of one that imports for itself."""
    connection, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "resflow.workflow.sweeps.worker.process"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for the driver, which ends the rest in order
        )
    threading.Thread(target=process.wait, daemon=True).start()
    return process.pid, connection


@contextmanager
def servers_beside(count: int, folder: Path) -> Iterator[dict[str, str]]:
    """Servers for as many workers of this machine, forked by `multiprocessing`; Dask's setting by which each finds one.

    A worker that dies takes its server along; the one in its place starts another itself.
    """
    forking = multiprocessing.get_context("forkserver")
    processes = []
    for _ in range(count):
        new = folder / "new"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(new))
            listening.listen()
            process = forking.Process(target=serve_first, args=(listening,), daemon=True)
            process.start()
        new.rename(folder / f"{_SOCKET}{process.pid}")
        processes.append(process)
    try:
        yield {_FOLDER: str(folder)}
    finally:
        for process in processes:
            process.terminate()


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
