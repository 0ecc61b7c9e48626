"""Figures of SGD beneath a bound and of example orders, drawn from data frames; nothing is computed here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from resflow.plots._style import LINEAR, LINESTYLES, MARKERS, PALETTE, several_axes
from resflow.plots.ticks import log_scale

__all__ = ["plot_excess", "plot_orders", "plot_slopes"]

_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 2, "frameon": False}


def plot_excess(frame: pd.DataFrame, *, title: str) -> Figure:
    """The mean excess over the best linear predictor against the number of steps, beneath its bound; log–log.

    Args:
        frame: Columns source (a panel each), theta (a line each), steps, mean, lowest, highest (over seeds) and bound.
        title: What the figure shows.
    """
    sources = list(dict.fromkeys(frame["source"]))
    figure, panels = several_axes(len(sources), title=title, height=4.8, sharey=True)
    for axes, source in zip(panels, sources, strict=True):
        rows = frame[frame["source"] == source]
        bound = rows.drop_duplicates("steps")
        axes.plot(bound["steps"], bound["bound"], color="black", linewidth=2.0, label="bound of Theorem 4")
        for number, (theta, line) in enumerate(rows.groupby("theta", sort=False)):
            color = PALETTE[number]
            style: dict[str, Any] = {"linestyle": LINESTYLES[number % 4], "marker": MARKERS[number % 4]}
            shown = line[line["mean"] > 0]  # the rest has no place on a logarithmic axis
            axes.plot(shown["steps"], shown["mean"], color=color, label=f"θ {theta}", **style)
            axes.fill_between(shown["steps"], shown["lowest"], shown["highest"], color=color, alpha=0.15, linewidth=0)
            if 0 < len(shown) < len(line):
                end = shown.iloc[-1]
                offset: dict[str, Any] = {"xytext": (4, -12), "textcoords": "offset points", "va": "top"}
                axes.annotate(
                    "below 0 from\nthe next T on", (end["steps"], end["mean"]), fontsize=8, color=color, **offset
                )
        guide = 0.4 * bound["mean"].iloc[0] * np.sqrt(bound["steps"].iloc[0] / bound["steps"])
        axes.plot(bound["steps"], guide, color="0.6", linewidth=1.2, label="slope −1/2")
        log_scale(axes, "x", "y")
        axes.set_xlabel("number of SGD steps T")
        axes.set_title(source, loc="left", fontsize=10)
        axes.legend(fontsize=9, **_BELOW)
    positive = frame["mean"][frame["mean"] > 0]
    if len(positive):  # else the band of a mean near 0 would reach down without end
        panels[0].set_ylim(positive.min() / 4.0, 2.0 * frame["bound"].max())
    panels[0].set_ylabel("mean excess over the best linear predictor\n(mean loss per sample; band: all seeds)")
    return figure


def plot_slopes(frame: pd.DataFrame, *, title: str) -> Figure:
    """Fitted slopes with their intervals beside −1/2, a panel a source.

    Args:
        frame: Columns source, theta, fit (what was fitted, a marker each), slope, low and high; NaN where none exists.
        title: What the figure shows.
    """
    sources = list(dict.fromkeys(frame["source"]))
    figure, panels = several_axes(len(sources), title=title, height=3.6, sharey=True, sharex=True)
    for axes, source in zip(panels, sources, strict=True):
        rows = frame[frame["source"] == source]
        thetas = list(dict.fromkeys(rows["theta"]))
        for number, (fit, line) in enumerate(rows.groupby("fit", sort=False)):
            places = np.array([thetas.index(theta) for theta in line["theta"]]) + 0.16 * (number - 0.5)
            whiskers = np.abs(line[["low", "high"]].to_numpy().T - line["slope"].to_numpy())
            style: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number % 4], "linestyle": ""}
            axes.errorbar(line["slope"], places, xerr=whiskers, capsize=3, label=str(fit), **style)
        axes.axvline(-0.5, color="black", linewidth=1.2, label="−1/2")
        for theta, of_theta in rows.groupby("theta", sort=False):
            if of_theta["slope"].isna().all():
                place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 8, "color": "0.3"}
                axes.text(0.02, thetas.index(theta) - 0.08, "no slope: some mean is below 0", **place)
        axes.set_yticks(range(len(thetas)), [f"θ {theta}" for theta in thetas])
        axes.set_ylim(len(thetas) - 0.5, -0.5)
        axes.set(xlabel="slope of log(mean excess) in log T (95 % interval)")
        axes.set_title(source, loc="left", fontsize=10)
        axes.legend(fontsize=9, **{**_BELOW, "bbox_to_anchor": (0.5, -0.22), "ncols": 3})
    return figure


def plot_orders(
    frame: pd.DataFrame, *, title: str, ylabel: str, level: str | None = None, log_y: bool = False, band: str
) -> Figure:
    """Something measured after every epoch, a line an order of the examples, a panel a learning rate.

    Args:
        frame: Columns learning_rate, order, epoch (from 1), mean, low and high.
        title: What the figure shows.
        ylabel: What was measured, with its unit.
        level: What a horizontal line at 0 is; None for no line.
        log_y: Whether the vertical axis is logarithmic.
        band: What lies between low and high.
    """
    rates = sorted(frame["learning_rate"].unique())
    figure, panels = several_axes(len(rates), title=title, width=3.9 * max(2, len(rates)), height=4.4, sharey=True)
    for axes, rate in zip(panels, rates, strict=True):
        for number, (order, line) in enumerate(frame[frame["learning_rate"] == rate].groupby("order", sort=False)):
            color, name = PALETTE[number], str(order).replace("_", " ").replace("grab", "GraB")
            axes.plot(line["epoch"], line["mean"], color=color, linestyle=LINESTYLES[number % 4], label=name)
            axes.fill_between(line["epoch"], line["low"], line["high"], color=color, alpha=0.15, linewidth=0)
        if level is not None:
            axes.axhline(0.0, label=level, **LINEAR)
        log_scale(axes, *("xy" if log_y else "x"))
        axes.set_xlabel(f"epoch (band: {band})")
        axes.set_title(f"learning rate {rate:g}", loc="left", fontsize=10)
    panels[0].set_ylabel(ylabel)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
