"""Tables as text, a line of names and then one row a line: CSV, with commas, and TSV, with tabs."""

from __future__ import annotations

import csv
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resflow.data.contents import check_contents
from resflow.data.dataset import Dataset
from resflow.data.labels import EXACT, column_and_class, is_number, labels
from resflow.data.names import MISSING, check_columns, plain, shown_few
from resflow.errors import InvalidInputError, shown

__all__ = ["check_delimited", "load_delimited"]

_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}


def check_delimited(path: Path) -> None:
    """Check the line of names and the first row, as `load_delimited` does."""
    _Table.opened(path)


def load_delimited(path: Path, target: str) -> Dataset:
    """The data set in a table of text, whose numbers are read as Python's float reads them.

    pandas reads; where it finds anything but finite numbers, the file is read again with Python's csv module, which
    knows the lines, to say what stands where.

    Raises:
        InvalidInputError: If a row has another number of values than there are names, a value of a feature is not a
            finite number or truth value, or the target cannot be used. The message has the line and the value.
    """
    table = _Table.opened(path)
    column, positive = column_and_class(path, target, table.names)
    place = table.names.index(column)
    texts = [place] if positive is not None or not is_number(table.first[place]) else []
    frame = table.read(texts)
    X = frame.drop(columns=place).to_numpy(dtype=float)
    values = frame[place].to_numpy(dtype=object if texts else float)
    if texts and not is_number(column) and column in values:
        raise InvalidInputError(
            f"{path}: {shown(column)} is the name of column {place + 1} on line {table.header_line} and a value in it: "
            "put a line of names first, or rename the column"
        )
    others = [other for other in range(len(table.names)) if other != place]
    suspects = [others[feature] for feature in np.flatnonzero(_outside(X))]
    if not texts and _outside(values[:, None]).any():
        suspects.append(place)
    if suspects:
        table.explain(suspects)
    y, classes = labels(path, column, values, positive, table.line_of_row)
    names = tuple(table.names[other] for other in others)
    return Dataset(str(path), X, y, names, column, classes)


@dataclass(frozen=True)
class _Table:
    """A file of which the line of names, counted from 1, and the values of the first row have been read."""

    path: Path
    separator: str
    names: tuple[str, ...]
    header_line: int
    first: list[str]

    @classmethod
    def opened(cls, path: Path) -> _Table:
        check_contents(path, signature=None, remedy="save the table as text in UTF-8")
        separator = "\t" if path.name.lower().endswith(".tsv") else ","
        start = list(itertools.islice(_records(path, separator), 2))
        if not start:
            raise InvalidInputError(f"{path}: the file holds blank lines alone: it must begin with a line of names")
        line, names = start[0]
        _check_header(path, line, names, separator)
        if len(start) < 2:
            raise InvalidInputError(f"{path}: the table has no rows: there must be at least two samples")
        table = cls(path, separator, tuple(names), line, start[1][1])
        table.check_width(*start[1])
        return table

    def read(self, texts: Sequence[int]) -> Any:
        """The rows as pandas reads them, by columns counted from 0: numbers or truth values, `texts` as written."""
        import pandas as pd

        try:
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # columns of mixed types are refused by us
                frame = pd.read_csv(
                    self.path,
                    sep=self.separator,
                    header=0,
                    names=range(len(self.names)),
                    index_col=False,
                    na_filter=False,
                    dtype=dict.fromkeys(texts, str) or None,  # an empty dict makes wide tables slow
                )
        except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
            self.explain([])
            raise InvalidInputError(f"{self.path}: not a readable table: {plain(str(error).strip())}") from error
        strange = [column for column, dtype in frame.dtypes.items() if dtype.kind not in "biuf" and column not in texts]
        if strange:
            self.explain(strange)
            raise InvalidInputError(
                f"{self.path}: column {shown(self.names[strange[0]])} holds values of several types: write numbers"
            )
        return frame

    def explain(self, columns: Sequence[int]) -> None:
        """Raise the first fault of the rows as they are written: of their widths, or of values in these columns."""
        boolean = {column: _is_truth_value(self.first[column]) for column in columns}
        for line, values in self.rows():
            for column in columns:
                if fault := _fault(values[column], boolean[column]):
                    name = shown(self.names[column])
                    raise InvalidInputError(f"{self.path}, line {line}, column {name}: {fault}")

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The line on which each row begins, with its values."""
        for line, values in itertools.islice(_records(self.path, self.separator), 1, None):
            self.check_width(line, values)
            yield line, values

    def line_of_row(self, row: int) -> str:
        return f"line {next(itertools.islice(self.rows(), row, None))[0]}"

    def check_width(self, line: int, values: list[str]) -> None:
        if len(values) == len(self.names):
            return
        if values[0].lstrip().startswith("#"):
            remedy = "a table has no comments, delete the line"
        elif len(values) > len(self.names):
            remedy = "name every column, and quote values that hold the separator"
        else:
            remedy = "fill in what is missing, or drop the row"
        raise InvalidInputError(
            f"{self.path}, line {line}: {_counted(len(values), 'value')} ({shown_few(values, 6)}) under "
            f"{_counted(len(self.names), 'name')} ({shown_few(self.names, 6)}): {remedy}"
        )


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Every record that is not blank, with the line on which it begins, counted from 1."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            for values in reader:
                if values and (len(values) > 1 or not values[0] or values[0].strip(" \t")):
                    yield line, values
                line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInputError(
            f"{path}, line {line}: not a readable row: {plain(str(error))}: is a quote left open?"
        ) from error
    except UnicodeDecodeError:
        content = path.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError as error:
            line = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
            raise InvalidInputError(
                f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not text in UTF-8 (is it Latin-1 or "
                "UTF-16?): save the table in UTF-8"
            ) from error
        raise


def _check_header(path: Path, line: int, names: list[str], separator: str) -> None:
    where = f"{path}, line {line}"
    if names[0].startswith("#"):
        raise InvalidInputError(
            f"{where}: the first name begins with '#', {shown(names[0])}: a table has no comments, delete the line, "
            "or rename the column"
        )
    if len(names) == 1:
        other = next((other for other in _SEPARATORS if other != separator and other in names[0]), None)
        hint = (
            f"separated by {_SEPARATORS[other]}? Save it with {_SEPARATORS[separator]} and decimal points"
            if other
            else "there must be a column to predict and at least one feature"
        )
        raise InvalidInputError(f"{where}: the table has one column, {shown(names[0])}: {hint}")
    check_columns(where, names)
    numbers = [float(name) for name in names if is_number(name)]
    steps = np.diff(numbers)
    counted = len(numbers) == len(names) and (steps == 1).all()
    ascending = len(numbers) < len(names) and ((steps > 0).all() or all(number.is_integer() for number in numbers))
    if not (counted or ascending):
        raise InvalidInputError(
            f"{where}: the first line holds numbers ({shown_few([name for name in names if is_number(name)])}) where "
            "the names of the columns should be: put a line of names first"
        )


def _fault(text: str, boolean: bool) -> str | None:
    """What is wrong with a value of a column of numbers, or of truth values; None if nothing is."""
    if boolean:
        if _is_truth_value(text):
            return None
        return f"{shown(text)} is neither true nor false, as the first row is" if text.strip() else MISSING
    if not is_number(text):
        if not text.strip():
            return MISSING
        if re.fullmatch(r"[+-]?[\d.]*,\d+|[+-]?\d+,[\d,.]*", text.strip(), re.ASCII):
            return f"{shown(text)} has a comma: write numbers with a decimal point, and no separators of thousands"
        if text.strip().lstrip("+-").lower() in ("inf", "infinity", "nan"):
            return f"{shown(text)} is not finite: fill in a number, or drop the row"
        return f"{shown(text)} is not a number: write numbers as 1.5 or 2e-3, encode texts, or drop the column or row"
    value = float(text)
    if math.isinf(value):
        return f"{shown(text)} is beyond the largest number of float64, 1.8e308: choose another unit"
    digits = text.strip().lstrip("+-").lstrip("0")
    if abs(value) >= EXACT and digits.isdecimal() and int(digits) != abs(value):
        return (
            f"{shown(text)} is beyond 2^53 and has no equal in float64: drop the column if it is an identifier, or "
            f"write {value!r}"
        )
    return None


def _is_truth_value(text: str) -> bool:
    return text.lower() in ("true", "false")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _outside(numbers: np.ndarray) -> np.ndarray:
    """For each column, whether it holds what is not finite or so large that whole numbers may have been rounded."""
    return ~((numbers.min(axis=0) > -EXACT) & (numbers.max(axis=0) < EXACT))
