"""Figures of what an unbounded norm, a ridge term and a norm bound do to the guarantee; nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from resflow.plots._style import LINEAR, LINESTYLES, MARKERS, PALETTE, one_axes, several_axes
from resflow.plots.ticks import log_scale

__all__ = ["plot_flat_saddles", "plot_landscapes", "plot_ridge_minima"]


def plot_flat_saddles(frame: pd.DataFrame, *, title: str) -> Figure:
    """Gap and curvature of saddles against the norm of V at which they lie.

    Args:
        frame: Columns V_norm, gap and lambda_min (negative).
        title: What the figure shows.
    """
    figure, axes = one_axes(title)
    axes.plot(frame["V_norm"], frame["gap"], color=PALETTE[0], marker="o", label="gap to the linear predictor")
    curvature: dict[str, Any] = {"color": PALETTE[1], "marker": "s", "linestyle": "--"}
    axes.plot(frame["V_norm"], -frame["lambda_min"], label="negative curvature |λ_min|", **curvature)
    log_scale(axes, "x", "y")
    axes.set(xlabel="norm of V at the saddle, 1/ε", ylabel="gap, and |λ_min|")
    axes.legend()
    return figure


def plot_landscapes(
    landscapes: Sequence[Float[np.ndarray, "count count"]],
    points: pd.DataFrame,
    *,
    extent: float,
    radius: float | None,
    panel_titles: Sequence[str],
    title: str,
) -> Figure:
    """Contours of functions of (w, v) side by side, with points marked.

    Args:
        landscapes: F on a grid over [−extent, extent]², v by rows, one a panel.
        points: Columns panel (counted from 0), kind, w, v and value: what to mark.
        extent: Half the side of the square.
        radius: The last panel is blank outside this circle, which is drawn; None for no circle.
        panel_titles: One a panel.
        title: What the figure shows.
    """
    figure, grid = several_axes(len(landscapes), title=f"{title}\n", width=13.0, height=5.6, sharey=True)
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(points["kind"]))}
    ticks = np.linspace(-extent, extent, landscapes[0].shape[0])
    levels = np.array([0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.2, 2.0, 4.0, 8.0, 20.0, 70.0])
    for panel, (axes, values, panel_title) in enumerate(zip(grid, landscapes, panel_titles, strict=True)):
        if radius is not None and panel == len(landscapes) - 1:
            axes.add_patch(plt.Circle((0.0, 0.0), radius, fill=False, color="black", linewidth=1.2))
            values = np.where(np.add.outer(ticks**2, ticks**2) <= radius**2, values, np.nan)
        contours = axes.contour(ticks, ticks, values, levels=levels, cmap="viridis", linewidths=1.0, norm="log")
        axes.clabel(contours, levels=levels[2::2], fontsize=7, fmt="%g")
        for kind, rows in points[points["panel"] == panel].groupby("kind", sort=False):
            number = kinds[str(kind)]
            style: dict[str, Any] = {
                "color": PALETTE[3 + number % 5],
                "marker": MARKERS[number % 4],
                "s": 70,
            }
            axes.scatter(rows["w"], rows["v"], label=str(kind), edgecolor="black", zorder=3, **style)
            for w, v, value in rows[["w", "v", "value"]].itertuples(index=False):
                place: dict[str, Any] = {"xytext": (8, 8), "textcoords": "offset points", "fontsize": 9, "zorder": 4}
                box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
                axes.annotate(f"{value:.4f}", (w, v), bbox=box, **place)
        axes.set_title(panel_title, loc="left", fontsize=10)
        axes.set(xlabel="w", aspect="equal", xlim=(-extent, extent), ylim=(-extent, extent))
        axes.grid(visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.15), frameon=False, fontsize=9)
    grid[0].set_ylabel("v")
    return figure


def plot_ridge_minima(frame: pd.DataFrame, *, title: str) -> Figure:
    """Share of starts that end at a minimum above the linear predictor, and how far above with what certificate.

    Args:
        frame: One row for each number of inputs and ridge strength; columns inputs, ridge, spurious_share,
            spurious_share_error, largest_gap and largest_certificate (NaN where no minimum is spurious).
        title: What the figure shows.
    """
    figure, (shares, gaps) = several_axes(2, title=title)
    for number, (inputs, rows) in enumerate(frame.groupby("inputs")):
        color, label = PALETTE[number], f"{inputs} input{'s' if inputs != 1 else ''}"
        style: dict[str, Any] = {"color": color, "linestyle": LINESTYLES[number % 4], "marker": MARKERS[number % 4]}
        shares.errorbar(
            rows["ridge"], rows["spurious_share"], yerr=rows["spurious_share_error"], label=label, capsize=3, **style
        )
        if rows["largest_gap"].notna().any():
            gaps.plot(rows["ridge"], rows["largest_gap"], label=f"{label}: gap", **style)
            style |= {"linestyle": ":", "markerfacecolor": "none"}
            gaps.plot(rows["ridge"], rows["largest_certificate"], label=f"{label}: its certificate", **style)
    gaps.axhline(0.0, label="best regularised linear predictor", **LINEAR)
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (shares, gaps):
        log_scale(axes, "x")
        axes.set_xlabel("ridge strength")
    shares.set_ylabel("starts that end at a minimum above\nthe linear predictor")
    gaps.set_ylabel("largest such gap, regularised objective")
    gaps.set_xlim(shares.get_xlim())
    for axes in (shares, gaps):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False, fontsize=9)
    sns.despine(figure)
    return figure
