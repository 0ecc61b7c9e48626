"""The two axes of a comparison that its metric depends on most, and the best of their cells with those like it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from resflow.plots.labels import label_of, number_text, value_name
from resflow.workflow.reports.effects import cells_of, difference
from resflow.workflow.reports.metrics import short_label
from resflow.workflow.reports.statistics import binned, coded, moments

__all__ = ["Grid", "grid_title", "strongest_grid"]

_CELL = "the cell"  # no parameter has a space in its name


class Grid(NamedTuple):
    """A metric over two axes.

    Attributes:
        medians: A row a value of the one axis, a column a value of the other; both have the names of their axes.
        best: The row and the column of the best median.
        alike: Those of other cells whose runs the spread of seeds does not tell from the best's.
    """

    medians: pd.DataFrame
    best: tuple[int, int]
    alike: frozenset[tuple[int, int]]


def strongest_grid(
    points: pd.DataFrame, shown: Sequence[str], axes: Sequence[str], metric: str, *, maximize: bool = False
) -> Grid | None:
    """The grid of the two axes between whose pairs of values the ranks of the runs vary most.

    Args:
        points: One row a run.
        shown: The axes to choose from, at least two.
        axes: All axes, seeds among them.
        metric: The metric.
        maximize: True if more of the metric is better.

    Returns:
        The grid; None if no cell has a finite median.
    """
    values = points[metric].astype(float)
    ranks = values.where(np.isfinite(values)).rank(ascending=not maximize, na_option="bottom")
    places = pd.DataFrame({axis: binned(points[axis]) for axis in shown})
    one, other = max(
        combinations(shown, 2),
        key=lambda pair: ranks.groupby([places[axis] for axis in pair], dropna=False).transform("mean").var(),
    )
    if places[one].nunique(dropna=False) > places[other].nunique(dropna=False):
        one, other = other, one
    (rows, indices), (columns, names) = (coded(places[axis]) for axis in (one, other))
    table = {place: moments(group, maximize=maximize).median for place, group in values.groupby([rows, columns])}
    medians = pd.DataFrame(np.nan, pd.Index(indices, name=one), pd.Index(names, name=other))
    for (row, column), median in table.items():
        medians.iloc[row, column] = median
    finite = np.where(np.isfinite(medians), medians, np.nan)
    if np.isnan(finite).all():
        return None
    best = np.unravel_index(np.nanargmax(finite) if maximize else np.nanargmin(finite), finite.shape)
    chosen = int(best[0]), int(best[1])
    cells = cells_of(points.assign(**{_CELL: rows * len(names) + columns}), _CELL,
                     [*(axis for axis in axes if axis not in (one, other)), _CELL], metric)  # fmt: skip
    number = chosen[0] * len(names) + chosen[1]
    alike = set()
    for row, column in (place for place, median in table.items() if np.isfinite(median) and place != chosen):
        found = difference(cells, number, row * len(names) + column, among=len(table) - 1)
        if found is None or not found.is_told:
            alike.add((int(row), int(column)))
    return Grid(medians, chosen, frozenset(alike))


def grid_title(grid: Grid, metric: str, *, maximize: bool = False) -> str:
    """Which cell is best, and from how many others the spread of seeds does not tell it."""
    row, column = grid.best
    at = ", ".join(
        f"{label_of(str(axis.name))} {value_name(axis[place])}"
        for axis, place in ((grid.medians.index, row), (grid.medians.columns, column))
    )
    value = number_text(grid.medians.iloc[row, column], 3)
    best = f"median {short_label(metric)} {'highest' if maximize else 'lowest'} at {at} ({value})"
    others = int(np.isfinite(grid.medians).to_numpy().sum()) - 1
    if not grid.alike:
        return best if not others else f"{best}, told from all {others} others by the spread of seeds"
    return f"{best}, not told from {len(grid.alike)} of {others} others by the spread of seeds"
