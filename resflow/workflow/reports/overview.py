"""The figures and the table that a comparison consists of, for its notebook and for a sweep's parent run."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resflow.errors import InvalidInputError, nearest
from resflow.plots.comparison import plot_curves, plot_gap_against, plot_verdicts
from resflow.plots.grid import plot_grid
from resflow.plots.labels import label_of, number_text, value_name
from resflow.workflow.goal import Goal
from resflow.workflow.reports.comparison import Comparison, load_sweep, read_histories
from resflow.workflow.reports.effects import effect_title, largest_difference
from resflow.workflow.reports.findings import (
    curves_finding,
    share_finding,
    spread_finding,
    verdicts_finding,
)
from resflow.workflow.reports.grid import grid_title, strongest_grid
from resflow.workflow.reports.headline import headline, headline_lines, run_address
from resflow.workflow.reports.metrics import GAP, HELD_OUT, LEVEL, as_recorded
from resflow.workflow.reports.statistics import (
    above_linear,
    best_runs,
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

__all__ = [
    "GAP",
    "attach_overview",
    "axes_table",
    "best_table",
    "curves_figure",
    "grid_figure",
    "spread_figures",
    "summary",
    "towards",
    "verdicts_figure",
]

SMALLER_IS_BETTER = ("gap", "objective", "certificate", "norm")
"""How metrics of the library's end; of any other somebody must say which direction is better."""

SHOWN_AXES = 6
"""More axes than these make a comparison nobody reads: those with most values are shown."""


def towards(comparison: Comparison, metric: str = "", direction: str = "") -> Comparison:
    """The comparison by a metric, where another one is wanted than its own.

    Args:
        comparison: What is compared.
        metric: The metric; "" for the comparison's own.
        direction: minimize or maximize; "" where it is known of the metric.

    Raises:
        InvalidInputError: If no run has finished, none that did recorded the metric, or its direction isn't known.
    """
    points, goal = comparison.points, comparison.goal
    metric = _named_now(comparison, metric)
    if points.empty:
        counts = ", ".join(f"{count} {status}" for status, count in comparison.statuses.items()) or "no runs"
        raise InvalidInputError(
            f"{comparison.kind} {comparison.name!r} has no finished runs yet ({counts}): there is nothing to compare"
        )
    if direction not in ("", "minimize", "maximize"):
        raise InvalidInputError(f"direction={direction!r} must be minimize or maximize")
    if metric and not (goal and goal.metric == metric):
        goal = Goal(metric)
        _check_recorded(comparison, metric)
        if not direction and not metric.endswith(SMALLER_IS_BETTER):
            raise InvalidInputError(f"metric={metric!r}: is more of it better? Say direction: maximize or minimize")
    if goal is None:
        if direction:
            raise InvalidInputError(f"direction={direction!r} says what is better of a metric: name the metric, too")
        return comparison
    _check_recorded(comparison, goal.metric)
    return replace(comparison, goal=Goal(goal.metric, direction == "maximize") if direction else goal)


def _named_now(comparison: Comparison, metric: str) -> str:
    """The metric, also where it is called by the name that it had in version 0.1.0."""
    now = as_recorded(metric)
    return now if metric not in comparison.metrics and now in comparison.metrics else metric


def _check_recorded(comparison: Comparison, metric: str) -> None:
    points = comparison.points
    if metric not in points or points[metric].isna().all():
        known = [name for name in comparison.metrics if comparison.metrics[name].notna().any()]
        raise InvalidInputError(
            f"metric={metric!r} was recorded by no finished run of {comparison.name!r}: "
            f"nearest are {', '.join(nearest(metric, known)) or 'none: they recorded nothing'}"
        )


def summary(comparison: Comparison) -> str:
    """What was compared, how many runs it is, and the best value, as a sentence in Markdown."""
    points, counts, goal = comparison.points, comparison.statuses, comparison.goal
    others = {
        "FAILED": "failed",
        "KILLED": "cut off and not done again",
        "RUNNING": "still running",
        "SCHEDULED": "scheduled",
        "superseded": "superseded by a later run of the same point",
    }
    rest = [f"{counts[status]} {words}" for status, words in others.items() if counts.get(status)]
    if goal is None:
        said = "Which of them is best is not known: name a metric and a direction, here or in the sweep's file"
    else:
        best = best_runs(points, goal.metric, 1, maximize=goal.maximize).iloc[0][goal.metric]
        value = f"`{goal.metric}` {number_text(best, 5)}" if np.isfinite(best) else f"no finite `{goal.metric}`"
        said = f"The best of them has {value}" + ", the largest" * goal.maximize
    return (
        f"The {comparison.kind} **{comparison.name}** has **{len(points)} finished run{'s' * (len(points) != 1)}**"
        f"{' (not counted: ' + ', '.join(rest) + ')' if rest else ''}. {said}."
    )


def axes_table(comparison: Comparison) -> pd.DataFrame:
    """What varies: every axis with its number of values, and the values themselves or their range."""
    points = comparison.points
    rows = {}
    for axis in comparison.axes:
        values = list(dict.fromkeys(points[axis]))
        if pd.api.types.is_numeric_dtype(points[axis]):
            values.sort()
        shown = ", ".join(map(value_name, values))
        if len(values) > 8 or len(shown) > 100:
            shown = f"{value_name(values[0])} to {value_name(values[-1])}"
        rows[label_of(axis)] = {"values": len(values), "which": shown}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["values", "which"]).rename_axis("axis")


def spread_figures(comparison: Comparison) -> dict[str, Figure]:
    """The metric against each axis but seeds, by the axis's name; against nothing, if seeds are all that varies."""
    points, goal = comparison.points, comparison.goal
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
            points, table, axis, metric, title=_sentence(title), by=by, level=level, maximize=maximize
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
    curve = _named_now(comparison, curve) or ("objective" if LEVEL in points else goal.metric if goal else "")
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


def best_table(comparison: Comparison, *, count: int = 10, address: str = "") -> str:
    """The best runs as an HTML table whose names lead to their pages in MLflow's UI; "" if none is known to be best.

    Args:
        comparison: What is compared.
        count: How many.
        address: The UI's address, as http://127.0.0.1:5000; "" makes links relative to the UI.
    """
    if comparison.goal is None:
        return ""
    metric = comparison.goal.metric
    best = best_runs(comparison.points, metric, count, maximize=comparison.goal.maximize)
    extras = [GAP, "objective", as_recorded("gap_certificate"), HELD_OUT, as_recorded("partial_grad_norm")]
    verdict = ["verdict"] if best["verdict"].notna().any() else []
    columns = [*comparison.axes, metric, *verdict, *(name for name in extras if name in best and name != metric)]
    head = "".join(f"<th>{html.escape(label_of(name))}</th>" for name in ["run", *columns])
    rows = []
    for _, run in best.iterrows():
        link = (
            f'<a href="{html.escape(run_address(run, address))}" target="_blank">{html.escape(run["run_id"][:8])}</a>'
        )
        cells = "".join(f"<td>{html.escape(_cell(run[name]))}</td>" for name in columns)
        rows.append(f"<tr><td>{link}</td>{cells}</tr>")
    body = "".join(rows)
    return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def attach_overview(client: MlflowClient, parent_id: str) -> list[str]:
    """Describe a sweep's outcome on its parent run, and attach the overview figures to it.

    Returns:
        The outcome in lines for a terminal; none while no run has finished with what they are compared by.
    """
    from resflow.workflow.records import Run

    parent = Run(client, parent_id)
    comparison = load_sweep(client, parent.stored)
    try:
        comparison = towards(comparison)
    except InvalidInputError:  # of a sweep without results there is nothing to draw
        return []
    if said := headline(comparison):
        parent.describe(said)
    if GAP in comparison.points:
        parent.log_metrics({"points_above_linear": int(above_linear(comparison.points)["above"].sum())})
    file = re.sub(r"[^\w.-]+", "-", comparison.goal.metric) if comparison.goal else ""
    figures: dict[str, Figure | None] = {
        f"{file}_against_{axis}": figure for axis, figure in spread_figures(comparison).items()
    }
    figures["curves"] = curves_figure(client, comparison)
    figures["verdicts"] = verdicts_figure(comparison)
    figures["two_axes"] = grid_figure(comparison)
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in drawn.items():
        parent.log_figure(figure, name)
    return headline_lines(comparison)


def _sentence(text: str) -> str:
    return "\n".join(line[:1].upper() + line[1:] for line in text.splitlines())


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "none"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
