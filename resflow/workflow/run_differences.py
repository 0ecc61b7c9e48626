"""In what two runs differ: parameters, environment, data, notebook, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from resflow.errors import InvalidInputError
from resflow.numerals import number_text
from resflow.workflow import names
from resflow.workflow.compared import Outcome, difference
from resflow.workflow.environment import CHANGES, ENVIRONMENT, kept_environment
from resflow.workflow.notebook_differences import CellDifference, cell_differences
from resflow.workflow.notebook_file import executed_notebook
from resflow.workflow.run_parameters import parameters_of

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from nbformat import NotebookNode

    from resflow.workflow.records import Run

__all__ = ["Difference", "Section", "differences"]

_NONE = "none"


class Difference(NamedTuple):
    """One thing in which two runs differ.

    Attributes:
        name: The parameter, package, metric or whatever it is.
        first, second: What it is in each; "none" where there is none.
        remark: What is to be said of it; "" if nothing.
        cell: The lines that differ, of a cell of the executed notebooks, which has no values; None of anything else.
    """

    name: str
    first: str
    second: str
    remark: str = ""
    cell: CellDifference | None = None


class Section(NamedTuple):
    """What two runs are compared in.

    Attributes:
        name: What it is.
        differences: Where they differ.
        same: In how many things they do not.
    """

    name: str
    differences: tuple[Difference, ...]
    same: int


def differences(first: Run, second: Run) -> list[Section]:
    """In what two runs differ, what they were given first and what came out last."""
    one, other = first.stored, second.stored
    environments = [_environment(first, one), _environment(second, other)]
    for missing in set(environments[0]) ^ set(environments[1]):
        if missing.endswith(".py"):  # which of the library's files were loaded depends on what else was done
            for each in environments:
                each.pop(missing, None)
    return [
        _section("parameters", parameters_of(one), parameters_of(other)),
        _section("environment", *environments),
        _section("data", _data(one), _data(other)),
        _notebooks(first, second),
        _section("outcome", _tags_of_people(one), _tags_of_people(other)),
        _metrics(one.data.metrics, other.data.metrics),
    ]


def _section(name: str, one: Mapping[str, str], other: Mapping[str, str]) -> Section:
    keys = [*one, *(key for key in other if key not in one)]
    found = [Difference(key, one.get(key, _NONE), other.get(key, _NONE)) for key in keys]
    unlike = tuple(each for each in found if each.first != each.second)
    return Section(name, unlike, len(found) - len(unlike))


def _metrics(one: Mapping[str, float], other: Mapping[str, float]) -> Section:
    found = []
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            before, after = (number_text(each[name], 6) if name in each else _NONE for each in (one, other))
            found.append(Difference(name, before, after))
            continue
        outcome, units = difference(one[name], other[name])
        if outcome is not Outcome.SAME:
            apart = f"by {number_text(other[name] - one[name], 3)}"
            remark = f"rounding, {units:.2g} units" if outcome is Outcome.WITHIN else apart
            found.append(Difference(name, number_text(one[name], 6), number_text(other[name], 6), remark))
    return Section("metrics", tuple(found), len({*one, *other}) - len(found))


def _environment(run: Run, stored: StoredRun) -> dict[str, str]:
    """What a run's environment was: all that is attached of it, or else the versions that its tags have."""
    tags = stored.data.tags
    commit = {"commit": tags[names.COMMIT]} if names.COMMIT in tags else {}
    if not (kept := kept_environment(run)):
        versions = {
            key.removeprefix(names.VERSION): each for key, each in tags.items() if key.startswith(names.VERSION)
        }
        told = {"python": tags.get(names.PYTHON, _NONE), "platform": tags.get(names.PLATFORM, _NONE)}
        return commit | told | versions
    if CHANGES in run.files(ENVIRONMENT):
        digest = hashlib.sha256(run.read_bytes(CHANGES)).hexdigest()
        commit["uncommitted changes"] = f"{CHANGES}, SHA-256 {digest[:12]}…"
    plain = {key: kept[key] for key in kept if key not in ("packages", "flags", "changes", "commit", "code")}
    told = {key: each if isinstance(each, str) else json.dumps(each) for key, each in plain.items()}
    return commit | told | kept.get("flags", {}) | kept.get("packages", {}) | kept.get("code", {})


def _data(stored: StoredRun) -> dict[str, str]:
    tags = stored.data.tags
    prepared = json.loads(tags.get(names.DATA_PREPARATION, "{}"))
    digests = {
        f"digest{key.removeprefix(names.DATA_DIGEST)}": f"{each[:12]}…"
        for key, each in tags.items()
        if key.startswith(names.DATA_DIGEST)
    }
    return {key: str(each) for key, each in prepared.items()} | digests


def _notebooks(first: Run, second: Run) -> Section:
    """In what the notebooks differ: which they are, and where both are attached as executed, cell by cell."""
    (one, said), (other, also_said) = (_executed(run) for run in (first, second))
    section = _section("notebook", _notebook(first.stored) | said, _notebook(second.stored) | also_said)
    if one is None or other is None:
        return section
    cells, same = cell_differences(one, other)
    found = tuple(Difference(cell.place, "", "", cell.what, cell) for cell in cells)
    return Section(section.name, section.differences + found, section.same + same)


def _executed(run: Run) -> tuple[NotebookNode | None, dict[str, str]]:
    """The executed notebook, and what is to be said of it."""
    if not (path := run.executed_notebook()):
        return None, {"executed": _NONE}
    try:
        return executed_notebook(run.read_bytes(path), path), {"executed": path}
    except InvalidInputError as error:
        return None, {"executed": str(error)}


def _notebook(stored: StoredRun) -> dict[str, str]:
    tags, told = stored.data.tags, {"file": names.SOURCE, "digest": names.NOTEBOOK_DIGEST}
    return {name: tags[key] for name, key in told.items() if key in tags}


def _tags_of_people(stored: StoredRun) -> dict[str, str]:
    return {key: each for key, each in sorted(stored.data.tags.items()) if not key.startswith(names.RESERVED)}
