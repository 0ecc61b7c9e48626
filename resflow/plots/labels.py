"""Parameters, metrics and values as they are written in figures, and in sentences about them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from resflow.numerals import number_text, with_signs

__all__ = [
    "curve_name",
    "label_of",
    "number_text",
    "point_name",
    "value_name",
    "verdict_name",
    "with_error",
    "with_signs",
]


def label_of(name: str) -> str:
    """A parameter or metric as it is written there: `learning_rate` as "learning rate"."""
    return name.replace("_", " ")


def value_name(value: object) -> str:
    """A value as it is written there: numbers to four digits.

    >>> value_name(0.0316227766), value_name(64), value_name("tanh")
    ('0.03162', '64', 'tanh')
    """
    return f"{value:.4g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


def point_name(values: Mapping[str, object]) -> str:
    """What tells a run from others: the values of what varies, with the names of those that are no texts.

    >>> point_name({"architecture": "no_skip", "learning_rate": 0.01, "seed": 3})
    'no_skip, learning_rate 0.01, seed 3'
    """
    return ", ".join(
        value if isinstance(value, str) and value else f"{name} {value_name(value)}" for name, value in values.items()
    )


def with_error(value: float, error: float) -> str:
    """A number to the digits that its error leaves it; of an error that is not known nothing is said.

    >>> with_error(-0.12607, 0.00312), with_error(0.5, float("nan")), with_error(3e-9, 1.23e-10)
    ('−0.1261 ± 0.0031', '0.5', '3e−9 ± 1.2e−10')
    """
    if not math.isfinite(error) or not math.isfinite(value):
        return number_text(value)
    places = 1 - math.floor(math.log10(error)) if error > 0 else 99
    if not 0 <= places <= 6:
        return f"{number_text(value)} ± {number_text(error, 2)}"
    return f"{value:.{places}f} ± {error:.{places}f}".replace("-", "−")


def curve_name(name: str) -> str:
    """A bound, or another column of a run's history, as a legend has it.

    >>> curve_name("gap_certificate"), curve_name("theorem3_bound"), curve_name("rank_term")
    ('certificate', 'bound of Theorem 3', 'rank term')
    """
    if name.startswith("theorem") and name.endswith("_bound"):
        return f"bound of Theorem {name.removeprefix('theorem').removesuffix('_bound')}"
    named = {"linear_predictor_gap": "gap", "gap_certificate": "certificate"}
    return named.get(name, label_of(name).replace("near identity", "near-identity"))


_VERDICTS = {
    "not_stationary": "not stationary",
    "strict_saddle": "strict saddle",
    "sopsp_at_or_below_linear": "stationary, at or below linear",
    "sopsp_above_linear": "stationary, above linear",
}


def verdict_name(verdict: str) -> str:
    """A verdict in words for people; stationary is said of points that are so to second order.

    >>> verdict_name("sopsp_at_or_below_linear"), verdict_name("inconclusive")
    ('stationary, at or below linear', 'inconclusive')
    """
    return _VERDICTS.get(verdict, label_of(verdict))
