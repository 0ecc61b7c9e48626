"""What a worker is told of an execution: everything, so that it needs no file of the driver's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resflow.workflow import names
from resflow.workflow.credentials import complete_address
from resflow.workflow.names import Role
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.sweeps.file import SweepFile
from resflow.workflow.sweeps.plan import Execution, Point
from resflow.workflow.sweeps.plan.fingerprint import library_digest

__all__ = ["Job", "Limits", "Place"]

_FROM_DRIVER = (names.SOURCE, names.COMMIT, names.GIT_DIRTY, names.USER)


@dataclass(frozen=True)
class Limits:
    """What an execution may use.

    Attributes:
        retries: How often it is repeated after its process, kernel or worker died.
        time_limit: Seconds for each attempt; 0 for any number.
        threads: Threads of XLA and BLAS; 0 for as many as they choose.
    """

    retries: int = 2
    time_limit: float = 0.0
    threads: int = 0


@dataclass(frozen=True)
class Place:
    """Where one start of a sweep records.

    Attributes:
        tracking_uri: The store.
        experiment_id: MLflow's id of the experiment.
        parent_id: The sweep's parent run.
        session: What this start of the sweep is called.
    """

    tracking_uri: str
    experiment_id: str
    parent_id: str
    session: str


@dataclass(frozen=True)
class Job:
    """One execution of a sweep's notebook.

    Attributes:
        id: The execution.
        notebook: The notebook's file.
        notebook_name: What it is called.
        parameters: What is injected, but for the population.
        points: Those that are still to be computed, each with what it has of its own within the execution.
        is_population: True if the notebook is given its points as a population.
        tags: Of its runs.
        experiment: The name of MLflow's experiment.
        place: Where it is recorded.
        library: The digest of the sources that the points' fingerprints are of.
        limits: What it may use.
    """

    id: str
    notebook: str
    notebook_name: str
    parameters: dict[str, Any]
    points: tuple[Point, ...]
    is_population: bool
    tags: dict[str, str]
    experiment: str
    place: Place
    library: str
    limits: Limits

    @staticmethod
    def of(sweep: SweepFile, execution: Execution, todo: list[Point], place: Place, limits: Limits) -> Job:
        """The job of an execution of a sweep, of whose points some are still to do."""
        source = provenance_tags(sweep.notebook)
        role = Role.POPULATION if execution.is_population else Role.RUN
        tags = sweep.tags | {key: source[key] for key in _FROM_DRIVER if key in source}
        tags |= sweep.goal.tags if sweep.goal else {}
        tags |= {names.SWEEP: sweep.name, names.PARENT: place.parent_id, names.ROLE: role}
        if not execution.is_population:
            tags[names.FINGERPRINT] = execution.id
        within = {axis.name for axis in sweep.axes if axis.population}
        return Job(
            id=execution.id,
            notebook=sweep.notebook_text,
            notebook_name=sweep.notebook.name,
            parameters=execution.parameters,
            points=tuple(point.within(within) for point in todo),
            is_population=execution.is_population,
            tags=tags,
            experiment=sweep.experiment,
            place=Place(complete_address(place.tracking_uri), place.experiment_id, place.parent_id, place.session),
            library=library_digest(),
            limits=limits,
        )

    def injected(self, todo: tuple[Point, ...]) -> dict[str, Any]:
        """The parameters for an attempt at some of the points."""
        if not self.is_population:
            return self.parameters
        points = [point.values | {names.FINGERPRINT: point.fingerprint} for point in todo]
        return self.parameters | {names.POPULATION: points}
