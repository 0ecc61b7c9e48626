"""What every file of points of a notebook's run says: who computes values again from it, and on which data."""

from __future__ import annotations

import json
from typing import Any

from resflow.workflow import names
from resflow.workflow.records import Run

__all__ = ["VERIFIER", "preparation_tag"]

VERIFIER = f"{__package__}.verification"
"""The module that computes values again from a stored point."""


def preparation_tag(run: Run) -> dict[str, Any] | None:
    """How the run's data was prepared, in JSON's types; None where it did not say."""
    return json.loads(run.stored.data.tags.get(names.DATA_PREPARATION, "null"))
