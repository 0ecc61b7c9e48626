"""Figures of subsets of modalities: objectives on training and test set, and gaps; nothing is computed here."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from resflow.plots._style import LINEAR, PALETTE, several_axes
from resflow.plots.ticks import log_scale

__all__ = ["plot_subset_gaps", "plot_subset_objectives"]


def plot_subset_objectives(table: pd.DataFrame, *, title: str) -> Figure:
    """Objective of the best linear predictor and of residual units on every subset, training and test set apart.

    Args:
        table: One row for each subset and seed; columns subset, linear_objective, objective, test_linear_objective and
            test_objective.
        title: What the figure shows.
    """
    names = list(dict.fromkeys(table["subset"]))
    figure, grid = several_axes(2, title=textwrap.fill(title, 105), width=11.0, height=4.8, sharey=True)
    columns = (("linear_objective", "objective"), ("test_linear_objective", "test_objective"))
    for axes, where, (linear, unit) in zip(grid, ("training set", "test set"), columns, strict=True):
        for column, label, marker, color, shift in (
            (linear, "best linear predictor", "s", "black", -0.16), (unit, "residual unit", "o", PALETTE[0], 0.16),
        ):  # fmt: skip
            _points(axes, table, column, names, shift, label=label, marker=marker, color=color)
        log_scale(axes, "y")
        axes.set_title(where, loc="left", fontsize=10)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set(xlabel="modalities")
    grid[0].set_ylabel("objective (mean loss per sample)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_subset_gaps(table: pd.DataFrame, *, title: str, linear_within: float = 1e-2) -> Figure:
    """Gap of residual units to the best linear predictor on the same subset, on training and test set.

    Args:
        table: One row for each subset and seed; columns subset, linear_predictor_gap and test_linear_predictor_gap.
        title: What the figure shows.
        linear_within: The scale is linear within ± this value and logarithmic outside.
    """
    names = list(dict.fromkeys(table["subset"]))
    figure, (axes,) = several_axes(1, title=textwrap.fill(title, 84), width=7.2, height=4.6)
    log_scale(axes, "y", linear_within=linear_within)  # first: limits are chosen as points are drawn
    for column, label, marker, color, shift in (
        ("linear_predictor_gap", "training set", "o", PALETTE[0], -0.16),
        ("test_linear_predictor_gap", "test set", "D", PALETTE[1], 0.16),
    ):
        _points(axes, table, column, names, shift, label=label, marker=marker, color=color)
    axes.axhline(0.0, label="best linear predictor", **LINEAR)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(xlabel="modalities", ylabel="objective minus best linear objective")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    sns.despine(figure)
    return figure


def _points(axes, table, column, names, shift, *, label, marker, color) -> None:
    """Every seed as a point, and the median of each subset as a bar."""
    place = table["subset"].map({name: at for at, name in enumerate(names)})
    style: dict[str, Any] = {"markersize": 4.5, "alpha": 0.55, "linestyle": "none", "markeredgewidth": 0}
    axes.plot(place + shift, table[column], marker=marker, color=color, label=f"{label} (bar: median)", **style)
    medians = table.groupby("subset")[column].median()
    for at, name in enumerate(names):
        axes.hlines(medians[name], at + shift - 0.13, at + shift + 0.13, color=color, linewidth=2.0)
