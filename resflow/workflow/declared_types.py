"""What a parameter's declared type makes of a value: int, float, str, bool, list, dict, None, Literal[...], unions."""

from __future__ import annotations

import ast
import math
import operator
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from resflow.errors import InvalidInputError, nearest, shown

__all__ = ["UNREADABLE", "SourceText", "as_declared", "check_declared", "literal", "parse_declared", "source_text"]

UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
"""What Python raises on text that is no program, or no value, or too deep for it."""


class SourceText(str):
    """The source of a value that is computed rather than written down, as `2 * math.pi` is."""


def literal(node: ast.expr) -> Any:
    """The value that an expression writes down, or its source text if only running it can tell.

    >>> [literal(ast.parse(text, mode="eval").body) for text in ("-1e-3", "10**-3", "2 * pi")]
    [-0.001, 0.001, '2 * pi']
    """
    for read in (ast.literal_eval, _calculated):
        try:
            return read(node)
        except (*UNREADABLE, ArithmeticError):
            continue
    return source_text(node)


def source_text(node: ast.AST) -> SourceText:
    """The source of what only running it can tell."""
    try:
        return SourceText(ast.unparse(node))
    except RecursionError:
        return SourceText("...")


_CALCULATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_MOST_BITS = 4096
"""Of a whole number that a calculation may give: `9**9**9` is left to whoever runs it."""


def _calculated(node: ast.expr) -> int | float:
    """The number that a calculation with numbers alone gives, as `1 / 3` does.

    Raises:
        ValueError: If it is anything else, or would be very large.
        ArithmeticError: If it has no value.
    """
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as text)], keywords=[]):
            return float(text)  # how papermill writes NaN
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_calculated(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATIONS:
            first, second = _calculated(left), _calculated(right)
            bits = 0
            if isinstance(op, ast.Pow) and isinstance(first, int) and isinstance(second, int):
                bits = first.bit_length() * abs(second)
            value = _CALCULATIONS[type(op)](first, second) if bits <= _MOST_BITS else None
            if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _MOST_BITS):
                return value
    raise ValueError("not a calculation with numbers")


def as_declared(value: Any, annotation: str) -> Any:
    """`value` as its declared type records it: an int declared as float is a float, so that 1 and 1.0 are one value.

    >>> as_declared(1, "float | None"), as_declared(1, "int")
    (1.0, 1)
    """
    kinds = _kinds(annotation)
    if type(value) is int and "float" in kinds and "int" not in kinds and abs(value) <= sys.float_info.max:
        return float(value)
    return value


def parse_declared(text: str, name: str, annotation: str) -> Any:
    """The value that `text` stands for by a declared type; what it looks like, never a text that happens to be true.

    >>> parse_declared("false", "full_batch", "bool"), parse_declared("007", "label", "str")
    (False, '007')

    Where no type is declared, the text is read as papermill reads it. The name is the parameter's, for the message.

    Raises:
        InvalidInputError: If the text is not of the type, or no notebook could be given it.
    """
    if "\0" in text or not _is_unicode(text):
        raise InvalidInputError(f"{name}={shown(text)} is not text in UTF-8: leave out what cannot be read")
    kinds = _kinds(annotation)
    if annotation in ("", "Any", "object"):
        return _as_papermill(text, name)
    if not kinds:
        raise InvalidInputError(
            f"{name}={shown(text)}: {name} is declared as {shown(annotation)[1:-1]}, which no text can be read as: "
            "declare it as int, float, str, bool, list, dict, Literal[...] or one of these | None"
        )
    for choice in _choices(kinds):
        if text == str(choice):
            return choice
    if "None" in kinds and text.lower() in ("none", "null"):
        return None
    if "bool" in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "int" in kinds and re.fullmatch(r"[+-]?[0-9]+", text):
        return _whole_number(text, name)
    if "float" in kinds and (number := _number(text, name)) is not None:
        return number
    if ("list" in kinds or "dict" in kinds) and type(values := _collection(text, name)).__name__ in kinds:
        return values
    if "str" in kinds:
        return text
    _refuse(text, name, annotation, kinds)


def check_declared(value: Any, name: str, annotation: str) -> Any:
    """`value`, which is no text but a value already, if the declared type allows it; an int for a float becomes one.

    >>> check_declared(1, "learning_rate", "float"), check_declared(None, "batch_size", "int | None")
    (1.0, None)

    A type that says nothing allows everything. The name is the parameter's, for the message.

    Raises:
        InvalidInputError: If the type does not allow it.
    """
    kinds = _kinds(annotation)
    kind = "None" if value is None else type(value).__name__
    allowed = not kinds or kind in kinds or (kind == "int" and "float" in kinds)
    if not allowed and not any(kind == type(choice).__name__ and value == choice for choice in _choices(kinds)):
        _refuse(value, name, annotation, kinds)
    if kind == "int" and "float" in kinds and "int" not in kinds and abs(value) > sys.float_info.max:
        raise InvalidInputError(f"{name}={shown(value)} is larger than a float can be: give at most 1.79e308 in size")
    return as_declared(value, annotation)


def _refuse(value: Any, name: str, annotation: str, kinds: list[Any]) -> NoReturn:
    expected = [_EXPECTED[kind] for kind in kinds if not isinstance(kind, _Choice)]
    hint = ""
    if choices := [str(choice) for choice in _choices(kinds)]:
        expected.append("one of " + ", ".join(choices[:20]) + ", ..." * (len(choices) > 20))
        hint = f"; nearest is {nearest(str(value), choices, 1)[0]}"
    raise InvalidInputError(
        f"{name}={shown(value)} is not of the declared type {annotation}: give {' or '.join(expected)}{hint}"
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
    "dict": 'a dictionary, such as {"a": 1}',
    "None": "none",
}


def _kinds(annotation: str) -> list[Any]:
    """What a type allows: names out of `_EXPECTED` and `_Choice`s; other parts of a union are left out."""
    try:
        return _kinds_of(ast.parse(annotation, mode="eval").body)
    except UNREADABLE:
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
            if name in ("list", "List", "dict", "Dict"):
                return [name.lower()]
            if name == "Literal":
                return [_Choice(literal(part)) for part in parts]
            if name in ("Union", "Optional"):
                return [kind for part in parts for kind in _kinds_of(part)] + ["None"] * (name == "Optional")
    return []


def _choices(kinds: list[Any]) -> list[Any]:
    return [kind.value for kind in kinds if isinstance(kind, _Choice)]


def _collection(text: str, name: str) -> Any:
    """The list or dictionary that a text writes down, if it does, and if a notebook can be given all that is in it."""
    try:
        value = ast.literal_eval(text.strip())
    except UNREADABLE:
        return None
    if not isinstance(value, list | dict):
        return None
    if problem := _not_injectable(value):
        raise InvalidInputError(
            f"{name}={shown(text)} holds {problem}: numbers, texts, true, false, None, lists and "
            "dictionaries with texts as keys can be given to a notebook"
        )
    return value


def _not_injectable(value: Any) -> str:
    """What in a value papermill could not write into a notebook; "" if it could write everything."""
    if isinstance(value, list):
        return next(filter(None, map(_not_injectable, value)), "")
    if isinstance(value, dict):
        odd = next((key for key in value if not isinstance(key, str)), None)
        return f"the key {shown(odd)}" if odd is not None else _not_injectable([*value, *value.values()])
    if isinstance(value, str):
        return "" if _is_unicode(value) else "text that is not Unicode"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"a number of more than {_most_digits()} digits" if value.bit_length() > _most_digits() * 3.32 else ""
    return "" if value is None or isinstance(value, bool | float) else shown(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a command line's bytes that are not UTF-8
        return False
    return True


def _most_digits() -> int:
    return sys.get_int_max_str_digits() or sys.maxsize


def _whole_number(text: str, name: str) -> int:
    if len(text) > _most_digits():
        raise InvalidInputError(f"{name}={shown(text)} has {len(text)} digits: give at most {_most_digits()}")
    return int(text)


def _number(text: str, name: str) -> float | None:
    """The number that a text writes down, if it does; one that a float can only call 0 or infinite is refused."""
    try:
        number = float(text)
    except ValueError:
        return None
    digits = re.split("[eE]", text)[0]
    if (math.isinf(number) and "n" not in text.lower()) or (number == 0 and re.search("[1-9]", digits)):
        raise InvalidInputError(
            f"{name}={shown(text)} is no number that a float can hold: give one between 1e-323 "
            "and 1.79e308 in size, or 0, or inf"
        )
    return number


def _as_papermill(text: str, name: str) -> Any:
    """What papermill makes of a text: True, False, None and numbers are what they look like, all else is text."""
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    if re.fullmatch(r"\s*[+-]?\d+(_\d+)*\s*", text):
        return _whole_number(text, name)
    number = _number(text, name)
    return text if number is None else number
