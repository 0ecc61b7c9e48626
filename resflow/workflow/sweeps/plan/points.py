"""From a sweep file to what has to be executed: points, their fingerprints, and which execution trains which."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import nbformat

from resflow.errors import InvalidInputError
from resflow.workflow.sweeps.file.axes import MOST_VALUES
from resflow.workflow.sweeps.file.data_files import with_files_found
from resflow.workflow.sweeps.file.sweep_file import SweepFile
from resflow.workflow.sweeps.plan.fingerprint import code_digest, fingerprint

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

    def within(self, axes: Collection[str]) -> Point:
        """The point with what it has of its own among points that differ in these axes only."""
        return Point({name: value for name, value in self.values.items() if name in axes}, self.fingerprint)


@dataclass(frozen=True)
class Execution:
    """One execution of the notebook.

    Attributes:
        parameters: What is injected, but for the population.
        points: What it computes: one point, or with population axes all of theirs.
        is_population: True if it trains its points in one program.
    """

    parameters: dict[str, Any]
    points: tuple[Point, ...]
    is_population: bool

    @cached_property
    def id(self) -> str:
        """What makes it the same execution when the sweep is started again."""
        if not self.is_population:
            return self.points[0].fingerprint
        return hashlib.sha256("".join(point.fingerprint for point in self.points).encode()).hexdigest()


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
        self.sweep = sweep
        self._code = code_digest(nbformat.reads(sweep.notebook_text, as_version=4))
        self._fixed = with_files_found(sweep.effective({}), sweep.folder)
        self._populations = [axis for axis in sweep.axes if axis.population]

    def executions(self) -> list[Execution]:
        """All executions of a grid or of random draws, in the order of the axes; none yet of a search.

        Raises:
            InvalidInputError: If there are too many combinations, or none or too few meet the conditions.
        """
        strategy = self.sweep.strategy
        if strategy.kind == "optuna":
            if not self._draws(1, strategy.seed):  # better said before the first run than by the search
                self._refuse_all()
            return []
        if strategy.kind == "grid":
            chosen = self._kept(self._combinations())
            if not chosen:
                self._refuse_all()
        else:
            chosen = self._draws(strategy.count, strategy.seed)
            if len(chosen) < strategy.count:
                raise InvalidInputError(
                    f"{self.sweep.place('strategy')}: strategy.count={strategy.count}, but only {len(chosen)} distinct "
                    "combinations that meet the conditions were found: lower the count, or widen axes or conditions"
                )
        return self._grouped(chosen)

    def trial(self, notebook_values: Mapping[str, Any]) -> Execution | None:
        """The execution for values of the notebook axes, with a grid of the population axes; None if none is kept."""
        names = [axis.name for axis in self._populations]
        combinations = itertools.product(*(axis.values or () for axis in self._populations))
        chosen = [dict(notebook_values) | dict(zip(names, values, strict=True)) for values in combinations]
        executions = self._grouped(values for values in chosen if self.sweep.keeps(values))
        return executions[0] if executions else None

    def _refuse_all(self) -> NoReturn:
        place = self.sweep.place("when", "drop", "axes")
        raise InvalidInputError(f"{place}: no combination of the axes meets the conditions")

    def _draws(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Distinct combinations at random, as many as wanted or as can be found."""
        rng = random.Random(seed)
        axes = self.sweep.axes
        if all(axis.values is not None for axis in axes) and self._size() <= MOST_VALUES:
            kept = self._kept(self._combinations())
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

    def _size(self) -> int:
        return math.prod(len(axis.values or ()) for axis in self.sweep.axes)

    def _combinations(self) -> Iterator[dict[str, Any]]:
        if (size := self._size()) > MOST_VALUES:
            raise InvalidInputError(
                f"{self.sweep.place('axes')}: the axes make {size} combinations, more than {MOST_VALUES}: "
                "shorten them, or use strategy random"
            )
        names = [axis.name for axis in self.sweep.axes]
        for values in itertools.product(*(axis.values or () for axis in self.sweep.axes)):
            yield dict(zip(names, values, strict=True))

    def _kept(self, combinations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [values for values in combinations if self.sweep.keeps(values)]

    def _grouped(self, chosen: Iterable[dict[str, Any]]) -> list[Execution]:
        """Executions for the combinations: those that differ in population axes only share one."""
        within = {axis.name for axis in self._populations}
        groups: dict[str, list[dict[str, Any]]] = {}
        for values in chosen:
            key = repr([value for name, value in values.items() if name not in within])
            groups.setdefault(key, []).append(values)
        return [
            Execution(
                parameters=with_files_found(
                    self.sweep.parameters | {name: value for name, value in members[0].items() if name not in within},
                    self.sweep.folder,
                ),
                points=tuple(Point(values, self._fingerprint(values)) for values in members),
                is_population=bool(within),
            )
            for members in groups.values()
        ]

    def _fingerprint(self, values: dict[str, Any]) -> str:
        return fingerprint(self._code, self._fixed | with_files_found(values, self.sweep.folder))
