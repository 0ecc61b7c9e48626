"""Forked kernels for whatever starts kernels by jupyter_client: papermill, nbclient, JupyterLab."""

from __future__ import annotations

import asyncio
import os
import pathlib
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner
from traitlets import List, Unicode

from resflow.workflow.forking.client import KERNELS, ORDINARY, NotForkedError, Wanted, forked
from resflow.workflow.forking.modules import USUAL

__all__ = ["NAME", "ForkingProvisioner"]

NAME = "resflow-forking"
"""By which a kernel's specification asks for it, as its `kernel_provisioner`."""


class ForkingProvisioner(LocalProvisioner):
    """Starts a kernel as a fork of a process that has imported what notebooks import, or else as usual.

    Attributes:
        modules: What is imported beforehand.
        not_forked: Why the kernel is an ordinary one; "" if it was forked.
    """

    modules: List[str] = List(Unicode(), default_value=list(USUAL)).tag(config=True)
    not_forked = ""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel that `cmd` would."""
        environment = kwargs.get("env") or dict(os.environ)
        folder = kwargs.get("cwd") or os.getcwd()
        try:
            if kwargs.get("stdin") or kwargs.get("stdout") or kwargs.get("stderr"):
                raise NotForkedError("it has standard streams of its own")
            wanted = Wanted([os.path.expanduser(each) for each in cmd], environment, str(folder))
            if not kwargs.get("independent"):
                wanted.environment["JPY_PARENT_PID"] = str(os.getpid())
            process = await asyncio.to_thread(forked, wanted, self.modules)
        except NotForkedError as reason:
            self.not_forked = str(reason)
            if environment.get(KERNELS, ORDINARY) != ORDINARY:  # what names a server is for this process alone
                kwargs["env"] = {name: value for name, value in environment.items() if name != KERNELS}
            return await super().launch_kernel(cmd, **kwargs)
        self.not_forked = ""
        self.process = cast("Any", process)
        self.pid, self.pgid = process.pid, None  # signals go by the server, which knows whether it still runs
        self.cwd = pathlib.Path(folder)
        return self.connection_info
