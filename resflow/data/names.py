"""Names of columns and other texts in tables: which are refused, and what messages show of them, on one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from resflow.errors import InvalidInputError, nearest, shown

__all__ = ["MISSING", "NOT_ONE_LINE", "check_columns", "check_names", "is_one_line", "near", "plain", "shown_few"]

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


def check_names(where: str, names: Sequence[str]) -> None:
    """Check that names are texts, each on one line, and all different even without the blanks around them."""
    for name in names:
        if not isinstance(name, str):
            raise InvalidInputError(f"{where}: the name {name!r} is of type {type(name).__name__}, but must be text")
        if not is_one_line(name):
            raise InvalidInputError(f"{where}: the name {shown(name)} {NOT_ONE_LINE}")
    bare, times = Counter(name.strip() for name in names).most_common(1)[0] if names else ("", 0)
    if times > 1 and bare:
        columns = [place for place, name in enumerate(names, start=1) if name.strip() == bare]
        raise InvalidInputError(
            f"{where}: the name {shown(bare)} stands {times} times, as columns {columns[0]} and {columns[1]}: "
            "each column needs its own name, rename or drop one"
        )


def check_columns(where: str, names: Sequence[str]) -> None:
    """Check the names of a table's columns: also that none is empty or what pandas calls an index without a name."""
    for place, name in enumerate(names, start=1):
        if not name.strip() or re.fullmatch(r"Unnamed: \d+(_level_\d+)?|__index_level_\d+__", name.strip()):
            called = f"is called {shown(name)}" if name.strip() else "has no name"
            raise InvalidInputError(
                f"{where}: column {place} {called}, as an index does that was saved with the table: drop the column "
                "(pandas: to_csv(path, index=False)), or give it a name if it is a feature"
            )
    check_names(where, names)
