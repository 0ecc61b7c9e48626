"""Figures of a population: all its trajectories at once, and where each member ended; nothing is computed here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resflow.plots._style import LINEAR, PALETTE, one_axes
from resflow.plots.drawn import tell
from resflow.plots.labels import label_of, number_text, value_name
from resflow.plots.ticks import log_scale

__all__ = ["plot_final_gaps", "plot_gap_trajectories"]


def plot_gap_trajectories(history: pd.DataFrame, *, by: str, title: str, smallest: float = 1e-3) -> Figure:
    """The linear-predictor gap of every member along training, coloured by a parameter, with the linear level.

    Args:
        history: Columns member, step, linear_predictor_gap and `by`.
        by: The parameter that tells colours apart.
        title: What the figure shows.
        smallest: The scale is linear within ± this value and logarithmic outside.
    """
    figure, axes = one_axes(title)
    values = sorted(history[by].unique())
    colors = dict(zip(values, sns.color_palette("viridis", len(values)), strict=True))
    members = history["member"].nunique()
    for value, rows in history.groupby(by):
        lines = [np.column_stack([one["step"], one["linear_predictor_gap"]]) for _, one in rows.groupby("member")]
        axes.add_collection(
            LineCollection(lines, colors=[colors[value]], linewidths=1.0, alpha=max(0.25, members**-0.3))
        )
    axes.autoscale_view()
    axes.axhline(0.0, **LINEAR)
    log_scale(axes, "y", linear_within=smallest)
    axes.set(xlabel="optimiser step", ylabel="objective minus best linear objective")
    shown = (
        values
        if len(values) <= 8
        else [values[place] for place in np.linspace(0, len(values) - 1, 8).round().astype(int)]
    )
    handles = [Line2D([], [], color=colors[value], linewidth=2.2, label=value_name(value)) for value in shown]
    handles.append(Line2D([], [], label="best linear predictor", **LINEAR))
    axes.legend(handles=handles, title=label_of(by), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def plot_final_gaps(final: pd.DataFrame, *, by: str, title: str, smallest: float = 1e-3) -> Figure:
    """The last gap of every member against a parameter, with medians; members that diverged are marked.

    Args:
        final: One row a member: linear_predictor_gap, diverged (truth values), `by`, and seed if members have one.
        by: The parameter.
        title: What the figure shows.
        smallest: Where gaps span decades the scale is linear within ± this value and logarithmic outside.
    """
    figure, axes = one_axes(title)
    values = sorted(final[by].unique())
    place = final[by].map({value: at for at, value in enumerate(values)})
    # Side by side in the order given, so that the same seed stands at the same place in every column.
    rank = final.groupby(by).cumcount()
    shift = 0.6 * (rank / max(1, rank.max()) - 0.5)
    for diverged, marker, label in ((False, "o", "a member"), (True, "x", "a member that diverged, at its last point")):
        rows = final["diverged"] == diverged
        if rows.any():
            color = PALETTE[3] if diverged else PALETTE[0]
            style = {"color": color, "markersize": 4, "alpha": 0.6, "label": label}
            (drawn,) = axes.plot((place + shift)[rows], final["linear_predictor_gap"][rows], marker, **style)
            if "seed" in final:
                tell(drawn, [f"seed {seed}" for seed in final["seed"][rows]])
    medians = final.groupby(by)["linear_predictor_gap"].median()
    for at, value in enumerate(values):
        axes.hlines(medians[value], at - 0.38, at + 0.38, color=PALETTE[1], linewidth=2.2, label="" if at else "median")
    gaps = final["linear_predictor_gap"].replace([np.inf, -np.inf], np.nan).dropna()
    nearest = gaps.abs().min() if len(gaps) and (gaps.max() < 0 or gaps.min() > 0) else 0.0
    if len(gaps) and nearest > 2 * np.ptp(gaps):  # the level is too far off to be drawn without hiding all else
        above = gaps.max() < 0
        label = (
            f"best linear predictor: {number_text(nearest, 3)} {'above the highest' if above else 'below the lowest'}"
        )
        axes.plot([], [], "^" if above else "v", color="black", label=label)
    else:
        axes.axhline(0.0, label="best linear predictor", **LINEAR)
        if len(gaps) and gaps.abs().max() > 100 * max(gaps.abs().quantile(0.25), smallest):
            log_scale(axes, "y", linear_within=smallest)
    axes.set_xticks(range(len(values)), [value_name(value) for value in values])
    axes.set(xlabel=label_of(by), ylabel="final objective\nminus best linear objective")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure
