"""What makes two runs the same: the digest of a notebook's code, the library, the parameters and the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from resflow.workflow.sweeps.file.data_files import names_file

__all__ = ["code_digest", "fingerprint", "library_digest", "sources_digest"]

PACKAGE = Path(__file__).parents[3]
"""The package's folder, all of whose sources may decide what is computed, but for those of the workflow."""


def fingerprint(code: str, parameters: Mapping[str, Any]) -> str:
    """The SHA-256 that two runs share exactly if the same is computed in them.

    Args:
        code: The notebook's `code_digest`.
        parameters: Every parameter with its value; a text that names an existing data file counts by its content.
    """
    values = {name: {"file": digest} if (digest := _file(value)) else value for name, value in parameters.items()}
    content = {"code": code, "library": library_digest(), "parameters": values}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(notebook: Any) -> str:
    """The SHA-256 of a notebook's code cells; prose may change without a run becoming another.

    Args:
        notebook: A notebook node of nbformat.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


@cache
def library_digest() -> str:
    """The `sources_digest` of when this process asked first."""
    return sources_digest()


def sources_digest() -> str:
    """The SHA-256 of the package's version and sources as they are; the workflow computes nothing and is left out."""
    digest = hashlib.sha256(metadata.version("resflow").encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("workflow/"):
            digest.update(f"\0{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _file(value: Any) -> str:
    """The digest of the data file that a value names; "" if it names none."""
    if not (names_file(value) and Path(value).is_file()):
        return ""
    status = Path(value).stat()
    return _content(value, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _content(path: str, size: int, modified: int) -> str:
    """The digest of a file's content, read again once the file has changed."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
