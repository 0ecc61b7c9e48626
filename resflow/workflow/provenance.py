"""Where a run comes from: code, notebook, packages, machine, and the process that answers for it."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from resflow.workflow import names
from resflow.workflow.goal import Goal
from resflow.workflow.project import project_root

__all__ = [
    "Owner",
    "git",
    "git_output",
    "notebook_digest",
    "owner_is_gone",
    "owner_of",
    "owner_tag",
    "provenance_tags",
    "versions_of",
]

PACKAGES = (
    "resflow",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "mlflow",
    "papermill",
)
"""Whose versions are recorded: those a run's numbers may depend on."""


def provenance_tags(source: str | os.PathLike[str], notebook: Any = None) -> dict[str, str]:
    """Tags that say where a run of the notebook at `source`, started by this process, comes from, and its goal.

    `source` may be a name only; the goal is known where the notebook is given, as a node of nbformat.
    """
    root = project_root()
    path = Path(source).parent.resolve() / Path(source).name  # whatever a link leads to: artifacts have its own name
    tags = {
        names.SOURCE: str(path.relative_to(root)) if path.is_relative_to(root) and path.exists() else str(source),
        names.SOURCE_TYPE: "NOTEBOOK",
        names.USER: _user(),
        names.OWNER: owner_tag(),
        names.PYTHON: platform.python_version(),
        names.PLATFORM: platform.platform(),
    }
    if notebook is not None:
        tags |= goal.tags if (goal := Goal.in_metadata(notebook)) else {}
        tags[names.NOTEBOOK_DIGEST] = notebook_digest(notebook)
    versions = {names.VERSION + package: version for package, version in versions_of(PACKAGES).items()}
    return tags | _git_tags(root) | versions


def notebook_digest(notebook: Any) -> str:
    """The SHA-256 of a notebook's cells as written: types and sources, without outputs or injected parameters."""
    cells = [
        (cell.cell_type, cell.source)
        for cell in notebook.cells
        if not {"injected-parameters", "papermill-error-cell-tag"}.intersection(cell.metadata.get("tags", []))
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    versions = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):  # an optional one
            versions[package] = metadata.version(package)
    return versions


def owner_tag() -> str:
    """The owner's tag of a run that this process answers for: its machine, number and start."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


class Owner(NamedTuple):
    """The process that answers for a run, by its owner's tag."""

    host: str
    pid: int
    started: float


def owner_of(tag: str) -> Owner | None:
    """The owner that a tag names; None if it names none, as a tag may that somebody else wrote."""
    found = re.fullmatch(r"(.+)/([1-9][0-9]{0,9})/([0-9]{1,15}(?:\.[0-9]{1,9})?)", tag)
    if not found or int(found[2]) >= 2**31:
        return None
    return Owner(found[1], int(found[2]), float(found[3]))


def owner_is_gone(tag: str) -> bool:
    """True if a run's owner, by its owner's tag, ran on this machine and runs no more."""
    owner = owner_of(tag)
    if owner is None or owner.host != socket.gethostname():
        return False  # unknown, or another machine's, whose processes cannot be seen from here
    try:
        process = psutil.Process(owner.pid)
        # Another process may have been given the number since; clocks that are set shift start times a little.
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner.started) > 5.0
    except psutil.Error:
        return not psutil.pid_exists(owner.pid)  # it may only be hidden from this user


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _git_tags(root: Path) -> dict[str, str]:
    """The commit, and whether tracked files differ from it; nothing outside a repository or before its first commit."""
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return {}
    # Untracked files don't count: executed notebooks are usually among them.
    changes = git(root, "status", "--porcelain", "--untracked-files=no")
    return {names.COMMIT: commit, names.GIT_DIRTY: str(bool(changes)).lower()}


def git(root: Path, *arguments: str) -> str:
    """What git says in a folder, without white space around it; "" where it fails or is not there."""
    return git_output(root, *arguments).strip()


def git_output(root: Path, *arguments: str) -> str:
    """All that git says, line ends as they are; what is no UTF-8 is replaced."""
    if not shutil.which("git"):
        return ""
    # optional locks off: asking for the status must not get in the way of a commit being made beside it
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=False).stdout.decode(errors="replace")
