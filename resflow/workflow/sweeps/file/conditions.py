"""Conditions on combinations of parameters: a small part of Python's expressions, read as a tree and never executed."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from resflow.errors import InvalidInputError, nearest

__all__ = ["Condition"]

MOST_CHARACTERS = 1000
MOST_PARTS = 200
"""Names, numbers and operators in one condition."""
MOST_DEPTH = 30
LARGEST = 2**63
"""Whole numbers in a condition, and what comes of them, are smaller than this."""

Values = Mapping[str, Any]
Rule = Callable[[Values], Any]

_ARITHMETIC: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}
_ORDER: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}


class Condition:
    """A condition on named values, such as `width * depth <= 128 and optimizer != 'sgd'`.

    >>> Condition("width * depth <= 128", {"width", "depth"}).holds({"width": 32, "depth": 4})
    True

    Attributes:
        text: The condition, as written.
        parts: How many names, numbers and operators it has.
    """

    def __init__(self, text: str, names: Collection[str], place: str = "") -> None:
        """Read a condition on some names; its place is for messages about values.

        Raises:
            InvalidInputError: If it is not a condition, or speaks of anything else.
        """
        self.text = text
        self._place = f"{place}: " if place else ""
        body, self.parts = _parsed(text)
        try:
            self._rule = _rule(body)
        except InvalidInputError as error:
            raise InvalidInputError(f"{text!r} {error}") from None
        self._names = sorted({node.id for node in ast.walk(body) if isinstance(node, ast.Name)})
        for name in self._names:
            if name not in names:
                near = nearest(name, sorted(names), 1)
                raise InvalidInputError(
                    f"{text!r} speaks of {name}, which is not a parameter of the notebook"
                    + (f": nearest is {near[0]}" if near else "")
                )

    def holds(self, values: Values) -> bool:
        """True if it holds for the values.

        Raises:
            InvalidInputError: If the values cannot be compared or computed with in this way.
        """
        try:
            return _truth(self._rule(values))
        except (_Undecided, ZeroDivisionError, OverflowError) as error:
            shown = ", ".join(f"{name}={values[name]!r}" for name in self._names)
            raise InvalidInputError(
                f"{self._place}{self.text!r} cannot be decided{' for ' * bool(shown)}{shown}: {error}"
            ) from None


class _Undecided(Exception):
    """Values that an operator has no meaning for."""


def _parsed(text: str) -> tuple[ast.expr, int]:
    """The tree of a condition, of bounded size, and how many parts it has."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidInputError(f"a condition of {len(text)} characters is too long: at most {MOST_CHARACTERS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python warns of in a program, as of '\d', is a mistake here
            body = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise InvalidInputError(f"{text!r} is not a condition: {error.msg}") from None
    except (RecursionError, MemoryError, ValueError):  # ast's own limits
        raise InvalidInputError(f"{text!r} is not a condition: it nests too deep") from None
    level: list[ast.AST] = [body]
    counted = (ast.Name, ast.Constant, ast.operator, ast.cmpop, ast.unaryop, ast.boolop)
    parts = depth = 0
    while level:
        parts, depth = parts + sum(isinstance(node, counted) for node in level), depth + 1
        if parts > MOST_PARTS or depth > MOST_DEPTH:
            raise InvalidInputError(
                f"{text!r} has more than {MOST_PARTS} names, numbers and operators, or nests deeper than {MOST_DEPTH}: "
                "write several conditions, as a list"
            )
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return body, parts


def _check_constant(value: Any) -> None:
    if not (value is None or type(value) in (bool, int, float, str)):
        raise InvalidInputError(f"has {value!r}, which is not a number, text, True, False or None")
    if type(value) in (int, float) and not abs(value) < (LARGEST if type(value) is int else math.inf):
        raise InvalidInputError("has a number too large: whole ones must be smaller than 2^63, and all of them finite")


def _rule(node: ast.expr) -> Rule:
    """What computes the value of an expression.

    Raises:
        InvalidInputError: If there is anything in it that conditions don't have.
    """
    match node:
        case ast.Constant(value=value):
            _check_constant(value)
            return lambda values: value
        case ast.Name(id=name):
            return operator.itemgetter(name)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            rules = [_rule(element) for element in elements]
            return lambda values: [rule(values) for rule in rules]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _rule(operand)
            return lambda values: not _truth(inner(values))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            inner, sign = _rule(operand), -1 if isinstance(op, ast.USub) else 1
            return lambda values: sign * _number(inner(values))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _computed(*_ARITHMETIC[type(op)], _rule(left), _rule(right))
        case ast.BoolOp(op=op, values=parts):
            rules, decided = [_rule(part) for part in parts], isinstance(op, ast.Or)
            return lambda values: next((decided for rule in rules if _truth(rule(values)) is decided), not decided)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared(ops, [left, *others])
    raise InvalidInputError(
        f"uses {ast.unparse(node)}: a condition has parameters, numbers, texts, lists, + - * / // %, comparisons, in, "
        "and, or, not"
    )


def _computed(sign: str, compute: Callable[[Any, Any], Any], left: Rule, right: Rule) -> Rule:
    def rule(values: Values) -> Any:
        value = compute(_number(left(values), sign), _number(right(values), sign))
        if type(value) is int and abs(value) >= LARGEST:
            raise _Undecided(f"{sign} gives a whole number of 2^63 or more")
        if value - value != 0:
            raise _Undecided(f"{sign} gives a number that is not finite")
        return value

    return rule


def _compared(ops: list[ast.cmpop], parts: list[ast.expr]) -> Rule:
    """Comparisons in a row, as in 0 < a < 1: what stands behind the first that fails is not looked at."""
    rules = [_rule(part) for part in parts]
    steps = [(_comparison(op, part), rule) for op, part, rule in zip(ops, parts[1:], rules[1:], strict=True)]
    first = rules[0]

    def rule(values: Values) -> bool:
        left = first(values)
        for compare, other in steps:
            right = other(values)
            if not compare(left, right):
                return False
            left = right
        return True

    return rule


def _comparison(op: ast.cmpop, right: ast.expr) -> Callable[[Any, Any], bool]:
    match op:
        case ast.Eq():
            return operator.eq
        case ast.NotEq():
            return operator.ne
        case ast.Is() | ast.IsNot():
            if not (isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))):
                raise InvalidInputError(f"asks by `is {ast.unparse(right)}` for one object: write == or !=")
            return operator.is_ if isinstance(op, ast.Is) else operator.is_not
        case ast.In():
            return _contained
        case ast.NotIn():
            return lambda value, values: not _contained(value, values)
    sign, compare = _ORDER[type(op)]

    def ordered(left: Any, right: Any) -> bool:
        if not (isinstance(left, str) and isinstance(right, str)):
            _number(left, sign), _number(right, sign)
        return compare(left, right)

    return ordered


def _contained(value: Any, values: Any) -> bool:
    if isinstance(values, list) or (isinstance(values, str) and isinstance(value, str)):
        return value in values
    raise _Undecided(f"in looks into a list, or for text in a text, not for {value!r} in {values!r}")


def _number(value: Any, sign: str = "-") -> Any:
    if type(value) in (int, float):
        return value
    hint = ": ask `is not None and …` before" if value is None else ""
    raise _Undecided(f"{sign} is for numbers, not for {value!r}{hint}")


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Undecided(f"{value!r} is neither true nor false: compare it with something")
