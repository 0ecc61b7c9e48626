"""Many processes that record runs at once: `python crowd.py PROCESSES RUNS` in a project; exits with the failures.

Each run is what a notebook records: parameters, a history, final metrics, tags, a data set, a text, a status.
"""

from __future__ import annotations

import os
import sys
import time
import traceback

import numpy as np
from mlflow.data import pandas_dataset  # noqa: F401
from mlflow.store.tracking import sqlalchemy_store  # noqa: F401 (imported once, before the fork)
from mlflow.tracking import MlflowClient  # noqa: F401

from resflow.workflow import records

STEPS = 50


def record(number: int, runs: int) -> None:
    """Record runs named NUMBER-0, NUMBER-1, ..."""
    client = records.open_client()
    slowest = 0.0
    for each in range(runs):
        started = time.monotonic()
        name = f"{number}-{each}"
        run = records.create_run(
            client, notebook="crowd", name=name, parameters={"n": name, "width": each}, tags={"a": "b"}
        )
        run.log_history({step: {"a": step, "b": -step} for step in range(STEPS)})
        run.log_metrics({"final": each})
        run.log_dataset(f"data {each}", np.full((3, 1), each), digest=f"{each}")  # that others log at the same time
        run.log_text(name, "note.txt")
        run.end("FINISHED")
        slowest = max(slowest, time.monotonic() - started)
    print(f"{number}: slowest run {slowest:.2f} s", flush=True)


def main(processes: int, runs: int) -> int:
    """Fork the processes, before anything is connected, and count those that failed."""
    children = []
    for number in range(processes):
        if (child := os.fork()) == 0:
            code = 1
            try:
                record(number, runs)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
