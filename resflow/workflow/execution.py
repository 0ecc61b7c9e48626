"""Executing a notebook in a kernel that knows its run, and ending that kernel whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.manager import KernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger
from traitlets.config import Config

from resflow.workflow import names
from resflow.workflow.checkpoints import Checkpoints
from resflow.workflow.compiled import compilation_cache, programs_of
from resflow.workflow.forking.modules import modules_of
from resflow.workflow.forking.provisioner import ForkingProvisioner
from resflow.workflow.interruption import Interruptions
from resflow.workflow.kernel_environment import environment_for
from resflow.workflow.kernel_manager import PromptKernelManager
from resflow.workflow.kernels import speaks_ipc
from resflow.workflow.project import project_root
from resflow.workflow.scratch import temporary_folder

if TYPE_CHECKING:
    from resflow.workflow.records import Run
    from resflow.workflow.run_parameters import RunParameters

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
        parameters: RunParameters,
        interruptions: Interruptions,
        checkpoints: Checkpoints,
        shown: bool,
        about: dict[str, str],
        **options: Any,
    ) -> None:
        """Execute the notebook in a kernel that knows the run; as papermill's own, but for environment and display.

        `about` gets tags that say which kernel it was.
        """
        options = {
            key: value for key, value in options.items() if key not in ("input_path", "timeout", "startup_timeout")
        }
        with (
            private_transport(kernel_name) as transport,
            _displayed(nb_man.nb, shown) as (display, told),
            compilation_cache(project_root()) as compiled,
        ):
            client = _Client(
                nb_man,
                timeout=execution_timeout,
                startup_timeout=start_timeout,
                kernel_name=kernel_name,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
                kernel_manager_class=PromptKernelManager,
                **({"config": transport} | options),
            )
            client.about = about
            client.on_cell_start = display
            client.on_cell_executed = parameters.asking(client, run, nb_man.nb)
            # A kernel that is asked politely has five seconds; whoever sends signals waits less.
            interruptions.before_raising = lambda: setattr(client, "shutdown_kernel", "immediate")
            try:
                client.execute(env=environment_for(run) | compiled | told | checkpoints.environment)
            except DeadKernelError as error:
                code = client.manager.exit_code if client.manager is not None else None
                if code is None:
                    raise
                how = f"with exit code {code}" if code >= 0 else f"of {signal.Signals(-code).name}"
                raise DeadKernelError(f"{error} {how}") from error
            finally:
                # nbclient cleans up after execution only: a signal may have come while the kernel was being started
                if client.km is not None and client.km.has_kernel:
                    client.shutdown_kernel = "immediate"
                    client._cleanup_kernel()
                if resumed := checkpoints.resumed:
                    about[names.TRAININGS_RESUMED] = str(resumed)
                if compiled:
                    found, added = programs_of(compiled)
                    about |= {names.PROGRAMS_FOUND: str(found), names.PROGRAMS_COMPILED: str(added)}


class _Client(PapermillNotebookClient):
    """papermill's own client, to which a kernel that dies as it starts is as dead as one that dies later."""

    manager: PromptKernelManager | None = None
    about: dict[str, str]

    def create_kernel_manager(self) -> Any:
        """As nbclient's own, but kept where nbclient does not forget it, and with a kernel that is forked if it can."""
        self.manager = manager = super().create_kernel_manager()
        if speaks_ipc(self.kernel_name):
            manager.provisioner = ForkingProvisioner(
                kernel_id=manager.kernel_id,
                kernel_spec=manager.kernel_spec,
                parent=manager,
                modules=list(modules_of(self.nb)),
            )
        return manager

    async def async_start_new_kernel_client(self) -> Any:
        try:
            started = await super().async_start_new_kernel_client()
        except RuntimeError as error:  # what jupyter_client raises if it died, or did not answer in time
            raise DeadKernelError(f"the kernel {self.kernel_name} did not start: {error}") from error
        if isinstance(provisioner := self.km.provisioner, ForkingProvisioner):
            reason = provisioner.not_forked
            self.about[names.KERNEL] = f"ordinary: {reason}" if reason else "forked"
        return started

    start_new_kernel_client = run_sync(async_start_new_kernel_client)

    def papermill_execute_cells(self) -> None:
        """Execute the cells up to one that raises; what leaves here as an exception leaves one at work."""
        super().papermill_execute_cells()
        self.km.at_rest = True


@contextmanager
def _displayed(nb: Any, shown: bool) -> Iterator[tuple[Callable[..., None] | None, dict[str, str]]]:
    """What `displayed` yields; whoever does not look here may look where the environment says already."""
    if not shown:
        yield None, {}
        return
    from resflow.workflow.run_display import displayed

    with displayed(nb.cells) as display:
        yield display


@contextmanager
def private_transport(kernel_name: str) -> Iterator[Config]:
    """Options by which kernel and client talk through sockets that are files in a folder of this user alone.

    By default they would through ports: any user of the machine may connect to those, and a port found to be free may
    be another kernel's before this one opens it, which then dies as it starts. For a kernel that may not know such
    sockets, where paths are too long for them, or on a system without them, ports it is, encrypted if both sides can.
    """
    with temporary_folder() as folder:
        if os.name == "posix" and len(os.fsencode(folder)) <= _LONGEST_FOLDER and speaks_ipc(kernel_name):
            yield Config({"KernelManager": {"transport": "ipc", "ip": os.path.join(folder, "kernel")}})
        else:
            able = hasattr(KernelManager, "transport_encryption") and zmq.has("curve")
            yield Config({"KernelManager": {"transport_encryption": "auto"}} if able else {})
