"""The command's way in, which is there without the workflow's packages, too."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys

from resflow.workflow.extra import missing_package

__all__ = ["main"]

COLLECTED_AFTER = 50_000
"""New objects after which garbage is looked for; at Python's own 700 a third of the time for imports goes into that."""


def main() -> None:
    """Run the command, or say in one line which package it lacks."""
    codes: list[int] = []
    atexit.register(_leave, codes)  # the first to be registered is the last to be called
    gc.set_threshold(COLLECTED_AFTER, *gc.get_threshold()[1:])
    try:
        from resflow.workflow.cli import main as command
    except ModuleNotFoundError as error:
        if not (said := missing_package(error)):
            raise
        print(f"resflow: error: {said}", file=sys.stderr)
        sys.exit(2)
    try:
        command()
    except SystemExit as end:
        if isinstance(end.code, int):
            codes.append(end.code)
        raise


def _leave(codes: list[int]) -> None:
    """End, all threads and whatever had to be called at the end being over, without taking the modules apart.

    That would take a second, and nothing is left to be written but these two.
    """
    if codes:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, a full disk, or none
                stream.flush()
        os._exit(codes[0])
