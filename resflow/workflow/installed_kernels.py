"""The kernels that are installed, and what to do about one that isn't."""

from __future__ import annotations

import os
import shutil
import sys

from resflow.errors import InvalidInputError, nearest, shown

__all__ = ["check_kernel"]


def check_kernel(name: str) -> str:
    """Check that a kernel of that name is installed and has a program to start; its language.

    Raises:
        InvalidInputError: If it is not, or has none.
    """
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    manager = KernelSpecManager()
    try:
        spec = manager.get_kernel_spec(name)
    except NoSuchKernel:
        installed = sorted(manager.find_kernel_specs())
        raise InvalidInputError(
            f"no kernel {shown(name)} is installed: install it, or choose another by -k or in the notebook's metadata; "
            f"nearest is {nearest(name, installed, 1)[0]}, of {', '.join(installed[:40])}"
        ) from None
    program = spec.argv[0] if spec.argv else ""
    if program in ("python", "python3", f"python3.{sys.version_info.minor}"):  # which Jupyter starts as this one
        program = sys.executable
    if not shutil.which(os.path.expandvars(program)):
        raise InvalidInputError(
            f"the kernel {name} is to be started by {shown(program)}, which is not there: install the kernel anew, or "
            "choose another by -k or in the notebook's metadata"
        )
    return str(spec.language)
