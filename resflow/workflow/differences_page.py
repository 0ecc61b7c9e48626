"""In what two runs differ, as one HTML page that reads offline: a section for each of what they are compared in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import nbformat

from resflow.workflow import names
from resflow.workflow.last_word import status_of
from resflow.workflow.limits import one_line
from resflow.workflow.reports.notebook_html import notebook_to_html
from resflow.workflow.reports.plain import block, plain, table

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

    from resflow.workflow.records import Run
    from resflow.workflow.run_differences import Section

__all__ = ["differences_page"]

LONGEST = 2000
"""Characters of a value, or of a line."""


def differences_page(first: Run, second: Run, sections: Sequence[Section]) -> str:
    """The differences of two runs as HTML."""
    runs = [run.stored for run in (first, second)]
    head = f"# What differs between two runs\n\n{table(('', 'First', 'Second'), _about(*runs))}"
    texts = [head, *("\n\n".join(_told(section)) for section in sections)]
    cells = [nbformat.v4.new_markdown_cell(text, id=f"cell-{place}") for place, text in enumerate(texts)]
    return notebook_to_html(nbformat.v4.new_notebook(cells=cells), title="Differences of runs")


def _about(first: StoredRun, second: StoredRun) -> Iterator[tuple[str, str, str]]:
    yield "run", first.info.run_name, second.info.run_name
    yield "id", first.info.run_id, second.info.run_id
    yield "notebook", first.data.tags.get(names.SOURCE, "unknown"), second.data.tags.get(names.SOURCE, "unknown")
    yield "status", status_of(first), status_of(second)
    yield "began", _day(first), _day(second)


def _day(run: StoredRun) -> str:
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _told(section: Section) -> Iterator[str]:
    yield f"## {plain(section.name.capitalize())}"
    yield f"{len(section.differences) or 'None'} differ, {section.same} the same."
    rows = [(each.name, each.first, each.second, each.remark) for each in section.differences if not each.cell]
    if rows:
        yield table(("", "First", "Second", ""), [[one_line(text, LONGEST) for text in row] for row in rows])
    for each in section.differences:
        if each.cell:
            yield f"### {plain(each.name.capitalize())}: {each.remark}"
            if each.cell.source:
                yield block(_lines(each.cell.source), "diff")
            if each.cell.outputs:
                yield "What it put out:"
                yield block(_lines(each.cell.outputs), "diff")


def _lines(lines: Sequence[str]) -> Iterator[str]:
    return (line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines)
