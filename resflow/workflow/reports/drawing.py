"""A figure of a notebook as a picture of its report: its caption, its size, and its data."""

from __future__ import annotations

import base64
import re
from html import unescape
from typing import NamedTuple

from markupsafe import Markup
from nbformat import NotebookNode

from resflow.plots.groups import FINDING, group_of
from resflow.plots.labels import with_signs
from resflow.workflow.reports.inline_svg import inline_svg
from resflow.workflow.reports.markdown import markdown

__all__ = ["Drawing", "drawing", "link_to"]


class Drawing(NamedTuple):
    """A figure.

    Attributes:
        inline: The figure itself, where it can be a part of the page; else "".
        source: Its address.
        finding: What it shows by its own words; "" if it says nothing.
        width: In pixels; None where that is unknown.
    """

    inline: Markup
    source: str
    finding: str
    width: float | None


def drawing(output: NotebookNode, mime: str, *, number: int, described: str) -> Drawing:
    """The picture in an output, without the title that its caption repeats.

    Args:
        output: The output.
        mime: The type of the picture.
        number: Which figure of the page it is.
        described: What to say of one that does not say itself what it shows.
    """
    data, metadata = str(output["data"][mime]), output.get("metadata", {})
    own = metadata.get(mime) if isinstance(metadata.get(mime), dict) else {}
    width, title = own.get("width"), ""
    if mime == "image/svg+xml":
        root = re.search(r"<svg\b[^>]*?\bwidth=\"([0-9.]+)(pt|px)?\"", data)
        width = float(root[1]) * (4 / 3 if root[2] == "pt" else 1) if root else None
        found = re.search(r"<(?:dc:)?title>([^<]*)</", data)
        title = with_signs(str(markdown(unescape(found[1])).striptags())) if found else ""
        data = _without_title(data)
        encoded = base64.b64encode(data.encode()).decode()
    else:
        encoded = data.replace("\n", "")
    finding = str(own.get("alt") or metadata.get("alt") or title)
    known = width if isinstance(width, int | float) else None
    inline = Markup("")
    if mime == "image/svg+xml" and known:
        inline = inline_svg(data, prefix=f"figure-{number}-", described=finding or described)
    return Drawing(inline, f"data:{mime};base64,{encoded}", finding, known)


def link_to(csv: str) -> str:
    """An address that brings along the table it leads to."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv.encode(errors="replace")).decode()


def _without_title(svg: str) -> str:
    """A figure cut off below its title, where that stands at its top."""
    title = group_of(svg, FINDING)
    box = re.search(r'<svg\b[^>]*?height="([\d.]+)pt" viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if not title or not box:
        return svg
    lines = re.findall(r'<text[^>]*? y="([\d.]+)"|translate\([\d.]+ ([\d.]+)\)', title)
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?(?:[\w ]*?)([\d.]+)px", title)]
    below = max((float(one or other) for one, other in lines), default=0.0) + 0.35 * max(sizes, default=0.0)
    width, height = float(box[2]), float(box[3])
    if not 0.0 < below < height / 3:
        return svg
    cut = f'height="{height - below:.6g}pt" viewBox="0 {below:.6g} {width:.6g} {height - below:.6g}"'
    return svg.replace(title, "").replace(f'height="{box[1]}pt" viewBox="0 0 {box[2]} {box[3]}"', cut)
