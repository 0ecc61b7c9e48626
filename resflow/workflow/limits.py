"""How long names and values may be for MLflow, and how longer ones are shortened so that it shows."""

from __future__ import annotations

import hashlib
import re

__all__ = ["PARAMETER", "RUN_NAME", "TAG", "parameter_name", "shortened"]

PARAMETER = 6000
RUN_NAME = 250
TAG = 5000
"""Characters that MLflow 3 takes of a parameter's value, of a run's name, and of a tag's value by any of its stores."""

_PARAMETER_NAME = 250


def shortened(text: str, longest: int) -> str:
    """`text`, or its beginning and a mark.

    >>> shortened("a" * 10, longest=4)
    'aaa…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def parameter_name(name: str) -> str:
    """A parameter's name as MLflow takes it: not too long, and other characters than it allows replaced.

    >>> parameter_name("größe"), len(parameter_name("a" * 1000))
    ('größe', 250)
    """
    allowed = re.sub(r"[^\w.\- ]", "_", name)
    if len(allowed) > _PARAMETER_NAME:  # names that begin alike stay different ones
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        allowed = f"{allowed[: _PARAMETER_NAME - 11]}...{digest}"
    return allowed
