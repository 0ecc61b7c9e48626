"""Figures of many runs, drawn from data frames; nothing is computed here but where things stand on the paper."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from resflow.plots._style import LINEAR, PALETTE, several_axes
from resflow.plots.labels import label_of, value_name, verdict_name

__all__ = ["plot_curves", "plot_gap_against", "plot_verdicts"]

_DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LABELS = {
    "linear_predictor_gap": "objective minus best linear objective",
    "objective": "objective (mean loss per sample)",
}
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
    """
    groups = _groups(points, by)
    numeric = pd.api.types.is_numeric_dtype(points[axis]) and points[axis].nunique() > 1
    names = [] if numeric else list(dict.fromkeys(map(value_name, points[axis])))
    figure, axes = _axes(title, width=6.8 if len(names) <= 6 else 8.6)
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
            spread=_jitter(axes, points[axis], numeric, len(groups)),
            log=numeric and _spans_decades(points[axis]),
        )
        style = {"color": color, "linestyle": _DASHES[place % len(_DASHES)] if numeric else "none"}
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
        axes.axhline(level, label=_LEVEL, **LINEAR)
    if not np.isfinite(points[metric]).all():
        axes.scatter([], [], s=28, color="0.3", marker="x", label="diverged: not finite")
    if numeric and _spans_decades(points[axis]):
        axes.set_xscale("log")
    if numeric and points[axis].nunique() <= 8:
        values = sorted(points[axis].dropna().unique())
        axes.set_xticks(values, [value_name(value) for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
    if names:
        long = max(map(len, names)) * len(names) > 60
        axes.set_xticks(range(len(names)), names, rotation=20 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.5, len(names) - 0.5)
    _wide_scale(axes, finite)
    axes.set(xlabel=label_of(axis), ylabel=_LABELS.get(metric, label_of(metric)))
    band = "band: from first to third quartile" if numeric else "dots: single runs"
    _legend(axes, title=f"{label_of(by) + ', ' if by else ''}{band}")
    return figure


def plot_curves(
    histories: pd.DataFrame,
    medians: pd.DataFrame,
    levels: Mapping[str, tuple[float, float]] | None,
    metric: str,
    *,
    title: str,
    by: str | None = None,
    panel: str | None = None,
) -> Figure:
    """Training curves of many runs, their medians, and the best linear predictor's level where there is one.

    Args:
        histories: Columns run_id, step, value, and those of `by` and `panel`.
        medians: Of `resflow.workflow.reports.statistics.median_curves`, for the same columns.
        levels: The smallest and the largest best linear objective for each panel's name ("" without panels); None if
            the curves are of something that the linear predictor has no level of.
        metric: What the curves show.
        title: What the figure shows.
        by: A column to tell apart by colour and line style.
        panel: A column that has a panel for each of its values.
    """
    names = list(dict.fromkeys(map(value_name, histories[panel]))) if panel else [""]
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    with sns.axes_style("ticks"):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(6.8 if columns == 1 else 9.2, 0.7 + 3.3 * rows),
            layout="constrained",
            sharex=True,
            squeeze=False,
        )
    plt.close(figure)
    figure.suptitle(_wrapped(title, figure.get_figwidth()), x=0.01, ha="left", fontsize=11)
    groups = _groups(histories, by)
    for axes, name in zip(grid.flat, names, strict=False):
        chosen, middle = (
            frame[frame[panel].map(value_name) == name] if panel else frame for frame in (histories, medians)
        )
        _panel_of_curves(axes, chosen, middle, groups, by)
        axes.grid(axis="y", color="0.92")
        if levels is None:
            axes.set_title(name, loc="left", fontsize=9.5)
            continue
        low, high = levels[name]
        axes.axhline(low, label=_LEVEL, zorder=4, **LINEAR)
        if high > low:
            axes.axhspan(low, high, color="black", alpha=0.12, linewidth=0)
        if metric == "objective" and min(chosen["value"].min(), low) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            narrow = chosen["value"].max() < 12 * min(chosen["value"].min(), low)
            axes.yaxis.set_minor_formatter("{x:g}" if narrow else NullFormatter())
            # Where a model separates the samples its objective goes to nothing, by any number of decades.
            axes.set_ylim(bottom=max(axes.get_ylim()[0], LEAST_SHOWN * low))
        level = value_name(low) if high <= low else f"{value_name(low)} to {value_name(high)}"
        axes.set_title(f"{name + ', ' if panel else ''}best linear predictor: {level}", loc="left", fontsize=9.5)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    sns.despine(figure)
    drawn = list(grid.flat)[: len(names)]
    _legend(*drawn, title=label_of(by) if by else None)
    for axes in drawn[-columns:]:  # the lowest in each column
        axes.set_xlabel("optimiser step")
        axes.tick_params(labelbottom=True)
    figure.supylabel(_LABELS.get(metric, label_of(metric)), fontsize=10)
    return figure


def plot_verdicts(counts: pd.DataFrame, *, title: str, by: str | None = None) -> Figure:
    """How many runs have each verdict.

    Args:
        counts: Columns verdict, runs, and that of `by`.
        title: What the figure shows.
        by: A column that has a bar of its own, within each verdict, for each of its values.
    """
    verdicts = list(dict.fromkeys(counts["verdict"]))
    groups = _groups(counts, by)
    figure, axes = _axes(title, width=6.8, height=1.5 + 0.34 * len(verdicts) * max(len(groups), 1.4), wrapped=5.0)
    axes.grid(visible=False)
    thick = 0.8 / len(groups)
    for place, (name, color) in enumerate(groups.items()):
        rows = counts if by is None else counts[counts[by].map(value_name) == name]
        heights = [int(rows.loc[rows["verdict"] == verdict, "runs"].sum()) for verdict in verdicts]
        at = np.arange(len(verdicts)) + thick * (place - (len(groups) - 1) / 2)
        hatch = ("", "///", "...", "xxx", "\\\\\\", "++")[place % 6]
        bars = axes.barh(at, heights, thick, color=color, label=name, hatch=hatch, edgecolor="white")
        axes.bar_label(bars, labels=[str(height) if height else "" for height in heights], padding=3, fontsize=9)
    axes.set_yticks(range(len(verdicts)), [verdict_name(verdict).replace(", ", ",\n") for verdict in verdicts])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="runs")
    if by is not None:
        _legend(axes, title=label_of(by))
    return figure


_LEVEL = "best linear predictor"

LEAST_SHOWN = 1e-6
"""Objectives are shown down to this share of the best linear predictor's."""


def _panel_of_curves(
    axes: Axes, chosen: pd.DataFrame, middle: pd.DataFrame, groups: Mapping[str, Any], by: str | None
) -> None:
    count = chosen["run_id"].nunique()
    faint = float(np.clip(8 / (count + 1), 0.12, 0.6))
    for place, (name, color) in enumerate(groups.items()):
        rows, line = (frame if by is None else frame[frame[by].map(value_name) == name] for frame in (chosen, middle))
        if rows.empty:
            continue
        curves = [group[["step", "value"]].to_numpy() for _, group in rows.groupby("run_id", sort=False)]
        axes.add_collection(LineCollection(curves, colors=[color], linewidths=0.7, alpha=faint, rasterized=True))
        label = f"median of {count} runs" if by is None else name
        style = _DASHES[place % len(_DASHES)]
        axes.plot(line["step"], line["value"], color="white", linewidth=3.6, alpha=0.7)
        axes.plot(line["step"], line["value"], color=color, linestyle=style, linewidth=2.1, label=label)
    axes.autoscale_view()
    finite = chosen["value"].replace([np.inf, -np.inf], np.nan).dropna()
    first = chosen.groupby("run_id")["value"].first().replace([np.inf, -np.inf], np.nan).max()
    if len(finite) and finite.max() > 100 * max(
        first, 1e-300
    ):  # a run on its way to infinity must not flatten the rest
        axes.set_ylim(top=3 * first)


def _groups(frame: pd.DataFrame, by: str | None) -> dict[str, Any]:
    """Colours by the values of a column, in ascending order if they are numbers, in that of categories if there are."""
    if by is None:
        return {"all runs": PALETTE[0]}
    ordered = isinstance(frame[by].dtype, pd.CategoricalDtype)
    values = list(frame[by].cat.categories if ordered else frame[by].dropna().unique())
    if pd.api.types.is_numeric_dtype(frame[by]):
        return {value_name(value): color for value, color in zip(sorted(values), _ordered(len(values)), strict=True)}
    return dict(zip(map(value_name, values), sns.color_palette("colorblind", len(values)), strict=True))


def _ordered(count: int) -> list[Any]:
    return list(sns.color_palette("viridis", count + 1)[:count])  # the last of them is too pale on white


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
    axes: Axes, where: np.ndarray, values: pd.Series, worst: float, color: Any, *, spread: float, log: bool
) -> None:
    """Single runs as dots, moved aside a little, always by the same amounts; not finite ones as × at the worst end."""
    aside = spread * (np.arange(len(where)) * _GOLDEN % 1 - 0.5)
    at = where * np.exp(aside) if log else where + aside
    finite = np.isfinite(values.to_numpy(dtype=float))
    size, alpha = (16, 0.5) if len(where) <= 150 else (8, 0.3)
    axes.scatter(at[finite], values.to_numpy()[finite], s=size, color=color, alpha=alpha, linewidth=0, zorder=2)
    axes.scatter(at[~finite], np.full((~finite).sum(), worst), s=28, color=color, marker="x", zorder=3)


def _spans_decades(values: pd.Series) -> bool:
    finite = values.dropna()
    return bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() >= 8)


def _wide_scale(axes: Axes, values: pd.Series) -> None:
    """A scale that is linear about zero and logarithmic outside, where a linear one would show the largest alone."""
    sizes = np.abs(values[values != 0])
    if len(sizes) and sizes.max() > 100 * np.quantile(sizes, 0.25):
        axes.set_yscale("symlog", linthresh=float(max(np.quantile(sizes, 0.05), 1e-12 * sizes.max())))


def _legend(*panels: Axes, title: str | None) -> None:
    """Below the figure, what any of its panels has a label for, the best linear predictor last."""
    figure = panels[0].figure
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if _LEVEL in handles:
        handles[_LEVEL] = handles.pop(_LEVEL)
    figure.legend(
        handles.values(),
        handles.keys(),
        title=title,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def _axes(title: str, *, width: float, height: float = 4.4, wrapped: float | None = None) -> tuple[Figure, Axes]:
    figure, (axes,) = several_axes(1, title="", width=width, height=height)
    axes.set_title(_wrapped(title, wrapped or width), loc="left", fontsize=11)
    return figure, axes


def _wrapped(title: str, width: float) -> str:
    """A title broken into lines that fit a figure of so many inches."""
    return "\n".join(textwrap.fill(line, int(12.5 * width)) for line in title.splitlines())
