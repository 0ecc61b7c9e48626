"""Which metric tells how good a run is, and whether more of it is better; and how a command is told so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import click

from resflow.errors import InvalidInputError, shown
from resflow.workflow.names import DIRECTION, METRIC
from resflow.workflow.notebook_file import metadata_of

__all__ = ["NO_GOAL", "Goal", "goal_named", "goal_options"]

NO_GOAL = {METRIC: "", DIRECTION: ""}
"""The tags of a run that says no longer what its like are compared by."""


@dataclass(frozen=True)
class Goal:
    """What runs are compared by.

    >>> Goal("accuracy", maximize=True).is_better(0.9, than=0.8), Goal("loss").is_better(0.9, than=0.8)
    (True, False)

    Attributes:
        metric: The metric's name.
        maximize: True if more of it is better.
    """

    metric: str
    maximize: bool = False

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The direction in words: maximize or minimize."""
        return "maximize" if self.maximize else "minimize"

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which a run says what its like are compared by."""
        return {METRIC: self.metric, DIRECTION: self.direction}

    @property
    def best_metric(self) -> str:
        """What a sweep calls the best value of its points: in the metric's section, if that has one.

        >>> Goal("accuracy").best_metric, Goal("bounds/gap_certificate").best_metric
        ('best_accuracy', 'bounds/best_gap_certificate')
        """
        section, slash, name = self.metric.rpartition("/")
        return f"{section}{slash}best_{name}"

    @staticmethod
    def in_tags(tags: Mapping[str, str]) -> Goal | None:
        """The goal that a run's tags name; None if they name none."""
        return Goal(tags[METRIC], tags.get(DIRECTION) == "maximize") if tags.get(METRIC) else None

    @staticmethod
    def in_metadata(notebook: Any) -> Goal | None:
        """The goal that a notebook's metadata name, as `"resflow": {"metric": "accuracy", "direction": "maximize"}`.

        Raises:
            InvalidInputError: If there is half of one.
        """
        metric, direction = map(metadata_of(notebook, "resflow").get, ("metric", "direction"))
        if metric is None and direction is None:
            return None
        if not isinstance(metric, str) or not metric or direction not in ("minimize", "maximize"):
            raise InvalidInputError(
                f"the notebook's metadata say metric={shown(metric)} and direction={shown(direction)} under resflow: "
                "name a metric and as its direction minimize or maximize, or leave both out"
            )
        return Goal(metric, direction == "maximize")

    def write_to(self, notebook: Any) -> None:
        """Name the goal in a notebook's metadata, in place of any other."""
        own = metadata_of(notebook, "resflow")
        notebook.metadata["resflow"] = own | {"metric": self.metric, "direction": self.direction}

    def is_better(self, value: float, *, than: float) -> bool:
        """True if one value is better than another."""
        return value > than if self.maximize else value < than


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options `--metric NAME --maximize`, as its arguments, each None where it is not said."""
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
    if metric == "":
        raise InvalidInputError("--metric '' names no metric: give its name, or leave it out")
    if metric is None:
        raise InvalidInputError("--maximize and --minimize say what is better of a metric: name it by --metric")
    if maximize is None:
        raise InvalidInputError(f"--metric {metric}: is more of it better? Say --maximize or --minimize")
    return Goal(metric, maximize)
