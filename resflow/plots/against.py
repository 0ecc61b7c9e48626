"""A metric of many runs against one axis, drawn from data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from resflow.plots._apart import DASHES, LABELS, LEVEL_LABEL, groups_of, labelled_axes, legend_below
from resflow.plots._style import LINEAR
from resflow.plots.drawn import tell
from resflow.plots.labels import label_of, value_name
from resflow.plots.ticks import log_scale

__all__ = ["plot_gap_against"]

_MARKERS = ("o", "s", "^", "D", "v", "P")
_GOLDEN = 0.6180339887498949


def plot_gap_against(
    points: pd.DataFrame,
    summary: pd.DataFrame,
    axis: str,
    metric: str,
    *,
    title: str,
    by: str | None = None,
    level: float | None = 0.0,
    maximize: bool = False,
    runs: pd.Series | None = None,
) -> Figure:
    """A metric against one axis: every run as a point, the median as a line, half of the runs as a band.

    Args:
        points: One row a run, with columns `axis`, `metric` and `by`.
        summary: Of `resflow.workflow.reports.statistics.spread` with the same arguments.
        axis: The column to go along: numbers at their place, logarithmic where they span decades, texts side by side.
        metric: The column to show.
        title: What the figure shows.
        by: A column to tell apart by colour, line style and marker.
        level: The metric's value at the best linear predictor; None if it has none there.
        maximize: True if more of the metric is better.
        runs: What each run is called, with the index of `points`.
    """
    groups = groups_of(points, by)
    numeric = pd.api.types.is_numeric_dtype(points[axis]) and points[axis].nunique() > 1
    names = [] if numeric else list(dict.fromkeys(map(value_name, points[axis])))
    figure, axes = labelled_axes(title, width=6.8 if len(names) <= 6 else 8.6)
    finite = points[metric].replace([np.inf, -np.inf], np.nan).dropna()
    beyond = 0.08 * max(np.ptp(finite), 1e-12) if len(finite) else 0.0
    worst = 1.0 if finite.empty else finite.min() - beyond if maximize else finite.max() + beyond
    shown = {"lower": worst} if maximize else {"upper": worst}
    for place, (name, color) in enumerate(groups.items()):
        rows, line = (frame if by is None else frame[frame[by].map(value_name) == name] for frame in (points, summary))
        shift = 0.0 if by is None else 0.16 * (place - (len(groups) - 1) / 2)
        where = _places(rows[axis], names, shift)
        _scatter(
            axes,
            where,
            rows[metric],
            worst,
            color,
            names=None if runs is None else runs.loc[rows.index],
            spread=_jitter(axes, points[axis], numeric, len(groups)),
            log=numeric and _spans_decades(points[axis]),
        )
        style = {"color": color, "linestyle": DASHES[place % len(DASHES)] if numeric else "none"}
        at = _places(line[axis], names, shift)
        label = "median of all runs" if by is None else name
        finite_median = line["median"].where(np.isfinite(line["median"]))
        if numeric:
            axes.fill_between(
                at,
                line["first_quartile"].clip(**shown),
                line["third_quartile"].clip(**shown),
                color=color,
                alpha=0.13,
                linewidth=0,
            )
        axes.plot(
            at,
            finite_median,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=7,
            markeredgecolor="white",
            linewidth=2.0,
            label=label,
            **style,
        )
    if level is not None:
        axes.axhline(level, label=LEVEL_LABEL, **LINEAR)
    if not np.isfinite(points[metric]).all():
        axes.scatter([], [], s=28, color="0.3", marker="x", label="diverged: not finite")
    if numeric and _spans_decades(points[axis]):
        log_scale(axes, "x")
    if numeric and points[axis].nunique() <= 8:
        values = sorted(points[axis].dropna().unique())
        axes.set_xticks(values, [value_name(value) for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
    if names:
        long = max(map(len, names)) * len(names) > 60
        axes.set_xticks(range(len(names)), names, rotation=20 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.5, len(names) - 0.5)
    _wide_scale(axes, finite)
    axes.set(xlabel=label_of(axis), ylabel=LABELS.get(metric, label_of(metric)))
    band = "band: from first to third quartile" if numeric else "dots: single runs"
    legend_below(axes, title=f"{label_of(by) + ', ' if by else ''}{band}")
    return figure


def _places(values: pd.Series, names: Sequence[str], shift: float) -> np.ndarray:
    if not names:
        return values.to_numpy(dtype=float)
    return np.array([names.index(value_name(value)) + shift for value in values])


def _jitter(axes: Axes, values: pd.Series, numeric: bool, groups: int) -> float:
    if not numeric:
        return 0.1 if groups > 1 else 0.2
    distinct = np.unique(values.dropna())
    if _spans_decades(values):
        return float(0.12 * np.diff(np.log(distinct)).min())
    return float(0.12 * np.diff(distinct).min())


def _scatter(
    axes: Axes,
    where: np.ndarray,
    values: pd.Series,
    worst: float,
    color: Any,
    *,
    names: pd.Series | None,
    spread: float,
    log: bool,
) -> None:
    """Single runs as dots, moved aside a little, always by the same amounts; not finite ones as × at the worst end."""
    aside = spread * (np.arange(len(where)) * _GOLDEN % 1 - 0.5)
    at = where * np.exp(aside) if log else where + aside
    finite = np.isfinite(values.to_numpy(dtype=float))
    size, alpha = (16, 0.5) if len(where) <= 150 else (8, 0.3)
    dots = axes.scatter(at[finite], values.to_numpy()[finite], s=size, color=color, alpha=alpha, linewidth=0, zorder=2)
    crosses = axes.scatter(at[~finite], np.full((~finite).sum(), worst), s=28, color=color, marker="x", zorder=3)
    for drawn, kept in ((dots, finite), (crosses, ~finite)):
        tell(drawn, None if names is None else list(names[kept]), x=where[kept])


def _spans_decades(values: pd.Series) -> bool:
    finite = values.dropna()
    return bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() >= 8)


def _wide_scale(axes: Axes, values: pd.Series) -> None:
    """A scale that is linear about zero and logarithmic outside, where a linear one would show the largest alone."""
    sizes = np.abs(values[values != 0])
    if len(sizes) and sizes.max() > 100 * np.quantile(sizes, 0.25):
        log_scale(axes, "y", linear_within=float(max(np.quantile(sizes, 0.05), 1e-12 * sizes.max())))
