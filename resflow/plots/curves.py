"""Figures of runs, drawn from data frames; nothing is computed here.

Colours are seaborn's colour-blind palette, and every line also has a style of its own, so that the figures can be
read in grey. Each title is the caller's: one sentence that states what the figure shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from resflow.plots._style import LINEAR, PALETTE, one_axes

__all__ = ["plot_gap", "plot_held_out", "plot_objective"]

_CURVES: Mapping[str, dict[str, Any]] = {
    "linear_predictor_gap": {"label": "gap", "color": PALETTE[0], "linestyle": "-", "linewidth": 2.2},
    "gap_certificate": {"label": "certificate ⟨G, ∇F⟩", "color": PALETTE[1], "linestyle": "--", "linewidth": 1.7},
    "theorem1_bound": {"label": "bound of Theorem 1", "color": PALETTE[7], "linestyle": ":", "linewidth": 1.9},
}


def plot_objective(history: pd.DataFrame, linear_objective: float, *, title: str) -> Figure:
    """The objective along training, with the best linear predictor's level.

    Args:
        history: Columns step and objective (mean training loss per sample).
        linear_objective: The best linear predictor's mean training loss.
        title: What the figure shows.
    """
    figure, axes = one_axes(title)
    sns.lineplot(history, x="step", y="objective", ax=axes, color=PALETTE[0], linewidth=2.2, label="residual unit")
    axes.axhline(linear_objective, label=f"best linear predictor: {linear_objective:.4g}", **LINEAR)
    if min(history["objective"].min(), linear_objective) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="optimiser step", ylabel="training objective (mean loss per sample)")
    axes.legend()
    return figure


def plot_gap(history: pd.DataFrame, *, title: str, smallest: float = 1e-3) -> Figure:
    """The linear-predictor gap along training, below its certificate and Theorem 1's bound.

    Args:
        history: Columns step, linear_predictor_gap, gap_certificate and theorem1_bound.
        title: What the figure shows.
        smallest: The scale is linear within ± this value and logarithmic outside.
    """
    figure, axes = one_axes(title)
    for column, style in _CURVES.items():
        sns.lineplot(history, x="step", y=column, ax=axes, **style)
    axes.axhline(0.0, label="best linear predictor", **LINEAR)
    axes.set_yscale("symlog", linthresh=smallest)
    axes.set(xlabel="optimiser step", ylabel="objective minus best linear objective")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure


def plot_held_out(frame: pd.DataFrame, *, title: str) -> Figure:
    """Mean loss of linear predictor and residual unit, on training and test set.

    Args:
        frame: One row for each predictor and set; columns set, predictor, objective and standard_error.
        title: What the figure shows.
    """
    figure, axes = one_axes(title)
    sets = list(dict.fromkeys(frame["set"]))
    markers = {"linear predictor": ("s", "black"), "residual unit": ("o", PALETTE[0])}
    for shift, (predictor, rows) in zip((-0.08, 0.08), frame.groupby("predictor", sort=False), strict=True):
        marker, color = markers[str(predictor)]
        places = [sets.index(name) + shift for name in rows["set"]]
        axes.errorbar(
            places,
            rows["objective"],
            yerr=rows["standard_error"],
            fmt=marker,
            color=color,
            capsize=4,
            label=str(predictor),
        )
    axes.set_xticks(range(len(sets)), sets)
    axes.set_xlim(-0.5, len(sets) - 0.5)
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])
    axes.set(xlabel="set", ylabel="mean loss per sample\n(bars: one standard error)")
    axes.legend()
    return figure
