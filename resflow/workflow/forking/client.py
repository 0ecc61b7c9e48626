"""Asking for kernels: the server of this process, or the one that the environment names."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resflow.workflow.forking import server as program
from resflow.workflow.scratch import temporary_folder

__all__ = ["KERNELS", "ORDINARY", "ForkedProcess", "KernelServer", "NotForkedError", "Wanted", "forked", "prepare"]

KERNELS = "RESFLOW_KERNELS"
"""The environment variable that names a server's socket; `ordinary` in it says that no kernel is to be forked."""

ORDINARY = "ordinary"

SECONDS = 60.0
"""How long a server may take to have imported everything."""


class NotForkedError(Exception):
    """Why a kernel could not be forked and has to be an ordinary one."""


class Wanted:
    """A kernel to be forked.

    Attributes:
        interpreter: The interpreter that is to run it, with its own options.
        command: What it is called by there: its program's name, and that one's options.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        """Take a kernel's command apart.

        Raises:
            NotForkedError: If it is not ipykernel's.
        """
        for module in ("ipykernel_launcher", "ipykernel"):
            if module in command[2:] and command[(place := list(command).index(module)) - 1] == "-m":
                self.interpreter, self.command = list(command[: place - 1]), list(command[place:])
                break
        else:
            raise NotForkedError("it is not ipykernel's")
        self.environment, self.folder = dict(environment), folder

    def described(self) -> bytes:
        """The kernel as the server is told of it."""
        names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
        return json.dumps(
            {
                "command": self.command,
                "environment": self.environment,
                "folder": self.folder,
                "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
                "cores": sorted(os.sched_getaffinity(0)),
                "umask": _umask(),
            }
        ).encode()


def _umask() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


class ForkedProcess:
    """A forked kernel, with what `subprocess.Popen` has of it that jupyter_client needs."""

    stdin = stdout = stderr = None

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection
        self._said = b""

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it runs."""
        if self.returncode is None:
            self._connection.setblocking(False)
            with contextlib.suppress(BlockingIOError, InterruptedError):
                self._read()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: If it takes too long.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("kernel", timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it and to all of its group."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._connection.setblocking(True)
                self._connection.sendall(bytes([number]))

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        while not self._said.endswith(b"\n"):
            try:
                part = self._connection.recv(1 << 10)
            except ConnectionError:
                part = b""
            if not part:  # the server is gone, and the kernel with it
                self._end(-signal.SIGKILL)
                return
            self._said += part
        self._end(json.loads(self._said)["code"])

    def _end(self, code: int) -> None:
        self.returncode = code
        self._connection.close()


class KernelServer:
    """A server of kernels, until it is closed, or for as long as this process and those that it forked live."""

    def __init__(self, interpreter: Sequence[str], environment: Mapping[str, str], modules: Sequence[str]) -> None:
        """Start it; it imports what is asked for while this goes on.

        Args:
            interpreter: The interpreter, with its options.
            environment: The environment that its kernels are to have, but for what differs from run to run.
            modules: What is imported beforehand.
        """
        self._stack = contextlib.ExitStack()
        folder = self._stack.enter_context(temporary_folder())
        self.address = str(folder / "kernels")
        self.process = subprocess.Popen(
            [*interpreter, program.__file__, self.address, json.dumps(list(modules))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in environment.items() if name != KERNELS},
            start_new_session=True,
        )

    def retire(self) -> None:
        """Have it fork no more, and end with its last kernel."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(b"r")
            self.process.stdin.flush()

    def close(self) -> None:
        """End it, and the kernels that it still has: the system kills them with it."""
        assert self.process.stdin is not None
        self.process.kill()  # it may still be importing
        self.process.wait()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self._stack.close()


class _Servers:
    """The servers that this process started: the one in use, and what is retired."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process = 0
        self.current: KernelServer | None = None
        self.key: Any = None
        self.all: list[KernelServer] = []

    def get(self, wanted: Wanted, modules: Sequence[str], anew: bool) -> tuple[KernelServer, bool]:
        """The server for such kernels, and whether it is a new one."""
        with self.lock:
            if self.process != os.getpid():  # a fork's parent answers for those it started
                self.process, self.current, self.all = os.getpid(), None, []
                atexit.register(self.close)
            key = (wanted.interpreter, program.differing(wanted.environment), list(modules))
            is_new = anew or self.current is None or self.current.process.poll() is not None or key != self.key
            if is_new:
                if self.current is not None:
                    self.current.retire()
                for each in [each for each in self.all if each.process.poll() is not None]:
                    each.close()
                    self.all.remove(each)
                self.current, self.key = KernelServer(wanted.interpreter, wanted.environment, modules), key
                self.all.append(self.current)
            assert self.current is not None
            return self.current, is_new

    def close(self) -> None:
        if self.process == os.getpid():
            for each in self.all:
                each.close()


_servers = _Servers()


def prepare(wanted: Wanted, modules: Sequence[str]) -> KernelServer | None:
    """The server of this process for such kernels, started if there is none; None if its own are not forked."""
    if sys.platform != "linux" or wanted.environment.get(KERNELS):
        return None
    return _servers.get(wanted, modules, anew=False)[0]


def forked(wanted: Wanted, modules: Sequence[str]) -> ForkedProcess:
    """A kernel, forked by the server that the environment names, or else by one of this process.

    Raises:
        NotForkedError: If an ordinary one is needed.
    """
    if sys.platform != "linux":
        raise NotForkedError(f"of {sys.platform}, where nothing is forked")
    named = wanted.environment.pop(KERNELS, "")
    if named == ORDINARY:
        raise NotForkedError(f"{KERNELS}={ORDINARY}")
    if named:
        return _asked(named, wanted, None)
    server, is_new = _servers.get(wanted, modules, anew=False)
    try:
        return _asked(server.address, wanted, server)
    except NotForkedError:
        if is_new:
            raise
    server, _ = _servers.get(wanted, modules, anew=True)
    return _asked(server.address, wanted, server)


def _asked(address: str, wanted: Wanted, server: KernelServer | None) -> ForkedProcess:
    connection = socket.socket(socket.AF_UNIX)
    try:
        _connect(connection, address, server)
        connection.settimeout(SECONDS)
        text = wanted.described()
        with open(os.devnull) as nothing:
            socket.send_fds(connection, [len(text).to_bytes(8, "big")], [nothing.fileno(), 1, 2])
        connection.sendall(text)
        said = b""
        while not said.endswith(b"\n"):
            if not (part := connection.recv(1)):
                raise NotForkedError("the server of kernels ended")
            said += part
        answer = json.loads(said)
        if "ordinary" in answer:
            raise NotForkedError(answer["ordinary"])
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise NotForkedError(f"the server of kernels did not answer: {error}") from None
        raise
    return ForkedProcess(connection, answer["pid"])


def _connect(connection: socket.socket, address: str, server: KernelServer | None) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return connection.connect(address)
        except FileNotFoundError:  # of a server that is just starting
            over = server.process.poll() is not None if server else not os.path.isdir(os.path.dirname(address))
            if over or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
