"""How long names, values and messages may be, how longer ones are shortened so that it shows, and how long work is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from resflow.workflow.addresses import without_secrets

__all__ = [
    "EXPERIMENT",
    "PARAMETER",
    "RUN_NAME",
    "TAG",
    "duration",
    "first_line",
    "is_experiment",
    "listed",
    "one_line",
    "parameter_name",
    "shortened",
]

PARAMETER = 6000
RUN_NAME = 250
TAG = 5000
"""Characters that MLflow 3 takes of a parameter's value, of a run's name, and of a tag's value by any of its stores."""

EXPERIMENT = 200
"""Bytes in an experiment's name, as a folder gets it."""

_PARAMETER_NAME = 250


def is_experiment(name: str) -> bool:
    """Whether an experiment can be called so: one line, which is not too long for a folder."""
    return name.isprintable() and len(name.encode()) <= EXPERIMENT


def shortened(text: str, longest: int) -> str:
    """`text`, or its beginning and a mark.

    >>> shortened("a" * 10, longest=4)
    'aaa…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def first_line(text: str) -> str:
    """The first line of a text."""
    return next(iter(text.strip().splitlines()), "")


def listed(found: Sequence[str], most: int = 5) -> str:
    """Names in a line, and how many more there are where they are many.

    >>> listed(["a.py", "b.py", "c.py"], most=2)
    'a.py, b.py and 1 more'
    """
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def one_line(text: object, longest: int = 400) -> str:
    """Text from anywhere as part of a line: no credentials, nothing a terminal cannot show, and a long middle left out.

    >>> one_line("two\\n lines\\x07"), one_line("9" * 5000, longest=6)
    ('two lines\\\\x07', '999 … 999')
    """
    line = " ".join(without_secrets(str(text)).split())
    if len(line) > longest:
        line = f"{line[: longest // 2]} … {line[-(longest // 2) :]}"
    return line if line.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def parameter_name(name: str) -> str:
    """A parameter's name as MLflow takes it: not too long, and other characters than it allows replaced.

    >>> parameter_name("größe"), len(parameter_name("a" * 1000))
    ('größe', 250)
    """
    allowed = re.sub(r"[^\w.\- ]", "_", name)
    if len(allowed) > _PARAMETER_NAME:  # names that begin alike stay different ones
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        allowed = f"{allowed[: _PARAMETER_NAME - 11]}...{digest}"
    return allowed


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.24), duration(75), duration(7300)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
