"""Groups of an SVG by their ids, in its text."""

from __future__ import annotations

import re

__all__ = ["FINDING", "group_of"]

FINDING = "finding"
"""The SVG's group of this id is the figure's title, for pages that have it as caption."""


def group_of(svg: str, name: str) -> str:
    """The group of that id with all groups in it; "" if there is none."""
    start = svg.find(f'<g id="{name}">')
    depth = 0
    for tag in re.finditer(r"<g\b|</g>", svg[start:]) if start >= 0 else ():
        depth += -1 if tag[0] == "</g>" else 1
        if depth == 0:
            return svg[start : start + tag.end()]
    return ""
