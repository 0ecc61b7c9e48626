"""The members of a population as runs of their own, children of the run that trained them all."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from resflow.notebook.checks import VARYING, check_population
from resflow.notebook.data import Preparation
from resflow.notebook.kept import described_options
from resflow.notebook.trained import keep_models
from resflow.plots.labels import label_of, number_text, point_name
from resflow.studies.population_problem import PopulationProblem, population_outcomes
from resflow.training.population import PopulationResult, train_population
from resflow.training.train import TrainingOptions
from resflow.workflow import names
from resflow.workflow.logged_values import dataset_input
from resflow.workflow.provenance import owner_tag
from resflow.workflow.records import Run, record_run
from resflow.workflow.reports.effects import effect_title, largest_difference
from resflow.workflow.reports.metrics import GAP, METRICS, as_recorded
from resflow.workflow.reports.statistics import is_replicate

__all__ = ["TrainedMembers", "last_gaps_title", "population_points", "train_members"]

_OWN = (names.RUN_NAME, names.DESCRIPTION, names.PARENT, names.OWNER, names.ROLE)
_OWN_PREFIXES = (names.FINGERPRINT, names.DATA_DIGEST, names.ERROR, names.NOT_FINITE)
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
        population = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    check_population("population", population)
    shared = {name: defaults[name] for name in VARYING}
    return [shared | dict(point) for point in population]


class TrainedMembers(NamedTuple):
    """What became of a population's members, each of which is a run by now.

    Attributes:
        result: Their models and histories.
        outcomes: How they came out, one row a member, of `population_outcomes`.
        seconds: How long all of it took, compilation and recording included.
        recording_seconds: How much of that went into recording.
    """

    result: PopulationResult
    outcomes: pd.DataFrame
    seconds: float
    recording_seconds: float

    def summary(self) -> pd.DataFrame:
        """How many members were trained where, and how fast."""
        members, layout = len(self.outcomes), self.result.layout
        rows = {
            "members": members,
            "seconds in all, compilation included": f"{self.seconds:.1f}",
            "of which recording": f"{self.recording_seconds:.1f}",
            "members a second": f"{members / self.seconds:.2f}",
            "devices": len(layout.devices),
            "members side by side on each": layout.chunk,
        }
        return pd.Series(rows, name="training").to_frame()


def train_members(
    run: Run,
    points: Sequence[Mapping[str, Any]],
    problem: PopulationProblem,
    models: Any,
    keys: jax.Array,
    *,
    loss: str,
    epsilon: float,
    options: TrainingOptions,
    **training: Any,
) -> TrainedMembers:
    """Train the members of a population, and record each block of them as runs of their own when it is done.

    Args:
        run: The notebook's run, which becomes their parent.
        points: Each member's values, of `population_points`.
        problem: What they are trained on and compared with.
        models: Their initial models, stacked.
        keys: One random key a member for its minibatches.
        loss: The loss.
        epsilon: Of the verdict on their last points.
        options: How to train.
        training: Further arguments of `train_population`.
    """
    runs = _MemberRuns(run, points, problem, loss=loss, epsilon=epsilon, options=options)
    outcomes = []

    def record(rows: range, block: PopulationResult) -> None:
        outcomes.append(population_outcomes(problem, block.models, rows, loss=loss, epsilon=epsilon))
        runs.record(rows, block, outcomes[-1])

    began = time.perf_counter()
    result = train_population(
        models,
        problem.X,
        problem.y,
        loss=loss,
        options=options,
        keys=keys,
        learning_rates=np.array([point["learning_rate"] for point in points], float),
        data_sets=problem.data_sets,
        on_block=record,
        **training,
    )
    return TrainedMembers(result, pd.concat(outcomes), time.perf_counter() - began, runs.seconds)


def last_gaps_title(final: pd.DataFrame, by: str, varying: Sequence[str]) -> str:
    """What the last gaps say of a parameter: a difference if it exceeds the spread of seeds; and how many diverged.

    Args:
        final: One row a member: linear_predictor_gap, diverged (truth values) and what varies.
        by: The parameter.
        varying: All parameters that vary, seeds among them.
    """
    settled = final.assign(**{GAP: final[GAP].where(~final["diverged"])})
    found = None if is_replicate(by) else largest_difference(settled, by, varying, GAP)
    title = f"last gaps of {len(final)} members" if found is None else effect_title(found, by, GAP)
    spread = float(settled.groupby(by)[GAP].std().median())
    if found is not None and found.is_told and found.mean < spread:  # of all seeds alike, but next to nothing
        title = f"{label_of(by)} moves the gap by {number_text(found.mean, 2)}, seeds by {number_text(spread, 2)}"
    return f"{title[0].upper()}{title[1:]}; {int(final['diverged'].sum()) or 'none'} diverged"


class _MemberRuns:
    """Records the members of a population, each as a run of its own under the notebook's run.

    A member is written as a whole: it is RUNNING only while its few calls last. If the process dies among them, its
    tag `resflow.owner` lets whoever opens the store next mark it KILLED.
    """

    def __init__(
        self,
        run: Run,
        points: Sequence[Mapping[str, Any]],
        problem: PopulationProblem,
        *,
        loss: str,
        epsilon: float,
        options: TrainingOptions,
    ) -> None:
        began = time.perf_counter()
        self._options = described_options(options)
        self._run, self._points, self._problem = run, points, problem
        self._loss, self._epsilon = loss, epsilon
        self._varying = [name for name in VARYING if name == "seed" or len({point[name] for point in points}) > 1]
        run.set_tags({names.ROLE: names.Role.POPULATION})
        parent = run.stored
        self._experiment_id = parent.info.experiment_id
        self._parameters = {key: value for key, value in parent.data.params.items() if key not in _OF_POPULATION}
        self._tags = {
            key: value
            for key, value in parent.data.tags.items()
            if key not in _OWN and not key.startswith(_OWN_PREFIXES)
        } | {names.PARENT: run.id, names.ROLE: names.Role.MEMBER, names.OWNER: owner_tag()}
        self._preparation = json.loads(parent.data.tags.get(names.DATA_PREPARATION, "null"))
        self._inputs = [
            [
                dataset_input(part.name, part.X, part.y, part.digest, part.feature_names, context)
                for part, context in ((train, "training"), (test, "test"))
            ]
            for train, test in zip(problem.train, problem.test, strict=True)
        ]
        self._since = int(time.time() * 1000)
        self.seconds = time.perf_counter() - began

    def record(self, members: Sequence[int], result: PopulationResult, outcomes: pd.DataFrame) -> None:
        """Write the runs of some members, with further values of theirs: numbers become metrics, the rest tags."""
        began = time.perf_counter()
        kept = self._keep(members, result.models)
        for row, (member, outcome) in enumerate(zip(members, outcomes.to_dict("records"), strict=True)):
            point, place = dict(self._points[member]), self._problem.data_sets[member]
            diverged_at, history = result.diverged_at[row], result.history_of(row)
            tags = {
                names.DATA_DIGEST: self._problem.train[place].digest,
                f"{names.DATA_DIGEST}.test": self._problem.test[place].digest,
                "diverged_at": str(diverged_at) if diverged_at >= 0 else "never",
                **kept,
            }
            if names.STORED_POINT_DIGEST in kept:
                tags[names.STORED_POINT] += f"#{row}"
            if self._preparation:
                tags |= Preparation(**{**self._preparation, "seed": point["seed"]}).tag()
            if (fingerprint := point.pop(names.FINGERPRINT, None)) is not None:
                tags[names.FINGERPRINT] = str(fingerprint)
            tags |= {key: str(value) for key, value in outcome.items() if _is_tag(value)}
            varied = point_name({name: point[name] for name in self._varying})
            record_run(
                self._run.client,
                self._experiment_id,
                name=f"gap {history['linear_predictor_gap'][-1]:+.4f}, {varied}",
                parameters=self._parameters | point,
                tags=self._tags | tags,
                history=pd.DataFrame(history).rename(columns=METRICS),
                metrics={as_recorded(key): value for key, value in outcome.items() if not _is_tag(value)},
                inputs=self._inputs[place],
                since=self._since,
            )
        self._since = int(time.time() * 1000)
        self.seconds += time.perf_counter() - began

    def _keep(self, members: Sequence[int], models: Any) -> dict[str, str]:
        """Attach these members' models to the parent, in one file, before any run says that it is there."""
        description = {
            "data": self._preparation,
            "loss": self._loss,
            "evidence": ["population"],
            "epsilon": self._epsilon,
            "options": self._options,
            "members": [{name: self._points[member][name] for name in VARYING} for member in members],
        }
        return keep_models(self._run, f"members_{members[0]:06d}", models, description, stacked=True)


def _is_tag(value: Any) -> bool:
    return isinstance(value, str | bool | np.bool_)
