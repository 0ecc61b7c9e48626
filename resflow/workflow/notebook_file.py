"""A notebook's file, read as nbformat reads it or refused in one line that says what is wrong with it."""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError, nearest_file, shown

__all__ = ["executed_notebook", "metadata_of", "path_for_papermill", "read_notebook"]

_DEEPEST = 100
"""Levels of lists and objects within one another: Python's own tools for notebooks fail at a few hundred."""


def read_notebook(path: Path) -> Any:
    """The notebook in a file, as a node of nbformat's version 4, ready for papermill.

    UTF-8, UTF-16 and UTF-32 are read, with and without a byte order mark. What is missing, such as the metadata of a
    cell, is filled in; what says nothing, such as a kernel's name that is no text, is left out, and so are outputs.

    Raises:
        InvalidInputError: If there is none, or none that can be read.
    """
    content = _json(path)
    version = content.get("nbformat")
    if isinstance(version, int) and version > 4:
        what = f"has nbformat {shown(version)}, newer than any that can be read: save it as nbformat 4"
        raise InvalidInputError(f"{path}: {what}")
    if version not in (1, 2, 3, 4) or isinstance(version, bool):
        raise InvalidInputError(f"{path}: not a Jupyter notebook: it has no nbformat of 1 to 4")
    _part(path, content, "nbformat_minor", int, "nbformat_minor", 5 if version == 4 else 0)
    if version == 4:
        _complete(path, content)
    node = _as_node(path, content)
    _complete(path, node)
    return node


def path_for_papermill(path: Path) -> str:
    """A path as papermill takes it, which would put parameters in place of braces."""
    return re.sub("[{}]", r"\g<0>\g<0>", str(path))


def executed_notebook(content: bytes, name: str) -> Any:
    """The executed notebook of a file's content, as a node of nbformat's version 4, with its outputs.

    Raises:
        InvalidInputError: If it is none, as one that was cut off; the file is told by the name.
    """
    import nbformat

    try:
        node = nbformat.reads(content.decode("utf-8"), as_version=4)
        if all(isinstance(cell.source, str) and isinstance(cell.metadata, dict) for cell in node.cells):
            return node  # whatever else its schema forbids: it ran
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    raise InvalidInputError(f"{name}: the executed notebook is cut off or damaged")


def metadata_of(notebook: Any, key: str) -> dict[str, Any]:
    """The object that a notebook's metadata have under a key; an empty one where they have none."""
    found = notebook.metadata.get(key)
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no ordinary file" if path.exists() else ""
            there = f"it is {kind}" if kind else f"looked for {path.absolute()}"
            raise InvalidInputError(f"{path}: there is no such notebook ({there}){nearest_file(path, '.ipynb')}")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{shown(str(path))}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise InvalidInputError(f"{path}: not a Jupyter notebook: the file is empty")
    try:
        content = json.loads(data)
        depth = _depth(content)
    except json.JSONDecodeError as error:
        what = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise InvalidInputError(f"{path}: not a Jupyter notebook, or not a whole one: not JSON ({what})") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: not a Jupyter notebook: byte {error.start} is not text in UTF-8") from None
    except ValueError:  # Python reads no whole number of so many digits
        raise InvalidInputError(f"{path}: not a Jupyter notebook: it has a number of thousands of digits") from None
    except RecursionError:
        depth = _DEEPEST + 1
    if depth > _DEEPEST:
        raise InvalidInputError(f"{path}: lists and objects are nested more than {_DEEPEST} levels deep")
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: not a Jupyter notebook: {shown(content)}")
    return content


def _depth(content: Any) -> int:
    """How deep lists and objects are nested, as far as it matters."""
    level, depth = [content], 0
    while level and depth <= _DEEPEST:
        depth += 1
        level = [
            part
            for each in level
            if isinstance(each, dict | list)
            for part in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _complete(path: Path, notebook: dict[str, Any]) -> None:
    """Fill in what a notebook of version 4 lacks, leave out its outputs and what says nothing as it stands.

    Raises:
        InvalidInputError: If something that is run, or that everything depends on, is of a type that it cannot have.
    """
    metadata = _part(path, notebook, "metadata", dict, "metadata", {})
    _keep(metadata, dict, "kernelspec", "language_info", "papermill", "resflow", "widgets")
    for key in ("kernelspec", "language_info"):
        _keep(metadata.get(key, {}), str, "name", "language", "display_name")
    for number, cell in enumerate(_part(path, notebook, "cells", list, "cells", []), 1):
        if not isinstance(cell, dict):
            raise InvalidInputError(f"{path}: not a Jupyter notebook: cell {number} is {shown(cell)}, not an object")
        cell["cell_type"] = cell.get("cell_type") if isinstance(cell.get("cell_type"), str) else "raw"
        if isinstance(cell.get("source"), list):
            cell["source"] = "".join(map(str, cell["source"]))
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:  # which nobody runs
            _keep(cell, str, "source")
            cell.pop("outputs", None)
        _part(path, cell, "source", str, f"source of cell {number}", "")
        own = _part(path, cell, "metadata", dict, f"metadata of cell {number}", {})
        _keep(own, dict, "papermill", "jupyter")
        tags = own.get("tags")
        several = tags if isinstance(tags, list | dict) else [tags]
        own["tags"] = [tag for tag in several if isinstance(tag, str)]
    try:
        json.dumps(notebook, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{path}: not a Jupyter notebook: it has text that is not Unicode") from None


def _part(path: Path, parent: dict[str, Any], key: str, kind: type, place: str, missing: Any) -> Any:
    """What an object has under a key, which is filled in if it is missing, and must be of its kind."""
    if parent.get(key) is None:
        parent[key] = missing
    if not isinstance(parent[key], kind) or isinstance(parent[key], bool):
        what = {dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
        raise InvalidInputError(f"{path}: not a Jupyter notebook: {place} is {shown(parent[key])}, not {what}")
    return parent[key]


def _keep(parent: dict[str, Any], kind: type, *keys: str) -> None:
    """Leave out what is not of its kind."""
    for key in keys:
        if key in parent and not isinstance(parent[key], kind):
            del parent[key]


def _as_node(path: Path, content: dict[str, Any]) -> Any:
    import nbformat
    from traitlets.log import get_logger

    get_logger().setLevel(logging.CRITICAL)  # what nbformat's schema forbids, and papermill runs, is no error here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            node = nbformat.reads(json.dumps(content), as_version=4)
            return nbformat.from_dict(nbformat.v4.upgrade(node))  # nodes of version 3 are of another class
        except (nbformat.ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
            # nbformat finds out by them that a notebook is not as its version has it
            why = " ".join(str(error).split())[:200]
            raise InvalidInputError(f"{path}: not a Jupyter notebook that nbformat can read: {why}") from None
