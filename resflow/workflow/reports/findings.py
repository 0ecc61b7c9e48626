"""What figures of many runs show, in one sentence each: computed, and so true of these runs and no others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from resflow.plots.labels import label_of, value_name, verdict_name
from resflow.workflow.reports.metrics import GAP, short_label
from resflow.workflow.reports.statistics import above_linear

__all__ = ["curves_finding", "share_finding", "spread_finding", "verdicts_finding"]


def share_finding(points: pd.DataFrame, gap: str = GAP, *, by: str | None = None) -> str:
    """How many runs end above the best linear predictor, apart for up to three values of `by`."""
    table = above_linear(points, gap, by=by)
    runs, above = int(table["runs"].sum()), int(table["above"].sum())
    if above == 0:
        return f"all {runs} runs end at or below the best linear predictor"
    if by is None or len(table) > 3:
        return f"{above} of {runs} runs end above the best linear predictor"
    rows = zip(table[by], table["above"], table["runs"], strict=True)
    return "above the best linear predictor at the end: " + ", ".join(
        f"{above} of {runs} with {value_name(value)}" for value, above, runs in rows
    )


def spread_finding(summary: pd.DataFrame, axis: str, metric: str) -> str:
    """Between which values the median lies along an axis; which of its differences are more than noise it does not say.

    Args:
        summary: Of `resflow.workflow.reports.statistics.spread` along that axis, with nothing kept apart.
        axis: The axis.
        metric: What was summarised.
    """
    what = f"median {short_label(metric)}"
    shown = _signed if metric.endswith("gap") else _unsigned
    if len(summary) == 1:
        row = summary.iloc[0]
        return f"{what} {shown(row['median'])}, from {shown(row['low'])} to {shown(row['high'])}"
    low, high = summary["median"].min(), summary["median"].max()
    if low == high:
        return f"{what} is {shown(low)} whatever the {label_of(axis)}"
    return f"{what} between {shown(low)} and {shown(high)} along {label_of(axis)}"


def curves_finding(histories: pd.DataFrame, metric: str, levels: pd.Series) -> str:
    """By which step half of the runs are below their best linear predictor, and how many are at the end.

    Args:
        histories: Columns run_id, step, value.
        metric: What the curves show: the objective or the gap.
        levels: The best linear predictor's level of every run, indexed by run_id.
    """
    below = histories.assign(below=histories["value"] < histories["run_id"].map(levels))
    last = below.groupby("run_id")["below"].last()
    ever_since = below[~below["below"]].groupby("run_id")["step"].max()
    steps = below.groupby("run_id")["step"].apply(np.array)
    passed = sorted(float(at[at > ever_since.get(run, -1)].min()) for run, at in steps.items() if last[run])
    done = f"{len(passed)} of {len(last)} curves end below the best linear predictor"
    if 2 * len(passed) < len(last) or not passed:
        return done
    return f"{done}, half of all curves from step {passed[(len(last) + 1) // 2 - 1]:.0f} on"


def verdicts_finding(counts: pd.DataFrame) -> str:
    """How many runs have which verdict, the commonest first.

    Args:
        counts: Columns verdict and runs.
    """
    totals = counts.groupby("verdict", sort=False)["runs"].sum().sort_values(ascending=False)
    parts = [f"{runs} {verdict_name(str(name)).replace(',', '')}" for name, runs in totals.items()]
    return f"of {totals.sum()} runs " + ", ".join(parts)


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−") if np.isfinite(value) else "not finite"


def _unsigned(value: float) -> str:
    """A value of what is no difference."""
    return _signed(value).removeprefix("+")
