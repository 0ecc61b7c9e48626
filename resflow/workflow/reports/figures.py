"""The figures that a comparison consists of, for its notebook and for a sweep's parent run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resflow.plots.against import plot_gap_against
from resflow.plots.comparison import plot_curves, plot_verdicts
from resflow.plots.grid import plot_grid
from resflow.plots.labels import label_of, value_name
from resflow.workflow.goal import Goal
from resflow.workflow.reports.comparison import Comparison, read_histories
from resflow.workflow.reports.effects import effect_title, largest_difference
from resflow.workflow.reports.findings import curves_finding, share_finding, spread_finding, verdicts_finding
from resflow.workflow.reports.grid import grid_title, strongest_grid
from resflow.workflow.reports.metrics import GAP, LEVEL, named_now
from resflow.workflow.reports.statistics import (
    is_replicate,
    level_axis,
    median_curves,
    representative_runs,
    second_axis,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient

__all__ = ["curves_figure", "grid_figure", "shown_axes", "spread_figures", "verdicts_figure"]

SHOWN_AXES = 6
"""More axes than these make a comparison nobody reads: those with most values are shown."""


def spread_figures(comparison: Comparison) -> dict[str, Figure]:
    """The metric against each axis but seeds, by the axis's name; against nothing, if seeds are all that varies."""
    points, goal, runs = comparison.points, comparison.goal, comparison.run_names
    if goal is None:
        return {}
    metric, maximize = goal.metric, goal.maximize
    axes = shown_axes(comparison)
    if not axes:
        axes, points = ["compared"], points.assign(compared="all runs")
    figures = {}
    for axis in axes:
        by = second_axis(points, comparison.axes, besides=[axis])
        title = spread_finding(spread(points, axis, metric, maximize=maximize), axis, metric)
        if found := largest_difference(points, axis, comparison.axes, metric, maximize=maximize):
            title = effect_title(found, axis, metric, maximize=maximize)
        if metric == GAP:
            few_texts = not pd.api.types.is_numeric_dtype(points[axis]) and points[axis].nunique(dropna=False) <= 3
            title += ".\n" + share_finding(points, by=axis if few_texts else None)
        table = spread(points, axis, metric, by=by, maximize=maximize)
        level = 0.0 if metric.endswith(GAP) else None
        figures[axis] = plot_gap_against(
            points, table, axis, metric, title=_sentence(title), by=by, level=level, maximize=maximize, runs=runs
        )
    return figures


def curves_figure(client: MlflowClient, comparison: Comparison, *, curve: str = "", count: int = 200) -> Figure | None:
    """Training curves, with the linear predictor's level if there is one, of at most `count` runs; None without curves.

    The runs are spread evenly over the ranks of their final metric, so that few curves show what many would.

    Args:
        client: A client of the store.
        comparison: What is compared.
        curve: The metric whose curves are drawn; "" means the objective where the linear predictor's is known, or else
            what the runs are compared by.
        count: How many curves at most.
    """
    points, goal = comparison.points, comparison.goal
    curve = named_now(comparison.metrics, curve) or ("objective" if LEVEL in points else goal.metric if goal else "")
    ranked = goal or Goal(curve)
    if ranked.metric not in points or (curve == "objective" and LEVEL not in points):
        return None
    maximize = ranked.maximize and curve == ranked.metric
    panel = level_axis(points, comparison.axes) if curve == "objective" else None
    by = second_axis(points, comparison.axes, besides=[panel])
    chosen = representative_runs(points, ranked.metric, count, by=[panel, by], maximize=ranked.maximize)
    histories = read_histories(client, chosen["run_id"], curve)
    if histories.groupby("run_id").size().max() in (1, np.nan) or histories.empty:
        return None
    keys = [key for key in (panel, by) if key is not None]
    histories = histories.merge(chosen[["run_id", *keys]], on="run_id")
    ranges: dict[str, tuple[float, float]] | None = None
    title = f"{label_of(curve)} along training, {histories['run_id'].nunique()} runs"
    if curve in ("objective", GAP):
        levels = chosen.set_index("run_id")[LEVEL] if curve == "objective" else pd.Series(0.0, index=chosen["run_id"])
        ranges = {"": (levels.min(), levels.max())}
        if panel:
            grouped = levels.groupby(chosen.set_index("run_id")[panel].map(value_name))
            ranges = {str(name): (values.min(), values.max()) for name, values in grouped}
        title = curves_finding(histories, curve, levels)
    if len(chosen) < len(points):
        title += f"\n({len(chosen)} of {len(points)} runs drawn, spread over the ranks of the final "
        title += f"{label_of(ranked.metric)})"
    medians = median_curves(histories, keys, maximize=maximize)
    return plot_curves(histories, medians, ranges, curve, title=_sentence(title), by=by, panel=panel)


def verdicts_figure(comparison: Comparison) -> Figure | None:
    """How many runs have each verdict; None if none has any."""
    points = comparison.points
    if points["verdict"].isna().all():
        return None
    by = second_axis(points, comparison.axes)
    points = points.assign(verdict=points["verdict"].fillna("not judged by its notebook"))
    if by and not pd.api.types.is_numeric_dtype(points[by]):  # the colours that it has in the other figures
        points[by] = pd.Categorical(points[by], points[by].dropna().unique())
    keys = ["verdict"] + ([by] if by else [])
    counts = points.groupby(keys, dropna=False, sort=False, observed=True).size().rename("runs").reset_index()
    order = counts.groupby("verdict")["runs"].transform("sum")
    counts = counts.assign(_order=-order).sort_values("_order", kind="stable").drop(columns="_order")
    return plot_verdicts(counts, title=_sentence(verdicts_finding(counts)), by=by)


def grid_figure(comparison: Comparison) -> Figure | None:
    """The median over the two axes that the metric depends on most; None if fewer than two vary beside seeds."""
    points, goal = comparison.points, comparison.goal
    axes = shown_axes(comparison)
    if goal is None or len(axes) < 2 or not np.isfinite(points[goal.metric]).any():
        return None
    grid = strongest_grid(points, axes, comparison.axes, goal.metric, maximize=goal.maximize)
    if grid is None:
        return None
    title = grid_title(grid, goal.metric, maximize=goal.maximize)
    return plot_grid(grid.medians, grid.best, grid.alike, goal.metric, title=_sentence(title), maximize=goal.maximize)


def shown_axes(comparison: Comparison) -> list[str]:
    """The axes that figures go along: not seeds, not constants, and of too many those with most values."""
    points = comparison.points
    counts = {axis: points[axis].nunique(dropna=False) for axis in comparison.axes if not is_replicate(axis)}
    several = [axis for axis, count in counts.items() if count > 1]
    kept = sorted(several, key=lambda axis: -counts[axis])[:SHOWN_AXES]
    return [axis for axis in several if axis in kept]


def _sentence(text: str) -> str:
    return "\n".join(line[:1].upper() + line[1:] for line in text.splitlines())
