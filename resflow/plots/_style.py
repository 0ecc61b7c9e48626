"""What the figures share: palette, the linear predictor's line, and axes with a title that states a finding."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["LINEAR", "LINESTYLES", "MARKERS", "PALETTE", "one_axes", "several_axes", "wrapped"]

PALETTE = sns.color_palette("colorblind")
LINEAR: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1.4}
LINESTYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")


def one_axes(title: str) -> tuple[Figure, Axes]:
    """A figure of one panel, its title at the left."""
    figure, (axes,) = several_axes(1, title="", width=6.8, height=4.0)
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def several_axes(
    panels: int, *, title: str, width: float = 10.5, height: float = 3.9, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side under one title."""
    with sns.axes_style("ticks"):
        figure, grid = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False, **options)
    sns.despine(figure)
    for axes in grid[0]:
        axes.grid(axis="y", color="0.9")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    plt.close(figure)
    return figure, list(grid[0])


def wrapped(title: str, width: float) -> str:
    """A title broken into lines that fit a figure of so many inches."""
    return "\n".join(textwrap.fill(line, int(12.5 * width)) for line in title.splitlines())
