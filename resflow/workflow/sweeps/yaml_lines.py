"""YAML whose every value knows its line, so that a mistake can be answered with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from resflow.errors import InvalidInputError, nearest

__all__ = ["Entry", "read_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but 1e-4 is a number, as everywhere else, where YAML 1.1 asks for a point and a sign."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Entry:
    """One value of a YAML file, with where it stands.

    Attributes:
        file: The file's name, for messages.
        line: Its line, from 1.
        where: What it is called, as `axes.width`; "" for the whole file.
    """

    def __init__(self, node: yaml.Node, loader: _Loader, file: str, where: str, line: int) -> None:
        self.file = file
        self.line = line
        self.where = where
        self._node = node
        self._loader = loader

    @property
    def value(self) -> Any:
        """The value as Python's own: dicts, lists, numbers, texts."""
        try:
            return self._loader.construct_object(self._node, deep=True)
        except yaml.YAMLError as error:
            self.refuse(_reason(error))

    @property
    def is_mapping(self) -> bool:
        """True if it has named values."""
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """True if it has values in a row."""
        return isinstance(self._node, yaml.SequenceNode)

    def refuse(self, message: str) -> NoReturn:
        """Raise InvalidInputError with the place before the message."""
        raise InvalidInputError(f"{self.file}:{self.line}: {message}")

    def named(self, allowed: tuple[str, ...] | None = None) -> dict[str, Entry]:
        """The named values it has.

        Args:
            allowed: The names it may have; any if None.

        Raises:
            InvalidInputError: If it has none, a name comes twice, is no text, or is not allowed (the nearest is named).
        """
        what = self.where or "a sweep file"
        if not isinstance(self._node, yaml.MappingNode):
            example = f"{allowed[0]}: …" if allowed else "name: value"
            self.refuse(f"{what} must have named values, as in `{example}`, but is {_kind(self._node)}")
        try:
            self._loader.flatten_mapping(self._node)
        except yaml.YAMLError as error:
            self.refuse(_reason(error))
        found: dict[str, Entry] = {}
        for key, node in self._node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            entry = Entry(node, self._loader, self.file, f"{self.where}.{name}".lstrip("."), line)
            if not name or key.tag != "tag:yaml.org,2002:str":
                entry.refuse(f"{name or 'a list'} in {what} must be a name: quote it if it is meant as text")
            if name in found:
                entry.refuse(f"{entry.where} is given twice, first in line {found[name].line}: leave one out")
            if allowed is not None and name not in allowed:
                entry.refuse(
                    f"{entry.where} is unknown: nearest is {nearest(name, allowed, 1)[0]}; "
                    f"{what} may have {', '.join(allowed)}"
                )
            found[name] = entry
        return found

    def items(self) -> Iterator[Entry]:
        """The values in a row; a single value stands for a row of one."""
        nodes = self._node.value if isinstance(self._node, yaml.SequenceNode) else [self._node]
        for node in nodes:
            yield Entry(node, self._loader, self.file, self.where, node.start_mark.line + 1)

    def text(self) -> str:
        """Its value, which must be text.

        Raises:
            InvalidInputError: If it is something else, or empty.
        """
        value = self.value
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{self.where}={value!r} must be text")
        return value.strip()

    def whole_number(self, least: int) -> int:
        """Its value, which must be a whole number of at least `least`.

        Raises:
            InvalidInputError: If it is something else.
        """
        value = self.value
        if type(value) is not int or value < least:
            self.refuse(f"{self.where}={value!r} must be a whole number, at least {least}")
        return value

    def number(self) -> float:
        """Its value, which must be a finite number.

        Raises:
            InvalidInputError: If it is something else.
        """
        value = self.value
        if type(value) not in (int, float) or value != value or abs(value) == float("inf"):
            self.refuse(f"{self.where}={value!r} must be a finite number")
        return value

    def choice(self, allowed: tuple[str, ...]) -> str:
        """Its value, which must be one of `allowed`.

        Raises:
            InvalidInputError: If it is something else; the nearest is named.
        """
        value = self.value
        if value not in allowed:
            near = nearest(str(value), allowed, 1)[0]
            self.refuse(f"{self.where}={value} is unknown: nearest is {near}; it may be {', '.join(allowed)}")
        return value


def read_yaml(path: Path, text: str) -> Entry:
    """The content of a YAML file.

    Raises:
        InvalidInputError: If it is not YAML, or empty.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.name}:{mark.line + 1}" if mark else path.name
        raise InvalidInputError(f"{place}: not YAML: {_reason(error)}") from None
    if node is None:
        raise InvalidInputError(f"{path.name}:1: the file is empty: it must name a notebook and axes")
    return Entry(node, loader, path.name, "", node.start_mark.line + 1)


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"the value {node.value!r}" if node.value else "empty"


def _reason(error: yaml.YAMLError) -> str:
    """What is wrong, in one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return " ".join(str(error).split())
