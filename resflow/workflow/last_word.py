"""Whether a run is over, by the last word of whoever answers for it: MLflow's own status is the notebook's to change.

`with mlflow.start_run():` in a notebook ends the engine's run when the block is left, with all later cells still to
come; `mlflow.end_run("FAILED")` does too. So a run of resflow's carries the tag `names.OUTCOME`: RUNNING from its
creation on, and at the very end, when everything else is written, how it ended and of which run that is said. Tags that
a notebook copies from another run thus say nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resflow.workflow.names import FINISHED, OUTCOME, RUNNING

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["AT_WORK", "is_finished", "last_word", "status_of", "word"]

AT_WORK = {OUTCOME: RUNNING}
"""The tag of a run of which no last word has been said."""


def word(status: str, run_id: str) -> dict[str, str]:
    """The tag by which a run's status is said for good."""
    return {OUTCOME: f"{status} {run_id}"}


def last_word(run: Run) -> str:
    """The status that was said of a run for good; "" as long as none was."""
    status, _, run_id = run.data.tags.get(OUTCOME, "").partition(" ")
    return status if run_id == run.info.run_id else ""


def is_finished(run: Run) -> bool:
    """True if a run ran through and is whole: by MLflow's status, and by the last word."""
    return run.info.status == FINISHED and last_word(run) == FINISHED


def status_of(run: Run) -> str:
    """What a run counts as: RUNNING until the last word; MLflow's status for runs that resflow has no word in."""
    status = run.info.status
    if OUTCOME not in run.data.tags or status in (RUNNING, "SCHEDULED"):
        return status
    said = last_word(run) or RUNNING
    return status if said == FINISHED else said
