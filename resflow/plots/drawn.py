"""The data that a figure shows, read off the figure itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["Series", "drawn_data", "drawn_series", "tell"]


class Series(NamedTuple):
    """Something that is drawn in one panel, point by point.

    Attributes:
        name: What a legend calls it; "" if nothing does.
        x: Where the points are along the axis, by the names where the axis has names in place of numbers.
        y: Likewise.
        values: What their colors stand for; None if they stand for nothing.
        points: What each point is; None if nobody told.
        artist: What draws it; None of bars, of which there are several.
    """

    name: str
    x: Any
    y: Any
    values: Any
    points: Sequence[str] | None
    artist: Artist | None


class _Told(NamedTuple):
    points: Sequence[str] | None
    x: Any
    values: Any


_TOLD: WeakKeyDictionary[Artist, _Told] = WeakKeyDictionary()
_NOTHING = _Told(None, None, None)


def tell(artist: Artist, points: Sequence[str] | None = None, *, x: Any = None, values: Any = None) -> None:
    """Say of something drawn what cannot be read off it.

    Args:
        artist: What was drawn.
        points: What each point is, such as a run.
        x: Where they belong along the axis, if they were moved aside.
        values: What their colors stand for, if that is more than colors can show.
    """
    _TOLD[artist] = _Told(points, x, values)


def drawn_data(figure: Figure) -> pd.DataFrame:
    """What the lines, points, bars and maps of a figure stand for, one row a point, panel by panel.

    Lines that mark a level, such as the linear predictor's, and bands are left out.

    Returns:
        Columns panel (if there are several), series, point (if it was told what points are), x and y under the names of
        their axes if all panels share them, and of maps the value under the name of its color bar. Where an axis has
        names in place of numbers, so has its column.
    """
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    frames = []
    colored = "value"
    for number, axes in enumerate(panels, start=1):
        panel = axes.get_title(loc="left") or axes.get_title() or str(number)
        for series in drawn_series(axes):
            columns = {"panel": " ".join(panel.split()), "series": series.name, "x": series.x, "y": series.y}
            columns |= {} if series.points is None else {"point": series.points}
            if series.values is not None:
                columns["value"] = series.values
                bar = getattr(series.artist, "colorbar", None)
                colored = (bar.ax.get_ylabel() if bar else "") or colored
            frames.append(pd.DataFrame(columns))
    order = ["panel", "series", "point", "x", "y", "value"]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["panel", "series", "x", "y"])
    table = table[[column for column in order if column in table]]
    new = {"value": colored}
    for name, axis_name in (("x", "xaxis"), ("y", "yaxis")):
        labels = {" ".join(getattr(axes, axis_name).get_label_text().split()) for axes in panels} - {""}
        if len(labels) == 1 and not labels & set(order):
            new[name] = labels.pop()
    table = table.rename(columns=new)
    return table if len(panels) > 1 else table.drop(columns="panel")


def drawn_series(axes: Axes) -> Iterator[Series]:
    """The series of one panel, in the order they are drawn in."""
    for name, drawn, values, artist in _drawn(axes):
        points: np.ndarray = np.ma.filled(np.ma.asarray(drawn, dtype=float), np.nan).reshape(-1, 2)
        told = _NOTHING if artist is None else _TOLD.get(artist, _NOTHING)
        x, y = _values(points[:, 0], axes.xaxis), _values(points[:, 1], axes.yaxis)
        x = told.x if told.x is not None and x.dtype != object else x
        values = values if told.values is None else np.ravel(told.values)
        yield Series(" ".join(name.split()), x, y, values, told.points, artist)


def _drawn(axes: Axes) -> Iterator[tuple[str, Any, Any, Artist | None]]:
    """Names, points, values and artists."""
    named: dict[Any, str] = {}
    apart: set[Any] = set()
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            line, caps, bars = container.lines
            label = str(container.get_label())
            named.update({line: label} if line else {})
            named.update({bar: f"{label}, ends of its bars" for bar in bars})
            apart |= set(caps)
        elif isinstance(container, BarContainer):
            boxes = [patch.get_bbox() for patch in container.patches]
            yield str(container.get_label()), [((box.x0 + box.x1) / 2, box.y1) for box in boxes], None, None
    for line in axes.lines:
        if line not in apart and line.get_transform() == axes.transData and np.size(line.get_xydata()):
            name = _name(named.get(line, str(line.get_label())), line.get_color(), axes)
            yield name, line.get_xydata(), None, line
    for collection in axes.collections:
        label = named.get(collection, str(collection.get_label()))
        if isinstance(collection, LineCollection) and collection.get_transform() == axes.transData:
            for place, segment in enumerate(collection.get_segments()):
                colors = collection.get_colors()
                yield _name(label, colors[place % len(colors)], axes), segment, None, collection
        elif isinstance(collection, PathCollection) and np.size(collection.get_offsets()):
            colors = collection.get_facecolor()
            name = _name(label, colors[0] if len(colors) else "none", axes)
            yield name, collection.get_offsets(), None, collection
        elif isinstance(collection, QuadMesh):
            corners = np.asarray(collection.get_coordinates())
            centers = (corners[:-1, :-1] + corners[1:, 1:]) / 2
            yield "", centers, np.ma.filled(np.ma.asarray(collection.get_array(), float), np.nan).ravel(), collection


def _name(label: Any, color: Any, axes: Axes) -> str:
    """What a legend calls something drawn: by its label, or else by its color."""
    if not str(label).startswith("_"):
        return str(label)
    legends = [legend for legend in (axes.get_legend(), *axes.figure.legends) if legend is not None]
    for legend in legends:
        handles: list[Any] = list(legend.legend_handles)
        for handle, text in zip(handles, legend.get_texts(), strict=True):
            shown = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
            if np.ndim(shown) < 2 and str(color) != "none" and np.allclose(to_rgb(shown), to_rgb(color), atol=1e-6):
                return text.get_text()
    return ""


def _values(values: np.ndarray, axis: Axis) -> Any:
    """The values along an axis, or the names of the nearest ticks where names stand side by side, one apart."""
    places = np.asarray(axis.get_majorticklocs())
    if not isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator) or not len(places):
        return values
    names = axis.get_major_formatter().format_ticks(list(places))
    if places[0] not in (0.0, 0.5) or not np.array_equal(places - places[0], np.arange(len(places))):
        return values
    if names == [str(place) for place in range(len(places))] and places[0] == 0:
        return values
    nearest = np.abs(np.nan_to_num(values)[:, None] - places[None, :]).argmin(axis=1)
    return np.array(names, dtype=object)[nearest]
