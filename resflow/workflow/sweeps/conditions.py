"""Conditions on combinations of parameters: a small part of Python's expressions, read as a tree and never executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Collection, Mapping
from typing import Any

from resflow.errors import InvalidInputError, nearest

__all__ = ["Condition"]

_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_STRUCTURE = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Load,
    ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


class Condition:
    """A condition on named values, such as `width * depth <= 128 and optimizer != 'sgd'`.

    >>> Condition("width * depth <= 128", {"width", "depth"}).holds({"width": 32, "depth": 4})
    True
    """

    def __init__(self, text: str, names: Collection[str]) -> None:
        """Read a condition.

        Args:
            text: The condition, as written.
            names: What it may speak of.

        Raises:
            InvalidInputError: If it is not a condition, or speaks of anything else.
        """
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as error:
            raise InvalidInputError(f"{text!r} is not a condition: {error.msg}") from None
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and node.id not in names:
                near = nearest(node.id, sorted(names), 1)
                raise InvalidInputError(
                    f"{text!r} speaks of {node.id}, which is not a parameter of the notebook"
                    + (f": nearest is {near[0]}" if near else "")
                )
            if not isinstance(node, _STRUCTURE) and type(node) not in _OPERATORS:
                raise InvalidInputError(
                    f"{text!r} uses {ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__!r}: a "
                    "condition has parameters, numbers, texts, lists, + - * / // %, comparisons, in, and, or, not"
                )

    def holds(self, values: Mapping[str, Any]) -> bool:
        """True if it holds for the values.

        Raises:
            InvalidInputError: If the values cannot be compared or computed with in this way.
        """
        try:
            return bool(_evaluate(self._tree.body, values))
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            names = sorted({node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)})
            shown = ", ".join(f"{name}={values[name]!r}" for name in names)
            raise InvalidInputError(f"{self.text!r} cannot be decided for {shown}: {error}") from None


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part, values) for part in parts]
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_evaluate(operand, values))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, values), _evaluate(right, values))
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_evaluate(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_evaluate(part, values) for part in parts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            operands = [_evaluate(part, values) for part in (left, *others)]
            return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(ops, operands, operands[1:], strict=False))
    raise TypeError(f"no rule for {ast.dump(node)}")
