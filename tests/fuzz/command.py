"""The command `resflow` called in this process, and what must hold of it whatever it is given."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import time
from typing import NamedTuple

SECONDS = 10
"""After which a command counts as hanging."""


class Ended(NamedTuple):
    """How a command ended, and what it wrote on the terminal."""

    code: int
    out: str
    err: str
    seconds: float


class Hangs(BaseException):
    """The command took too long; no `except Exception` of its own may hide that."""


def resflow(*arguments: str, seconds: float = SECONDS) -> Ended:
    """Call the command with its arguments; an exception that leaves it would be a traceback on the terminal."""
    from resflow.workflow.cli import main

    def hang(number, frame):
        raise Hangs(f"resflow {' '.join(arguments)} took more than {seconds} s")

    out, err = io.StringIO(), io.StringIO()
    argv, former = sys.argv, signal.signal(signal.SIGALRM, hang)
    sys.argv = ["resflow", *arguments]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began, code = time.monotonic(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        sys.argv = argv
    return Ended(code, out.getvalue(), err.getvalue(), time.monotonic() - began)


def check(ended: Ended, mutant: object) -> None:
    """Check that the command ended as it may on any input: an error is one line, and the exit code says it."""
    assert ended.code in (0, 1, 2), f"{mutant!r}: exit code {ended.code}\n{ended.err}"
    assert "Traceback" not in ended.out + ended.err, f"{mutant!r}:\n{ended.err}"
    if ended.code:
        lines = [line for line in ended.err.splitlines() if line.strip()]
        assert len(lines) == 1, f"{mutant!r}: {len(lines)} lines for one error\n{ended.err}"
        assert lines[0].startswith("resflow: "), f"{mutant!r}: {lines[0]}"
        assert len(lines[0]) < 2000, f"{mutant!r}: {len(lines[0])} characters in one line"
