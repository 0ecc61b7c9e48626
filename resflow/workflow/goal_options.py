"""The options by which a command is told what runs are compared by: `--metric accuracy --maximize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from resflow.errors import InvalidInputError
from resflow.workflow.goal import Goal

__all__ = ["goal_named", "goal_options"]


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options, as its arguments `metric` and `maximize`, each None where it is not said."""
    direction = click.option("--maximize/--minimize", default=None, help="Whether more or less of it is better.")
    metric = click.option("--metric", metavar="NAME", help="Compare by this metric, whatever is said elsewhere.")
    return metric(direction(command))


def goal_named(metric: str | None, maximize: bool | None) -> Goal | None:
    """The goal that the options name; None if they are left out.

    Raises:
        InvalidInputError: If one of them is left out.
    """
    if metric is None and maximize is None:
        return None
    if not metric:
        raise InvalidInputError("--maximize and --minimize say what is better of a metric: name it by --metric")
    if maximize is None:
        raise InvalidInputError(f"--metric {metric}: is more of it better? Say --maximize or --minimize")
    return Goal(metric, maximize)
