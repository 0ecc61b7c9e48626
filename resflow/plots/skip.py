"""Figures of architectures side by side, with a skip connection and without: ends, shares stuck, and stationarity."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from resflow.plots._style import LINEAR, LINESTYLES, MARKERS, PALETTE, one_axes, several_axes
from resflow.plots.labels import label_of
from resflow.plots.ticks import log_scale

__all__ = ["plot_end_gaps", "plot_ends_by_gradient", "plot_shares_along_training"]

_SMALLEST_GRADIENT = 1e-12
"""Gradient norms below are drawn here: a network all of whose units are dead has none at all."""


def plot_end_gaps(ends: pd.DataFrame, shares: pd.DataFrame, *, title: str) -> Figure:
    """Where every run ended, by width and architecture, and which share of them above the linear predictor.

    Args:
        ends: One row a run; columns width, architecture and linear_predictor_gap.
        shares: One row for each width and architecture; columns share, low and high (its confidence interval).
        title: What the figure shows.
    """
    names = list(dict.fromkeys(ends["architecture"]))
    widths = sorted(ends["width"].unique())
    figure, (gaps, stuck) = several_axes(2, title=textwrap.fill(title, 120), width=11.0, height=4.4)
    points: dict[str, Any] = {"dodge": True, "jitter": 0.28, "size": 2.6, "alpha": 0.55, "order": widths}
    colors = dict(zip(names, PALETTE, strict=False))
    shown = ends.assign(width=ends["width"].astype(int))
    sns.stripplot(
        shown, x="width", y="linear_predictor_gap", hue="architecture", hue_order=names, palette=colors, ax=gaps,
        legend=False, rasterized=True, **points,
    )  # fmt: skip
    gaps.axhline(0.0, label="best linear predictor", **LINEAR)
    gaps.set(xlabel="width (number of features)", ylabel="final objective minus best linear objective")
    for number, name in enumerate(names):
        rows = shares[shares["architecture"] == name].sort_values("width")
        at = np.array([widths.index(width) for width in rows["width"]]) + 0.12 * (number - (len(names) - 1) / 2)
        bars = np.clip([rows["share"] - rows["low"], rows["high"] - rows["share"]], 0.0, None)
        stuck.errorbar(
            at, rows["share"], yerr=bars, fmt=MARKERS[number % 4], color=colors[name], capsize=4,
            label=label_of(name),
        )  # fmt: skip
    stuck.set_xticks(range(len(widths)), [str(width) for width in widths])
    stuck.set_xlim(-0.5, len(widths) - 0.5)
    stuck.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    stuck.set(
        xlabel="width (number of features)", ylabel="runs that end above the linear predictor\n(bars: 95 % interval)"
    )
    handles, labels = (
        [*ours, *theirs]
        for ours, theirs in zip(stuck.get_legend_handles_labels(), gaps.get_legend_handles_labels(), strict=True)
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_shares_along_training(shares: pd.DataFrame, *, title: str) -> Figure:
    """The share of runs above the linear predictor along training, one curve an architecture.

    Args:
        shares: Columns architecture, step, share, low and high.
        title: What the figure shows.
    """
    figure, axes = one_axes(textwrap.fill(title, 84))
    for number, (name, rows) in enumerate(shares.groupby("architecture", sort=False)):
        color = PALETTE[number]
        axes.fill_between(rows["step"], rows["low"], rows["high"], color=color, alpha=0.18, linewidth=0)
        style: dict[str, Any] = {"color": color, "linestyle": LINESTYLES[number % 4], "linewidth": 2.0}
        axes.plot(rows["step"], rows["share"], label=label_of(str(name)), **style)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="optimiser step", ylabel="runs above the best linear predictor\n(bands: 95 % interval)")
    axes.legend(frameon=False)
    return figure


def plot_ends_by_gradient(ends: pd.DataFrame, *, epsilon: float, names: Sequence[str], title: str) -> Figure:
    """The end of every run in the plane of partial gradient norm and gap, with the corner that is to be empty shaded.

    Args:
        ends: One row a run; columns architecture, partial_grad_norm and linear_predictor_gap.
        epsilon: The gradient norm up to which an end counts as stationary.
        names: The architectures, one panel each.
        title: What the figure shows.
    """
    figure, grid = several_axes(
        len(names), title=textwrap.fill(title, 120), width=11.0, height=4.2, sharey=True, sharex=True
    )
    norms = ends["partial_grad_norm"].clip(lower=_SMALLEST_GRADIENT)
    low, top = 0.5 * min(norms.min(), epsilon), ends["linear_predictor_gap"].max()
    top = max(top, 0.25 * abs(ends["linear_predictor_gap"].min())) * 1.15
    for number, (axes, name) in enumerate(zip(grid, names, strict=True)):
        rows = ends["architecture"] == name
        corner: dict[str, Any] = {"width": epsilon - low, "height": top, "zorder": 0}
        axes.add_patch(Rectangle((low, 0.0), facecolor=(*PALETTE[3], 0.10), edgecolor="none", **corner))
        axes.scatter(
            norms[rows], ends["linear_predictor_gap"][rows], s=12, alpha=0.6, color=PALETTE[number],
            marker=MARKERS[number % 4], linewidth=0,
        )  # fmt: skip
        axes.axhline(0.0, **LINEAR)
        axes.axvline(epsilon, color="0.5", linewidth=1.0)
        log_scale(axes, "x")
        axes.set(xlim=(low, 2.0 * max(norms.max(), epsilon)), xlabel="gradient norm in the weights around f")
        axes.set_ylim(top=top)
        axes.set_title(label_of(name), loc="left", fontsize=10)
    grid[0].set_ylabel("final objective\nminus best linear objective")
    return figure
