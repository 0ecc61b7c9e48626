"""YAML whose every value knows its line, so that a mistake can be answered with the place where it stands."""

from __future__ import annotations

import codecs
import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.reader import ReaderError

from resflow.errors import InvalidInputError, nearest, nearest_file
from resflow.workflow.limits import one_line
from resflow.workflow.sweeps.file.yaml_words import MERGE, STR, UNCLEAR, plain_tag, shown_tag, word_value

__all__ = ["Entry", "read_yaml"]

MOST_BYTES = 256 * 1024
MOST_NODES = 20_000
"""Names and values in a file, what an alias stands for counted wherever the alias is."""
MOST_DEPTH = 20
MOST_TEXT = 5_000
"""Characters in one text: what MLflow keeps of a parameter or a tag."""


class _Loader(yaml.BaseLoader):
    """PyYAML up to the tree of nodes; what the words in it mean is said by `yaml_words`, and nothing is constructed."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file = file
        self._depth = 0
        self._nodes = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a node that has none."""
        if kind is yaml.ScalarNode:
            return plain_tag(value) if implicit[0] else STR
        return str(super().resolve(kind, value, implicit))

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node with all below it: of a file that nests too deep or is too long no more than that is read."""
        self._depth += 1
        self._nodes += 1
        line = self.peek_event().start_mark.line + 1
        _check_limits(self._nodes, self._depth, self.file, line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Entry:
    """One value of a YAML file, with where it stands: whatever its methods refuse, they name the place.

    Attributes:
        file: The file's name, for messages.
        line: Its line, from 1.
        where: What it is called, as `axes.width`; "" for the whole file.
    """

    def __init__(self, node: yaml.Node, file: str, where: str = "", key: yaml.Node | None = None) -> None:
        self.file, self.where = file, where
        self.line = (key or node).start_mark.line + 1
        self._node = node

    @property
    def value(self) -> Any:
        """The value as Python's own: dicts, lists, numbers, texts."""
        if self.is_mapping:
            return {name: entry.value for name, entry in self.named().items()}
        if self.is_list:
            return [entry.value for entry in self.items()]
        with self.blamed():
            return word_value(self._node.tag, self._node.value)

    @property
    def is_mapping(self) -> bool:
        """True if it has named values."""
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """True if it has values in a row."""
        return isinstance(self._node, yaml.SequenceNode)

    def refuse(self, message: str) -> NoReturn:
        """Raise InvalidInputError with the place before the message, in one line that a terminal can show."""
        raise _refused(self.file, self.line, message)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Answer what is wrong with the value, or with the file that it names, with the place where it stands."""
        try:
            yield
        except InvalidInputError as error:
            self.refuse(str(error))
        except OSError as error:  # a name that is too long, a file that may not be read
            self.refuse(f"{self.where}={self.value!r} cannot be read: {error.strerror or error}")

    def named(self, allowed: tuple[str, ...] | None = None) -> dict[str, Entry]:
        """The named values it has, those taken from elsewhere by `<<` among them unless it has its own.

        Args:
            allowed: The names it may have; any if None.

        Raises:
            InvalidInputError: If it has none, a name comes twice, is no text, or is not allowed (the nearest is named).
        """
        what = self.where or "a sweep file"
        if not self.is_mapping:
            example = f"{allowed[0]}: …" if allowed else "name: value"
            self.refuse(f"{what} must have named values, as in `{example}`, but is {_kind(self._node)}")
        taken: dict[str, Entry] | None = None
        own: dict[str, Entry] = {}
        for key, node in self._node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            entry = Entry(node, self.file, f"{self.where}.{name}".lstrip("."), key)
            if key.tag == MERGE:
                if taken is not None:
                    entry.refuse(f"<< is given twice in {what}: take a list of aliases in one, as <<: [*a, *b]")
                entry.where = self.where  # what is taken is called as if it stood here
                taken = entry._merged()
                continue
            if not name or key.tag not in (STR, UNCLEAR):
                shown = name or ("an empty text" if isinstance(key, yaml.ScalarNode) else _kind(key))
                entry.refuse(f"{shown} in {what} must be a name: quote it if it is meant as text")
            if name in own:
                entry.refuse(f"{entry.where} is given twice, first in line {own[name].line}: leave one out")
            own[name] = entry
        found = (taken or {}) | own
        for name, entry in found.items():
            if allowed is not None and name not in allowed:
                entry.refuse(
                    f"{entry.where} is unknown: nearest is {nearest(name, allowed, 1)[0]}; "
                    f"{what} may have {', '.join(allowed)}"
                )
        return found

    def _merged(self) -> dict[str, Entry]:
        """The named values that a `<<` stands for; of several places that have a name the first counts."""
        found: dict[str, Entry] = {}
        for source in self.items():
            if not source.is_mapping:
                source.refuse(
                    f"<< must have an alias of named values, or a list of such, but has {_kind(source._node)}"
                )
            for name, entry in source.named().items():
                found.setdefault(name, entry)
        return found

    def items(self) -> Iterator[Entry]:
        """The values in a row; a single value stands for a row of one."""
        for node in self._node.value if self.is_list else [self._node]:
            yield Entry(node, self.file, self.where)

    def text(self) -> str:
        """Its value, which must be text, and not empty."""
        value = self.value
        if not isinstance(value, str) or not value.strip():
            self.refuse(f"{self.where}={value!r} must be text" + " in quotes" * (type(value) in (int, float, bool)))
        return value.strip()

    def whole_number(self, least: int, most: int | None = None) -> int:
        """Its value, which must be a whole number of at least `least`, and at most `most` if there is such a limit."""
        value = self.value
        if type(value) is not int or value < least or (most is not None and value > most):
            limit = f", at most {most}" if most is not None else ""
            self.refuse(f"{self.where}={value!r} must be a whole number, at least {least}{limit}")
        return value

    def number(self) -> float:
        """Its value, which must be a finite number."""
        value = self.value
        if type(value) not in (int, float) or not math.isfinite(value):
            self.refuse(f"{self.where}={value!r} must be a finite number")
        return value

    def choice(self, allowed: tuple[str, ...]) -> str:
        """Its value, which must be one of `allowed`."""
        value = self.value
        if value not in allowed:
            near = nearest(str(value), allowed, 1)[0]
            self.refuse(f"{self.where}={value} is unknown: nearest is {near}; it may be {', '.join(allowed)}")
        return value


def read_yaml(path: Path) -> tuple[Entry, str]:
    """The content of a YAML file, and its text.

    Raises:
        InvalidInputError: If it cannot be read, is not YAML, is empty, or is larger than docs/sweeps.md allows.
    """
    text = _text_of(path)
    try:
        loader = _Loader(text, path.name)
        node = loader.get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(
            path.name, line, f"not YAML: the character U+{error.character:04X} is not allowed in it"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise _refused(path.name, mark.line + 1 if mark else 1, f"not YAML: {reason}") from None
    except InvalidInputError:  # a limit
        raise
    except (ValueError, OverflowError) as error:  # of PyYAML itself, as of "\UFFFFFFFF" or %YAML 1.99999…
        raise _refused(path.name, loader.line + 1, f"not YAML: {error}") from None
    if node is None:
        raise _refused(path.name, 1, "the file is empty: it must name a notebook and axes")
    _check_tree(node, path.name)
    return Entry(node, path.name), text


def _text_of(path: Path) -> str:
    try:
        if path.is_dir():
            raise InvalidInputError(f"{path}: a folder, not a sweep file: name the file in it")
        if not path.exists():
            near = nearest_file(path, ".yaml", ".yml")
            raise InvalidInputError(f"{path}: there is no such sweep file (looked for {path.absolute()}){near}")
        if not path.is_file():
            raise InvalidInputError(f"{path}: not a file with content of its own: write the sweep into one")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise _refused(path.name, 1, f"{size} bytes are more than a sweep file may have, {MOST_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{one_line(str(path))}: cannot be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _refused(path.name, 1, "text in UTF-16: save it in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(
            path.name, line, f"byte 0x{data[error.start]:02x} is not text in UTF-8: save the file in UTF-8"
        ) from None


def _check_tree(root: yaml.Node, file: str) -> None:
    """Check every word in the tree, what aliases stand for included, and that these don't make it endless.

    Raises:
        InvalidInputError: At the first that is not as it must be.
    """
    count = 0
    above: set[int] = set()

    def check(node: yaml.Node, depth: int, *, is_key: bool = False) -> None:
        nonlocal count
        count += 1
        entry = Entry(node, file)
        _check_limits(count, depth, file, entry.line)
        if id(node) in above:
            entry.refuse("not YAML that can be read: this anchor stands for something that holds its own alias")
        above.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            if not is_key:
                _ = entry.value  # which refuses a word that stands for nothing
            _check_text(node.value, entry)
        elif node.tag != (_Loader.DEFAULT_MAPPING_TAG if entry.is_mapping else _Loader.DEFAULT_SEQUENCE_TAG):
            entry.refuse(f"the tag {shown_tag(node.tag)} says something else than named values or a list: leave it out")
        elif entry.is_list:
            for each in node.value:
                check(each, depth + 1)
        else:
            for key, value in node.value:
                check(key, depth + 1, is_key=True)
                check(value, depth + 1)
        above.remove(id(node))

    check(root, 1)


def _check_limits(nodes: int, depth: int, file: str, line: int) -> None:
    if nodes > MOST_NODES:
        raise _refused(file, line, f"more than {MOST_NODES} names and values are too many for a sweep file")
    if depth > MOST_DEPTH:
        raise _refused(file, line, f"more than {MOST_DEPTH} levels of lists and names are too deep")


def _check_text(text: str, entry: Entry) -> None:
    if len(text) > MOST_TEXT:
        entry.refuse(f"a text of {len(text)} characters is too long, as MLflow keeps {MOST_TEXT} of one: shorten it")
    for each in text:
        # control characters, and halves of a pair of UTF-16, which are no characters
        if each not in "\t\n" and unicodedata.category(each) in ("Cc", "Cs"):
            entry.refuse(f"the character U+{ord(each):04X} in a text cannot be kept in a store: leave it out")


def _refused(file: str, line: int, message: str) -> InvalidInputError:
    message = message.replace("\n", "\\n")  # of a name that has one, which is to be seen
    return InvalidInputError(f"{file}:{line}: {one_line(message)}")


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return f"the value {node.value!r}" if node.value else "empty"
