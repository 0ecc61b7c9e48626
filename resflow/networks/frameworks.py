"""Frameworks that the library does without, imported when a network of theirs is at hand."""

from __future__ import annotations

import importlib
from typing import Any

from resflow.errors import InvalidInputError, check_known

__all__ = ["framework"]

_INSTALL = {"torch": "resflow[torch]", "flax": "flax"}


def framework(name: str) -> Any:
    """The framework of that name, torch or flax.

    Raises:
        InvalidInputError: If it is unknown, or not installed, with what installs it.
    """
    check_known("framework", name, _INSTALL)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InvalidInputError(f"networks of {name} need it installed: pip install '{_INSTALL[name]}'") from None
