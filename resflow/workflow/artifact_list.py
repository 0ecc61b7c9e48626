"""What a run has attached, as it lists that itself when it ends: so a file that was lost or changed since is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from resflow.workflow import names
from resflow.workflow.addresses import local_path
from resflow.workflow.environment import ENVIRONMENT

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["LIST", "attach_list", "unlike_list"]

LIST = f"{ENVIRONMENT}/artifacts.json"

READ = 16 << 20
"""Bytes that are read for digests, of the smallest files first: of others the size is listed alone."""


def attach_list(run: Run) -> None:
    """Attach environment/artifacts.json: every file by its path, with its size in bytes and its SHA-256.

    It is to be the last file that is attached; its own SHA-256 becomes a tag. What a report is written to is listed by
    its path alone, as reports are written again. Where artifacts are on a server, nothing is read for a digest.
    """
    stored, left = run.stored, READ
    tags, folder = stored.data.tags, Path(local_path(stored.info.artifact_uri))
    known = {tags.get(names.STORED_POINT): tags.get(names.STORED_POINT_DIGEST)}
    found: dict[str, dict[str, Any]] = {}
    for path, size in sorted(run.sizes().items(), key=lambda entry: (entry[1], entry[0])):
        if path == LIST:
            continue
        found[path] = {} if _is_written_again(path, tags) else {"size": size}
        if found[path] and known.get(path):
            found[path]["sha256"] = known[path]
        elif found[path] and size <= left and folder.is_dir():
            found[path]["sha256"] = _digest(folder / path)
            left -= size
    text = json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n"
    run.log_text(text, LIST)
    run.set_tags({names.ARTIFACTS: _digest_of(text.encode())})


def unlike_list(run: Run) -> Iterator[tuple[str, str]]:
    """The files of a run that are not as they were when it ended, each with what is wrong; none where none are listed.

    Files that were attached since are nothing wrong.
    """
    stored = run.stored
    if (digest := stored.data.tags.get(names.ARTIFACTS)) is None:
        return
    sizes, folder = run.sizes(), Path(local_path(stored.info.artifact_uri))
    if LIST not in sizes:
        yield LIST, "is missing"
        return
    if _digest_of(content := run.read_bytes(LIST)) != digest:
        yield LIST, "changed since the run ended"
        return
    for path, listed in _entries(content):
        if path not in sizes:
            yield path, "is missing"
        elif sizes[path] != (size := listed.get("size", sizes[path])):
            yield path, f"has {sizes[path]:,} bytes, and {size:,} when the run ended"
        elif "sha256" in listed and listed["sha256"] != (
            _digest(folder / path) if folder.is_dir() else _digest_of(run.read_bytes(path))
        ):
            yield path, "changed since the run ended"


def _entries(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """What is listed; nothing of what another hand wrote in its place."""
    try:
        found = json.loads(content)
    except ValueError:
        return []
    return [(path, each) for path, each in found.items() if isinstance(each, dict)] if isinstance(found, dict) else []


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_written_again(path: str, tags: dict[str, str]) -> bool:
    """Whether it is the report, or the whole of what that shows the beginning of."""
    return path == f"{PurePosixPath(tags.get(names.SOURCE, '')).stem}.html" or path.startswith("outputs/")
