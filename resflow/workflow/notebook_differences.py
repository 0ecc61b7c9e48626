"""In what two executed notebooks differ, cell by cell: what was added, removed or changed, of sources and outputs."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow.reports.excerpts import with_whole_streams
from resflow.workflow.reports.terminal import printable

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["CellDifference", "cell_differences"]

LINES = 2000
"""Of one cell's outputs; those beyond are compared as a whole."""

_ALIKE = 0.5
"""Of two cells' words, how many they must have in common to be one that was changed."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
_NO_TEXT = re.compile(r"<(IPython\.core\.display\.\w+ object|Figure size .*)>")
_TEXTS = ("text/markdown", "text/latex", "text/plain", "text/html")
_VIEW = "application/vnd.jupyter.widget-view+json"
"""Which names a widget by chance."""


class CellDifference(NamedTuple):
    """One cell in which two notebooks differ.

    Attributes:
        place: Which it is, from 1 on, in the first notebook and in the second, if it is another there.
        what: What became of it.
        source: The lines of its source that differ, and one beside them, as `diff -u` has them.
        outputs: The same of what its outputs say.
    """

    place: str
    what: str
    source: tuple[str, ...]
    outputs: tuple[str, ...]


def cell_differences(first: NotebookNode, second: NotebookNode) -> tuple[list[CellDifference], int]:
    """The cells in which two executed notebooks differ, in their order, and how many are the same in both.

    The cell with the parameters of an execution is left out, as are counts, times and metadata. Of pictures it is said
    whether they have the same bits.
    """
    one, other = _cells(first), _cells(second)
    found, same = [], 0
    for here, there in _pairs(one, other):
        before, after = one[here] if here is not None else None, other[there] if there is not None else None
        source = _lines(_source(before), _source(after))
        outputs = _lines(_outputs(before), _outputs(after))
        if not source and not outputs and before is not None and after is not None:
            same += 1
            continue
        numbers = list(dict.fromkeys(str(each + 1) for each in (here, there) if each is not None))
        what = (
            "added" if before is None else "removed" if after is None else "changed" if source else "its outputs differ"
        )
        found.append(CellDifference(f"cell {' | '.join(numbers)}", what, source, outputs))
    return found, same


def _cells(notebook: NotebookNode) -> list[Any]:
    cells = with_whole_streams(notebook).cells
    return [cell for cell in cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def _pairs(one: Sequence[Any], other: Sequence[Any]) -> Iterator[tuple[int | None, int | None]]:
    """The places of cells that belong together; None where there is none."""
    before, after = ([(cell.cell_type, cell.source) for cell in cells] for cells in (one, other))
    for what, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal":
            yield from zip(range(a, b), range(c, d), strict=True)
            continue
        for here in range(a, b):
            there = next((place for place in range(c, d) if _is_alike(one[here], other[place])), None)
            if there is not None:
                yield from ((None, place) for place in range(c, there))
                c = there + 1
            yield here, there
        yield from ((None, place) for place in range(c, d))


def _is_alike(one: Any, other: Any) -> bool:
    if one.cell_type != other.cell_type:
        return False
    if one.get("id", "") == other.get("id"):
        return True
    words, others = (re.findall(r"\w+|[^\w\s]", cell.source) for cell in (one, other))
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    return matcher.quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE


def _lines(before: list[str], after: list[str]) -> tuple[str, ...]:
    """The lines that differ, each with what became of it in front."""
    if before == after:
        return ()
    found = list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]  # after two names, and a first place
    return tuple("…" if line.startswith("@@ ") else line for line in found)


def _source(cell: Any) -> list[str]:
    return cell.source.splitlines() if cell is not None else []


def _outputs(cell: Any) -> list[str]:
    """What a cell's outputs say, line by line."""
    found = [line for output in (cell.get("outputs", []) if cell is not None else []) for line in _output(output)]
    if len(found) > LINES:
        rest = "\n".join(found[LINES:])
        return [*found[:LINES], f"[{len(found) - LINES:,} more lines, SHA-256 {_digest(rest)}]"]
    return found


def _output(output: Any) -> Iterator[str]:
    if output.output_type == "stream":
        yield from printable(output.text).splitlines()
    elif output.output_type == "error":
        yield from printable(f"{output.ename}: {output.evalue}").splitlines()
    else:
        data = {mime: each if isinstance(each, str) else repr(each) for mime, each in output.get("data", {}).items()}
        mime = next((mime for mime in _TEXTS if mime in data and not _NO_TEXT.fullmatch(data[mime])), "")
        yield from _ADDRESS.sub(" at 0x…", printable(data.get(mime, ""))).splitlines()
        for kind in sorted(data.keys() - {*_TEXTS, _VIEW}):
            yield f"[{kind}, SHA-256 {_digest(_drawn(data[kind]))}]"


def _drawn(content: str) -> str:
    """What is drawn by an SVG: without the date, and the names that are given by chance; anything else as it is."""
    if "<svg" not in content:
        return content
    return re.sub(r'(\bid="|#)[\w.:-]+', r"\1", re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL))


def _digest(text: str) -> str:
    return f"{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:12]}…"
