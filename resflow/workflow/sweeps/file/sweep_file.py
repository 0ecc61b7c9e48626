"""A sweep file: which notebook, which parameters are fixed, which vary and how; checked before anything starts.

docs/sweeps.md describes the format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resflow.errors import nearest
from resflow.workflow.declared_types import SourceText
from resflow.workflow.goal import Goal
from resflow.workflow.names import POPULATION
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.parameters import Parameter, declared_in_notebook
from resflow.workflow.sweeps.file.axes import MOST_VALUES, Axis, checked_values, read_axis, size
from resflow.workflow.sweeps.file.conditions import Condition
from resflow.workflow.sweeps.file.labels import read_experiment, read_goal, read_name, read_tags
from resflow.workflow.sweeps.file.yaml_lines import Entry, read_yaml

__all__ = ["Strategy", "SweepFile", "read_sweep_file"]

_KEYS = (
    "name", "notebook", "experiment", "description", "parameters", "axes", "strategy", "when", "drop", "metric",
    "direction", "tags",
)  # fmt: skip
_AT_THE_TOP = ("metric", "direction")
MOST_PARTS = 250
"""Names, numbers and operators under `when`, and under `drop`: each is looked at for every combination."""


@dataclass(frozen=True)
class Strategy:
    """How combinations are chosen.

    Attributes:
        kind: grid, random or optuna.
        count: How many combinations are chosen; 0 for all, with grid.
        seed: Of random choices.
    """

    kind: str = "grid"
    count: int = 0
    seed: int = 0


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says, checked.

    Attributes:
        path: Where it is.
        text: All of it, as written.
        name: The sweep's name.
        notebook: The notebook's path.
        notebook_text: The notebook's file, as it is now.
        experiment: The name of the MLflow experiment.
        description: What the sweep is for.
        declared: The parameters that the notebook declares.
        parameters: Fixed values.
        axes: What varies.
        strategy: How combinations are chosen.
        when: Conditions that each combination must meet.
        drop: Conditions that none may meet.
        goal: What the runs are compared by, if the command, the file or the notebook says it.
        tags: Tags of every run.
        lines: Where each part of the file begins.
    """

    path: Path
    text: str
    name: str
    notebook: Path
    notebook_text: str
    experiment: str
    description: str
    declared: tuple[Parameter, ...]
    parameters: dict[str, Any]
    axes: tuple[Axis, ...]
    strategy: Strategy
    when: tuple[Condition, ...]
    drop: tuple[Condition, ...]
    goal: Goal | None
    tags: dict[str, str]
    lines: dict[str, int]

    @property
    def folder(self) -> Path:
        """Where names of files in it are looked up."""
        return self.path.parent

    @property
    def population_axes(self) -> tuple[Axis, ...]:
        """The axes whose values one execution trains together."""
        return tuple(axis for axis in self.axes if axis.population)

    def place(self, *parts: str) -> str:
        """The first of these parts that the file has, as FILE:LINE."""
        return f"{self.path.name}:{next((self.lines[part] for part in parts if part in self.lines), 1)}"

    def effective(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Every parameter's value in a run with the given values of the axes."""
        defaults = {parameter.name: parameter.default for parameter in self.declared}
        return {name: value for name, value in (defaults | self.parameters | chosen).items() if name != POPULATION}

    def keeps(self, chosen: dict[str, Any]) -> bool:
        """True if the combination meets the conditions."""
        values = self.effective(chosen)
        return all(condition.holds(values) for condition in self.when) and not any(
            condition.holds(values) for condition in self.drop
        )


def read_sweep_file(path: Path, goal: Goal | None = None) -> SweepFile:
    """Read a sweep file, and check everything that can be checked before a run.

    Args:
        path: Where it is.
        goal: What the runs are compared by, whatever the file says; the notebook's metadata say it last.

    Raises:
        InvalidInputError: With file and line, if anything in it is not as docs/sweeps.md says.
    """
    import nbformat  # which takes a moment, and workers import this module too

    content, text = read_yaml(path)
    entries = content.named(_KEYS)
    for key in ("notebook", "axes"):
        if key not in entries:
            content.refuse(f"{key} is missing: " + ("name one" if key == "notebook" else "say what varies"))
    notebook, said = path.parent / entries["notebook"].text(), read_goal(entries)
    with entries["notebook"].blamed():
        node = read_notebook(notebook)
        declared = {parameter.name: parameter for parameter in declared_in_notebook(node)}
        notebook_text = nbformat.v4.writes(node)
        goal = goal or said or Goal.in_metadata(node)
    parameters = _parameters(entries.get("parameters"), declared, notebook, path.parent)
    axes = _axes(entries["axes"], declared, notebook, parameters, path.parent)
    names = {name for name, parameter in declared.items() if not isinstance(parameter.default, SourceText)}
    names = (names | parameters.keys() | {axis.name for axis in axes}) - {POPULATION}
    return SweepFile(
        path=path,
        text=text,
        name=read_name(entries.get("name"), path),
        notebook=notebook.resolve(),
        notebook_text=notebook_text,
        experiment=read_experiment(
            entries.get("experiment"), os.environ.get("MLFLOW_EXPERIMENT_NAME") or notebook.stem
        ),
        description=entries["description"].text() if "description" in entries else "",
        declared=tuple(declared.values()),
        parameters=parameters,
        axes=axes,
        strategy=_strategy(entries.get("strategy"), axes, entries["axes"], goal),
        when=_conditions(entries.get("when"), names),
        drop=_conditions(entries.get("drop"), names),
        goal=goal,
        tags=read_tags(entries.get("tags")),
        lines={key: entry.line for key, entry in entries.items()},
    )


def _declared(entry: Entry, declared: dict[str, Parameter], notebook: Path) -> Parameter:
    """The parameter that an entry is named after."""
    name = entry.where.partition(".")[2]
    if name == POPULATION:
        entry.refuse(f"{entry.where} is what the population axes fill: say `run: population` on these instead")
    if name not in declared:
        near = [other for other in nearest(name, declared, 2) if other != POPULATION][:1]
        entry.refuse(
            f"{name} is not a parameter of {notebook.name}"
            + (f": nearest is {near[0]}" if near else ", which declares none in a cell tagged `parameters`")
        )
    return declared[name]


def _parameters(entry: Entry | None, declared: dict[str, Parameter], notebook: Path, folder: Path) -> dict[str, Any]:
    values = {}
    for each in entry.named().values() if entry else ():
        parameter = _declared(each, declared, notebook)
        (values[parameter.name],) = checked_values(each, parameter, folder, [each.value])
    return values


def _axes(
    entry: Entry, declared: dict[str, Parameter], notebook: Path, parameters: dict[str, Any], folder: Path
) -> tuple[Axis, ...]:
    axes = []
    for each in entry.named().values():
        axis = read_axis(each, _declared(each, declared, notebook), folder)
        if axis.name in parameters:
            each.refuse(f"{axis.name} is both fixed under parameters and varied under axes: leave one out")
        if axis.population and POPULATION not in declared:
            each.refuse(
                f"{each.where} says run: population, but {notebook.name} declares no parameter "
                f"`{POPULATION}: list | None = None`: choose a notebook that trains populations, or run: notebook"
            )
        with each.blamed():
            for value in (axis.values or ()) if axis.population else ():
                declared[POPULATION].check([{axis.name: value}])
        axes.append(axis)
    if not axes:
        entry.refuse("axes is empty: say what varies")
    if (members := size(axis for axis in axes if axis.population and axis.values)) > MOST_VALUES:
        entry.refuse(f"the population axes make {members} points in each execution, more than {MOST_VALUES}")
    return tuple(axes)


def _strategy(entry: Entry | None, axes: tuple[Axis, ...], axes_entry: Entry, goal: Goal | None) -> Strategy:
    strategy, place = (_described(entry), entry) if entry else (Strategy(), axes_entry)
    is_search = strategy.kind == "optuna"
    for axis in axes:
        if axis.values is None and (strategy.kind == "grid" or (is_search and axis.population)):
            axes_entry.named()[axis.name].refuse(
                f"axes.{axis.name} is a range without count or step, which a grid cannot run through: give count, "
                "or a strategy random or optuna"
            )
    if is_search and goal is None:
        place.refuse(
            "strategy: optuna needs to know what is better: say metric: …, and direction: minimize or maximize, at the "
            "top of the file"
        )
    if is_search and all(axis.population for axis in axes):
        place.refuse("strategy: optuna needs an axis with run: notebook, as population axes are a grid in every trial")
    return strategy


def _described(entry: Entry) -> Strategy:
    """A strategy by its name alone, or with what it needs."""
    parts = entry.named(("kind", "count", "seed", *_AT_THE_TOP)) if entry.is_mapping else {"kind": entry}
    for key in parts.keys() & {*_AT_THE_TOP}:
        parts[key].refuse(f"{key} stands at the top of the file, as it counts for every strategy: move it there")
    if "kind" not in parts:
        entry.refuse("strategy.kind is missing: grid, random or optuna")
    kind = parts["kind"].choice(("grid", "random", "optuna"))
    if kind == "grid":
        for key in parts.keys() - {"kind"}:
            parts[key].refuse(f"{parts[key].where} does not go with kind: {kind}: leave it out")
    elif "count" not in parts:
        entry.refuse(f"strategy: {kind} needs a count, as in {{kind: {kind}, count: 40}}")
    return Strategy(
        kind=kind,
        count=parts["count"].whole_number(1, MOST_VALUES) if "count" in parts else 0,
        seed=parts["seed"].whole_number(0) if "seed" in parts else 0,
    )


def _conditions(entry: Entry | None, names: set[str]) -> tuple[Condition, ...]:
    conditions: list[Condition] = []
    for item in entry.items() if entry else ():
        text = item.text()
        with item.blamed():
            conditions.append(Condition(text, names, f"{item.file}:{item.line}"))
        if sum(condition.parts for condition in conditions) > MOST_PARTS:
            item.refuse(f"these conditions have more than {MOST_PARTS} names, numbers and operators together")
    return tuple(conditions)
