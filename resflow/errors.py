"""The one exception that says: the input is at fault, and here is what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["InvalidInputError", "check_known", "nearest", "nearest_file", "shown"]


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
    lowered = {entry[:100].lower(): entry for entry in reversed(known)}  # comparing takes the square of the length
    close = difflib.get_close_matches(str(name)[:100].lower(), lowered, n=count, cutoff=0.4)
    return [lowered[entry] for entry in close] or known[:count]


def nearest_file(path: Path, *suffixes: str) -> str:
    """What to say behind a path at which nothing is: the file beside it that may have been meant; "" if none is alike.

    Args:
        path: The path.
        suffixes: Of the files that could be meant, as ".csv".
    """
    stems: dict[str, Path] = {}
    with suppress(OSError):
        stems = {entry.stem: entry for entry in sorted(path.parent.iterdir()) if entry.suffix in suffixes}
    close = difflib.get_close_matches(path.stem[:100], stems, n=1)
    return f": nearest is {stems[close[0]]}" if close else ""


def check_known(name: str, value: object, known: Iterable[str]) -> None:
    """Check that a value is one of the names that are known, at least one.

    Raises:
        InvalidInputError: If it is not, with the name that it looks most like.
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise InvalidInputError(
            f"{name}={value!r} is unknown: nearest is {nearest(str(value), known, 1)[0]!r}; "
            f"choose one of {', '.join(known)}"
        )


def shown(value: object, longest: int = 80) -> str:
    """A value as a message shows it: on one line, a long one without its middle.

    >>> shown("two\\nlines"), shown("9" * 5000, longest=12)
    ("'two\\\\nlines'", "'9999 … 999'")

    Args:
        value: What is to be shown.
        longest: The most characters to show.
    """
    try:
        text = repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # more digits than Python writes, or too many levels
        return f"this {type(value).__name__}"
    if len(text) > longest:
        text = f"{text[: (longest - 3) // 2 + 1]} … {text[len(text) - (longest - 3) // 2 :]}"
    return text
