"""Text of any kind within Markdown, shown as it is: in a sentence, in a table, as a block of lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["block", "plain", "table"]


def plain(text: str) -> str:
    """Text as Markdown shows it as it is, within a line or one cell of a table.

    >>> plain("a_b | <i>")
    'a\\\\_b \\\\| \\\\<i\\\\>'
    """
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]$#&~" else letter for letter in " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_cells(head), ["---"] * len(head), *map(_cells, rows)))


def block(lines: Iterable[str], language: str = "text") -> str:
    """Lines of code in a language, whatever they have in them."""
    text = "\n".join(lines)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _cells(texts: Sequence[str]) -> list[str]:
    return [plain(text) for text in texts]
