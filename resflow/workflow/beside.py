"""A process beside the command's own, which imports and computes while that one imports other things."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from resflow.workflow.boundary import fail
from resflow.workflow.forking.server import end_with

__all__ = ["Call", "call_here", "called_beside"]

Call = Callable[..., Any]
"""Calls the function that is its first argument with the others."""


def call_here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in this process."""
    return function(*arguments)


@contextmanager
def called_beside(module: str, meanwhile: Callable[[], Any]) -> Iterator[Call]:
    """While entered, there is a process that imports a module at once: yields what calls functions in it.

    It is forked while this process has next to nothing imported. Where that cannot be done safely, as JAX or threads
    are here already, functions are called here.

    Args:
        module: Its name; it need not be there.
        meanwhile: Called in this process once the first function has been handed on.
    """
    if sys.platform != "linux" or "jax" in sys.modules or threading.active_count() > 1:
        yield call_here
        return
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(here, there, module, os.getpid()), daemon=True)
    process.start()
    there.close()
    waiting = [meanwhile]

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            here.send((function, arguments))
            if waiting:
                waiting.pop()()
            value, error = here.recv()
        except (EOFError, ConnectionError):
            process.join()
            fail(f"the process that computes ended with {_how(process.exitcode)}", 1)
        if error is not None:
            raise error
        return value

    try:
        yield call
    finally:
        here.close()
        process.kill()
        process.join()


def _serve(here: Connection, there: Connection, module: str, parent: int) -> None:
    """Call what is asked for, until the parent is gone."""
    here.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and that this
    end_with(parent)
    with contextlib.suppress(ImportError):
        importlib.import_module(module)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, arguments = there.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = function(*arguments), None
            except Exception as error:
                answer = None, _sendable(error)
            there.send(answer)


def _sendable(error: Exception) -> Exception:
    """An error with where it was raised, as far as it can be sent."""
    where = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(where)
    return error


def _how(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
