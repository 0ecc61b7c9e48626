"""What this project's notebooks share beside their mathematics; the one room that knows library and workflow."""

from resflow.notebook.data import labelled_data, prepare, prepare_split
from resflow.notebook.findings import (
    below_title,
    first_and_last,
    fits_sentence,
    gap_title,
    held_out_table,
    held_out_title,
    split_table,
)
from resflow.notebook.opening import start_run
from resflow.notebook.population import last_gaps_title, population_points, train_members
from resflow.notebook.record import Claim, record
from resflow.workflow.progress import tell_steps
from resflow.workflow.reports.statistics import above_linear

__all__ = [
    "Claim",
    "above_linear",
    "below_title",
    "first_and_last",
    "fits_sentence",
    "gap_title",
    "held_out_table",
    "held_out_title",
    "labelled_data",
    "last_gaps_title",
    "population_points",
    "prepare",
    "prepare_split",
    "record",
    "split_table",
    "start_run",
    "tell_steps",
    "train_members",
]
