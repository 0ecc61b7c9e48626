"""What each point of a figure is, for pages on which a reader can point at it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D

from resflow.plots.drawn import drawn_series
from resflow.plots.groups import group_of
from resflow.plots.labels import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_TOLD", "Hover", "hovers_of", "with_titles"]

MOST_TOLD = 400
"""Points of one figure that say what they are; of more nobody points at a certain one, and pages grow."""

_MARK = re.compile(r'<use\b[^>]* x="([-\d.]+)" y="([-\d.]+)"[^>]*?(/>)')


class Hover(NamedTuple):
    """What the points of one group of an SVG say.

    Attributes:
        texts: Of each point, several lines.
        places: Where it is on the paper, in any units, upward, shape (n, 2).
    """

    texts: list[str]
    places: np.ndarray


def hovers_of(figure: Figure) -> dict[str, Hover]:
    """What the points of a figure say, by the ids that their groups get in its SVG; nothing if there are too many."""
    found: dict[str, Hover] = {}
    told = 0
    for axes in figure.axes:
        for series in drawn_series(axes):
            if not (artist := _marked(series.artist)):
                continue
            places = artist.get_offsets() if isinstance(artist, PathCollection) else artist.get_xydata()
            places = axes.transData.transform(np.ma.filled(np.ma.asarray(places, float), np.nan))
            kept = np.isfinite(places).all(axis=1)
            if (told := told + int(kept.sum())) > MOST_TOLD:
                return {}
            lines = list(_lines(axes, series))
            texts = ["\n".join(filter(None, line)) for line, shown in zip(lines, kept, strict=True) if shown]
            if artist.get_gid() is None:
                artist.set_gid(f"points-{len(found) + 1}")
            found[str(artist.get_gid())] = Hover(texts, places[kept])
    return found


def with_titles(svg: str, hovers: Mapping[str, Hover]) -> str:
    """The SVG with a title in each of its points, but for groups whose points are not found where they should be."""
    for name, hover in hovers.items():
        group = group_of(svg, name)
        marks = list(_MARK.finditer(group))
        places = np.array([(float(mark[1]), -float(mark[2])) for mark in marks]).reshape(-1, 2)
        if not marks or len(marks) != len(hover.texts) or not _alike(places, hover.places):
            continue
        svg = svg.replace(group, _titled(group, marks, hover.texts))
    return svg


def _titled(group: str, marks: Sequence[re.Match[str]], texts: Sequence[str]) -> str:
    parts, place = [], 0
    for mark, text in zip(marks, texts, strict=True):
        title = f"><title>{escape(text, quote=False)}</title></use>"
        parts += [group[place : mark.start(3)], title]
        place = mark.end()
    return "".join(parts) + group[place:]


def _marked(artist: Any) -> PathCollection | Line2D | None:
    """The artist itself if it draws a mark at every point."""
    if isinstance(artist, PathCollection):
        return artist
    if isinstance(artist, Line2D) and artist.get_marker() not in (None, "", " ", "None", "none"):
        return artist if artist.get_markevery() is None else None
    return None


def _lines(axes: Axes, series: Any) -> Iterator[tuple[str, str, str]]:
    labels = [" ".join(axis.get_label_text().split()) for axis in (axes.xaxis, axes.yaxis)]
    for place, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        name = series.points[place] if series.points is not None else series.name
        yield name, *(
            f"{label}: {_shown(value)}" if label else _shown(value)
            for label, value in zip(labels, (x, y), strict=True)
        )  # fmt: skip


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else number_text(float(value))


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether points lie alike on two papers, which may be of different sizes."""
    shapes = []
    for places in (one, other):
        spread = np.ptp(places, axis=0)
        shapes.append((places - places.min(axis=0)) / np.where(spread > 0, spread, 1.0))
    return bool(np.allclose(shapes[0], shapes[1], atol=5e-3))
