"""The members of a population as runs of their own, children of the run that trained them all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resflow.notebook.checks import FINGERPRINT, VARYING, check_population
from resflow.studies.population_problem import PopulationProblem
from resflow.training.population import PopulationResult
from resflow.workflow.logged_values import dataset_input
from resflow.workflow.provenance import owner_tag
from resflow.workflow.tracking import Run, record_run

__all__ = ["MemberRuns", "population_points"]

_OWN = ("mlflow.runName", "mlflow.note.content", "mlflow.parentRunId", "resflow.owner", "resflow.role")
_OWN_PREFIXES = ("resflow.fingerprint", "resflow.data_digest", "resflow.error", "resflow.not_finite")
_OF_POPULATION = ("population", "seeds", "learning_rates")


def population_points(
    population: Sequence[Mapping[str, Any]] | None, defaults: Mapping[str, Any], **axes: Sequence[Any]
) -> list[dict[str, Any]]:
    """Each member's values of all parameters in `VARYING`, and its fingerprint where it was given one.

    Args:
        population: What each member has of its own, as a sweep gives it; every combination of the axes if None.
        defaults: The values of the rest, e.g. the notebook's `globals()`.
        axes: Parameter names with their values.

    Raises:
        InvalidInputError: If there is no point, or one names a parameter that may not differ between members.
    """
    if population is None:
        population = [{}]
        for name, values in axes.items():
            population = [{**point, name: value} for point in population for value in values]
    check_population("population", population)
    shared = {name: defaults[name] for name in VARYING}
    return [shared | dict(point) for point in population]


class MemberRuns:
    """Records the members of a population, each as a run of its own under the notebook's run.

    A member is written as a whole: it is RUNNING only while its few calls last. If the process dies among them, its
    tag `resflow.owner` lets whoever opens the store next mark it KILLED.

    Attributes:
        seconds: How long the writing took so far.
        recorded: How many members were written.
    """

    def __init__(self, run: Run, points: Sequence[Mapping[str, Any]], problem: PopulationProblem) -> None:
        """Make the notebook's run the parent.

        Args:
            run: The notebook's run.
            points: Each member's values, of `population_points`.
            problem: Their data, which is logged as the input of each.
        """
        began = time.perf_counter()
        self.seconds, self.recorded = 0.0, 0
        self._run, self._points, self._problem = run, points, problem
        run.set_tags({"resflow.role": "population"})
        parent = run.client.get_run(run.id)
        self._experiment_id = parent.info.experiment_id
        self._parameters = {key: value for key, value in parent.data.params.items() if key not in _OF_POPULATION}
        self._tags = {
            key: value
            for key, value in parent.data.tags.items()
            if key not in _OWN and not key.startswith(_OWN_PREFIXES)
        } | {"mlflow.parentRunId": run.id, "resflow.role": "member", "resflow.owner": owner_tag()}
        self._inputs = [
            [
                dataset_input(part.name, part.X, part.y, part.digest, part.feature_names, context)
                for part, context in ((train, "training"), (test, "test"))
            ]
            for train, test in zip(problem.train, problem.test, strict=True)
        ]
        self._since = int(time.time() * 1000)
        self.seconds += time.perf_counter() - began

    def record(self, members: Sequence[int], result: PopulationResult, outcomes: pd.DataFrame) -> None:
        """Write the runs of some members.

        Args:
            members: Which they are.
            result: What became of them, in this order.
            outcomes: Further values of theirs, one row each: numbers become metrics, the rest tags.
        """
        began = time.perf_counter()
        for row, member in enumerate(members):
            self._record(member, result, row, outcomes.iloc[row].to_dict())
        self.recorded += len(members)
        self._since = int(time.time() * 1000)
        self.seconds += time.perf_counter() - began

    def _record(self, member: int, result: PopulationResult, row: int, outcome: dict[str, Any]) -> None:
        point = dict(self._points[member])
        fingerprint = point.pop(FINGERPRINT, None)
        place = self._problem.data_sets[member]
        train, test = self._problem.train[place], self._problem.test[place]
        diverged_at = int(result.diverged_at[row])
        tags = {key: str(value) for key, value in outcome.items() if _is_tag(value)}
        tags |= {
            "resflow.data_digest": train.digest,
            "resflow.data_digest.test": test.digest,
            "diverged_at": str(diverged_at) if diverged_at >= 0 else "never",
        }
        if fingerprint is not None:
            tags["resflow.fingerprint"] = str(fingerprint)
        history = result.history_of(row)
        values = " ".join(f"{name}={point[name]}" for name in point if point[name] is not None)
        record_run(
            self._run.client,
            self._experiment_id,
            name=f"gap {history['linear_predictor_gap'][-1]:+.4f}, {values}",
            parameters=self._parameters | point,
            tags=self._tags | tags,
            history=pd.DataFrame(history),
            metrics={key: value for key, value in outcome.items() if not _is_tag(value)},
            inputs=self._inputs[place],
            since=self._since,
        )


def _is_tag(value: Any) -> bool:
    return isinstance(value, str | bool | np.bool_)
