"""Programs of earlier executions, kept for later ones as traced and as compiled: `.resflow_cache/jax` in the project.

JAX itself writes entries in place: a process that is killed, or a full disk, leaves half of one, which is complained of
at every later use. So an execution has a folder of its own, in which the entries kept so far appear under further
names (hard links), and what it adds is taken over when its kernel has ended, entry by entry, whole ones only. Any
number of executions may be under way; the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path

from resflow.workflow.cache_folder import CACHE, cache_folder
from resflow.workflow.scratch import temporary_folder

__all__ = ["compilation_cache", "programs_of", "settings", "tell_hit"]

LARGEST = 1 << 30
"""Bytes of entries that are kept, the latest made."""

_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # their paths would be part of what entries are found by
}

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_HITS = "hits"
_COMPILED, _TRACE = "-cache", "-trace"


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What kernels are told of that cache; nothing where the environment names another, or says that there is none."""
    wanted = environment.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("1", "true", "yes")
    return _SETTINGS if wanted and _FOLDER not in environment else {}


@contextmanager
def compilation_cache(root: Path) -> Iterator[dict[str, str]]:
    """What a kernel's environment has to say for JAX to find what was compiled before, and to keep what is new.

    Nothing where the environment already says where JAX is to keep it, where it says that it is not to, without JAX,
    and where the project's folder cannot be written to.
    """
    kept = _kept(root) if settings() and util.find_spec("jaxlib") else None
    if kept is None:
        yield {}
        return
    with temporary_folder(kept.parent) as folder:
        for entry in _entries(kept):
            with contextlib.suppress(OSError):  # deleted meanwhile, or on a disk without links
                os.link(entry, folder / entry.name)
        yield {_FOLDER: str(folder), "RESFLOW_PROGRAMS": str(folder)}
        with contextlib.suppress(OSError):  # a full disk: what was compiled is compiled again
            _take_over(folder, kept)


def programs_of(environment: dict[str, str]) -> tuple[int, int]:
    """How many programs the execution with this environment found, and how many it added."""
    folder = Path(environment[_FOLDER])
    return _hits_told(folder), sum(entry.name.endswith(_COMPILED) for entry in _added(folder))


def tell_hit() -> None:
    """Tell, in the folder of this kernel's execution, that JAX found a program there; nothing where it is another's."""
    folder = os.environ.get(_FOLDER, "")
    if CACHE in Path(folder).parts:
        with contextlib.suppress(OSError), open(os.path.join(folder, _HITS), "ab") as file:
            file.write(b".")


def _hits_told(folder: Path) -> int:
    """How often a kernel told of that."""
    with contextlib.suppress(OSError):
        return (folder / _HITS).stat().st_size
    return 0


def _kept(root: Path) -> Path | None:
    """The folder for entries of this jaxlib and processor; None where there can be none."""
    return cache_folder(root, f"jax/{metadata.version('jaxlib')}-{_processor()}")


def _processor() -> str:
    """What programs are compiled for: the machine, and what its processor can do."""
    abilities = ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        abilities = next((line for line in file if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:8]}"


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in folder.glob("*-*") if entry.name.endswith((_COMPILED, _TRACE))]


def _added(folder: Path) -> list[Path]:
    """The entries that an execution wrote: those it was given have two names."""
    return [entry for entry in _entries(folder) if entry.stat().st_nlink == 1]


def _take_over(folder: Path, kept: Path) -> None:
    for entry in filter(_is_whole, _added(folder)):
        os.replace(entry, kept / entry.name)
    _prune(kept)


def _is_whole(entry: Path) -> bool:
    """Whether an entry can be unpacked: one that was cut off cannot."""
    packed = entry.read_bytes()
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        with contextlib.suppress(ImportError):
            import zstandard

            try:
                return bool(zstandard.ZstdDecompressor().decompress(packed))
            except zstandard.ZstdError:
                return False
    try:
        return bool(zlib.decompress(packed))
    except zlib.error:
        return False


def _prune(kept: Path) -> None:
    """Remove the oldest entries of those that are too many, also of other versions and processors."""
    entries = []
    for folder in kept.parent.glob("*/"):
        for entry in () if folder.name.startswith("resflow-") else _entries(folder):
            with contextlib.suppress(OSError):
                status = entry.stat()
                entries.append((status.st_mtime, status.st_size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries):
        if total <= LARGEST:
            return
        entry.unlink(missing_ok=True)
        total -= size
