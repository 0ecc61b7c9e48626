"""Where a sweep's executions come from: a plan that is known at once, or a search that learns from each (Optuna's TPE).

The search's study is kept in memory, and made anew from the finished runs whenever the sweep is started.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.logged_values import finite
from resflow.workflow.run_parameters import parameters_of
from resflow.workflow.sweeps.file.axes import MOST_VALUES, Axis, combinations, size
from resflow.workflow.sweeps.file.data_files import with_file_found
from resflow.workflow.sweeps.file.sweep_file import SweepFile
from resflow.workflow.sweeps.plan.points import Execution, Planner

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import Trial

__all__ = ["FixedSource", "SearchSource"]

ASKS = 1000
"""How often a combination that meets the conditions is asked for."""

REPEATS = 20
"""So many proposals of what was tried before, and the next combination is the first that was not."""


class FixedSource:
    """All executions at once: whoever schedules them sees how much there is.

    Attributes:
        left: How many executions are still to be taken.
    """

    def __init__(self, executions: Sequence[Execution] = ()) -> None:
        self._executions = list(executions)
        self.left = len(self._executions)

    def take(self, free: int) -> list[Execution]:
        """Executions to submit now that `free` workers are idle: here all, the first time."""
        taken, self._executions, self.left = self._executions, [], 0
        return taken

    def told(self, execution: Execution, runs: Mapping[str, StoredRun]) -> None:
        """Learn which points of an execution are finished, by fingerprint; nothing here depends on it."""


class SearchSource(FixedSource):
    """As many executions as there are workers, each chosen by what was reached before.

    Attributes:
        trials: The executions that were finished before: of the axes and conditions as they are now.
        begun: The finished points of others that it may choose again, by fingerprint.
    """

    def __init__(self, sweep: SweepFile, planner: Planner, earlier: Mapping[str, StoredRun]) -> None:
        """Begin with what is in the store: the sweep's finished points, by fingerprint."""
        super().__init__()
        self._sweep, self._planner = sweep, planner
        assert sweep.goal is not None  # or reading the file had refused it
        self._goal = sweep.goal
        self._axes = [axis for axis in sweep.axes if not axis.population]
        self._spaces = {axis.name: _space(axis) for axis in self._axes}
        self.begun: dict[str, StoredRun] = {}
        self.trials = self._earlier_trials(earlier)
        self._known = {execution.id: self._reached(execution, earlier) for execution in self.trials}
        self._study = self._new_study()
        there_are = sum(1 for _ in itertools.islice(self._combinations() or itertools.count(), sweep.strategy.count))
        self._untried = self._combinations() or iter(())
        self.left = max(0, there_are - len(self.trials))
        self._asked: dict[str, list[Trial]] = {}

    def values(self) -> list[float | None]:
        """What the trials so far reached, in their order."""
        return [self._known[execution.id] for execution in self.trials]

    def take(self, free: int) -> list[Execution]:
        """New executions for the idle workers; a combination that was tried before is not tried again."""
        taken: list[Execution] = []
        repeated = 0
        while self.left and len(taken) < free:
            trial, execution = self._ask()
            if self._is_new(execution):
                self._asked[execution.id] = [trial]
                taken.append(execution)
                self.left -= 1
                repeated = 0
                continue
            if execution.id in self._known:
                self._tell(trial, self._known[execution.id])
            else:
                self._asked[execution.id].append(trial)
            repeated += 1
            if repeated % REPEATS == 0 and not self._propose_new():
                self.left = 0
        return taken

    def told(self, execution: Execution, runs: Mapping[str, StoredRun]) -> None:
        """Tell the study; an execution of which a point is missing or has no such metric failed."""
        value = self._reached(execution, runs)
        for trial in self._asked.pop(execution.id, []):
            self._tell(trial, value)
        self._known[execution.id] = value

    def _is_new(self, execution: Execution) -> bool:
        return execution.id not in self._known and execution.id not in self._asked

    def _propose_new(self) -> bool:
        """Let the study ask next for the first combination that was not tried; False if none is left or can be told."""
        for values in self._untried:  # from where it was: what was tried remains so
            execution = self._planner.trial(values)
            if execution is not None and self._is_new(execution):
                self._study.enqueue_trial({axis.name: _key(axis, values[axis.name]) for axis in self._axes})
                return True
        return False

    def _combinations(self) -> Iterator[dict[str, Any]] | None:
        """All combinations that meet the conditions; None where there are more than can be listed."""
        axes = [_listed(axis) for axis in self._axes]
        if size(axes) > MOST_VALUES:
            return None
        return (values for values in combinations(axes) if self._planner.keeps(values))

    def _reached(self, execution: Execution, runs: Mapping[str, StoredRun]) -> float | None:
        """The metric of an execution, its mean over a population; None if it is not there or not finite."""
        values = []
        for point in execution.points:
            run = runs.get(point.fingerprint)
            if (value := finite(run.data.metrics.get(self._goal.metric) if run else None)) is None:
                return None
            values.append(value)
        return finite(sum(values) / len(values))

    def _earlier_trials(self, runs: Mapping[str, StoredRun]) -> list[Execution]:
        """The executions whose points are all among the runs, in the order they ended.

        A run's parameters are texts in the store. What they stand for is certain once the fingerprint comes out the
        same.
        """
        found: dict[str, Execution] = {}
        for run in sorted(runs.values(), key=lambda run: run.info.end_time or 0):
            try:
                values = {axis.name: self._meant(axis, parameters_of(run).get(axis.name, "")) for axis in self._axes}
            except (KeyError, ValueError):
                continue  # a run of the sweep as it was when it had other axes
            if not all(_has(axis, values[axis.name]) for axis in self._axes):
                continue
            if (execution := self._planner.trial(values)) is None:
                continue
            finished = {point.fingerprint for point in execution.points} & runs.keys()
            if len(finished) == len(execution.points):
                found.setdefault(execution.id, execution)
            else:
                self.begun |= {fingerprint: runs[fingerprint] for fingerprint in finished}
        return list(found.values())

    def _meant(self, axis: Axis, text: str) -> Any:
        """The value on an axis that a run's parameter stands for; KeyError or ValueError if there is none such."""
        if axis.values is None:
            return int(text) if axis.integer else float(text)
        return {str(with_file_found(value, self._sweep.folder)): value for value in axis.values}[text]

    def _new_study(self) -> Study:
        """A study that knows what the trials so far reached."""
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        reached = [
            (execution.values, value)
            for execution, value in zip(self.trials, self.values(), strict=True)
            if value is not None
        ]
        # Another seed for each number of trials behind it: else it would begin with the draws it began with before.
        seed = (self._sweep.strategy.seed * 1_000_003 + len(self.trials)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Trials that are still running count as bad, so that workers at once don't try the same.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(sampler=sampler, direction=self._goal.direction)
        for values, value in reached:
            keys = {axis.name: _key(axis, values[axis.name]) for axis in self._axes}
            study.add_trial(optuna.trial.create_trial(params=keys, distributions=self._spaces, value=value))
        return study

    def _ask(self) -> tuple[Trial, Execution]:
        """The next execution to try.

        Raises:
            InvalidInputError: If none that meets the conditions can be found.
        """
        for _ in range(ASKS):
            trial = self._study.ask(self._spaces)
            execution = self._planner.trial({axis.name: _value(axis, trial.params[axis.name]) for axis in self._axes})
            if execution is not None:
                return trial, execution
            self._tell(trial, None)
        raise InvalidInputError(
            f"{self._sweep.place('when', 'drop', 'axes')}: in {ASKS} proposals no combination meets the "
            "conditions: widen them or the axes"
        )

    def _tell(self, trial: Trial, value: float | None) -> None:
        """What came of a trial; None if nothing did."""
        from optuna.trial import TrialState

        self._study.tell(trial, value, state=TrialState.FAIL if value is None else None)


def _space(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.values is not None:
        numeric = all(type(value) in (int, float) for value in axis.values)
        if numeric and len(axis.values) > 1:  # their order means something to TPE
            return IntDistribution(0, len(axis.values) - 1)
        return CategoricalDistribution(range(len(axis.values)))
    low, high = axis.ends
    if axis.integer:
        return IntDistribution(int(low), int(high), log=axis.log)
    return FloatDistribution(low, high, log=axis.log)


def _listed(axis: Axis) -> Axis:
    """The axis with all its values where these are whole numbers and few."""
    low, high = axis.ends
    if axis.values is None and axis.integer and high - low < MOST_VALUES:
        return replace(axis, values=tuple(range(int(low), int(high) + 1)))
    return axis


def _has(axis: Axis, value: Any) -> bool:
    """True if a value, which was read as one of the axis, lies between its ends, too, as these are now."""
    return axis.values is not None or axis.ends[0] <= value <= axis.ends[1]


def _key(axis: Axis, value: Any) -> Any:
    """A value as the study knows it: of a list, its place."""
    return value if axis.values is None else axis.values.index(value)


def _value(axis: Axis, key: Any) -> Any:
    """The value that the study knows so."""
    return axis.within(key) if axis.values is None else axis.values[key]
