"""Names of columns: texts of one line that differ, none of them an index that slipped in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from resflow.data.messages import NOT_ONE_LINE, is_one_line
from resflow.errors import InvalidInputError, shown

__all__ = ["check_columns", "check_names"]


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
