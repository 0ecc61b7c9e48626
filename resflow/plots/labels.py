"""Parameters, metrics and values as they are written in figures, and in sentences about them."""

from __future__ import annotations

import numpy as np

__all__ = ["curve_name", "label_of", "value_name"]


def label_of(name: str) -> str:
    """A parameter or metric as it is written there: `learning_rate` as "learning rate"."""
    return name.replace("_", " ")


def value_name(value: object) -> str:
    """A value as it is written there: numbers to four digits.

    >>> value_name(0.0316227766), value_name(64), value_name("tanh")
    ('0.03162', '64', 'tanh')
    """
    return f"{value:.4g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


def curve_name(name: str) -> str:
    """A bound, or another column of a run's history, as a legend has it.

    >>> curve_name("gap_certificate"), curve_name("theorem3_bound"), curve_name("rank_term")
    ('certificate', 'bound of Theorem 3', 'rank term')
    """
    if name.startswith("theorem") and name.endswith("_bound"):
        return f"bound of Theorem {name.removeprefix('theorem').removesuffix('_bound')}"
    named = {"linear_predictor_gap": "gap", "gap_certificate": "certificate"}
    return named.get(name, label_of(name).replace("near identity", "near-identity"))
