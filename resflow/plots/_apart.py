"""What figures of many runs share: groups told apart by color, and a legend below."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resflow.plots._style import PALETTE, several_axes, wrapped
from resflow.plots.labels import value_name

__all__ = ["DASHES", "LABELS", "LEVEL_LABEL", "groups_of", "labelled_axes", "legend_below"]

DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
LABELS = {
    "linear_predictor_gap": "objective minus best linear objective",
    "objective": "objective (mean loss per sample)",
}
LEVEL_LABEL = "best linear predictor"


def groups_of(frame: pd.DataFrame, by: str | None) -> dict[str, Any]:
    """Colours by the values of a column, in ascending order if they are numbers, in that of categories if there are."""
    if by is None:
        return {"all runs": PALETTE[0]}
    ordered = isinstance(frame[by].dtype, pd.CategoricalDtype)
    values = list(frame[by].cat.categories if ordered else frame[by].dropna().unique())
    if pd.api.types.is_numeric_dtype(frame[by]):
        return {value_name(value): color for value, color in zip(sorted(values), _ordered(len(values)), strict=True)}
    return dict(zip(map(value_name, values), sns.color_palette("colorblind", len(values)), strict=True))


def _ordered(count: int) -> list[Any]:
    return list(sns.color_palette("viridis", count + 1)[:count])  # the last of them is too pale on white


def legend_below(*panels: Axes, title: str | None) -> None:
    """Below the figure, what any of its panels has a label for, the best linear predictor last."""
    figure = panels[0].figure
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if LEVEL_LABEL in handles:
        handles[LEVEL_LABEL] = handles.pop(LEVEL_LABEL)
    figure.legend(
        handles.values(),
        handles.keys(),
        title=title,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )


def labelled_axes(
    title: str, *, width: float, height: float = 4.4, broken_at: float | None = None
) -> tuple[Figure, Axes]:
    figure, (axes,) = several_axes(1, title="", width=width, height=height)
    axes.set_title(wrapped(title, broken_at or width), loc="left", fontsize=11)
    return figure, axes
