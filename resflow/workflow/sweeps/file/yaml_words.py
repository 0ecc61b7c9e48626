"""What a word of YAML stands for: what YAML 1.2 makes of it, and no guess where YAML 1.1 makes something else of it."""

from __future__ import annotations

import math
import re
from typing import Any

from resflow.errors import InvalidInputError

__all__ = ["BOOL", "FLOAT", "INT", "MERGE", "NULL", "STR", "UNCLEAR", "plain_tag", "word_value"]

_TAG = "tag:yaml.org,2002:"
BOOL, FLOAT, INT, MERGE, NULL, STR = (_TAG + name for name in ("bool", "float", "int", "merge", "null", "str"))
UNCLEAR = "of two meanings"
"""The tag of a word that YAML 1.1 and YAML 1.2 read differently."""

_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = ("", "~", "null", "Null", "NULL")
_INT = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_YES_OR_NO = re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")
_ZERO_FIRST = re.compile(r"[-+]?0[\d_]+", re.ASCII)
_SIXTIES = re.compile(r"[-+]?\d[\d_]*(:\d[\d_]*)+(\.[\d_]*)?", re.ASCII)
_OTHER_DIGITS = re.compile(
    r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]\d+)?|[-+]?0(b[01_]+|x[\da-fA-F_]+|o[0-7]+)", re.ASCII
)
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?([Tt]|[ \t]+)\d\d?:\d\d:\d\d(\.\d*)?([ \t]*(Z|[-+]\d\d?(:\d\d)?))?",
    re.ASCII,
)
_TWO_MEANINGS = (
    (_YES_OR_NO, "a truth value in YAML 1.1 and text in YAML 1.2: write true or false"),
    (_ZERO_FIRST, "octal in YAML 1.1 and decimal in YAML 1.2: write it without the first 0"),
    (_SIXTIES, "a number counted in sixties in YAML 1.1 and text in YAML 1.2: write the number"),
    (_OTHER_DIGITS, "a number in one version of YAML and text in another: write it in plain digits"),
    (_DATE, "a date in YAML 1.1 and text in YAML 1.2: no parameter is a date"),
)


def plain_tag(text: str) -> str:
    """The tag of a word that stands there without quotes.

    >>> plain_tag("1e-4") == FLOAT, plain_tag("no") == UNCLEAR, plain_tag("north") == STR
    (True, True, True)
    """
    if text in _NULLS:
        return NULL
    if text in _WORDS:
        return BOOL
    if text == "<<":
        return MERGE
    if _INT.fullmatch(text) or _HEX.fullmatch(text):
        return INT
    if any(pattern.fullmatch(text) for pattern, _ in _TWO_MEANINGS[:3]):
        return UNCLEAR
    if _FLOAT.fullmatch(text) or _SPECIAL.fullmatch(text):
        return FLOAT
    return UNCLEAR if any(pattern.fullmatch(text) for pattern, _ in _TWO_MEANINGS[3:]) else STR


def word_value(tag: str, text: str) -> Any:
    """The value of a word by its tag: None, a truth value, a number or text.

    Raises:
        InvalidInputError: If it has two meanings, is not what its tag says, or is a number that no computer holds.
    """
    if tag == UNCLEAR:
        reason = next(reason for pattern, reason in _TWO_MEANINGS if pattern.fullmatch(text))
        raise InvalidInputError(f"{text} is {reason}, or '{text}' in quotes if it is meant as text")
    if tag in (STR, MERGE):
        return text
    plain = plain_tag(text)
    if plain != tag and (tag, plain) != (FLOAT, INT):
        names = "text, a number, true, false or null" if not tag.startswith(_TAG) else f"what !!{_short(tag)} means"
        raise InvalidInputError(f"{text!r} with the tag {_shown(tag)} is not {names}: leave the tag out")
    if tag == NULL:
        return None
    if tag == BOOL:
        return _WORDS[text]
    return _whole(text) if plain == INT and tag == INT else _number(text)


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


def _short(tag: str) -> str:
    return tag.removeprefix(_TAG)


def _shown(tag: str) -> str:
    """A tag as it is written."""
    return f"!!{_short(tag)}" if tag.startswith(_TAG) else tag
