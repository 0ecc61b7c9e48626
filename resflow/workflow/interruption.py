"""Ctrl-C and termination signals as exceptions, raised only where the program is ready for them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruptions", "Terminated"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """A termination signal arrived; unhandled, it ends the process with 128 + the signal's number.

    A SystemExit because asyncio lets only that and KeyboardInterrupt through, and because whoever doesn't know of
    it should end as the signal asked.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class Interruptions:
    """While entered, SIGINT, SIGTERM and SIGHUP wait until a `raised` block, or until this is left.

    The first one then raises KeyboardInterrupt or Terminated; later ones do nothing, so that the clean-up it
    starts comes to its end. Signals the process ignores stay ignored. Outside the main thread, where Python
    handles no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.before_raising: Callable[[], None] | None = None
        self._pending: int | None = None
        self._delivered = False
        self._open = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if error is None:
            self._deliver()

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Where signals raise at once, those that have been waiting included."""
        self._open = True
        try:
            self._deliver()
            yield
        finally:
            self._open = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Where signals wait, within `raised`: for what can be left in order only once it is whole."""
        was, self._open = self._open, False
        try:
            yield
        finally:
            self._open = was
        if was:
            self._deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._pending is None:
            self._pending = number
            if self._open:
                self._deliver()

    def _deliver(self) -> None:
        if self._pending is None or self._delivered:
            return
        self._delivered, self._open = True, False
        if self.before_raising is not None:
            self.before_raising()
        raise KeyboardInterrupt if self._pending == signal.SIGINT else Terminated(self._pending)
