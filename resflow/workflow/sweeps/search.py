"""Choosing the next combination of a sweep by what the runs before it reached: Optuna's TPE."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.sweeps.axes import Axis
from resflow.workflow.sweeps.file import SweepFile

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

__all__ = ["Search"]

ASKS = 1000
"""How often a combination that meets the conditions is asked for."""


class Search:
    """A study in memory, made anew from the finished runs whenever the sweep is started."""

    def __init__(self, sweep: SweepFile, earlier: Iterable[tuple[Mapping[str, Any], float]]) -> None:
        """Begin, or go on, with the notebook axes of a sweep.

        Args:
            sweep: The sweep.
            earlier: What finished runs reached: values of the axes, and of the metric.
        """
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self._sweep = sweep
        self._axes = [axis for axis in sweep.axes if not axis.population]
        self._spaces = {axis.name: _space(axis) for axis in self._axes}
        earlier = list(earlier)
        # Another seed for each number of runs behind it: else it would begin with the draws it began with before.
        seed = (sweep.strategy.seed * 1_000_003 + len(earlier)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Trials that are still running count as bad, so that workers at once don't try the same.
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self._study = optuna.create_study(
            sampler=sampler, direction="maximize" if sweep.goal and sweep.goal.maximize else "minimize"
        )
        for values, value in earlier:
            if all(_lies_on(axis, values[axis.name]) for axis in self._axes) and math.isfinite(value):
                keys = {axis.name: _key(axis, values[axis.name]) for axis in self._axes}
                self._study.add_trial(optuna.trial.create_trial(params=keys, distributions=self._spaces, value=value))

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """The next combination of the notebook axes to try.

        Raises:
            InvalidInputError: If none that meets the conditions can be found.
        """
        import optuna

        for _ in range(ASKS):
            trial = self._study.ask(self._spaces)
            values = {axis.name: _value(axis, trial.params[axis.name]) for axis in self._axes}
            if any(axis.population for axis in self._sweep.axes) or self._sweep.keeps(values):
                return trial, values
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise InvalidInputError(
            f"{self._sweep.place('when', 'drop', 'axes')}: in {ASKS} proposals no combination meets the "
            "conditions: widen them or the axes"
        )

    def tell(self, trial: Trial, value: float | None) -> None:
        """What came of it; None if nothing did."""
        import optuna

        if value is None or not math.isfinite(value):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value)


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


def _lies_on(axis: Axis, value: Any) -> bool:
    return value in axis.values if axis.values is not None else axis.ends[0] <= value <= axis.ends[1]


def _key(axis: Axis, value: Any) -> Any:
    """A value as the study knows it: of a list, its place."""
    return value if axis.values is None else axis.values.index(value)


def _value(axis: Axis, key: Any) -> Any:
    if axis.values is not None:
        return axis.values[key]
    return key if axis.integer else min(max(float(f"{key:.12g}"), axis.ends[0]), axis.ends[1])
