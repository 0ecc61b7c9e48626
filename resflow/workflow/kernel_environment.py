"""The environment of kernels, and starting what forks them before the first is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from resflow.workflow import (
    names,
    store,  # noqa: F401 (sets what MLflow is to find in the environment)
)
from resflow.workflow.compiled import settings
from resflow.workflow.forking.client import KernelServer, NotForkedError, Wanted, prepare
from resflow.workflow.forking.modules import modules_of
from resflow.workflow.kernels import speaks_ipc
from resflow.workflow.provenance import owner_tag

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["environment_for", "start_server"]

_LEFT_OUT = ("MLFLOW_EXPERIMENT_NAME", names.RUN_TAGS, "MPLBACKEND", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW")
"""The first two are of one run, not of runs that the notebook may start; with the third set, matplotlib would not show
figures in the notebook; of the last, which is for this process, MLflow would speak in the notebook."""


def environment_for(run: Run) -> dict[str, str]:
    """The environment that hands the run to the kernel, by the names that MLflow itself reads as well."""
    environment = _for_any_run(os.environ)
    # The tags that MLflow gives to every run that is made in the kernel: all but the first start_run() make one.
    context = _json_object(environment.get("MLFLOW_RUN_CONTEXT", ""))
    context |= {names.PARENT: run.id, names.OWNER: owner_tag()}
    return environment | {
        "MLFLOW_RUN_CONTEXT": json.dumps(context),
        "MLFLOW_RUN_ID": run.id,
        "MLFLOW_EXPERIMENT_ID": run.experiment_id,
        "MLFLOW_TRACKING_URI": run.tracking_uri,
    }


def start_server(nb: Any, kernel: str, environment: Mapping[str, str] = os.environ) -> KernelServer | None:
    """Start what forks kernels of that name for a notebook, if it can be; it imports while other things go on.

    Args:
        nb: The notebook, as nbformat reads it.
        kernel: The kernel's name.
        environment: That of the process that will execute the notebook.

    Returns:
        What forks them, which may have been there before; None if they will be ordinary ones, or of a server that the
        environment names.
    """
    if not speaks_ipc(kernel):
        return None
    manager = KernelManager(kernel_name=kernel, connection_file="none")
    specification = KernelSpecManager().get_kernel_spec(kernel)
    specified = {name: os.path.expandvars(value) for name, value in specification.env.items()}
    with suppress(NotForkedError):
        wanted = Wanted(manager.format_kernel_cmd(), _for_any_run(environment) | specified, os.getcwd())
        return prepare(wanted, modules_of(nb))
    return None


def _for_any_run(environment: Mapping[str, str]) -> dict[str, str]:
    """What kernels of all runs that a process with this environment executes have in theirs."""
    known = {name: value for name, value in environment.items() if name not in _LEFT_OUT}
    # What tqdm says at its import by MLflow, of widgets that a notebook which nobody watches cannot show; and what JAX
    # says if the disk is full where it would keep what it compiled, which it then does without.
    ignored = ("IProgress not found", "Error writing persistent compilation", "Error reading persistent compilation")
    quiet = filter(None, [known.get("PYTHONWARNINGS"), *(f"ignore:{message}" for message in ignored)])
    return settings(environment) | known | {"PYTHONWARNINGS": ",".join(quiet)}


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # which MLflow would warn of, and leave out too
        return {}
    return found if isinstance(found, dict) else {}
