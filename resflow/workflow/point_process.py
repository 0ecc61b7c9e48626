"""The process that executes one notebook of a sweep, and ends with its kernel as soon as the process above it is gone.

It is started as `python -m resflow.workflow.point_process` with a job as one line of JSON on standard input, which the
process above keeps open. When that closes, whatever the reason, the execution is ended as by SIGTERM: the run is KILLED
and the kernel gone. No other means does this on every system and after kill -9.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]

GRACE_SECONDS = 20.0
"""How long the run may take to say that it was killed."""


def main() -> int:
    """Execute the job on standard input; the exit code is 0 if the notebook ran through."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_process_above, daemon=True).start()
    return _execute(job)


def _end_with_the_process_above() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # the kernel notices on its own


def _execute(job: dict[str, Any]) -> int:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    notebook = Path(job["folder"]) / job["notebook_name"]
    notebook.write_text(job["notebook"], encoding="utf-8")
    parameters = dict(job["parameters"])
    if job["population"] is not None:
        parameters["population"] = job["population"]
    try:
        papermill.execute_notebook(
            str(notebook), str(notebook.with_suffix(".executed.ipynb")), parameters, engine_name="resflow",
            progress_bar=False,
        )  # fmt: skip
    except PapermillExecutionError as error:
        print(f"{error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
