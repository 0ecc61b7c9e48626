"""What libraries have to say on the terminal, collected while the command runs: the terminal is the command's own."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

__all__ = ["collected_log", "import_mlflow", "without_links", "without_progress_bars"]

LINES = 200
"""Records that are kept, the last ones."""

_collecting = False


@contextmanager
def collected_log() -> Iterator[deque[str]]:
    """While entered, log records, warnings and errors of threads go to the queue given and not to the terminal."""
    global _collecting
    handler = _Collector()
    root = logging.getLogger()
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    former = [(each, each.handlers, each.propagate) for each in loggers if each.handlers]
    hooks = threading.excepthook, sys.unraisablehook
    for each, _, _ in former:
        each.handlers, each.propagate = [], True
    root.addHandler(handler)
    logging.captureWarnings(True)
    threading.excepthook = lambda told: handler.error(told.exc_value, f"in thread {told.thread}")
    sys.unraisablehook = lambda told: handler.error(told.exc_value, f"ignored in {told.object!r}")
    was, _collecting = _collecting, True
    try:
        yield handler.lines
    finally:
        _collecting = was
        threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.removeHandler(handler)
        for each, handlers, propagate in former:
            each.handlers, each.propagate = handlers, propagate


def import_mlflow() -> None:
    """Import MLflow; while a log is being collected, without the handlers by which it writes to the terminal."""
    name = "MLFLOW_CONFIGURE_LOGGING"
    if not _collecting or "mlflow" in sys.modules or name in os.environ:
        return  # whoever needs it imports it
    os.environ[name] = "false"
    try:
        import_module("mlflow")
    finally:
        del os.environ[name]


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """While entered, MLflow shows no progress of what it copies, where nobody asked for that."""
    with _with_default("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"):
        yield


@contextmanager
def without_links() -> Iterator[None]:
    """While entered, MLflow prints no links to runs that end on a server, where nobody asked for that."""
    with _with_default("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"):
        yield


@contextmanager
def _with_default(name: str, value: str) -> Iterator[None]:
    """While entered, a variable of the environment that is not set has a value."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


class _Collector(logging.Handler):
    """Keeps the last records as text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.append(self.format(record))
        except Exception as error:
            self.lines.append(f"{record.name}: a record that cannot be formatted: {error!r}")

    def error(self, error: Any, where: str) -> None:
        """Keep an error that ends nothing but a thread or a finalizer."""
        record = logging.LogRecord("resflow", logging.ERROR, "", 0, "%s", (where,), None)
        if isinstance(error, BaseException):
            record.exc_info = (type(error), error, error.__traceback__)
        self.emit(record)
