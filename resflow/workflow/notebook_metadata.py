"""What a notebook says of itself in its metadata: who knows what its parameters mean, and what its runs compare by.

    "resflow": {"checks": "resflow.notebook.checks", "metric": "accuracy", "maximize": true}

All of it may be left out. `checks` names a module with a function `check_values(values)`, which raises
`InvalidInputError` for a value that no run could use; it is imported when a value is to be checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from resflow.errors import InvalidInputError, shown
from resflow.workflow.goal import Goal

__all__ = ["check_values", "checks_of", "goal_of"]


def checks_of(notebook: Any) -> str:
    """The name of the module that checks the notebook's parameters; "" if none does."""
    checks = _own(notebook).get("checks")
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


def goal_of(notebook: Any) -> Goal | None:
    """What the notebook's runs are compared by; None if it doesn't say.

    Raises:
        InvalidInputError: If it says so in a way that cannot be understood.
    """
    own = _own(notebook)
    metric, maximize = own.get("metric"), own.get("maximize")
    if metric is None:
        return None
    if not isinstance(metric, str) or not 0 < len(metric) <= 240 or not metric.isprintable():
        raise InvalidInputError(
            f"the notebook's metadata says resflow.metric={shown(metric)}, which must be a metric's name"
        )
    if not isinstance(maximize, bool):
        raise InvalidInputError(
            f"the notebook's metadata says resflow.metric={metric!r}, but not if more of it is better: say "
            "resflow.maximize, too, as true or false"
        )
    return Goal(metric, maximize)


def _own(notebook: Any) -> Mapping[str, Any]:
    """What the metadata hold under `resflow`; somebody else's entry of that name says nothing."""
    own = notebook.metadata.get("resflow")
    return own if isinstance(own, dict) else {}
