"""Which kernel a notebook gets, and whether it can be talked to through files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from resflow.errors import InvalidInputError, nearest, shown
from resflow.workflow.notebook_file import metadata_of

__all__ = ["PYTHON", "check_kernel", "complete_kernelspec", "kernel_language", "kernel_name", "kernel_of", "speaks_ipc"]

PYTHON = "python3"


def kernel_name(nb: Any) -> str:
    """The kernel that a notebook's metadata name; without a name Jupyter's for Python, or one of its language.

    Raises:
        InvalidInputError: If no installed kernel is of that language.
    """
    if named := metadata_of(nb, "kernelspec").get("name"):
        return str(named)
    language = kernel_language(nb).lower()
    if language == "python":
        return PYTHON
    specs = KernelSpecManager().get_all_specs()
    found = [name for name, spec in sorted(specs.items()) if spec["spec"].get("language", "").lower() == language]
    if not found:
        raise InvalidInputError(
            f"the notebook names no kernel, and none is installed for its language {language!r}: "
            f"there are {', '.join(sorted(specs))}"
        )
    return found[0]


def kernel_language(nb: Any) -> str:
    """The language that a notebook's metadata name; Python if they name none."""
    named = metadata_of(nb, "language_info").get("name") or metadata_of(nb, "kernelspec").get("language")
    return str(named or "python")


def kernel_of(nb: Any) -> dict[str, str]:
    """A notebook's kernel and language as options of papermill, which on its own refuses one that names none."""
    return {"kernel_name": kernel_name(nb), "language": kernel_language(nb)}


def complete_kernelspec(nb: Any, name: str) -> None:
    """Name the kernel that a notebook is given, if its metadata speak of one without its name: nbformat asks for it."""
    if said := metadata_of(nb, "kernelspec"):
        said["name"] = said.get("name") or name
        said["display_name"] = said.get("display_name") or said["name"]


def check_kernel(name: str) -> None:
    """Check that a kernel of that name is installed and has a program to start.

    Raises:
        InvalidInputError: If it is not, or has none.
    """
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


def speaks_ipc(name: str) -> bool:
    """True of a kernel that is known to open sockets that are files: ipykernel on this machine.

    Others may know ports only, as xeus-python does, or see other files, as in a container.
    """
    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except NoSuchKernel:
        return False  # which is said when it is to be started
    program = next((Path(part).stem for part in spec.argv[1:] if not part.startswith("-")), "")
    return program in ("ipykernel", "ipykernel_launcher") and "kernel_provisioner" not in spec.metadata
