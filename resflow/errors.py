"""The one exception that says: the input is at fault, and here is what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InvalidInputError", "nearest"]


class InvalidInputError(ValueError):
    """Input that resflow cannot accept.

    The message is one line that names the thing, its value, what is allowed and what to do.
    The command line shows it as it is and exits with code 2, so nothing but bad input may raise it:
    a fault of the program itself must stay an ordinary exception.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` entries of `known` that look most like `name`, best first; never empty unless `known` is.

    >>> nearest("brest_cancer", ["breast_cancer", "diabetes", "wine"], count=1)
    ['breast_cancer']
    """
    known = list(known)
    lowered = {entry.lower(): entry for entry in reversed(known)}
    close = difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.4)
    return [lowered[entry] for entry in close] or known[:count]
