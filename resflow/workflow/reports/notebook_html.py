"""An executed notebook as one HTML file that reads offline, on paper and on a telephone, and runs nothing."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from markupsafe import Markup
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbformat import NotebookNode

from resflow.workflow.parameters import SourceText, as_declared, brief, declared_in_notebook, effective_values
from resflow.workflow.reports.drawing import drawing, link_to
from resflow.workflow.reports.excerpts import excerpt, with_whole_streams
from resflow.workflow.reports.markdown import markdown
from resflow.workflow.reports.result import RunResult
from resflow.workflow.reports.sanitizer import had_program, sanitized
from resflow.workflow.reports.tables import tidied
from resflow.workflow.reports.terminal import printable, terminal
from resflow.workflow.run_parameters import changed_values

__all__ = ["notebook_to_html", "prepare"]

_TEMPLATES = Path(__file__).parent / "templates"


def notebook_to_html(
    nb: NotebookNode, *, title: str, failure: str = "", result: RunResult | None = None, attached: bool = False
) -> str:
    """One self-contained HTML file of the executed notebook `nb`.

    What came out stands at the top, or what failed; below it the parameters that differ from their defaults, the
    notebook with its code folded away and its equations as MathML, and at the foot where the run comes from. The file
    asks no other host or file for anything and contains no script: scripts, frames and event handlers in HTML outputs
    are left out, and a content security policy in the page forbids whatever might have escaped that.

    Args:
        nb: The notebook with its outputs; it is not changed.
        title: Title of the page, as plain text.
        failure: Why the run ended, where the notebook cannot tell: a signal, a cell that took too long.
        result: What the run came to; None where there is no run.
        attached: Whether what `whole_outputs` yields lies beside the page.

    Returns:
        The HTML text, the same bytes for the same arguments.
    """
    nb = with_whole_streams(nb)
    failures = _failures(nb)
    heading = _take_heading(nb)
    parameters = _parameters(nb)
    report = {
        "title": title,
        "head": " – ".join(filter(None, [heading, result.name if result else title])),
        "heading": heading,
        "executed": _executed(nb),
        "result": result,
        "failure": printable(failure),
        "failures": failures,
        "attached": attached,
        "failed_cells": [entry.place for entry in failures],
        "outputs_shown": OUTPUTS_SHOWN,
        "contents": _contents(nb),
        "changed": [entry for entry in parameters if entry.changed],
        "unchanged": [entry for entry in parameters if not entry.changed],
    }
    language = nb.metadata.get("language_info", {})
    lexer = language.get("pygments_lexer", language.get("name"))
    exporter = _exporter(lexer if isinstance(lexer, str) else None)
    html, _ = exporter.from_notebook_node(nb, resources={"report": report})
    return html.encode(errors="replace").decode()  # half a character, as JSON may have it, has no UTF-8


@functools.cache
def prepare() -> None:
    """Have what the first page makes for later ones of Python made before it is needed: templates, patterns, lexers."""
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n$x$"), nbformat.v4.new_code_cell("1 + 1")]
    cells[1].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"})]
    kernel = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}  # as Jupyter's own for Python says it
    notebook_to_html(nbformat.v4.new_notebook(cells=cells, metadata=kernel), title="")


class _ReportExporter(HTMLExporter):
    """nbconvert's exporter with this package's template, and nothing taken from the user's configuration."""

    def __init__(self, lexer: str | None) -> None:
        super().__init__(template_name="report", extra_template_basedirs=[str(_TEMPLATES)])
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer=lexer, parent=self))

    def from_notebook_node(self, nb: Any, resources: Any = None, **options: Any) -> Any:
        """The page as the template has it, which HTMLExporter would parse again to add what is there already."""
        return super(HTMLExporter, self).from_notebook_node(nb, resources, **options)

    def _validate_preprocessor(self, nb: Any, preprocessor: Any) -> None:
        """Show a notebook that ran, whatever nbformat's schema forbids in it."""

    def default_filters(self) -> Any:
        yield from super().default_filters()
        yield "markdown", markdown
        yield "shown_type", _shown_type
        yield "excerpt", excerpt
        yield "sanitized", sanitized
        yield "terminal", terminal
        yield "summary_line", _summary_line
        yield "drawing", drawing
        yield "described", _described
        yield "link_to", link_to
        yield "tidied", tidied


@functools.cache
def _exporter(lexer: str | None) -> _ReportExporter:
    """One for all notebooks of a language: it keeps the template compiled."""
    return _ReportExporter(lexer)


_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_RICHEST_FIRST = ("text/html", "text/markdown", "image/svg+xml", "text/latex", *_PICTURES, "text/plain")

OUTPUTS_SHOWN = 200
"""Of one cell."""

CONTENTS_FROM = 6
"""A page of as many sections opens with a list of them."""


# --- what stands at the top ------------------------------------------------------------------------------------------


class _Failure(NamedTuple):
    place: int
    number: int | None
    line: str
    error: str
    message: str


class _Parameter(NamedTuple):
    name: str
    value: str
    default: str
    changed: bool
    comment: str


def _take_heading(nb: NotebookNode) -> str:
    """Cut the notebook's own first-level heading off its first cell, so that the page can open with it."""
    first = nb.cells[0] if nb.cells else None
    match = re.match(r"\s*#[ \t]+([^\n]+?)[ \t#]*(?:\n|$)", first.source) if first else None
    if not first or not match or first.cell_type != "markdown":
        return ""
    first.source = first.source[match.end() :]
    return match[1]


def _contents(nb: NotebookNode) -> list[tuple[str, str]]:
    """The id and the text of every second-level heading of a notebook with many of them."""
    found = [
        (match[1], Markup(match[2]).striptags())
        for number, cell in enumerate(nb.cells)
        if cell.cell_type == "markdown" and re.search(r"^##\s", cell.source, re.MULTILINE)
        for match in re.finditer(r'<h2 id="([^"]*)">(.*?)</h2>', markdown(cell.source, place=number), re.DOTALL)
    ]
    return found if len(found) >= CONTENTS_FROM else []


def _executed(nb: NotebookNode) -> str:
    record = nb.metadata.get("papermill", {})
    start, duration = record.get("start_time"), record.get("duration")
    parts = [str(start)[:16].replace("T", " ") + " UTC"] if start else []
    return ", ".join(parts + ([f"{duration:.1f} s"] if isinstance(duration, int | float) else []))


def _failures(nb: NotebookNode) -> list[_Failure]:
    """The cells whose error ended the run, in order; `sys.exit(0)` is not an error to papermill either."""
    failures = []
    for index, cell in enumerate(nb.cells):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        errors = [
            error for error in errors if (error.ename, error.evalue) not in {("SystemExit", ""), ("SystemExit", "0")}
        ]
        named = [(error.ename, error.evalue) for error in errors[:1]]
        if not named and cell.metadata.get("papermill", {}).get("exception") is True:
            named = [("Error", "the cell did not finish")]
        for name, message in named:
            message = printable(message).strip()
            shown = message if len(message) <= 1000 else message[:1000].rstrip() + " …"
            failures.append(
                _Failure(index, cell.get("execution_count"), _summary_line(cell)[1], printable(name), shown)
            )
    return failures


def _parameters(nb: NotebookNode) -> list[_Parameter]:
    """The parameters in effect: those that the notebook declares, overruled by those that papermill injected."""
    declared, values = declared_in_notebook(nb), effective_values(nb)
    changed = changed_values(declared, values)
    table = []
    for entry in declared:
        value, default = _shown(values.pop(entry.name)), _shown(as_declared(entry.default, entry.annotation))
        table.append(_Parameter(entry.name, value, default, entry.name in changed, entry.help))
    undeclared = "not among the notebook's declared parameters"
    return table + [_Parameter(name, _shown(value), "", True, undeclared) for name, value in values.items()]


def _shown(value: Any) -> str:
    return brief(value) if isinstance(value, SourceText | list) else repr(value)


# --- filters of the template -----------------------------------------------------------------------------------------


def _summary_line(cell: NotebookNode) -> tuple[bool, str]:
    """Whether the cell opens with code, and its first comment or line, which stands for it while it is folded."""
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    comment = line.lstrip("#").removeprefix(" %%").strip() if line.startswith("#") else ""
    return not comment, printable(comment or line)


def _described(cell: NotebookNode) -> str:
    """What stands for a figure that does not say what it shows."""
    is_code, line = _summary_line(cell)
    return f"Figure drawn by the cell that begins: {line}" if is_code else f"Figure: {line}"


def _shown_type(data: NotebookNode) -> str:
    """The richest type of an output that a page without scripts can show; "" if it has none."""
    types = [mime for mime in _RICHEST_FIRST if mime in data]
    if "text/html" in types and (pictures := [mime for mime in types if mime.startswith("image/")]):
        return pictures[0] if had_program(data["text/html"]) else "text/html"
    return types[0] if types else ""
