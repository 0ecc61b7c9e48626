"""What a parameter's declared type makes of a value: int, float, str, bool, list, None, Literal[...] or a union."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple, NoReturn

from resflow.errors import InvalidInputError, nearest

__all__ = ["SourceText", "as_declared", "check_declared", "literal", "parse_declared"]


class SourceText(str):
    """The source of a value that is computed rather than written down, as `2 * math.pi` is."""


def literal(node: ast.expr) -> Any:
    """The value that an expression writes down, or its source text if only running it can tell.

    >>> literal(ast.parse("-1e-3", mode="eval").body), literal(ast.parse("2 * pi", mode="eval").body)
    (-0.001, '2 * pi')
    """
    match node:
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)]):  # how papermill writes NaN
            return float(text)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return SourceText(ast.unparse(node))


def as_declared(value: Any, annotation: str) -> Any:
    """`value` as its declared type records it: an int declared as float is a float, so that 1 and 1.0 are one value.

    >>> as_declared(1, "float | None"), as_declared(1, "int")
    (1.0, 1)
    """
    kinds = _kinds(annotation)
    return float(value) if type(value) is int and "float" in kinds and "int" not in kinds else value


def parse_declared(text: str, name: str, annotation: str) -> Any:
    """The value that `text` stands for by a declared type; what it looks like, never a text that happens to be true.

    >>> parse_declared("false", "full_batch", "bool"), parse_declared("007", "label", "str")
    (False, '007')

    Args:
        text: What was given.
        name: The parameter's name, for the message.
        annotation: Its declared type, as written.

    Raises:
        InvalidInputError: If the text is not of the type, or the type is not one that a text can be read as.
    """
    kinds = _kinds(annotation)
    if not kinds:
        declared = f"is declared as {annotation}" if annotation else "has no declared type"
        raise InvalidInputError(
            f"{name}={text}: {name} {declared}, which no text can be read as: "
            "declare it as int, float, str, bool, list, Literal[...] or one of these | None"
        )
    for (choice,) in _choices(kinds):
        if text == str(choice):
            return choice
    if "None" in kinds and text.lower() in ("none", "null"):
        return None
    if "bool" in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "int" in kinds and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if "float" in kinds and (number := _number(text)) is not None:
        return number
    if "list" in kinds and (values := _list(text)) is not None:
        return values
    if "str" in kinds:
        return text
    _refuse(text, name, annotation, kinds)


def check_declared(value: Any, name: str, annotation: str) -> Any:
    """`value`, which is no text but a value already, if the declared type allows it; an int for a float becomes one.

    >>> check_declared(1, "learning_rate", "float"), check_declared(None, "batch_size", "int | None")
    (1.0, None)

    Args:
        value: What was given.
        name: The parameter's name, for the message.
        annotation: Its declared type, as written; one that says nothing allows everything.

    Raises:
        InvalidInputError: If the type does not allow it.
    """
    kinds = _kinds(annotation)
    kind = "None" if value is None else type(value).__name__
    allowed = not kinds or kind in kinds or (kind == "int" and "float" in kinds)
    if not allowed and not any(kind == type(choice).__name__ and value == choice for (choice,) in _choices(kinds)):
        _refuse(value, name, annotation, kinds)
    return as_declared(value, annotation)


def _refuse(value: Any, name: str, annotation: str, kinds: list[Any]) -> NoReturn:
    expected = [_EXPECTED[kind] for kind in kinds if not isinstance(kind, _Choice)]
    hint = ""
    if choices := [str(choice) for (choice,) in _choices(kinds)]:
        expected.append("one of " + ", ".join(choices))
        hint = f"; nearest is {nearest(str(value), choices, 1)[0]}"
    raise InvalidInputError(
        f"{name}={value!r} is not of the declared type {annotation}: give {' or '.join(expected)}{hint}"
    )


class _Choice(NamedTuple):
    """One value that a Literal[...] type allows."""

    value: Any


_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number, such as 64",
    "float": "a number, such as 0.5, 64 or 1e-3",
    "str": "text",
    "list": "a list, such as [1, 2]",
    "None": "none",
}


def _kinds(annotation: str) -> list[Any]:
    """What a type allows: names out of `_EXPECTED` and `_Choice`s; other parts of a union are left out."""
    try:
        return _kinds_of(ast.parse(annotation, mode="eval").body)
    except SyntaxError:
        return []


def _kinds_of(node: ast.expr) -> list[Any]:
    match node:
        case ast.Name(id=name) if name in _EXPECTED:
            return [name]
        case ast.Constant(value=None):
            return ["None"]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kinds_of(left) + _kinds_of(right)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "list":
                return ["list"]
            if name == "Literal":
                return [_Choice(literal(part)) for part in parts]
            if name in ("Union", "Optional"):
                return [kind for part in parts for kind in _kinds_of(part)] + ["None"] * (name == "Optional")
    return []


def _choices(kinds: list[Any]) -> list[_Choice]:
    return [kind for kind in kinds if isinstance(kind, _Choice)]


def _list(text: str) -> list[Any] | None:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, list) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
