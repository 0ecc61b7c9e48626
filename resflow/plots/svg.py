"""Figures as SVG: sharp on paper and on any screen, with their texts as text and their finding as title."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from resflow.plots.labels import number_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist

__all__ = ["figure_svg", "finding_of", "show_well"]

MOST_POINTS = 10_000
"""Points of one panel that are drawn one by one; more become a picture within its axes, or files grow endless."""

_DPI = 200


def show_well() -> None:
    """Let the notebook that runs this, if any does, show figures as SVG, and numbers of tables to four digits."""
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    if (shell := get_ipython()) is not None:
        pd.options.display.float_format = number_text
        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, figure_svg)


def figure_svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same figure."""
    for axes in figure.axes:
        artists: list[Artist] = [*axes.lines, *axes.collections]
        if sum(map(_points, artists)) > MOST_POINTS:
            for artist in artists:
                artist.set_rasterized(True)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "resflow"}):
        metadata = {"Title": finding_of(figure), "Date": None, "Creator": None}
        figure.savefig(text, format="svg", bbox_inches="tight", dpi=_DPI, metadata=metadata)
    return text.getvalue()


def finding_of(figure: Figure) -> str:
    """What the figure's title says, in one line; "" without one."""
    titles = [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes[:1])]
    return " ".join(next(filter(None, titles), "").split())


def _points(artist: Artist) -> int:
    if hasattr(artist, "get_xydata"):
        return len(artist.get_xydata())
    segments = artist.get_segments() if hasattr(artist, "get_segments") else []
    return len(artist.get_offsets()) + sum(map(len, segments)) if hasattr(artist, "get_offsets") else 0
