"""The command `resflow` in processes of its own, forked from one that has imported what it needs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["forked_command"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["papermill", "resflow.workflow.cli", "resflow.workflow.execution", "resflow.workflow.reports.notebook_html"]
)


def forked_command(root: Path, *arguments: str, seconds: float = 300, **environment: str) -> tuple[int | None, str]:
    """Run a command in a folder.

    Returns:
        Its exit code, None if it took longer than `seconds` and was killed, and all it wrote.
    """
    with tempfile.NamedTemporaryFile("r") as said:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_"))}
        process = _CONTEXT.Process(target=_run, args=(root, arguments, said.name, known | environment))
        process.start()
        process.join(seconds)
        code = process.exitcode
        process.kill()
        process.join()
        process.close()
        return code, said.read()


def _run(root: Path, arguments: tuple[str, ...], said: str, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    os.chdir(root)
    written = os.open(said, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(written, number)
    sys.argv = ["resflow", *arguments]
    from resflow.workflow.cli import main

    main()
