"""Numbers as sentences have them, whoever says them: the library of a verdict, figures, reports and the command."""

from __future__ import annotations

import math
import re

__all__ = ["number_text", "with_signs"]


def number_text(value: float, digits: int = 4) -> str:
    """A number as a sentence has it: rounded, with a true minus sign.

    >>> number_text(-0.112264), number_text(1e-16), number_text(float("inf")), number_text(3.0)
    ('−0.1123', '1e−16', '∞', '3')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return (mantissa + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


_MINUS = re.compile(r"(?<![\w.-])-(?=[\d.∞])|(?<=\de)-(?=\d)")
_INFINITY = re.compile(r"(?<![\w.-])([-−+]?)inf(?=[,;:.)\]*_]*(?:\s|$))")


def with_signs(text: str) -> str:
    """A text whose numbers have true minus signs, and ∞ for inf; hyphens, ranges and options are left as they are.

    >>> with_signs("gap -0.1 ± 2e-05, well-known, 1-3, --width; -inf, not inflated")
    'gap −0.1 ± 2e−05, well-known, 1-3, --width; −∞, not inflated'
    """
    return _MINUS.sub("−", _INFINITY.sub(r"\1∞", text))
