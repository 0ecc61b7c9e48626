"""Digests of the code that decides what a run computes: a notebook's cells, and the package's own files."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["code_digest", "library_digest", "sources_digest"]

PACKAGE = Path(__file__).parents[1]
"""The package's folder, all of whose sources may decide what is computed, but for those of the workflow."""


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
