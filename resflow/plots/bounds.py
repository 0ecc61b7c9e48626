"""Figures of a gap beneath its bounds, drawn from data frames; nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from resflow.plots._style import LINEAR, PALETTE, several_axes, wrapped
from resflow.plots.labels import curve_name
from resflow.plots.ticks import log_scale

__all__ = ["plot_gap", "plot_lines"]

_STYLES: tuple[dict[str, Any], ...] = (
    {"color": PALETTE[0], "linestyle": "-", "linewidth": 2.2, "marker": "o"},
    {"color": PALETTE[1], "linestyle": "--", "linewidth": 1.7, "marker": "s"},
    {"color": PALETTE[7], "linestyle": ":", "linewidth": 1.9, "marker": "^"},
    {"color": PALETTE[2], "linestyle": "-.", "linewidth": 1.7, "marker": "D"},
    {"color": PALETTE[4], "linestyle": (0, (3, 1, 1, 1, 1, 1)), "linewidth": 1.7, "marker": "v"},
    {"color": PALETTE[3], "linestyle": (0, (8, 2)), "linewidth": 1.7, "marker": "P"},
)


def plot_gap(
    frame: pd.DataFrame,
    bounds: Iterable[str],
    *,
    title: str,
    gap: str = "linear_predictor_gap",
    x: str = "step",
    xlabel: str = "optimiser step",
    markers: bool = False,
) -> Figure:
    """The linear-predictor gap and its bounds, on a scale that is linear within ±0.01 and logarithmic outside.

    Args:
        frame: With columns `x`, `gap` and those named by `bounds`; values that are not finite are left out.
        bounds: Up to five columns.
        title: What the figure shows.
        gap: The column of the gap.
        x: What is drawn along the horizontal axis.
        xlabel: Label of the horizontal axis.
        markers: Mark the points, for few of them.
    """
    return plot_lines(
        frame,
        x,
        {column: curve_name(column) for column in (gap, *bounds)},
        title=title,
        xlabel=xlabel,
        ylabel="objective minus best linear objective",
        level=0.0,
        linear_within=1e-2,
        markers=markers,
    )


def plot_lines(
    frame: pd.DataFrame,
    x: str,
    curves: Mapping[str, str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    level: float | None = None,
    level_label: str = "best linear predictor",
    linear_within: float | None = None,
    markers: bool = False,
    log_x: bool = False,
) -> Figure:
    """Columns of a data frame as lines; values that are not finite are left out.

    Args:
        frame: With columns `x` and those named by `curves`.
        x: What is drawn along the horizontal axis.
        curves: Up to six columns, each with its label, in the order of the legend.
        title: What the figure shows.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis, with its unit.
        level: Where a horizontal line is drawn.
        level_label: What that line is.
        linear_within: The vertical scale is linear within ± this value and logarithmic outside; linear if None.
        markers: Mark the points, for few of them.
        log_x: Whether the horizontal axis is logarithmic.
    """
    figure, (axes,) = several_axes(1, title="", width=6.8, height=4.2)
    axes.set_title(wrapped(title, 6.8), loc="left", fontsize=11)
    # Scales first: limits are chosen as curves are drawn, with a margin that depends on the scale.
    if linear_within is not None:
        log_scale(axes, "y", linear_within=linear_within)
    if log_x:
        log_scale(axes, "x")
    for (column, label), style in zip(curves.items(), _STYLES, strict=False):
        values = frame[[x, column]].replace([float("inf"), float("-inf")], float("nan")).dropna()
        style = style if markers else style | {"marker": ""}
        axes.plot(values[x], values[column], label=label, **style)
    if level is not None:
        axes.axhline(level, label=level_label, **LINEAR)
    if markers and not log_x and frame[x].nunique() <= 16 and (frame[x] % 1 == 0).all():
        axes.set_xticks(sorted(frame[x].unique()))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure
