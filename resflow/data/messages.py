"""What messages about data show of it: a name, a value or a list of them, always short and on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from resflow.errors import nearest, shown

__all__ = ["MISSING", "NOT_ONE_LINE", "is_one_line", "near", "plain", "shown_few"]

MISSING = "the value is missing: fill it in, or drop the row"
NOT_ONE_LINE = "holds a line break or a control character: write it on one line, and close every quote"


def plain(text: str) -> str:
    """The text as `shown` has it, without the quotes: for what others say, and for types."""
    return shown(text)[1:-1]


def shown_few(texts: Sequence[str], most: int = 4) -> str:
    """The first few of the texts, each as `shown`."""
    return ", ".join(shown(text, 60) for text in texts[:most]) + (", ..." if len(texts) > most else "")


def near(name: str, known: Iterable[str]) -> str:
    """The known names that look most like the name, for a message; of very many, the first thousand are looked at."""
    return shown_few(nearest(name[:80], [entry[:80] for entry in islice(known, 1000)]))


def is_one_line(text: str) -> bool:
    """True if a name or class has no line break and no other control character, and UTF-8 can write it."""
    return re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text) is None
