"""A metric over two axes at once, as a map whose cells say their values."""

from __future__ import annotations

from collections.abc import Collection

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from resflow.plots._style import several_axes, wrapped
from resflow.plots.drawn import tell
from resflow.plots.labels import label_of, number_text, value_name

__all__ = ["plot_grid"]


def plot_grid(
    medians: pd.DataFrame,
    best: tuple[int, int],
    alike: Collection[tuple[int, int]],
    metric: str,
    *,
    title: str,
    maximize: bool = False,
) -> Figure:
    """The median of a metric over two axes; the best cell has a frame, and those like it have ≈ before their value.

    Args:
        medians: A row a value of the one axis, a column a value of the other, both named; infinite where at least half
            of the runs have no finite value, NaN where there are none.
        best: The row and the column of the best cell.
        alike: Those of cells that are not told from it.
        metric: What the medians are of.
        title: What the figure shows.
        maximize: True if more of the metric is better.
    """
    rows, columns = medians.shape
    width = 6.8 if columns <= 6 else 8.6
    figure, (axes,) = several_axes(1, title="", width=width, height=1.5 + 0.45 * rows)
    axes.grid(visible=False)
    values = medians.to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    # one cell that is far worse than all others must not leave these without contrast
    first, third = np.quantile(finite, [0.25, 0.75])
    low, high = finite.min(), finite.max()
    if maximize:
        low = max(low, first - 3 * (third - first)) if third > first else low
    else:
        high = min(high, third + 3 * (third - first)) if third > first else high
    colors = mpl.colormaps["cividis" if maximize else "cividis_r"].with_extremes(bad="0.85")
    shown = np.where(np.isfinite(values), values, np.nan)
    image = axes.pcolormesh(shown, cmap=colors, vmin=low, vmax=high, edgecolors="white", linewidth=1.5)
    tell(image, values=values)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        red, green, blue, _ = image.to_rgba(value) if np.isfinite(value) else (0.85, 0.85, 0.85, 1.0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = ("≈ " if (row, column) in alike else "") + number_text(value, 3)
        weight = "bold" if (row, column) == best else "normal"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9.5, weight=weight,
                  color="white" if dark else "black")  # fmt: skip
    axes.add_patch(Rectangle((best[1], best[0]), 1, 1, fill=False, edgecolor="black", linewidth=2.6, clip_on=False))
    axes.set_xticks(np.arange(columns) + 0.5, map(value_name, medians.columns))
    axes.set_yticks(np.arange(rows) + 0.5, map(value_name, medians.index))
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set(xlabel=label_of(medians.columns.name), ylabel=label_of(medians.index.name))
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
    bar.set_label(f"median {label_of(metric).replace('linear predictor ', '')}", fontsize=9.5)
    axes.set_title(wrapped(title, width), loc="left", fontsize=11)
    return figure
