"""What a word of YAML stands for: what YAML 1.2 makes of it, and no guess where YAML 1.1 makes something else of it."""

from __future__ import annotations

import math
import re
from typing import Any

from resflow.errors import InvalidInputError

__all__ = ["MERGE", "STR", "UNCLEAR", "plain_tag", "shown_tag", "word_value"]

_TAG = "tag:yaml.org,2002:"
BOOL, FLOAT, INT, MERGE, NULL, STR = (_TAG + name for name in ("bool", "float", "int", "merge", "null", "str"))
UNCLEAR = "of two meanings"
"""The tag of a word that YAML 1.1 and YAML 1.2 read differently."""

_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = (
    (NULL, r"|~|null|Null|NULL", ""),
    (BOOL, r"true|True|TRUE|false|False|FALSE", ""),
    (MERGE, r"<<", ""),
    (INT, r"[-+]?(0|[1-9]\d*)|0x[\da-fA-F]+", ""),
    (
        UNCLEAR,
        r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF",
        "a truth value in YAML 1.1 and text in YAML 1.2: write true or false",
    ),
    (UNCLEAR, r"[-+]?0[\d_]+", "octal in YAML 1.1 and decimal in YAML 1.2: write it without the first 0"),
    (
        UNCLEAR,
        r"[-+]?\d[\d_]*(:\d[\d_]*)+(\.[\d_]*)?",
        "a number counted in sixties in YAML 1.1 and text in YAML 1.2: write the number",
    ),
    (FLOAT, rf"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|{_SPECIAL.pattern}", ""),
    (
        UNCLEAR,
        r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]\d+)?|[-+]?0(b[01_]+|x[\da-fA-F_]+|o[0-7]+)",
        "a number in one version of YAML and text in another: write it in plain digits",
    ),
    (
        UNCLEAR,
        r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?([Tt]|[ \t]+)\d\d?:\d\d:\d\d(\.\d*)?([ \t]*(Z|[-+]\d\d?(:\d\d)?))?",
        "a date in YAML 1.1 and text in YAML 1.2: no parameter is a date",
    ),
)
"""What words are, the first that fits: the tag, the pattern, and of an unclear one what its meanings are."""


def _kind_of(text: str) -> tuple[str, str]:
    """The tag of a word that stands there without quotes, and of an unclear one what its meanings are."""
    kinds = ((tag, meanings) for tag, pattern, meanings in _WORDS if re.fullmatch(pattern, text, re.ASCII))
    return next(kinds, (STR, ""))


def plain_tag(text: str) -> str:
    """The tag of a word that stands there without quotes.

    >>> plain_tag("1e-4") == FLOAT, plain_tag("no") == UNCLEAR, plain_tag("north") == STR
    (True, True, True)
    """
    return _kind_of(text)[0]


def word_value(tag: str, text: str) -> Any:
    """The value of a word by its tag: None, a truth value, a number or text.

    Raises:
        InvalidInputError: If it has two meanings, is not what its tag says, or is a number that no computer holds.
    """
    if tag in (STR, MERGE):
        return text
    plain, meanings = _kind_of(text)
    if tag == UNCLEAR:
        raise InvalidInputError(f"{text} is {meanings}, or '{text}' in quotes if it is meant as text")
    if plain != tag and (tag, plain) != (FLOAT, INT):
        what = f"what {shown_tag(tag)} means" if tag.startswith(_TAG) else "text, a number, true, false or null"
        raise InvalidInputError(f"{text!r} with the tag {shown_tag(tag)} is not {what}: leave the tag out")
    if tag == NULL:
        return None
    if tag == BOOL:
        return text.lower() == "true"
    return _whole(text) if tag == INT else _number(text)


def shown_tag(tag: str) -> str:
    """A tag as it is written."""
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag


def _whole(text: str) -> int:
    value = int(text, 16) if text.startswith("0x") else int(text) if len(text) < 30 else 2**64
    if not -(2**63) <= value < 2**63:
        raise InvalidInputError(
            f"{text} is not between -2^63 and 2^63 - 1, as whole numbers here are: write it in quotes if it is text"
        )
    return value


def _number(text: str) -> float:
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    value = float(int(text, 16)) if text.startswith("0x") else float(text)
    if math.isinf(value) or (value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])):
        raise InvalidInputError(f"{text} is too {'large' if value else 'small'} for a number of 64 bits")
    return value
