"""From a sweep file to what has to be executed: points, their fingerprints, and which execution trains which."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.sources import code_digest
from resflow.workflow.sweeps.file.axes import MOST_VALUES, combinations, size
from resflow.workflow.sweeps.file.data_files import with_files_found
from resflow.workflow.sweeps.file.sweep_file import SweepFile
from resflow.workflow.sweeps.plan.fingerprint import fingerprint

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

__all__ = ["Execution", "Planner", "Point", "Result"]

MOST_DRAWS = 500_000
IDLE_DRAWS = 10_000
"""After so many draws, or so many in a row that bring nothing new, conditions count as too narrow."""


@dataclass(frozen=True)
class Point:
    """One combination of the axes' values.

    Attributes:
        values: The axes' values.
        fingerprint: What makes it the same as any other run that computes the same.
    """

    values: dict[str, Any]
    fingerprint: str

    @property
    def label(self) -> str:
        """What to call it."""
        return _label(self.values)


@dataclass(frozen=True)
class Execution:
    """One execution of the notebook.

    Attributes:
        values: The values of the axes whose values are an execution each.
        parameters: What is injected, but for the population.
        points: What it computes: one point, or with population axes all of theirs.
        is_population: True if it trains its points in one program.
    """

    values: dict[str, Any]
    parameters: dict[str, Any]
    points: tuple[Point, ...]
    is_population: bool

    @cached_property
    def id(self) -> str:
        """What makes it the same execution when the sweep is started again."""
        if not self.is_population:
            return self.points[0].fingerprint
        return hashlib.sha256("".join(point.fingerprint for point in self.points).encode()).hexdigest()

    @property
    def label(self) -> str:
        """What to call it."""
        values = _label(self.values)
        if self.is_population:
            return f"{len(self.points)} points" + (f" of {values}" if values else "")
        return values


@dataclass(frozen=True)
class Result:
    """What became of a point: `FINISHED` with its run, or why not."""

    point: Point
    state: str
    run: StoredRun | None = None
    run_id: str = ""
    error: str = ""


class Planner:
    """Makes executions of a sweep's notebook for values of its axes."""

    def __init__(self, sweep: SweepFile) -> None:
        import nbformat  # which takes a moment, and workers import this module too

        self.sweep = sweep
        self._code = code_digest(nbformat.reads(sweep.notebook_text, as_version=4))
        self._fixed = with_files_found(sweep.effective({}), sweep.folder)

    def executions(self) -> list[Execution]:
        """All executions of a grid or of random draws, in the order of the axes; none yet of a search.

        Raises:
            InvalidInputError: If there are too many combinations, or none or too few meet the conditions.
        """
        strategy = self.sweep.strategy
        if strategy.kind == "grid":
            chosen = self._kept()
        else:  # of a search one, as what it cannot find is better said before the first run
            chosen = self._draws(strategy.count if strategy.kind == "random" else 1, strategy.seed)
        if strategy.kind == "random" and len(chosen) < strategy.count:
            raise InvalidInputError(
                f"{self.sweep.place('strategy')}: strategy.count={strategy.count}, but only {len(chosen)} distinct "
                "combinations that meet the conditions were found: lower the count, or widen axes or conditions"
            )
        if not chosen:
            place = self.sweep.place("when", "drop", "axes")
            raise InvalidInputError(f"{place}: no combination of the axes meets the conditions")
        return [] if strategy.kind == "optuna" else self._grouped(chosen)

    def trial(self, notebook_values: Mapping[str, Any]) -> Execution | None:
        """The execution for values of the notebook axes, with a grid of the population axes; None if none is kept."""
        return next(iter(self._grouped(self._members(notebook_values))), None)

    def keeps(self, notebook_values: Mapping[str, Any]) -> bool:
        """True if there is an execution for values of the notebook axes."""
        return any(True for _ in self._members(notebook_values))

    def _members(self, notebook_values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The combinations that an execution is of."""
        every = ({**notebook_values, **members} for members in combinations(self.sweep.population_axes))
        return (values for values in every if self.sweep.keeps(values))

    def _draws(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Distinct combinations at random, as many as wanted or as can be found."""
        rng = random.Random(seed)
        axes = self.sweep.axes
        if size(axes) <= MOST_VALUES:
            kept = self._kept()
            return rng.sample(kept, min(count, len(kept)))
        distinct: dict[str, dict[str, Any]] = {}
        idle = 0
        for _ in range(MOST_DRAWS):
            values = {axis.name: axis.draw(rng) for axis in axes}
            known = len(distinct)
            if self.sweep.keeps(values):
                distinct.setdefault(repr(values), values)
            idle = 0 if len(distinct) > known else idle + 1
            if len(distinct) == count or idle == IDLE_DRAWS:
                break
        return list(distinct.values())

    def _kept(self) -> list[dict[str, Any]]:
        """All combinations that meet the conditions."""
        if (count := size(self.sweep.axes)) > MOST_VALUES:
            raise InvalidInputError(
                f"{self.sweep.place('axes')}: the axes make {count} combinations, more than {MOST_VALUES}: "
                "shorten them, or use strategy random"
            )
        return [values for values in combinations(self.sweep.axes) if self.sweep.keeps(values)]

    def _grouped(self, chosen: Iterable[dict[str, Any]]) -> list[Execution]:
        """Executions for the combinations: those that differ in population axes only share one."""
        within = {axis.name for axis in self.sweep.population_axes}
        groups: dict[str, tuple[dict[str, Any], list[Point]]] = {}
        for values in chosen:
            own = {name: value for name, value in values.items() if name not in within}
            point = Point(values, fingerprint(self._code, self._fixed | with_files_found(values, self.sweep.folder)))
            groups.setdefault(repr(list(own.values())), (own, []))[1].append(point)
        return [
            Execution(
                own, with_files_found(self.sweep.parameters | own, self.sweep.folder), tuple(points), bool(within)
            )
            for own, points in groups.values()
        ]


def _label(values: Mapping[str, Any]) -> str:
    """Values of axes as people write them."""
    return " ".join(f"{name}={value}" for name, value in values.items())
