"""A sweep file: which notebook, which parameters are fixed, which vary and how; checked before anything starts.

docs/sweeps.md describes the format. In short:

    name: width
    notebook: ../train_residual_unit.ipynb
    parameters: {steps: 1000}
    axes:
      width: [4, 16, 64]
      learning_rate: {from: 1e-4, to: 1e-1, count: 4, scale: log}
      seed: {seeds: 64, run: population}
    strategy: {kind: random, count: 40}
    drop: width == 64 and learning_rate > 0.01
    tags: {question: width}
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError, nearest
from resflow.workflow.declared_types import SourceText, check_declared
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.parameters import Parameter, declared_in_notebook
from resflow.workflow.sweeps.axes import Axis, read_axis
from resflow.workflow.sweeps.conditions import Condition
from resflow.workflow.sweeps.fingerprint import with_files_found
from resflow.workflow.sweeps.yaml_lines import Entry, read_yaml

__all__ = ["POPULATION", "Strategy", "SweepFile", "read_sweep_file"]

POPULATION = "population"
"""The parameter by which a notebook takes the points of the population axes."""

_KEYS = (
    "name", "notebook", "experiment", "description", "parameters", "axes", "strategy", "when", "drop", "tags",
)  # fmt: skip


@dataclass(frozen=True)
class Strategy:
    """How combinations are chosen.

    Attributes:
        kind: grid, random or optuna.
        count: How many combinations are chosen; 0 for all, with grid.
        seed: Of random choices.
        metric: What optuna looks at.
        direction: minimize or maximize.
    """

    kind: str = "grid"
    count: int = 0
    seed: int = 0
    metric: str = ""
    direction: str = "minimize"


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
        tags: Tags of every run.
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
    tags: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where names of files in it are looked up."""
        return self.path.parent

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


def read_sweep_file(path: Path) -> SweepFile:
    """Read a sweep file, and check everything that can be checked before a run.

    Raises:
        InvalidInputError: With file and line, if anything in it is not as docs/sweeps.md says.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path}: there is no such sweep file (looked for {path.absolute()})")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: not a text file in UTF-8") from None
    content = read_yaml(path, text)
    entries = content.named(_KEYS)
    for key in ("notebook", "axes"):
        if key not in entries:
            content.refuse(f"{key} is missing: " + ("name one" if key == "notebook" else "say what varies"))
    notebook = path.parent / entries["notebook"].text()
    try:
        node = read_notebook(notebook)
        declared = {parameter.name: parameter for parameter in declared_in_notebook(node)}
    except InvalidInputError as error:
        entries["notebook"].refuse(str(error))
    parameters = _parameters(entries.get("parameters"), declared, notebook, path.parent)
    axes = _axes(entries["axes"], declared, notebook, parameters, path.parent)
    names = {name for name, parameter in declared.items() if not isinstance(parameter.default, SourceText)}
    names = (names | parameters.keys() | {axis.name for axis in axes}) - {POPULATION}
    return SweepFile(
        path=path,
        text=text,
        name=_name(entries.get("name"), path),
        notebook=notebook.resolve(),
        notebook_text=notebook.read_text(encoding="utf-8"),
        experiment=(
            entries["experiment"].text()
            if "experiment" in entries
            else os.environ.get("MLFLOW_EXPERIMENT_NAME") or notebook.stem
        ),
        description=entries["description"].text() if "description" in entries else "",
        declared=tuple(declared.values()),
        parameters=parameters,
        axes=axes,
        strategy=_strategy(entries.get("strategy"), axes, entries["axes"]),
        when=_conditions(entries.get("when"), names),
        drop=_conditions(entries.get("drop"), names),
        tags=_tags(entries.get("tags")),
    )


def _name(entry: Entry | None, path: Path) -> str:
    name = entry.text() if entry else path.stem
    if not re.fullmatch(r"[\w][\w .+=-]{0,99}", name):
        message = f"name={name!r} must be up to 100 letters, digits, spaces and . _ + = -, a letter or digit first"
        if entry:
            entry.refuse(message)
        raise InvalidInputError(f"{path.name}: {message}: give the sweep a name in the file")
    return name


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
        try:
            value = check_declared(each.value, parameter.name, parameter.annotation)
            parameter.check(with_files_found({parameter.name: value}, folder)[parameter.name])
        except InvalidInputError as error:
            each.refuse(str(error))
        values[parameter.name] = value
    return values


def _axes(
    entry: Entry, declared: dict[str, Parameter], notebook: Path, parameters: dict[str, Any], folder: Path
) -> tuple[Axis, ...]:
    axes = []
    for each in entry.named().values():
        axis = read_axis(each, _declared(each, declared, notebook))
        if axis.name in parameters:
            each.refuse(f"{axis.name} is both fixed under parameters and varied under axes: leave one out")
        if axis.population and POPULATION not in declared:
            each.refuse(
                f"{each.where} says run: population, but {notebook.name} declares no parameter "
                f"`{POPULATION}: list | None = None`: choose a notebook that trains populations, or run: notebook"
            )
        for value in axis.values or ():
            try:
                declared[axis.name].check(with_files_found({axis.name: value}, folder)[axis.name])
            except InvalidInputError as error:
                each.refuse(str(error))
        axes.append(axis)
    if not axes:
        entry.refuse("axes is empty: say what varies")
    return tuple(axes)


def _strategy(entry: Entry | None, axes: tuple[Axis, ...], axes_entry: Entry) -> Strategy:
    kinds = ("grid", "random", "optuna")
    if entry is None or not entry.is_mapping:
        strategy, place = Strategy(entry.choice(kinds) if entry else "grid"), entry or axes_entry
        if strategy.kind != "grid":
            place.refuse(f"strategy: {strategy.kind} needs a count, as in {{kind: {strategy.kind}, count: 40}}")
    else:
        parts, place = entry.named(("kind", "count", "seed", "metric", "direction")), entry
        if "kind" not in parts:
            entry.refuse("strategy.kind is missing: grid, random or optuna")
        strategy = _described(entry, parts, parts["kind"].choice(kinds))
    for axis in axes:
        is_grid = strategy.kind == "grid" or (strategy.kind == "optuna" and axis.population)
        if axis.values is None and is_grid:
            lines = axes_entry.named()
            lines[axis.name].refuse(
                f"axes.{axis.name} is a range without count or step, which a grid cannot run through: give count, "
                "or a strategy random or optuna"
            )
    if strategy.kind == "optuna" and all(axis.population for axis in axes):
        place.refuse("strategy: optuna needs an axis with run: notebook, as population axes are a grid in every trial")
    return strategy


def _described(entry: Entry, parts: dict[str, Entry], kind: str) -> Strategy:
    known = {"grid": (), "random": ("count", "seed"), "optuna": ("count", "seed", "metric", "direction")}
    for key in parts.keys() - {"kind", *known[kind]}:
        parts[key].refuse(f"{parts[key].where} does not go with kind: {kind}: leave it out")
    for key in {"random": ("count",), "optuna": ("count", "metric")}.get(kind, ()):
        if key not in parts:
            entry.refuse(f"strategy.{key} is missing: {kind} needs it")
    return Strategy(
        kind=kind,
        count=parts["count"].whole_number(1) if "count" in parts else 0,
        seed=parts["seed"].whole_number(0) if "seed" in parts else 0,
        metric=parts["metric"].text() if "metric" in parts else "",
        direction=parts["direction"].choice(("minimize", "maximize")) if "direction" in parts else "minimize",
    )


def _conditions(entry: Entry | None, names: set[str]) -> tuple[Condition, ...]:
    conditions = []
    for item in entry.items() if entry else ():
        try:
            conditions.append(Condition(item.text(), names))
        except InvalidInputError as error:
            item.refuse(str(error).removeprefix(f"{item.file}:{item.line}: "))
    return tuple(conditions)


def _tags(entry: Entry | None) -> dict[str, str]:
    tags = {}
    for each in entry.named().values() if entry else ():
        name, value = each.where.partition(".")[2], each.value
        if name.startswith(("resflow.", "mlflow.")):
            each.refuse(f"{each.where}: names that begin with resflow. or mlflow. are kept for what these record")
        if not re.fullmatch(r"[\w.\-/ ]{1,250}", name) or isinstance(value, dict | list) or value is None:
            each.refuse(
                f"{each.where}={value!r} must be one text or number, under a name of letters, digits and . _ - /"
            )
        tags[name] = str(value)
    return tags
