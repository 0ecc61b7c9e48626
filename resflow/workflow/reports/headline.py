"""What came out of many runs, in a few lines: for the top of their report, for a sweep's run, and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from resflow.plots.labels import label_of, number_text, point_name, verdict_name, with_error
from resflow.workflow import names
from resflow.workflow.records import tagged
from resflow.workflow.reports.comparison import Comparison
from resflow.workflow.reports.metrics import GAP, HELD_OUT, as_recorded
from resflow.workflow.reports.statistics import above_linear, best_runs, is_above_linear, second_axis
from resflow.workflow.ui_pages import ABOVE_LINEAR, WORST_GAP, run_page, runs_page

__all__ = ["headline", "headline_lines"]

LISTED = 10
"""Runs above the linear predictor that are named one by one."""


class _Line(NamedTuple):
    """A run as it is listed."""

    run: pd.Series
    name: str
    value: str
    held_out: str
    verdict: str


def headline(comparison: Comparison, *, address: str = "") -> str:
    """What came out, in Markdown: how many runs are not above the best linear predictor, which are, worst and best.

    Args:
        comparison: What is compared.
        address: The address of MLflow's UI, to which the runs' names lead; "" for links as the UI itself understands.
    """
    blocks = []
    if shares := _shares(comparison):
        counted, _, each = shares.partition(": ")
        blocks.append(f"**{counted}**{': ' + each if each else ''}.")
    if above := _above(comparison):
        more = f" The first {LISTED} of {len(above)}; [MLflow lists all]({_filter_address(comparison, address)})."
        blocks += [f"Above it, the worst first.{more if len(above) > LISTED else ''}", _table(above[:LISTED], address)]
    ends = [
        f"The {which} by {label_of(metric)}: {_linked(line, address)} ({_values(line)})."
        for which, metric, line in _ends(comparison)
    ]
    return "\n\n".join([*blocks, *([" ".join(ends)] if ends else [])])


def headline_lines(comparison: Comparison) -> list[str]:
    """The same in plain lines, for a terminal."""
    lines = list(filter(None, [_shares(comparison)]))
    above = _above(comparison)
    lines += [said for line in above[:LISTED] for said in _plain("above", line)]
    lines += [f"        and {len(above) - LISTED} more"] * (len(above) > LISTED)
    return lines + [said for which, _, line in _ends(comparison) for said in _plain(which, line)]


def _shares(comparison: Comparison) -> str:
    """How many runs are at or below the best linear predictor, in all and apart; "" where none recorded its gap."""
    points = comparison.points
    if GAP not in points or not points[GAP].notna().any():
        return ""
    table = above_linear(points, by=second_axis(points, comparison.axes))
    below = table["runs"] - table["above"]
    axis = table.columns[0]
    shares = zip(table[axis], below, table["runs"], strict=True)
    named = [(label_of(point_name({axis: value})), number, runs) for value, number, runs in shares]
    each = [f"{name}{':' * name[-1].isdigit()} {number}/{runs}" for name, number, runs in named]
    said = f"{below.sum()} of {table['runs'].sum()} at or below the best linear predictor"
    return f"{said}{': ' + ', '.join(each) if len(each) > 1 else ''}"


def _above(comparison: Comparison) -> list[_Line]:
    """The runs above the best linear predictor, the worst first."""
    points = _named(comparison)
    if GAP not in points or not points[GAP].notna().any():
        return []
    above = points[is_above_linear(points[GAP])]
    return [_line(run, GAP) for _, run in best_runs(above, GAP, len(above)).iloc[::-1].iterrows()]


def _ends(comparison: Comparison) -> Iterator[tuple[str, str, _Line]]:
    """The worst and the best run by what is compared."""
    points, goal = _named(comparison), comparison.goal
    if goal is not None and len(points) > 1:
        ranked = best_runs(points, goal.metric, len(points), maximize=goal.maximize)
        for which, place in (("worst", -1), ("best", 0)):
            yield which, goal.metric, _line(ranked.iloc[place], goal.metric)


_NAME = "the run's name"  # no parameter has a space in its name


def _named(comparison: Comparison) -> pd.DataFrame:
    return comparison.points.assign(**{_NAME: comparison.run_names})


def _line(run: pd.Series, metric: str) -> _Line:
    held_out, error = (run.get(name, float("nan")) for name in (HELD_OUT, as_recorded(f"{HELD_OUT}_error")))
    text = "" if pd.isna(held_out) else number_text(held_out, 3) if pd.isna(error) else with_error(held_out, error)
    verdict = "" if run["verdict"] is None or pd.isna(run["verdict"]) else verdict_name(run["verdict"])
    value, text = (text, "") if metric == HELD_OUT and text else (number_text(run[metric]), text)
    return _Line(run, run[_NAME], value, text, verdict)


def _table(lines: list[_Line], address: str) -> str:
    """Runs as a table in Markdown, without the columns that none of them has anything in."""
    columns = {
        "run": [_linked(line, address) for line in lines],
        "gap": [line.value for line in lines],
        "held out": [line.held_out for line in lines],
        "verdict on its end": [line.verdict for line in lines],
    }
    given = {head: cells for head, cells in columns.items() if any(cells)}
    rows = [list(given), ["---"] * len(given), *zip(*given.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _linked(line: _Line, address: str) -> str:
    name = line.name.translate({ord(mark): f"\\{mark}" for mark in "\\[]*`$<|_"})
    return f"[{' '.join(name.split())}]({run_page(line.run['experiment_id'], line.run['run_id'], address)})"


def _values(line: _Line) -> str:
    return line.value + (f", held out {line.held_out}" if line.held_out else "")


def _plain(which: str, line: _Line) -> tuple[str, str]:
    verdict = f", {line.verdict}" if line.verdict else ""
    return f"{which:<7} {line.name}: {_values(line)}{verdict}", f"        run {line.run['run_id']}"


def _filter_address(comparison: Comparison, address: str) -> str:
    """Where MLflow's UI lists the runs above their linear predictor."""
    of_sweep = [tagged(names.SWEEP, comparison.name)] if comparison.kind == "sweep" else []
    condition = " and ".join([ABOVE_LINEAR, *of_sweep])
    return runs_page(comparison.experiment_id, address, condition=condition, by=WORST_GAP)
