"""What each axis of a comparison did: the metric at its values, and the differences that exceed the spread of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from resflow.plots.labels import label_of, number_text, value_name, with_error
from resflow.workflow.reports.comparison import Comparison
from resflow.workflow.reports.metrics import GAP, short_label
from resflow.workflow.reports.statistics import ROUNDING, binned, coded, is_above_linear, is_replicate, moments

__all__ = [
    "Difference",
    "about_effects",
    "axis_effects",
    "cells_of",
    "difference",
    "effect_title",
    "largest_difference",
    "seeds_table",
]

SIGNIFICANCE = 0.05
"""How often, at most, an axis that does nothing is said to do something."""


class Difference(NamedTuple):
    """How much worse a metric is at one value of an axis than at another, in runs that are alike in all else.

    Attributes:
        better: The one value.
        worse: The other.
        mean: The mean difference, never negative.
        error: Its standard error, from how much it varies between seeds; NaN with one seed.
        seeds: The seeds that it is over.
        pairs: The pairs of runs that it is over.
        left_out: Pairs of which a run is missing, or its metric not finite.
        is_told: Whether it exceeds the spread of seeds.
    """

    better: Any
    worse: Any
    mean: float
    error: float
    seeds: int
    pairs: int
    left_out: int
    is_told: bool


def cells_of(points: pd.DataFrame, axis: str, axes: Sequence[str], metric: str) -> pd.DataFrame:
    """The metric of runs that differ in one axis alone, side by side.

    Args:
        points: One row a run.
        axis: The axis.
        axes: All axes, seeds among them.
        metric: The metric.

    Returns:
        A column a value of the axis, numbers ascending; a row a seed (a combination of them, where several vary) and a
        setting of the other axes, in an index of these two; NaN where there is no run, or the metric is not finite.
    """
    seeds = [each for each in axes if each != axis and is_replicate(each)]
    others = [each for each in axes if each != axis and not is_replicate(each)]
    values = points[metric].astype(float)
    codes, names = coded(points[axis])
    frame = pd.DataFrame(
        {
            "seed": _numbered(points, seeds),
            "other": _numbered(points, others),
            "value": codes,
            "metric": values.where(np.isfinite(values)).to_numpy(),
        }
    )
    cells = frame.groupby(["seed", "other", "value"])["metric"].mean().unstack("value")
    return cells.set_axis(pd.Index(names, dtype=object), axis="columns")


def difference(
    cells: pd.DataFrame, one: Any, other: Any, *, maximize: bool = False, among: int = 1
) -> Difference | None:
    """How two values of an axis differ: paired within seed and setting, then averaged over settings seed by seed.

    Seeds are what an effect has to be told from, and so the only source of its error: runs that share one are not
    independent. The difference is told where |mean| > t · error, with Student's t at 5 %, divided by the number of
    differences that it is chosen among (Bonferroni): with two seeds 13 errors, with ten 2.3.

    Args:
        cells: Of `cells_of`.
        one: The one value.
        other: The other.
        maximize: True if more of the metric is better.
        among: How many differences are looked at.

    Returns:
        The difference; None if no pair of runs has both values.
    """
    from scipy.stats import t  # takes long to import

    both = cells[[one, other]].dropna()
    if both.empty:
        return None
    each = (both[other] - both[one]).groupby(level="seed").mean()
    mean, seeds = float(each.mean()), len(each)
    error = float(each.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    rounding = ROUNDING * max(1.0, float(both.abs().to_numpy().max()))
    limit = float(t.ppf(1 - SIGNIFICANCE / (2 * among), seeds - 1)) * error if seeds > 1 else math.inf
    better, worse = (one, other) if (mean > 0) != maximize else (other, one)
    left_out = len(cells) - len(both)
    return Difference(better, worse, abs(mean), error, seeds, len(both), left_out, abs(mean) > max(limit, rounding))


def largest_difference(
    points: pd.DataFrame, axis: str, axes: Sequence[str], metric: str, *, maximize: bool = False
) -> Difference | None:
    """The largest difference between two values of an axis, of those that are told from the spread if there are any.

    Args:
        points: One row a run.
        axis: The axis; with more than 12 numbers it was sampled, and no runs are alike in all else.
        axes: All axes, seeds among them.
        metric: The metric.
        maximize: True if more of the metric is better.
    """
    if not binned(points[axis]).equals(points[axis]):
        return None
    cells = cells_of(points, axis, axes, metric)
    pairs = list(combinations(cells.columns, 2))
    found = [difference(cells, one, other, maximize=maximize, among=len(pairs)) for one, other in pairs]
    return max(filter(None, found), key=lambda each: (each.is_told, each.mean), default=None)


def axis_effects(comparison: Comparison, axes: Sequence[str]) -> pd.DataFrame | None:
    """The metric at every value of every axis, over all else that varies, seeds included; None without a metric.

    Args:
        comparison: What is compared.
        axes: The axes to go along.

    Returns:
        A row a value, indexed by axis: value, runs, median (one that is not finite counts as worse than any other),
        mean and standard deviation of the finite ones (no deviation of one run alone), how many are not finite if any
        is, and how many runs end above the best linear predictor where they recorded their gap to it.
    """
    goal, points = comparison.goal, comparison.points
    if goal is None or not axes:
        return None
    rows: list[dict[str, Any]] = []
    for axis in axes:
        places = binned(points[axis])
        order = pd.api.types.is_numeric_dtype(places)
        for value, runs in points.groupby(places, sort=order, dropna=False, observed=True):
            rows.append({"axis": label_of(axis), "value": value_name(value)} | _row(runs, goal.metric, goal.maximize))
    return _without_empty(pd.DataFrame(rows).set_index("axis"))


def seeds_table(comparison: Comparison, *, count: int = 10) -> pd.DataFrame | None:
    """The settings with the best medians over their seeds; None without a metric, or where none has two runs.

    Args:
        comparison: What is compared.
        count: How many.

    Returns:
        A row a setting: the axes but seeds, and what `axis_effects` has of a value.
    """
    goal, points = comparison.goal, comparison.points
    axes = [axis for axis in comparison.axes if not is_replicate(axis)]
    if goal is None or not axes or len(points) == len(points.drop_duplicates(axes)):
        return None
    rows = []
    for values, runs in points.groupby(axes, sort=False, dropna=False):
        named = {label_of(axis): value_name(value) for axis, value in zip(axes, values, strict=True)}
        median = moments(runs[goal.metric], maximize=goal.maximize).median
        rows.append((-median if goal.maximize else median, named | _row(runs, goal.metric, goal.maximize)))
    rows.sort(key=lambda row: row[0])
    table = _without_empty(pd.DataFrame([row for _, row in rows[:count]]))
    return table.set_index(table.columns[0])


def about_effects(comparison: Comparison, axes: Sequence[str]) -> str:
    """What each axis did, a line of Markdown each; "" without a metric."""
    goal = comparison.goal
    if goal is None:
        return ""
    lines = []
    for axis in axes:
        found = largest_difference(comparison.points, axis, comparison.axes, goal.metric, maximize=goal.maximize)
        lines.append(f"- **{label_of(axis)}**: {_said(found, goal.metric, maximize=goal.maximize)}.")
    return "\n".join(lines)


def effect_title(found: Difference, axis: str, metric: str, *, maximize: bool = False) -> str:
    """The same of one axis, as short as a figure's title has to be."""
    if not found.is_told:
        return f"{label_of(axis)}: no difference that can be told from the spread of seeds"
    size, better, worse = with_error(found.mean, found.error), value_name(found.better), value_name(found.worse)
    side = "higher" if maximize else "lower"
    return f"{short_label(metric)} {side} by {size} with {label_of(axis)} {better} than with {worse}"


def _said(found: Difference | None, metric: str, *, maximize: bool) -> str:
    if found is None:
        return "nothing can be said, as no two runs with finite values differ in it alone"
    out = f", {found.left_out} left out as missing or not finite" if found.left_out else ""
    pairs = f"{found.pairs} pair{'s' * (found.pairs != 1)} of runs that differ in nothing else{out}"
    if found.seeds < 2:
        return f"no difference that can be told from the spread of seeds, as there is one seed ({pairs})"
    size = f"{with_error(found.mean, found.error)}"
    evidence = f"mean and standard error over {found.seeds} seeds; {pairs}"
    than = f"with {value_name(found.better)} than with {value_name(found.worse)}"
    side = "higher" if maximize else "lower"
    if found.is_told:
        return f"{label_of(metric)} {side} by {size} {than} ({evidence})"
    return f"no difference that can be told from the spread of seeds; the largest is {size}, {side} {than} ({evidence})"


def _row(runs: pd.DataFrame, metric: str, maximize: bool) -> dict[str, Any]:
    found = moments(runs[metric], maximize=maximize)
    row: dict[str, Any] = {"runs": len(runs), "median": found.median}
    row["mean ± deviation"] = with_error(found.mean, found.deviation)
    row["not finite"] = found.not_finite
    if GAP in runs:
        above = int(is_above_linear(runs[GAP]).sum())
        row["above linear"] = f"{above} of {len(runs)} ({100 * above / len(runs):.0f} %)"
    return row


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[] if table["not finite"].any() else ["not finite"]).assign(
        median=table["median"].map(number_text)
    )


def _numbered(points: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The number of each run's combination of values."""
    if not columns:
        return np.zeros(len(points), dtype=int)
    return points.groupby(list(columns), sort=False, dropna=False).ngroup().to_numpy()
