"""Logarithmic axes, whose ticks are written as text: to set each as a formula takes half the time of a figure."""

from __future__ import annotations

import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterSciNotation

__all__ = ["log_scale"]

_RAISED = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def log_scale(axes: Axes, *which: str, linear_within: float | None = None, **options: Any) -> None:
    """Make axes logarithmic, each of "x" and "y" that is named.

    With `linear_within` they have both signs, and are linear up to that value. Options are those of matplotlib's scale.
    """
    for name in which:
        set_scale = getattr(axes, f"set_{name}scale")
        if linear_within is None:
            set_scale("log", **options)
        else:
            set_scale("symlog", linthresh=linear_within, **options)
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(_Powers())
        if linear_within is None:
            axis.set_minor_formatter(_Powers())


class _Powers(LogFormatterSciNotation):
    """Powers of ten as 10⁻³, and 2×10⁻³ between them where there are few."""

    def __call__(self, x: float, pos: Any = None) -> str:
        formula = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        raised = re.sub(r"\^\{([^}]*)\}", lambda power: power[1].translate(_RAISED), formula)
        return raised.replace(r"\times", "×").replace("-", "−")
