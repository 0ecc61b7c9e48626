"""Outputs longer than a page can hold: how much of one is shown, and under which name the whole is kept beside it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from resflow.workflow.reports.sanitizer import sanitized
from resflow.workflow.reports.terminal import printable

__all__ = ["CHARACTERS_SHOWN", "HTML_SHOWN", "LINES_SHOWN", "Excerpt", "excerpt", "whole_outputs", "with_whole_streams"]

LINES_SHOWN = 2000
CHARACTERS_SHOWN = 200_000
HTML_SHOWN = 1_000_000
"""Of one output, pictures within HTML aside."""

_PICTURE = re.compile(r"data:image/[^\"')\s]*")
_TEXTS = ("text/html", "text/markdown", "text/latex", "text/plain")
_MARKER = "papermill-error-cell-tag"


class Excerpt(NamedTuple):
    """The beginning of an output, and how many characters of it are left out."""

    text: str
    left_out: int


def excerpt(text: str, mime: str = "text/plain") -> Excerpt:
    """An output as far as a page can hold it."""
    if mime == "text/html":
        if len(_PICTURE.sub("", text)) <= HTML_SHOWN:
            return Excerpt(text, 0)
        kept = text[:HTML_SHOWN]
        kept = kept[: max(kept.rfind("<"), 0)]
    else:
        kept = "".join(text.splitlines(keepends=True)[:LINES_SHOWN])[:CHARACTERS_SHOWN]
    return Excerpt(kept if kept == text else kept.rstrip(), len(text) - len(kept))


def with_whole_streams(nb: NotebookNode) -> NotebookNode:
    """A copy of the notebook without papermill's own cells; what a cell printed at a stretch is one output."""
    nb = copy.deepcopy(nb)
    nb.cells = [cell for cell in nb.cells if _MARKER not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(nb.cells):
        CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, number)
    return nb


def whole_outputs(nb: NotebookNode) -> Iterator[tuple[str, str]]:
    """Of every output of which a report shows only the beginning: the name it is attached by, and the whole of it."""
    for number, cell in enumerate(with_whole_streams(nb).cells):
        for place, output in enumerate(cell.get("outputs", []), start=1):
            mime, text = _shown(output)
            if excerpt(text, mime).left_out:
                page = mime == "text/html"
                name = f"outputs/cell-{number}-{place}.{'html' if page else 'txt'}"
                yield name, _PAGE.format(sanitized(text)) if page else printable(text)


def _shown(output: NotebookNode) -> tuple[str, str]:
    if output.output_type == "stream":
        return "text/plain", output.text
    if output.output_type == "error":
        return "text/plain", "\n".join(output.traceback) or output.evalue
    mime = next((mime for mime in _TEXTS if mime in output.data), "")
    return mime, str(output.data.get(mime, ""))


_PAGE = Markup(
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'\">"
    "<title>An output</title></head><body>{}</body></html>\n"
)
