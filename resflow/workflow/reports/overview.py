"""What a comparison consists of beside its figures: what is compared by what, and the best of it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from resflow.errors import InvalidInputError, nearest
from resflow.plots.labels import label_of, number_text, value_name, verdict_name
from resflow.workflow.goal import Goal
from resflow.workflow.reports.comparison import Comparison, load_sweep
from resflow.workflow.reports.figures import curves_figure, grid_figure, shown_axes, spread_figures, verdicts_figure
from resflow.workflow.reports.headline import headline, headline_lines
from resflow.workflow.reports.metrics import GAP, HELD_OUT, as_recorded, named_now
from resflow.workflow.reports.statistics import above_linear, best_runs
from resflow.workflow.ui_pages import run_page

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
    "shown_axes",
    "spread_figures",
    "summary",
    "towards",
    "verdicts_figure",
]

SMALLER_IS_BETTER = ("gap", "objective", "certificate", "norm")
"""How metrics of the library's end; of any other somebody must say which direction is better."""


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
    metric = named_now(comparison.metrics, metric)
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


def _check_recorded(comparison: Comparison, metric: str) -> None:
    points = comparison.points
    if metric in points and points[metric].notna().any():
        return
    if metric in points and metric in comparison.metrics:
        raise InvalidInputError(
            f"metric={metric!r} has no number in any of the {len(points)} finished runs of {comparison.name!r}, NaN or "
            "nothing: there is nothing to compare them by"
        )
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


def best_table(comparison: Comparison, *, count: int = 10, address: str = "") -> str:
    """The best runs as an HTML table whose names lead to their pages in MLflow's UI; "" if none is known to be best.

    Args:
        comparison: What is compared.
        count: How many.
        address: The UI's address, as http://127.0.0.1:5000; "" makes links relative to the UI.
    """
    if comparison.goal is None:
        return ""
    metric, points = comparison.goal.metric, comparison.points
    best = best_runs(points, metric, count, maximize=comparison.goal.maximize)
    run_names = comparison.run_names.set_axis(points["run_id"])
    extras = [GAP, "objective", as_recorded("gap_certificate"), HELD_OUT, as_recorded("partial_grad_norm")]
    verdict = ["verdict"] if best["verdict"].notna().any() else []
    columns = [metric, *verdict, *(name for name in extras if name in best and name != metric)]
    head = "".join(f"<th>{html.escape(label_of(name))}</th>" for name in ["run", *columns])
    rows = []
    for _, run in best.iterrows():
        page = html.escape(run_page(run["experiment_id"], run["run_id"], address))
        link = f'<a href="{page}" target="_blank">{html.escape(run_names[run["run_id"]])}</a>'
        cells = "".join(f"<td>{html.escape(_cell(run[name]))}</td>" for name in columns)
        rows.append(f"<tr><th>{link}</th>{cells}</tr>")
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


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "none"
    return number_text(value, 5) if isinstance(value, float) else verdict_name(str(value))
