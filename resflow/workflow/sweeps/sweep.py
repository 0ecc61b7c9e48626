"""A sweep as it stands: its file, its plan, and what of it is finished in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resflow.workflow.sweeps.file import SweepFile
from resflow.workflow.sweeps.plan import Execution, Planner, Point
from resflow.workflow.sweeps.runs import FINGERPRINT, finished_points, points_of_sweep
from resflow.workflow.sweeps.source import FixedSource, SearchSource, Source

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["Options", "Result", "Sweep"]


@dataclass(frozen=True)
class Options:
    """How to run a sweep.

    Attributes:
        again: True to set finished runs aside and repeat them.
        retries: As in `Limits`.
        time_limit: As in `Limits`.
        workers: Worker processes on this machine; 0 for one a core, but no more than there are executions.
        scheduler: The address of a running Dask cluster, used instead.
    """

    again: bool = False
    retries: int = 2
    time_limit: float = 0.0
    workers: int = 0
    scheduler: str = ""


@dataclass
class Result:
    """What became of a point: `FINISHED` with its run, or why not."""

    point: Point
    state: str
    run: StoredRun | None = None
    run_id: str = ""
    error: str = ""


class Sweep:
    """A sweep file, its plan, and what of it is finished in the store."""

    def __init__(self, file: SweepFile, executions: list[Execution], client: MlflowClient) -> None:
        """See what of a plan is finished; nothing is written.

        Args:
            file: The sweep file.
            executions: What it makes, as far as it is known.
            client: A client of the store.
        """
        self.file = file
        self.client = client
        self.planner = Planner(self.file)
        self.is_search = self.file.strategy.kind == "optuna"
        self.executions = executions
        experiment = client.get_experiment_by_name(self.file.experiment)
        self.experiment_id: str | None = experiment.experiment_id if experiment else None
        self.finished: dict[str, StoredRun] = {}
        self.look()

    def look(self) -> None:
        """See what is finished."""
        if self.experiment_id is None:
            return
        if self.is_search:
            own = points_of_sweep(self.client, self.experiment_id, self.file.name)
            self.finished = {run.data.tags[FINGERPRINT]: run for run in own}
            self.executions = [execution for execution, _ in self._search().trials]
        else:
            self.finished = finished_points(self.client, self.experiment_id, [p.fingerprint for p in self.points])

    @property
    def points(self) -> list[Point]:
        """Every point that is known so far."""
        return [point for execution in self.executions for point in execution.points]

    def source(self) -> Source:
        """Where the executions come from that are still to be made."""
        if self.is_search:
            return self._search()
        return FixedSource([execution for execution in self.executions if self.todo(execution)])

    def _search(self) -> SearchSource:
        return SearchSource(self.file, self.planner, list(self.finished.values()))

    def todo(self, execution: Execution) -> list[Point]:
        """The points of an execution that are not finished."""
        return [point for point in execution.points if point.fingerprint not in self.finished]
