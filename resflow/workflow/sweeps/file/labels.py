"""What a sweep and its runs are called and tagged with: within what MLflow takes, so that nothing fails later."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from resflow.errors import InvalidInputError
from resflow.workflow.goal import Goal
from resflow.workflow.limits import EXPERIMENT, is_experiment, one_line
from resflow.workflow.names import RESERVED
from resflow.workflow.sweeps.file.yaml_lines import Entry

__all__ = ["read_experiment", "read_goal", "read_name", "read_tags"]

MOST_TAGS = 50


def read_name(entry: Entry | None, path: Path) -> str:
    """The sweep's name, by default its file's; it becomes part of tags' names and of a filter that MLflow parses."""
    name = entry.text() if entry else path.stem
    if not re.fullmatch(r"[^\W_][\w .-]{0,99}", name):
        message = f"name={name!r} must be up to 100 letters, digits, spaces and . _ -, a letter or digit first"
        if entry:
            entry.refuse(message)
        raise InvalidInputError(f"{path.name}:1: {one_line(message)}: give the sweep a name in the file")
    return name


def read_experiment(entry: Entry | None, default: str) -> str:
    """The MLflow experiment's name."""
    if entry is None:
        return default
    name = entry.text()
    if not is_experiment(name):
        entry.refuse(f"{entry.where}={name!r} must be one line of at most {EXPERIMENT} bytes: a folder gets its name")
    return name


def read_goal(entries: dict[str, Entry]) -> Goal | None:
    """What the runs are compared by, where the file says it."""
    if "metric" not in entries:
        if "direction" in entries:
            entries["direction"].refuse(
                "direction says what is better of a metric, but there is none: name it, as metric: …"
            )
        return None
    name = entries["metric"].text()
    if not _is_name(name, 240):
        entries["metric"].refuse(f"metric={name!r} must be {_NAMES}, as MLflow calls metrics, and at most 240 of them")
    if "direction" not in entries:
        entries["metric"].refuse(
            f"direction is missing: say if more of {name} is better, as direction: maximize or direction: minimize"
        )
    return Goal(name, entries["direction"].choice(("minimize", "maximize")) == "maximize")


def read_tags(entry: Entry | None) -> dict[str, str]:
    """The tags of every run."""
    tags = {}
    for each in entry.named().values() if entry else ():
        name, value = each.where.partition(".")[2], each.value
        if name.startswith(RESERVED):
            each.refuse(f"{each.where}: names that begin with resflow. or mlflow. are kept for what these record")
        if not _is_name(name, 250):
            each.refuse(f"{each.where}: a tag's name must be {_NAMES}, as MLflow has it, and at most 250 of them")
        if isinstance(value, dict | list) or value is None:
            each.refuse(f"{each.where}={value!r} must be one text or number")
        tags[name] = str(value)
    if entry and len(tags) > MOST_TAGS:
        entry.refuse(f"{len(tags)} tags are too many: at most {MOST_TAGS}")
    return tags


_NAMES = "letters, digits, spaces and . _ - /, without / at an end, // or . between two /"


def _is_name(name: str, most: int) -> bool:
    """True if MLflow takes a tag or a metric of that name."""
    plain = posixpath.normpath(name)
    is_plain = plain == name and plain != "." and not plain.startswith(("..", "/"))
    return is_plain and re.fullmatch(rf"[\w.\-/ ]{{1,{most}}}", name) is not None
