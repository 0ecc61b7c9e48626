"""The target of a data set: which column, which class, and its values as labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from resflow.data.names import MISSING, NOT_ONE_LINE, is_one_line, near, shown_few
from resflow.errors import InvalidInputError, shown

__all__ = ["EXACT", "as_exact_floats", "column_and_class", "is_number", "labels"]

EXACT = 2**53
"""Up to here float64 holds every whole number."""

_NUMBER = re.compile(r"[ \t]*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?[ \t]*", re.ASCII)


def is_number(text: str) -> bool:
    """True if the text is a decimal number, perhaps with an exponent, and with blanks around it."""
    return _NUMBER.fullmatch(text) is not None


def column_and_class(path: Path, target: str, names: Sequence[str], *, what: str = "column") -> tuple[str, str | None]:
    """The column, one of the names, that a target names, and the class against the rest where it is `column=class`."""
    column, positive = (target, None) if target in names or "=" not in target else target.rsplit("=", 1)
    if column not in names:
        nearest = f"nearest are {near(column, names)}" if names else "there is nothing to predict"
        raise InvalidInputError(f"{path}: there is no {what} {shown(column)} for the target: {nearest}")
    return column, positive


def labels(
    path: Path, name: str, values: np.ndarray, positive: str | None, place: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, str] | None]:
    """The labels y and the names of the classes −1 and +1, if the target is one of two classes.

    Args:
        path: The file, for messages.
        name: The target's name.
        values: One-dimensional: numbers, truth values, or texts as objects.
        positive: The class to code +1 against the rest, if one is chosen.
        place: Says where the i-th value stands.

    Raises:
        InvalidInputError: If there are not two classes, numbers among texts, or one value only.
    """
    target = f"{path}: target {shown(name)}"
    if values.dtype.kind == "b":
        values = np.where(values, "True", "False").astype(object)
    if values.dtype.kind == "O":
        y, classes = _coded(target, name, values, positive, place)
    else:
        y, classes = as_exact_floats(values, lambda index: f"{target}, {place(index[0])}"), None
        if positive is not None:
            if not (sound := np.isfinite(y)).all():
                first = int(np.argmin(sound))
                raise InvalidInputError(f"{target}, {place(first)}: {y[first]} is missing or not finite: drop that row")
            if not is_number(positive) or not (y == float(positive)).any():
                known = [f"{value:g}" for value in np.unique(y)]
                raise InvalidInputError(f"{target} has no class {shown(positive)}: nearest are {near(positive, known)}")
            y, classes = np.where(y == float(positive), 1.0, -1.0), ("the rest", positive)
    if (y == y[0]).all():
        value = shown(str(values[0])) if values.dtype.kind == "O" else f"{values[0]:g}"
        raise InvalidInputError(
            f"{target} is {value} in every row ({len(y)}): there is nothing to predict, choose another column"
        )
    return y, classes


def as_exact_floats(values: np.ndarray, place: Callable[[tuple[int, ...]], str]) -> np.ndarray:
    """Integers, floating-point numbers or truth values in float64, where each has the same value there.

    Raises:
        InvalidInputError: If a whole number of 64 bits, or an extended float, has no float64 equal to it, with where
            the value of that index stands by `place`.
    """
    with np.errstate(over="ignore"):
        floats = values.astype(np.float64, copy=False)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        if max(-int(values.min()), int(values.max())) <= EXACT:
            return floats
        # One more than the largest integer is where rounding up may end; nothing of the type equals it.
        too_large = floats >= float(np.iinfo(values.dtype).max)
        inexact = too_large | (np.where(too_large, 0, floats).astype(values.dtype) != values)
    elif values.dtype.kind == "f" and values.dtype.itemsize > 8:
        inexact = (floats.astype(values.dtype) != values) & ~np.isnan(values)
    else:
        return floats
    if inexact.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(inexact))
        raise InvalidInputError(
            f"{place(first)}: {values[first]} of type {values.dtype} has no equal in float64, which is exact up to "
            "2^53 for whole numbers: drop an identifier, or save the column in float64"
        )
    return floats


def _coded(
    target: str, name: str, texts: np.ndarray, positive: str | None, place: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, str]]:
    known = sorted(set(texts))
    if not known[0].strip():
        raise InvalidInputError(f"{target}, {place(_first(texts, known[0]))}: {MISSING}")
    if strange := next((text for text in known if not is_one_line(text)), None):
        raise InvalidInputError(f"{target}, {place(_first(texts, strange))}: the class {shown(strange)} {NOT_ONE_LINE}")
    bare: dict[str, str] = {}
    for text in known:
        other = bare.setdefault(text.strip(), text)
        if other != text:
            raise InvalidInputError(
                f"{target} has the classes {shown(other)} and {shown(text)}, which differ in blanks alone "
                f"({place(_first(texts, text))}): write one class in one way"
            )
    if positive is not None:
        chosen = [text for text in known if _same(text, positive)]
        if not chosen:
            raise InvalidInputError(f"{target} has no class {shown(positive)}: nearest are {near(positive, known)}")
        return np.where(np.isin(texts, chosen), 1.0, -1.0), ("the rest", positive)
    numbers = [text for text in known if is_number(text)]
    if numbers:
        if len(numbers) == len(known):
            raise InvalidInputError(
                f"{target} holds numbers as texts, such as {shown(numbers[0])}: save the column as numbers, or set one "
                f"class against the rest with target={shown(f'{name}={numbers[0]}')}"
            )
        other = next(text for text in known if not is_number(text))
        raise InvalidInputError(
            f"{target} holds numbers, as {shown(numbers[0])} ({place(_first(texts, numbers[0]))}), and texts, as "
            f"{shown(other)} ({place(_first(texts, other))}): drop the rows where it is missing, or set one class "
            f"against the rest with target={shown(f'{name}={other}')}"
        )
    if len(known) > 2:
        raise InvalidInputError(
            f"{target} is text with {len(known)} classes ({shown_few(known)}): "
            f"choose one against the rest with target={shown(f'{name}={known[0]}')}"
        )
    return np.where(texts == known[-1], 1.0, -1.0), (known[0], known[-1])


def _first(texts: np.ndarray, text: str) -> int:
    return texts.tolist().index(text)  # NumPy would compare without a NUL at the end


def _same(text: str, other: str) -> bool:
    return text == other or (is_number(text) and is_number(other) and float(text) == float(other))
