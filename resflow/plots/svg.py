"""Figures as SVG, with their texts as text, their finding as title, points that say what they are, and CSV beside."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from resflow.plots.drawn import drawn_data
from resflow.plots.groups import FINDING
from resflow.plots.hover import hovers_of, with_titles
from resflow.plots.labels import number_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.text import Text

__all__ = ["figure_svg", "finding_of", "show_well"]

MOST_POINTS = 10_000
"""Points of one panel that are drawn one by one; more become a picture within its axes, or files grow endless."""

MOST_ROWS = 5_000
"""Of a figure's data or of a table, beside it as CSV; longer ones are for files of their own."""

_DPI = 200


def show_well() -> None:
    """Let the notebook that runs this, if any does, show figures as SVG, and numbers of tables to four digits.

    With both go their data as CSV, in full precision, for whoever shows the notebook.
    """
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    if (shell := get_ipython()) is not None:
        pd.options.display.float_format = number_text
        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, figure_svg)
        beside = shell.display_formatter.mimebundle_formatter
        beside.for_type(Figure, lambda figure: _csv(drawn_data(figure)))
        beside.for_type(pd.DataFrame, _csv)


def figure_svg(figure: Figure) -> str:
    """The figure as SVG, the same text for the same figure, in which each of a few hundred points says what it is."""
    for axes in figure.axes:
        artists: list[Artist] = [*axes.lines, *axes.collections]
        if sum(map(_points, artists)) > MOST_POINTS:
            for artist in artists:
                artist.set_rasterized(True)
    if (title := next((each for each in _titles(figure) if each.get_text()), None)) is not None:
        title.set_gid(FINDING)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "resflow"}):
        metadata = {"Title": finding_of(figure), "Date": None, "Creator": None}
        hovers = hovers_of(figure)
        with _laid_out(figure) as cut:
            figure.savefig(text, format="svg", bbox_inches=cut, dpi=_DPI, metadata=metadata)
    return with_titles(text.getvalue(), hovers)


@contextmanager
def _laid_out(figure: Figure) -> Iterator[str | None]:
    """Hold a figure to its layout, so that it is computed once, and yield what `savefig` is to cut the figure to.

    A layout leaves nothing to be cut off.
    """
    if (layout := figure.get_layout_engine()) is None:
        yield "tight"
        return
    layout.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield None
    finally:
        figure.set_layout_engine(layout)
    figure.stale = False  # what saving changed is the resolution, which it set back: the layout holds


def finding_of(figure: Figure) -> str:
    """What the figure's title says, in one line; "" without one."""
    return " ".join(next((title.get_text() for title in _titles(figure) if title.get_text()), "").split())


def _titles(figure: Figure) -> list[Text]:
    whole = figure._suptitle  # type: ignore[attr-defined]  # matplotlib gives its text away, not the artist
    return [title for title in (whole, *(axes._left_title for axes in figure.axes[:1])) if title is not None]  # type: ignore[attr-defined]


def _csv(table: pd.DataFrame) -> dict[str, str]:
    says_something = not isinstance(table.index, pd.RangeIndex)
    return {"text/csv": table.to_csv(index=says_something)} if 0 < len(table) <= MOST_ROWS else {}


def _points(artist: Artist) -> int:
    if hasattr(artist, "get_xydata"):
        return len(artist.get_xydata())
    segments = artist.get_segments() if hasattr(artist, "get_segments") else []
    return len(artist.get_offsets()) + sum(map(len, segments)) if hasattr(artist, "get_offsets") else 0
