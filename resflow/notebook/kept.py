"""What files of points of notebooks' runs say: on which data a model was trained, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from resflow.training.train import TrainingOptions
from resflow.workflow import names
from resflow.workflow.records import Run

__all__ = ["described_options", "options_again", "preparation_tag"]


def preparation_tag(run: Run) -> dict[str, Any] | None:
    """How the run's data was prepared, in JSON's types; None where it did not say."""
    return json.loads(run.stored.data.tags.get(names.DATA_PREPARATION, "null"))


def described_options(options: TrainingOptions | None) -> dict[str, Any] | None:
    """How a model was trained, in JSON's types: what is measured of it again comes from the very program that did.

    None where it is not known, or by an optimiser without a name.
    """
    if options is None or not isinstance(options.optimizer, str):
        return None
    return {field.name: getattr(options, field.name) for field in fields(options)}


def options_again(described: Mapping[str, Any] | None) -> TrainingOptions:
    """The options that were described; those of no step where none were."""
    return TrainingOptions(**described) if described else TrainingOptions(steps=0)
