"""The vocabulary of the store: every tag, role and status that runs carry, and what the same point is.

A *point* is a notebook with a value for each of its parameters. What computes it has a *fingerprint* besides: a digest
of the notebook's code, the library, the parameters and the data. Two runs are of the same point

- if they have the same fingerprint, or had it before they were set aside;
- or else if they ran the same notebook with the same parameters, as when its code has changed since.

So a sweep repeats what no finished run of the same fingerprint has, and a report shows each point once: by the latest
run that finished, whichever code it had.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
"""MLflow's statuses."""
LOST, MISSING = "LOST", "MISSING"
"""And those of a sweep's points alone: its process died too often, and nothing was tried."""

OUTCOME = "resflow.outcome"
"""How a run ended, and of which run that is said: what `last_word` is about."""
ERROR = "resflow.error"
"""Why a run is not FINISHED."""
FAILED_CELL = "resflow.failed_cell"
"""The cell that raised, by `outcome.cell_place`."""
ATTACHMENT_ERROR = "resflow.attachment_error"
OWNER = "resflow.owner"
"""The process that answers for a run: machine, number and start."""

KERNEL = "resflow.kernel"
"""Whether a run's kernel was forked, and if not why."""
PROGRAMS_FOUND, PROGRAMS_COMPILED = "resflow.programs_found", "resflow.programs_compiled"
"""How many programs JAX found compiled by earlier runs, and how many it compiled and kept."""
TRAININGS_RESUMED = "resflow.trainings_resumed"
"""How many trainings went on from where an execution before this one was cut off."""
NOT_FINITE = "resflow.not_finite"
PRECISION = "resflow.precision"
DATA_DIGEST = "resflow.data_digest"
"""The digest of the training data; of other data its context follows, as in resflow.data_digest.test."""
DATA_PREPARATION = "resflow.data_preparation"
"""How the data was loaded, split and scaled, as JSON, so that it can be again."""
DATA_FILE = "resflow.data_file"
"""The user's own data file, as the notebook was told its name."""
KEPT_DATA, KEPT_DATA_DIGEST = "resflow.kept_data", "resflow.kept_data_digest"
"""Where the copy of it is among the artifacts, of a sweep's run among those of the sweep; or why it is nowhere. And the
file's SHA-256."""
STORED_POINT, STORED_POINT_DIGEST = "resflow.stored_point", "resflow.stored_point_digest"
"""Where the trained model is among the artifacts, of a member of a population its row behind a #, and the file's
SHA-256; or why it is nowhere."""
ARTIFACTS = "resflow.artifacts"
"""The SHA-256 of the list of what a run had attached when it ended."""
VERIFIED = "resflow.verified"
"""When and where a run's values were computed again from its stored point, and how that came out."""
EXECUTED = "resflow.executed_again"
"""The same of executing its notebook again."""
COMPARED = "resflow.compared"
"""On a run that compared others of its store: the sweep or experiment that they are of."""
IMPORTED_FROM = "resflow.imported_from"
"""Which run of another store it is a copy of; as long as it is no whole one, that is said in front."""
CLAIM, CLAIM_HOLDS, CLAIM_MARGIN, VERDICT = "claim", "claim_holds", "claim_margin", "verdict"
"""What a notebook put to the test, and how that came out; the margin is a metric."""
TIMING = "timing/"
"""How the names of metrics begin that measure time, which no two executions have in common."""
FACTS = "resflow.facts"
"""What counts of a run's result, as its report and the command show it: a JSON list of pairs, what and how much."""

NOTEBOOK = "resflow.notebook"
"""On a sweep's parent: the notebook it executes."""
NOTEBOOK_DIGEST = "resflow.notebook_digest"
GIT_DIRTY, PYTHON, PLATFORM = "resflow.git_dirty", "resflow.python", "resflow.platform"
VERSION = "resflow.version."
"""A package's name follows."""

ROLE = "resflow.role"
"""One of `Role`; a run that nobody said it of is a `Role.RUN`."""
SWEEP = "resflow.sweep"
"""The sweep's name: on its parent run, on executions and members."""
ALSO_IN = "resflow.also_in."
"""The name of a sweep follows, which counts a run as its own that was made for another."""
AXES = "resflow.axes"
POINT = "resflow.point"
"""On what a sweep executes: what tells it from the sweep's other executions, as people write it. The sweep says which
parameters that are, as a JSON list, and the engine puts their values in its place."""
METRIC, DIRECTION = "resflow.metric", "resflow.direction"
DRIVER_SEEN = "resflow.driver_seen"
FINGERPRINT = "resflow.fingerprint"
"""On what computes a point; and the key by which a population's points bring theirs along."""
SUPERSEDED, SUPERSEDED_SWEEP = "resflow.superseded_fingerprint", "resflow.superseded_sweep"
FORMER_SWEEP = "resflow.former_sweep"
"""On a finished point: a sweep that had it in its plan, and has not any more."""
DUPLICATE_OF = "resflow.duplicate_of"
SESSION, EXECUTION, ATTEMPT = "resflow.session", "resflow.execution", "resflow.attempt"
"""Which start of a sweep, which of its executions, and which attempt at it."""

GIVEN = "resflow.given."
"""A parameter's name follows: the value it was given, where the notebook logged another text under that name."""

PARENT = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"
DESCRIPTION = "mlflow.note.content"
SOURCE, SOURCE_TYPE, COMMIT = "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit"
USER = "mlflow.user"
DATA_CONTEXT = "mlflow.data.context"
TRACE_LOCATION = "mlflow.artifactLocation"

POPULATION = "population"
"""The parameter by which a notebook takes the points of its population, each with its fingerprint."""

RESERVED = ("resflow.", "mlflow.")
"""How the names begin that are not for others to give."""

RUN_TAGS = "RESFLOW_RUN_TAGS"
"""The environment variable by which a sweep says which further tags a run gets."""


class Role(StrEnum):
    """What a run is in a sweep: the sweep itself, one point, an execution of many points, or one of those."""

    SWEEP = "sweep"
    RUN = "run"
    POPULATION = "population"
    MEMBER = "member"


def role_of(run: Run) -> str:
    """A run's role."""
    return run.data.tags.get(ROLE, Role.RUN)


def fingerprint_of(run: Run) -> str:
    """A run's fingerprint, or the one that it had before it was set aside; "" if it never had one."""
    return run.data.tags.get(FINGERPRINT, "") or run.data.tags.get(SUPERSEDED, "")


def same_points(runs: Sequence[Run], parameters: Sequence[Mapping[str, str]]) -> list[Hashable]:
    """For each run something that it has in common with exactly the other runs of its point.

    Args:
        runs: The runs, earliest first.
        parameters: All parameters of each, those of the runs it is nested in included.
    """
    places: list[Hashable] = []
    known: dict[str, Hashable] = {}
    for run, values in zip(runs, parameters, strict=True):
        # which members a population is given may differ
        named = sorted((key, value) for key, value in values.items() if key != POPULATION)
        place = (role_of(run) == Role.POPULATION, run.data.tags.get(SOURCE), *named)
        places.append(place)
        if fingerprint := fingerprint_of(run):
            known[fingerprint] = place  # the latest: a run that was cut off may not have logged all of it
    return [known.get(fingerprint_of(run), place) for run, place in zip(runs, places, strict=True)]
