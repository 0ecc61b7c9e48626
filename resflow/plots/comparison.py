"""Training curves of many runs and how they ended, drawn from data frames; nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from resflow.plots._apart import DASHES, LABELS, LEVEL_LABEL, groups_of, labelled_axes, legend_below
from resflow.plots._style import LINEAR, wrapped
from resflow.plots.labels import label_of, value_name, verdict_name

__all__ = ["plot_curves", "plot_verdicts"]


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
    figure.suptitle(wrapped(title, figure.get_figwidth()), x=0.01, ha="left", fontsize=11)
    groups = groups_of(histories, by)
    for axes, name in zip(grid.flat, names, strict=False):
        chosen, middle = (
            frame[frame[panel].map(value_name) == name] if panel else frame for frame in (histories, medians)
        )
        _panel_of_curves(axes, chosen, middle, groups, by)
        axes.grid(axis="y", color="0.92")
        if levels is None:
            axes.set_title(_panel_title(panel, name), loc="left", fontsize=9.5)
            continue
        low, high = levels[name]
        axes.axhline(low, label=LEVEL_LABEL, zorder=4, **LINEAR)
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
        of_panel = f"{_panel_title(panel, name)}, " if panel else ""
        axes.set_title(f"{of_panel}best linear predictor: {level}", loc="left", fontsize=9.5)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    sns.despine(figure)
    drawn = list(grid.flat)[: len(names)]
    legend_below(*drawn, title=label_of(by) if by else None)
    for axes in drawn[-columns:]:  # the lowest in each column
        axes.set_xlabel("optimiser step")
        axes.tick_params(labelbottom=True)
    figure.supylabel(LABELS.get(metric, label_of(metric)), fontsize=10)
    return figure


def plot_verdicts(counts: pd.DataFrame, *, title: str, by: str | None = None) -> Figure:
    """How many runs have each verdict.

    Args:
        counts: Columns verdict, runs, and that of `by`.
        title: What the figure shows.
        by: A column that has a bar of its own, within each verdict, for each of its values.
    """
    verdicts = list(dict.fromkeys(counts["verdict"]))
    groups = groups_of(counts, by)
    figure, axes = labelled_axes(
        title, width=6.8, height=1.5 + 0.34 * len(verdicts) * max(len(groups), 1.4), broken_at=5.0
    )
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
        legend_below(axes, title=label_of(by))
    return figure


LEAST_SHOWN = 1e-6
"""Objectives are shown down to this share of the best linear predictor's."""


def _panel_title(panel: str | None, name: str) -> str:
    """The value that a panel is for, behind its parameter's name where it is a number, which says nothing alone."""
    number = name.lstrip("-−")[:1].isdigit()
    return f"{label_of(panel)} {name}" if panel and number else name


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
        style = DASHES[place % len(DASHES)]
        axes.plot(line["step"], line["value"], color="white", linewidth=3.6, alpha=0.7)
        axes.plot(line["step"], line["value"], color=color, linestyle=style, linewidth=2.1, label=label)
    axes.autoscale_view()
    finite = chosen["value"].replace([np.inf, -np.inf], np.nan).dropna()
    first = chosen.groupby("run_id")["value"].first().replace([np.inf, -np.inf], np.nan).max()
    if len(finite) and finite.max() > 100 * max(
        first, 1e-300
    ):  # a run on its way to infinity must not flatten the rest
        axes.set_ylim(top=3 * first)
