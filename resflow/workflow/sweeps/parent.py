"""The run that stands for a whole sweep: one a sweep, held by one driver at a time, with everything below it nested."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resflow.errors import InvalidInputError
from resflow.workflow import names
from resflow.workflow.goal import NO_GOAL
from resflow.workflow.last_word import AT_WORK
from resflow.workflow.names import DRIVER_SEEN, RUNNING, Role
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.project import project_root
from resflow.workflow.provenance import owner_is_gone, owner_of, provenance_tags
from resflow.workflow.question import question_of
from resflow.workflow.records import Run, create_run, experiment_id_of, parent_of_sweep
from resflow.workflow.scratch import TakenError, only_holder
from resflow.workflow.store import is_embedded
from resflow.workflow.sweeps.file import SweepFile

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["held", "open_parent"]

GONE_AFTER = 90.0
"""Seconds without a sign of life after which a driver on another machine is given up."""


@contextmanager
def held(client: MlflowClient, sweep: SweepFile) -> Iterator[None]:
    """Keep every other driver away from the sweep while this is entered.

    Raises:
        InvalidInputError: If another process drives it.
    """
    root = project_root()
    folder = root / "mlruns" if is_embedded(client.tracking_uri, root) else Path(tempfile.gettempdir())
    digest = hashlib.sha256(json.dumps([client.tracking_uri, sweep.experiment, sweep.name]).encode()).hexdigest()
    try:
        with only_holder(folder / f"resflow-sweep-{os.getuid()}-{digest[:16]}.lock"):
            yield
    except TakenError:
        raise InvalidInputError(_taken(sweep, "another process on this machine")) from None


def open_parent(client: MlflowClient, sweep: SweepFile) -> Run:
    """The sweep's parent run, made if there is none, RUNNING and owned by this process; the caller holds the sweep.

    Raises:
        InvalidInputError: If a driver on another machine is at work.
    """
    experiment = experiment_id_of(client, sweep.experiment, question_of(read_notebook(sweep.notebook)))
    stored = parent_of_sweep(client, experiment, sweep.name)
    if stored is not None and (owner := _driver_at_work(stored)):
        raise InvalidInputError(_taken(sweep, owner))
    tags = provenance_tags(sweep.path) | sweep.tags | AT_WORK
    tags |= {names.SWEEP: sweep.name, names.ROLE: Role.SWEEP, names.SOURCE_TYPE: "JOB"}
    tags |= {names.AXES: json.dumps([axis.name for axis in sweep.axes]), names.NOTEBOOK: sweep.notebook.stem}
    tags |= {DRIVER_SEEN: f"{time.time():.0f}"} | (sweep.goal.tags if sweep.goal else {})
    if stored is None:
        name = f"sweep {sweep.name}"
        run = create_run(client, notebook=name, name=name, parameters={}, tags=tags, experiment_id=experiment)
    else:
        run = Run(client, stored.info.run_id)
        run.set_tags(NO_GOAL | tags)
        run.remove_tags([names.ERROR])
        run.set_status(RUNNING)
    return run


def _driver_at_work(stored: StoredRun) -> str:
    """Who drives the sweep, if it seems that somebody does."""
    tag = stored.data.tags.get(names.OWNER, "")
    owner = owner_of(tag)
    if stored.info.status != RUNNING or owner is None or owner_is_gone(tag):
        return ""
    if owner.host == socket.gethostname():
        return f"process {owner.pid}"
    seen = stored.data.tags.get(DRIVER_SEEN, "")
    age = time.time() - float(seen) if re.fullmatch(r"[0-9]{1,15}", seen) else math.inf
    return f"process {owner.pid} on {owner.host}, seen {age:.0f} s ago" if age < GONE_AFTER else ""


def _taken(sweep: SweepFile, who: str) -> str:
    return f"the sweep {sweep.name!r} is being run by {who}: wait for it, or stop it first"
