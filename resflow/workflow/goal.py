"""Which metric tells how good a run is, and whether more of it is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resflow.errors import InvalidInputError, shown
from resflow.workflow.names import DIRECTION, METRIC
from resflow.workflow.notebook_file import metadata_of

__all__ = ["NO_GOAL", "Goal"]

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
