"""Executing a notebook in a kernel that knows its run, and ending that kernel whatever happens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.manager import AsyncKernelManager, KernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger
from traitlets.config import Config

from resflow.workflow.interruption import Interruptions

if TYPE_CHECKING:
    from resflow.workflow.tracking import Run

__all__ = ["RunExecution", "private_transport"]

_LONGEST_FOLDER = 80
"""Bytes, of the 104 to 108 that a system allows for a socket's path."""


class RunExecution(NBClientEngine):
    """papermill's own engine, with a kernel that finds a run by MLFLOW_RUN_ID and that signals end at once."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        *,
        run: Run,
        interruptions: Interruptions,
        **options: Any,
    ) -> None:
        """Execute the notebook in a kernel that knows the run; as papermill's own, but for the environment."""
        options = {
            key: value for key, value in options.items() if key not in ("input_path", "timeout", "startup_timeout")
        }
        with private_transport() as transport:
            client = PapermillNotebookClient(
                nb_man,
                timeout=execution_timeout,
                startup_timeout=start_timeout,
                kernel_name=kernel_name,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
                kernel_manager_class=_PromptKernelManager,
                **({"config": transport} | options),
            )
            # A kernel that is asked politely has five seconds; whoever sends signals waits less.
            interruptions.before_raising = lambda: setattr(client, "shutdown_kernel", "immediate")
            try:
                client.execute(env=_kernel_environment(run))
            finally:
                # nbclient cleans up after execution only: a signal may have come while the kernel was being started
                if client.km is not None and client.km.has_kernel:
                    client.shutdown_kernel = "immediate"
                    client._cleanup_kernel()


class _PromptKernelManager(AsyncKernelManager):
    """Kills a kernel that is to end now without interrupting it first, which it would complain about on its way out."""

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # type: ignore[override]
        if now and self.provisioner is not None:
            # A signal may have come while a cell was waited for: that would otherwise report the kernel's death.
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            for task in waiting:
                task.cancel()
            if waiting:
                ended, _ = await asyncio.wait(waiting, timeout=1.0)
                for task in ended:
                    _ = task.cancelled() or task.exception()
            await self.provisioner.kill()
        await super().shutdown_kernel(now=now, restart=restart)


def _kernel_environment(run: Run) -> dict[str, str]:
    """The environment that hands the run to the kernel, by the names that MLflow itself reads as well."""
    # The first two are of this run, not of runs that the notebook may start; with the third set, matplotlib would not
    # show figures in the notebook.
    left_out = ("MLFLOW_EXPERIMENT_NAME", "RESFLOW_RUN_TAGS", "MPLBACKEND")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    return environment | {
        "MLFLOW_RUN_ID": run.id,
        "MLFLOW_EXPERIMENT_ID": run.experiment_id,
        "MLFLOW_TRACKING_URI": run.tracking_uri,
    }


@contextmanager
def private_transport() -> Iterator[Config]:
    """Options by which kernel and client talk through sockets that are files in a folder of this user alone.

    By default they would through ports: any user of the machine may connect to those, and a port found to be free may
    be another kernel's before this one opens it, which then dies as it starts. Where paths are too long for sockets, or
    on a system without them, ports it is, encrypted if both sides can.
    """
    with TemporaryDirectory(prefix="resflow-", ignore_cleanup_errors=True) as folder:
        if os.name == "posix" and len(os.fsencode(folder)) <= _LONGEST_FOLDER:
            yield Config({"KernelManager": {"transport": "ipc", "ip": os.path.join(folder, "kernel")}})
        else:
            able = hasattr(KernelManager, "transport_encryption") and zmq.has("curve")
            yield Config({"KernelManager": {"transport_encryption": "auto"}} if able else {})
