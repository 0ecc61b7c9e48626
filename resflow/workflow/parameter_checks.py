"""Who knows what a notebook's parameters mean: a module that its metadata name, imported when a value is checked.

    "resflow": {"checks": "resflow.notebook.checks"}

The module has a function `check_values(values)`, which raises `InvalidInputError` for a value that no run could use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from resflow.errors import InvalidInputError, shown
from resflow.workflow.notebook_file import metadata_of

__all__ = ["check_values", "checks_of"]


def checks_of(notebook: Any) -> str:
    """The name of the module that checks the notebook's parameters; "" if none does."""
    checks = metadata_of(notebook, "resflow").get("checks")
    return "" if checks is None else str(checks)


def check_values(checks: str, values: Mapping[str, Any]) -> None:
    """Check values of parameters by the module of that name.

    Raises:
        InvalidInputError: If a value cannot be used, whatever else is chosen; or if there is no such module.
    """
    try:
        check = importlib.import_module(checks).check_values
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the notebook's metadata says resflow.checks={shown(checks)}, which must be a module that can be imported "
            f"here and has a function check_values: {error}"
        ) from None
    check(values)
