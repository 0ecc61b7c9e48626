"""The atlas: stationary points in the plane of gap and curvature, with the quadrant that the theorem forbids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from resflow.plots._style import PALETTE
from resflow.plots.ticks import log_scale

__all__ = ["plot_atlas"]

_STUCK = PALETTE[3]
_KINDS = (("o", "#0b3c6f", "minimum or flat: no negative eigenvalue"), ("o", "#7fb2dd", "saddle"))
_LINEAR_WITHIN = 1e-2


def plot_atlas(points: pd.DataFrame, panels: Sequence[str], captions: Sequence[str], *, title: str) -> Figure:
    """Panels side by side, each with the stationary points of one case and the forbidden quadrant shaded.

    λ_min is on a scale that is linear within ±0.01 and logarithmic outside.

    Args:
        points: One row a point; columns case, gap, lambda_min, index and stuck. A column curve, if there is one, says
            by its values which points to join by a line, in the order of the rows; NaN for none.
        panels: The values of case, from left to right.
        captions: One or two lines to go under each panel's name.
        title: What the figure shows.
    """
    with sns.axes_style("ticks"):
        figure, all_axes = plt.subplots(
            1, len(panels), figsize=(4.15 * len(panels), 4.9), sharey=True, layout="constrained", squeeze=False
        )
    low = min(points["lambda_min"].min(), -_LINEAR_WITHIN)
    high = max(points["lambda_min"].max(), _LINEAR_WITHIN)
    for axes, case, caption in zip(all_axes[0], panels, captions, strict=True):
        rows = points[points["case"] == case]
        _draw(axes, rows, bottom=2.2 * low, top=2.2 * high)
        axes.set_title(f"{case}\n", loc="left", fontsize=13, fontweight="bold")
        axes.text(0, 1.018, caption, transform=axes.transAxes, fontsize=10, color="0.3", va="bottom")
        axes.set_xlabel("gap to the best linear predictor")
    all_axes[0, 0].set_ylabel("smallest Hessian eigenvalue λ_min")
    sns.despine(figure)
    handles = [_marker(marker, color, label) for marker, color, label in _KINDS]
    handles.append(_marker("X", _STUCK, "stuck above: gap > 0, λ_min ≥ 0"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10.5)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14.5)
    plt.close(figure)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, *, bottom: float, top: float) -> None:
    log_scale(axes, "y", linear_within=_LINEAR_WITHIN, linscale=0.7)
    spread = max(np.ptp([*rows["gap"], 0.0]), 1e-12)
    left, right = min(rows["gap"].min(), 0.0) - 0.09 * spread, max(rows["gap"].max(), 0.0) + 0.13 * spread
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    # From just below 0, so that points at λ_min = 0 lie inside.
    edge = -0.1 * _LINEAR_WITHIN
    size: dict[str, Any] = {"width": right, "height": top - edge}
    axes.add_patch(Rectangle((0, edge), **size, facecolor=(*_STUCK, 0.09), edgecolor="none", zorder=0))
    hatched: dict[str, Any] = {"facecolor": "none", "edgecolor": (*_STUCK, 0.28), "hatch": "////", "linewidth": 0.0}
    axes.add_patch(Rectangle((0, edge), **size, **hatched, zorder=0))
    axes.axvline(0.0, color="black", linewidth=1.1, linestyle=(0, (5, 2)), zorder=1)
    axes.axhline(0.0, color="0.55", linewidth=0.8, zorder=1)
    stuck = rows["stuck"].astype(bool)
    if "curve" in rows:
        for _, curve in rows.dropna(subset="curve").groupby("curve"):
            axes.plot(curve["gap"], curve["lambda_min"], color="0.6", linewidth=1.0, zorder=2)
    for (marker, color, _), chosen in zip(_KINDS, (rows["index"] == 0, rows["index"] > 0), strict=True):
        shown = rows[chosen & ~stuck]
        axes.scatter(
            shown["gap"],
            shown["lambda_min"],
            s=26,
            marker=marker,
            color=color,
            alpha=0.75,
            edgecolor="white",
            linewidth=0.3,
            zorder=3,
        )
    axes.scatter(
        rows["gap"][stuck],
        rows["lambda_min"][stuck],
        s=70,
        marker="X",
        color=[_STUCK],
        edgecolor="white",
        linewidth=0.7,
        zorder=4,
        clip_on=False,
    )
    if not stuck.any():
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(0.97, np.sqrt(top * _LINEAR_WITHIN), "forbidden\nand empty", **place, fontsize=11, color=_STUCK)


def _marker(marker: str, color: str, label: str) -> Line2D:
    style: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": "white"}
    return Line2D([], [], marker=marker, color=color, label=label, **style)
