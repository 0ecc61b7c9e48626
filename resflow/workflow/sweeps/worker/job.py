"""What a worker is told of an execution: everything, so that it needs no file of the driver's."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from resflow.workflow import names
from resflow.workflow.addresses import complete_address
from resflow.workflow.names import Role
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.sources import library_digest
from resflow.workflow.sweeps.file import SweepFile
from resflow.workflow.sweeps.plan import Execution, Point

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
        execution: The execution.
        points: Those of its points that are still to be computed.
        notebook: The notebook's file.
        notebook_name: What it is called.
        tags: Of its runs.
        experiment: The name of MLflow's experiment.
        place: Where it is recorded.
        library: The digest of the sources that the points' fingerprints are of.
        limits: What it may use.
    """

    execution: Execution
    points: tuple[Point, ...]
    notebook: str
    notebook_name: str
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
        several = {axis.name for axis in sweep.axes if axis.values is None or len(axis.values) > 1}
        if varying := [name for name in execution.values if name in several]:
            tags[names.POINT] = json.dumps(varying)
        if not execution.is_population:
            tags[names.FINGERPRINT] = execution.id
        return Job(
            execution=execution,
            points=tuple(todo),
            notebook=sweep.notebook_text,
            notebook_name=sweep.notebook.name,
            tags=tags,
            experiment=sweep.experiment,
            place=replace(place, tracking_uri=complete_address(place.tracking_uri)),
            library=library_digest(),
            limits=limits,
        )

    def injected(self, todo: list[Point]) -> dict[str, Any]:
        """The parameters for an attempt at some of the points; each has of its own what the execution has not."""
        if not self.execution.is_population:
            return self.execution.parameters
        shared = self.execution.values
        own = [{name: value for name, value in point.values.items() if name not in shared} for point in todo]
        points = [values | {names.FINGERPRINT: point.fingerprint} for values, point in zip(own, todo, strict=True)]
        return self.execution.parameters | {names.POPULATION: points}
