"""Figures of runs, drawn from data frames; nothing is computed here.

Colours are seaborn's colour-blind palette, and every line also has a style of its own, so that the figures can be
read in grey. Each title is the caller's: one sentence that states what the figure shows.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from resflow.plots._style import LINEAR, PALETTE, one_axes
from resflow.plots.ticks import log_scale

__all__ = ["plot_held_out", "plot_objective"]


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
        log_scale(axes, "y")
    axes.set(xlabel="optimiser step", ylabel="training objective (mean loss per sample)")
    axes.legend()
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
