"""Run a command that ends when whoever started it does, by kill -9 too: `python guarded.py COMMAND`.

Standard input is a pipe that nobody writes to. When it closes, because its other end is gone, the command is ended with
everything it started. Imports nothing but the standard library, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0


def main() -> int:
    """Run the command until it ends or standard input closes, its process group said first; returns its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # what ends this is the pipe; ignored, they would be by the command, too
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0)
    with contextlib.suppress(BrokenPipeError):
        print(command.pid, flush=True)
    while command.poll() is None and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        pass
    end_group(command.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(GRACE_SECONDS)
    end_group(command.pid, signal.SIGKILL)
    return command.wait()


def end_group(group: int, number: int) -> None:
    """Send a signal to a process group, if there still is one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    code = main()
    sys.stdout = None  # nobody may be there to flush it to
    sys.exit(code if code >= 0 else 128 - code)
