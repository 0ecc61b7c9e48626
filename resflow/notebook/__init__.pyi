from .claim import Claim
from .data import labelled_data, prepare, prepare_population, prepare_split
from .findings import (
    above_linear,
    below_title,
    first_and_last,
    fits_sentence,
    gap_title,
    held_out_table,
    held_out_title,
    split_table,
)
from .opening import start_run, tell_steps
from .population import last_gaps_title, population_points, train_members
from .probed import probed, probes_title
from .record import record
from .stream import load_stream
from .trained import Trained, TrainedGroups, load_model, load_models, load_point
from .trained_stream import TrainedStream

__all__ = [
    "Claim",
    "Trained",
    "TrainedGroups",
    "TrainedStream",
    "above_linear",
    "below_title",
    "first_and_last",
    "fits_sentence",
    "gap_title",
    "held_out_table",
    "held_out_title",
    "labelled_data",
    "last_gaps_title",
    "load_model",
    "load_models",
    "load_point",
    "load_stream",
    "population_points",
    "prepare",
    "prepare_population",
    "prepare_split",
    "probed",
    "probes_title",
    "record",
    "split_table",
    "start_run",
    "tell_steps",
    "train_members",
]
