"""The programs `resflow` and `papermill`, forked in a moment from a process that has imported what they need.

Importing takes most commands longer than what they do. `warm_commands` starts a server that imports once, and writes a
folder with programs of these names for the front of the path. Each, this file again, has the server fork a process with
its arguments, folder, environment and standard streams, which runs the environment's own program of that name; hands on
what signals come; and ends with its exit code.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fork_server import asked, forked, take_over, wanted_of

ROOT = Path(__file__).parents[1]
_PROGRAMS = ("resflow", "papermill")
_IMPORTED = (
    "mlflow.store.tracking.sqlalchemy_store",
    "papermill",
    "papermill.cli",
    "resflow.workflow.bundles.exporting",
    "resflow.workflow.bundles.importing",
    "resflow.workflow.cli",
    "resflow.workflow.engine",
    "resflow.workflow.execution",
    "resflow.workflow.reports.comparison_report",
    "resflow.workflow.reports.notebook_html",
    "resflow.workflow.verification",
)


@contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """The folder of the programs.

    Args:
        folder: An empty folder, for the server's socket and for the programs.
    """
    import shlex
    import subprocess

    address = str(folder / "socket")
    programs = folder / "bin"
    programs.mkdir()
    for name in _PROGRAMS:
        # without site-packages, for speed
        words = (sys.executable, "-E", "-s", "-S", __file__, "ask", address, name)
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (programs / name).chmod(0o755)
    command = [sys.executable, __file__, "serve", address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert server.stdout.readline() == b"listening\n"  # it imports meanwhile: who asks is kept waiting
        yield programs
    finally:
        server.communicate()  # it ends with its standard input


def ask(address: str, program: str, *arguments: str) -> None:
    """Have a program run with these arguments, hand on what signals come for it, and end as it does."""
    sys.exit(asked(address, program=program, arguments=arguments).recv(1)[0])


def serve(address: str) -> None:
    """Fork a process for everyone who asks, until standard input is closed."""
    import gc
    import importlib

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("listening", flush=True)
        gc.disable()  # what is imported stays: looking for garbage among it would take a third of the time
        for name in _IMPORTED:
            importlib.import_module(name)
        sys.modules["resflow.workflow.reports.notebook_html"].prepare()
        assert "dask" not in sys.modules, "it reads the environment while it is imported"
        assert threading.active_count() == 1, "no thread survives a fork"
        sys.path.pop(0)
        if connection := forked(listening):
            _attend(connection)


def _attend(connection: socket.socket) -> None:
    """Run what is asked for at the other end in a process, and tell its exit code."""
    wanted = wanted_of(connection)
    if (pid := os.fork()) == 0:
        connection.close()
        _run(**wanted)
        return
    for own in (0, 1, 2):  # whoever reads what the program writes sees it end
        os.close(own)
    threading.Thread(target=_hand_on, args=(connection, pid), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(program: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    import runpy
    import tempfile

    take_over(environment, folder)
    tempfile.tempdir = None
    path = str(Path(sys.executable).parent / program)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _hand_on(connection: socket.socket, pid: int) -> None:
    """Pass signals on, and kill the program when whoever asked for it is gone."""
    while number := connection.recv(1):
        os.kill(pid, number[0])
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    {"ask": ask, "serve": serve}[sys.argv[1]](*sys.argv[2:])
