"""The data that a figure shows, read off the figure itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["drawn_data"]


class _Drawn(NamedTuple):
    series: str
    points: Any


def drawn_data(figure: Figure) -> pd.DataFrame:
    """What the lines, points and bars of a figure stand for, one row a point, panel by panel.

    Lines that mark a level, such as the linear predictor's, and bands are left out.

    Returns:
        Columns panel (if there are several), series, and x and y under the names of their axes if all panels share
        them. Where an axis has names in place of numbers, so has its column.
    """
    frames = []
    for number, axes in enumerate(figure.axes, start=1):
        panel = axes.get_title(loc="left") or axes.get_title() or str(number)
        for series, points in _drawn(axes):
            values: np.ndarray = np.ma.filled(np.ma.asarray(points, dtype=float), np.nan).reshape(-1, 2)
            x, y = _values(values[:, 0], axes.xaxis), _values(values[:, 1], axes.yaxis)
            names = {"panel": " ".join(panel.split()), "series": " ".join(series.split())}
            frames.append(pd.DataFrame({**names, "x": x, "y": y}))
    columns = ["panel", "series", "x", "y"]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    for name, axis_name in (("x", "xaxis"), ("y", "yaxis")):
        labels = {" ".join(getattr(axes, axis_name).get_label_text().split()) for axes in figure.axes} - {""}
        if len(labels) == 1 and not labels & set(columns):
            table = table.rename(columns={name: labels.pop()})
    return table if len(figure.axes) > 1 else table.drop(columns="panel")


def _drawn(axes: Axes) -> Iterator[_Drawn]:
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
            yield _Drawn(str(container.get_label()), [((box.x0 + box.x1) / 2, box.y1) for box in boxes])
    for line in axes.lines:
        if line not in apart and line.get_transform() == axes.transData and np.size(line.get_xydata()):
            yield _Drawn(_name(named.get(line, str(line.get_label())), line.get_color(), axes), line.get_xydata())
    for collection in axes.collections:
        label = named.get(collection, str(collection.get_label()))
        if isinstance(collection, LineCollection) and collection.get_transform() == axes.transData:
            for place, segment in enumerate(collection.get_segments()):
                colors = collection.get_colors()
                yield _Drawn(_name(label, colors[place % len(colors)], axes), segment)
        elif isinstance(collection, PathCollection) and np.size(collection.get_offsets()):
            colors = collection.get_facecolor()
            yield _Drawn(_name(label, colors[0] if len(colors) else "none", axes), collection.get_offsets())


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
    """The values along an axis, or the names of the nearest ticks where names stand at 0, 1, 2, ..."""
    places = np.asarray(axis.get_majorticklocs())
    if not isinstance(axis.get_major_locator(), FixedLocator | StrCategoryLocator) or not len(places):
        return values
    names = axis.get_major_formatter().format_ticks(list(places))
    if not np.array_equal(places, np.arange(len(places))) or names == [str(place) for place in range(len(places))]:
        return values
    nearest = np.abs(np.nan_to_num(values)[:, None] - places[None, :]).argmin(axis=1)
    return np.array(names, dtype=object)[nearest]
