"""What makes two runs the same: the digest of a notebook's code, the library, the parameters and the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from resflow.workflow.sources import library_digest
from resflow.workflow.sweeps.file.data_files import names_file

__all__ = ["fingerprint"]


def fingerprint(code: str, parameters: Mapping[str, Any]) -> str:
    """The SHA-256 that two runs share exactly if the same is computed in them.

    Args:
        code: The notebook's `code_digest`.
        parameters: Every parameter with its value; a text that names an existing data file counts by its content.
    """
    values = {name: {"file": digest} if (digest := _file(value)) else value for name, value in parameters.items()}
    content = {"code": code, "library": library_digest(), "parameters": values}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
