"""Processes that execute one notebook each, forked from one that has imported all of it, and gone with whoever asked.

A worker has one such server: forked for it with the workers of a machine, or `python -m` of this module with a socket
as its standard input. For every task, a line of JSON, it forks a child, which executes the notebook; it answers with
the child's process id, and with its exit code when it ends. Importing papermill and MLflow takes longer than a small
notebook, and is paid once; so is importing what the notebook does, by the server of kernels that it starts.

Every child watches a pipe that its server holds open. When that closes, because the server or the worker above it is
gone, by kill -9 too, the execution is ended as by SIGTERM: the run is KILLED and its kernel gone. The server of kernels
lives as long as the child does, which inherits what that watches: so no kernel is lost before its run is KILLED.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from resflow.errors import InvalidInputError
from resflow.workflow.forking.client import KERNELS
from resflow.workflow.quick_imports import leave_out_formats
from resflow.workflow.scratch import kept

__all__ = ["GRACE_SECONDS", "Task", "import_all", "serve", "serve_first"]

GRACE_SECONDS = 20.0
"""How long a run may take to say that it was killed."""

POLL_SECONDS = 0.05


class Task(NamedTuple):
    """A notebook to execute.

    Attributes:
        folder: A temporary folder to do it in.
        notebook: The notebook's file.
        name: What it is called.
        parameters: What is injected into it.
        environment: The environment to do it in.
    """

    folder: str
    notebook: str
    name: str
    parameters: dict[str, Any]
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """The file that gets what the process writes to the terminal."""
        return Path(self.folder) / "log.txt"


def serve_first(listening: socket.socket) -> None:
    """Execute tasks of who first connects; for `multiprocessing`, in a fork of what has imported all of it."""
    os.setsid()  # Ctrl-C in a terminal is for the driver, which ends the rest in order
    connection, _ = listening.accept()
    listening.close()
    serve(connection)


def serve(connection: socket.socket) -> None:
    """Execute tasks until the worker at the other end is gone."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked in workers; kernels must not inherit that
    warnings.simplefilter("ignore")  # of forks: no thread has been started, and JAX has computed nothing
    leave_out_formats()
    _be_called("resflow-server")
    for line in connection.makefile():
        task = _with_kernels(Task(*json.loads(line)))
        import_all()
        watched, held = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(held)
            os.close(connection.detach())
            os._exit(_child(task, watched))
        os.close(watched)
        _tell(connection, pid)
        if (code := _wait(connection, pid)) is None:
            _leave()
        os.close(held)
        _tell(connection, code)


def _with_kernels(task: Task) -> Task:
    """The task with the server of its kernels in its environment, where they can be forked; it imports meanwhile."""
    import nbformat

    from resflow.workflow.kernel_environment import start_server
    from resflow.workflow.kernels import kernel_name

    nb = nbformat.reads(task.notebook, as_version=4)
    try:
        server = start_server(nb, kernel_name(nb), task.environment)
    except InvalidInputError:  # no kernel of its language, which the execution says
        return task
    return task._replace(environment=task.environment | {KERNELS: server.address}) if server else task


@functools.cache
def import_all() -> None:
    """What an execution needs. Nothing may be connected or started here: it would not survive the fork."""
    gc.disable()  # what is imported stays: looking for garbage among it would take a third of the time
    leave_out_formats()
    import mlflow.tracking  # noqa: F401
    import papermill  # noqa: F401
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401

    from resflow.workflow import engine, execution, records  # noqa: F401
    from resflow.workflow.reports.notebook_html import prepare

    prepare()
    gc.freeze()  # so that forks share the pages of what there is
    gc.enable()


def _tell(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(f"{number}\n".encode())
    except ConnectionError:
        _leave()


def _leave() -> NoReturn:
    """End, as the worker is gone: so are the pipes in a moment, and a child at work sees it.

    Else nothing is closed, as that would take its kernel from it before it has said that it was killed.
    """
    os._exit(1)


def _wait(connection: socket.socket, pid: int) -> int | None:
    """The child's exit code, or minus the signal that killed it; None if the connection is closed before."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([connection], [], [], POLL_SECONDS)
        if readable:  # nothing is sent while a job is at work
            return None


def _child(task: Task, watched: int) -> int:
    """Execute a notebook in this process, which is a fork; its exit code, 0 if the notebook ran through."""
    try:
        os.setsid()
        _be_called("resflow-point")
        os.environ.clear()
        os.environ.update(task.environment)
        if not Path(task.folder).exists():  # the worker is gone already, and somebody tidied up
            return 1
        log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for own, standard in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(own, standard)
        threading.Thread(target=_end_when_closed, args=(watched,), daemon=True).start()
        with kept(Path(task.folder)):
            tempfile.tempdir = task.folder  # what this leaves when it is stopped, as a kernel's address, goes with that
            return _execute(task)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        with contextlib.suppress(OSError):  # the log's disk may be full
            sys.stdout.flush()
            sys.stderr.flush()


def _be_called(name: str) -> None:
    """Show a name in lists of processes, where the system has them."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _end_when_closed(watched: int) -> None:
    os.read(watched, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # the kernel notices on its own


def _execute(task: Task) -> int:
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.kernels import kernel_of
    from resflow.workflow.notebook_file import path_for_papermill
    from resflow.workflow.outcome import said_of

    logging.getLogger("papermill").setLevel(logging.ERROR)
    notebook = Path(task.folder) / task.name
    notebook.write_text(task.notebook, encoding="utf-8")
    executed = path_for_papermill(notebook.with_suffix(".executed.ipynb"))
    options = kernel_of(nbformat.reads(task.notebook, as_version=4))
    try:
        papermill.execute_notebook(
            path_for_papermill(notebook), executed, task.parameters, engine_name="resflow", progress_bar=False,
            request_save_on_cell_execute=False, autosave_cell_every=0, **options,
        )  # fmt: skip
    except PapermillExecutionError as error:
        print(f"{error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except Exception as error:
        if not (said := said_of(error)):
            raise
        print(said, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(0)))
