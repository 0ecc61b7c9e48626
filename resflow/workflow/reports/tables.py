"""Tables of pandas as a report shows them: numbers to the right, words to the left, and no number for what is none."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag

__all__ = ["Table", "tidied"]

_MISSING = frozenset(["NaN", "nan", "<NA>", "NaT", "not a number"])
_NUMBER = re.compile(r"[-−+]?(?:[\d,]*\.?\d+(?:\.)?(?:[eE][-−+]?\d+)?|inf|∞)(?:\s?%)?")


class Table(NamedTuple):
    """A table's HTML, which is as safe as it was, and what its cells say as CSV; "" for what is no table of pandas."""

    html: str
    csv: str


def tidied(html: str) -> Table:
    """The HTML of one table of pandas with its numbers aligned, true minus signs, ∞, and a dash for what is missing."""
    if html.count("<table") != 1 or 'class="dataframe' not in html:
        return Table(html, "")
    page = BeautifulSoup(html, "html.parser")
    table = page.find("table")
    if not isinstance(table, Tag) or page.find(True) not in (table, table.parent):
        return Table(html, "")
    for style in page.find_all("style", attrs={"scoped": True}):
        style.decompose()  # pandas's own, which says what the report says better
    for row in table.find_all("tr"):
        del row["style"]
    lines = [row.find_all(["th", "td"]) for row in table.find_all("tr")]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_plain(cell) for cell in line] for line in lines)
    if table.find(colspan=True) is None and table.find(rowspan=True) is None:
        _align(table, lines)
    missing = False
    for cell in table.find_all("td"):
        words = cell.get_text().strip()
        if words in _MISSING:
            cell.string, missing = "–", True
            _mark(cell, "missing")
        elif _NUMBER.fullmatch(words) and not cell.find(True):
            cell.string = words.replace("-", "−").replace("inf", "∞")
    note = '<p class="note">–: no value</p>' if missing else ""
    return Table(str(page) + note, text.getvalue())


def _align(table: Tag, lines: Sequence[Sequence[Tag]]) -> None:
    body = [row.find_all(["th", "td"]) for part in table.find_all("tbody") for row in part.find_all("tr")]
    for column, cells in enumerate(zip(*body, strict=False)):
        words = [cell.get_text().strip() for cell in cells]
        if cells[0].name == "td" and not all(_NUMBER.fullmatch(word) or word in {"", *_MISSING} for word in words):
            for line in lines:
                if column < len(line):
                    _mark(line[column], "words")


def _mark(cell: Tag, name: str) -> None:
    cell["class"] = " ".join([*(cell.get_attribute_list("class") if cell.get("class") else []), name])


def _plain(cell: Tag) -> str:
    words = " ".join(cell.get_text().split())
    return (
        "" if words in _MISSING else words.replace("−", "-").replace("∞", "inf") if _NUMBER.fullmatch(words) else words
    )
