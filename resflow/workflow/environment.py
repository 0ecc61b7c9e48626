"""All that a run's numbers may depend on beside its notebook, as artifacts: versions, machine, flags, code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import without_secrets
from resflow.workflow.project import project_root
from resflow.workflow.provenance import git, git_output

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = [
    "CHANGES",
    "ENVIRONMENT",
    "LIBRARY",
    "attach_environment",
    "digests",
    "environment",
    "is_cut_off",
    "kept_environment",
    "uncommitted",
]

ENVIRONMENT = "environment"
"""The folder among a run's artifacts."""
_FILE = f"{ENVIRONMENT}/environment.json"
CHANGES = f"{ENVIRONMENT}/changes.diff"
"""What was uncommitted; there is none where nothing was."""

_LIBRARY = Path(__file__).parents[1]
LIBRARY = f"{_LIBRARY.name}/"
"""What the names of the library's own files begin with."""

LONGEST_DIFF = 1 << 20
"""Characters of the changes since the commit that are kept."""

_CUT = "… cut here:"

_AS_GIT_APPLIES_IT = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--src-prefix=a/",
                      "--dst-prefix=b/")  # fmt: skip
"""Whatever is configured for people to read."""

_FLAGS = re.compile(
    r"(?!JAX_COMPILATION_CACHE_DIR|TPU_SKIP_MDS_QUERY)"  # another folder each time; set by JAX itself, once it looked
    r"(JAX|XLA|CUDA|ROCM|TPU|OMP|MKL|OPENBLAS|NUMEXPR|VECLIB|NVIDIA|MALLOC)_|LD_PRELOAD$|PYTHONHASHSEED$"
)


def environment() -> dict[str, Any]:
    """What this process computes with: all installed packages, Python, platform, BLAS, JAX's devices, flags.

    BLAS is that of the libraries loaded by now, and there are devices only where JAX is imported.
    """
    return {
        "python": sys.version,
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "blas": _blas(),
        "devices": _devices(),
        "flags": {name: without_secrets(value) for name, value in sorted(os.environ.items()) if _FLAGS.match(name)},
        "packages": _packages(),
    }


def attach_environment(run: Run, *, once: bool = False) -> None:
    """Attach environment/environment.json, and environment/changes.diff where tracked files differ from the commit.

    Args:
        run: The run.
        once: Leave it at what is attached already, as a kernel does that comes to its notebook's end. Of others, and of
            kernels without resflow, it is that of the process that ran them.
    """
    if once and run.files(ENVIRONMENT):
        return
    found, root = environment() | {"process": "that ran the kernel" if once else "kernel"}, project_root()
    found["folder"] = os.path.relpath(os.getcwd(), root)
    found["commit"] = git(root, "rev-parse", "--verify", "--quiet", "HEAD") or None
    if not once:
        found["code"] = digests(_loaded(root), root)
    if changes := uncommitted(root):
        run.log_text(changes, CHANGES)
    run.log_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", _FILE)


def kept_environment(run: Run) -> dict[str, Any]:
    """What `attach_environment` attached to a run; nothing where it did not.

    Raises:
        InvalidInputError: If it was cut off or damaged since.
    """
    if _FILE not in run.files(ENVIRONMENT):
        return {}
    found = None
    with suppress(ValueError):
        found = json.loads(run.read_bytes(_FILE))
    if not isinstance(found, dict):
        raise InvalidInputError(f"run {run.id}: its file {_FILE} is cut off or damaged")
    return found


def digests(files: Iterable[str], root: Path) -> dict[str, str]:
    """The first digits of the SHA-256 of files, by their names within resflow's own folder or within a project's."""
    found = {}
    for name in files:
        place = _LIBRARY.parent if name.startswith(LIBRARY) else root
        with suppress(OSError):  # gone
            found[name] = hashlib.sha256((place / name).read_bytes()).hexdigest()[:16]
    return found


def uncommitted(root: Path) -> str:
    """By what the tracked files in a folder differ from their commit, without secrets; cut off where that is long.

    It is what `git apply` takes.
    """
    text = without_secrets(git_output(root, "diff", "HEAD", *_AS_GIT_APPLIES_IT))
    if len(text) <= LONGEST_DIFF:
        return text
    return f"{text[:LONGEST_DIFF]}\n{_CUT} {len(text) - LONGEST_DIFF:,} more characters\n"


def is_cut_off(changes: bytes) -> bool:
    """Whether these are not all of the changes that there were."""
    return changes.rstrip(b"\n").rpartition(b"\n")[2].startswith(_CUT.encode())


def _packages() -> dict[str, str]:
    """Every installed package's version, by the names of folders: to parse the metadata takes 30 times as long."""
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = [entry.name for entry in os.scandir(folder or ".")]
        except OSError:  # a zip file, or gone
            continue
        for entry in entries:
            name, dash, version = entry.removesuffix(".dist-info").partition("-")
            if dash and entry.endswith(".dist-info"):
                found.setdefault(name, version)  # the first is the one that is imported
    return dict(sorted(found.items(), key=lambda pair: pair[0].lower()))


def _loaded(root: Path) -> list[str]:
    """The files of the Python modules that this process has loaded, of resflow's and of the project's own."""
    within = [(f"{_LIBRARY}{os.sep}", _LIBRARY.parent), (f"{root}{os.sep}", root)]
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and file.endswith(".py"):  # compared as texts, as there are thousands
            place = next((place for prefix, place in within if file.startswith(prefix)), None)
            if place is not None and (place != root or f"{os.sep}site-packages{os.sep}" not in file):
                found.add(Path(file).relative_to(place).as_posix())
    return sorted(found)


def _blas() -> list[dict[str, Any]]:
    """The loaded libraries of linear algebra and threads, and how many threads they use."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:  # it comes with scikit-learn, which notebooks of others need not have
        return []
    shown = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
    found = [{key: each[key] for key in shown if key in each} for each in threadpool_info()]
    return sorted(found, key=str)  # in whichever order they were loaded


def _devices() -> list[str]:
    """JAX's devices."""
    if (jax := sys.modules.get("jax")) is None:
        return []
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()]


def _processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:  # no Linux
        return platform.processor()
