"""Many runs in few numbers: spread along an axis, the share above the linear predictor, curves to draw.

Everything takes data frames with one row a run, and counts a value that is not finite (a run that diverged) as worse
than any other, so that no average hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from resflow.workflow.reports.metrics import GAP, LEVEL

__all__ = [
    "ROUNDING",
    "SUMMARY_COLUMNS",
    "Moments",
    "above_linear",
    "best_runs",
    "binned",
    "coded",
    "is_above_linear",
    "is_replicate",
    "level_axis",
    "median_curves",
    "moments",
    "representative_runs",
    "second_axis",
    "spread",
]

SUMMARY_COLUMNS = frozenset(
    {"run_id", "step", "value", "all", "runs", "above", "not_finite", "share"}
    | {"median", "first_quartile", "third_quartile", "low", "high"}
)
"""What the tables here call their own columns: an axis of that name would be taken for one."""
MANY_VALUES = 12
"""A numeric axis with more values than this was sampled, not gridded: runs are then grouped in bins of equal count."""
BINS = 8
ROUNDING = 1e-9
"""A gap of less than this, in mean loss per sample, is none."""


def is_replicate(axis: str) -> bool:
    """True for an axis that only repeats the experiment: a seed.

    >>> is_replicate("seed"), is_replicate("data_seed"), is_replicate("width")
    (True, True, False)
    """
    return axis == "seed" or axis.endswith("_seed")


class Moments(NamedTuple):
    """A metric of several runs: median, mean and standard deviation, and how many of them have no finite value."""

    median: float
    mean: float
    deviation: float
    not_finite: int


def moments(values: pd.Series, *, maximize: bool = False) -> Moments:
    """The median of all values, with those not finite as the worst, and mean and deviation of the finite ones.

    >>> moments(pd.Series([1.0, 3.0, float("nan")]))
    Moments(median=3.0, mean=2.0, deviation=1.4142135623730951, not_finite=1)
    >>> moments(pd.Series([1.0])).deviation  # one run says nothing of a spread
    nan
    """
    finite = values[np.isfinite(values.astype(float))].astype(float)
    median = _median(_worst_if_not_finite(values, maximize))
    return Moments(median, float(finite.mean()), float(finite.std(ddof=1)), len(values) - len(finite))


def binned(values: pd.Series) -> pd.Series:
    """The values of an axis; of a numeric one with more than 12 the median of each of 8 bins of equal count."""
    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= MANY_VALUES:
        return values
    return values.groupby(pd.qcut(values, BINS, duplicates="drop"), observed=True).transform("median")


def coded(values: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """The place of each value among the distinct ones, numbers ascending and texts as they come, and these.

    >>> coded(pd.Series([4, 2, 4])), coded(pd.Series(["b", "a"]))
    ((array([1, 0, 1]), [2, 4]), (array([0, 1]), ['b', 'a']))
    """
    codes, names = pd.factorize(values, use_na_sentinel=False, sort=pd.api.types.is_numeric_dtype(values))
    return codes, list(names)


def spread(
    points: pd.DataFrame, axis: str, metric: str, *, by: str | None = None, maximize: bool = False
) -> pd.DataFrame:
    """The median, the quartiles and the range of a metric at every value of an axis, over everything else that varies.

    Args:
        points: One row a run.
        axis: The column to go along.
        metric: The column to summarise.
        by: A column to keep apart, if any.
        maximize: True if more of the metric is better.

    Returns:
        One row a value of `axis` (and of `by`), in ascending order, those of text in the order they come in: the
        columns themselves, median, first_quartile, third_quartile, low, high (smallest and largest), runs. A numeric
        axis with more than 12 values is cut into 8 bins of equal count, each standing at its median.
    """
    frame = pd.DataFrame({axis: points[axis], metric: _worst_if_not_finite(points[metric], maximize)})
    keys = [axis]
    if by is not None:
        frame[by] = points[by]
        keys = [by, axis]
    frame[axis] = binned(frame[axis])
    numeric = pd.api.types.is_numeric_dtype(frame[axis])
    groups = frame.groupby(keys, sort=numeric and by is None, dropna=False, observed=True)[metric]
    # NumPy's median, not pandas': with an even count it must not turn ∞ and a number into NaN
    table = groups.agg(
        median=_median,
        first_quartile=_quartile(0.25),
        third_quartile=_quartile(0.75),
        low="min",
        high="max",
        runs="size",
    ).reset_index()
    return table.sort_values(axis, kind="stable", ignore_index=True) if numeric else table


def is_above_linear(gaps: pd.Series) -> pd.Series:
    """Which runs end above the best linear predictor by more than rounding; one whose gap is not finite is above."""
    return ~(gaps <= ROUNDING)


def above_linear(points: pd.DataFrame, metric: str = GAP, *, by: str | None = None) -> pd.DataFrame:
    """How many runs end above the best linear predictor, with an exact 95 % interval for the share.

    Args:
        points: One row a run.
        metric: The gap: objective minus best linear objective.
        by: A column to keep apart, if any.

    Returns:
        One row a value of `by`: runs, above (gap > 1e-9, or not finite), not_finite, share, low, high. The interval is
        that of Clopper and Pearson, for independent runs: 0 of 64 still allows 5.6 %.
    """
    from scipy.stats import binomtest  # takes long to import

    gap = points[metric].astype(float)
    frame = pd.DataFrame({"above": is_above_linear(gap), "not_finite": ~np.isfinite(gap)})
    key = points[by] if by is not None else pd.Series("all runs", index=points.index, name="group")
    table = frame.groupby(key, sort=False, dropna=False).agg(
        runs=("above", "size"), above=("above", "sum"), not_finite=("not_finite", "sum")
    )
    intervals = [
        binomtest(int(above), int(runs)).proportion_ci(0.95, "exact")
        for above, runs in zip(table["above"], table["runs"], strict=True)
    ]
    table["share"] = table["above"] / table["runs"]
    table["low"] = [interval.low for interval in intervals]
    table["high"] = [interval.high for interval in intervals]
    return table.reset_index()


def best_runs(points: pd.DataFrame, metric: str, count: int, *, maximize: bool = False) -> pd.DataFrame:
    """The `count` runs with the smallest value of a metric, or the largest, best first; not finite ones come last."""
    return points.iloc[_ranks(points[metric], maximize)[:count]]


def second_axis(points: pd.DataFrame, axes: Iterable[str], *, besides: Iterable[str | None] = ()) -> str | None:
    """The axis to tell apart by colour: of those with 2 to 6 values one of text, or else the one with fewest."""
    counts = {
        axis: points[axis].nunique(dropna=False)
        for axis in axes
        if axis not in besides and not is_replicate(axis) and axis in points
    }
    fit = [axis for axis, count in counts.items() if 2 <= count <= 6]
    return min(fit, key=lambda axis: (pd.api.types.is_numeric_dtype(points[axis]), counts[axis]), default=None)


def level_axis(points: pd.DataFrame, axes: Iterable[str], level: str = LEVEL) -> str | None:
    """The axis that the best linear objective depends on, if there is one: the data set, the loss, a group of features.

    Curves of runs with different levels don't belong in one picture. It is the axis with 2 to 6 values within which the
    level varies by less than a fifth of its whole range.
    """
    if level not in points or not np.ptp(points[level].dropna()) > 0.02 * points[level].abs().max():
        return None
    whole = np.ptp(points[level].dropna())
    for axis in axes:
        within = points.groupby(axis, dropna=False)[level].agg(lambda values: np.ptp(values) if len(values) else 0.0)
        if 2 <= len(within) <= 6 and within.max() < 0.2 * whole:
            return axis
    return None


def representative_runs(
    points: pd.DataFrame, metric: str, count: int, *, by: Sequence[str | None] = (), maximize: bool = False
) -> pd.DataFrame:
    """At most `count` runs, spread evenly over the ranks of a metric in every group, best and worst included."""
    keys = [key for key in by if key is not None]
    groups = [group for _, group in points.groupby(keys, sort=False, dropna=False)] if keys else [points]
    chosen = []
    for group in groups:
        share = max(count * len(group) // len(points), 1)
        ranks = np.linspace(0, len(group) - 1, min(share, len(group))).round().astype(int)
        chosen.append(group.iloc[_ranks(group[metric], maximize)[ranks]])
    return pd.concat(chosen)


def median_curves(histories: pd.DataFrame, groups: Sequence[str] = (), *, maximize: bool = False) -> pd.DataFrame:
    """The median of curves at every step that at least half of a group's runs recorded.

    Args:
        histories: Columns run_id, step, value and those of `groups`.
        groups: Columns to keep apart.
        maximize: True if more of the value is better.

    Returns:
        Columns of `groups`, step, value.
    """
    frame = histories.assign(value=_worst_if_not_finite(histories["value"], maximize))
    keys = list(groups)
    at = frame.groupby([*keys, "step"], sort=True, dropna=False)["value"].agg(value=_median, runs="size").reset_index()
    if keys:
        whole = frame.groupby(keys, dropna=False)["run_id"].nunique().rename("all").reset_index()
        at = at.merge(whole, on=keys)
    else:
        at["all"] = frame["run_id"].nunique()
    return at.loc[2 * at["runs"] >= at["all"], [*keys, "step", "value"]].reset_index(drop=True)


def _worst_if_not_finite(values: pd.Series, maximize: bool) -> pd.Series:
    values = values.astype(float)
    return values.where(np.isfinite(values), -np.inf if maximize else np.inf)


def _ranks(values: pd.Series, maximize: bool) -> np.ndarray:
    """The places of the values, the best first."""
    worst_last = _worst_if_not_finite(values, maximize).to_numpy()
    return np.argsort(-worst_last if maximize else worst_last, kind="stable")


def _quartile(share: float) -> Callable[[pd.Series], float]:
    """A quartile that is one of the values, as interpolating between a number and ∞ makes no sense."""
    return lambda values: float(np.quantile(values, share, method="inverted_cdf"))


def _median(values: pd.Series) -> float:
    ordered = np.sort(values.to_numpy())
    return float(ordered[(len(ordered) - 1) // 2] / 2 + ordered[len(ordered) // 2] / 2)
