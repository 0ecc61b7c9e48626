"""Numbers as sentences have them, whoever says them: the library of a verdict, figures, reports and the command."""

from __future__ import annotations

import math

__all__ = ["number_text"]


def number_text(value: float, digits: int = 4) -> str:
    """A number as a sentence has it: rounded, with a true minus sign.

    >>> number_text(-0.112264), number_text(1e-16), number_text(float("inf")), number_text(3.0)
    ('−0.1123', '1e−16', '∞', '3')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return (mantissa + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")
