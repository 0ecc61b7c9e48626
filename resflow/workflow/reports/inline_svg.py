"""A figure's SVG as a part of the page: what draws is copied by name, and with anything else nothing is copied."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup, escape

from resflow.workflow.reports.sanitizer import DRAWING_PROPERTIES

__all__ = ["MOST_ELEMENTS", "inline_svg"]

MOST_ELEMENTS = 3000
"""A figure of more is a picture: of so many nobody points at a certain one, and a page of them gets slow."""


def inline_svg(svg: str, *, prefix: str, described: str) -> Markup:
    """The figure as an element of HTML that runs nothing, loads nothing, and has no style that leaves it.

    In it nothing is kept but shapes, texts, and titles of both. Its ids are those that it refers to itself.

    Args:
        svg: A whole SVG file.
        prefix: What its ids begin with, other than in any other figure of the page.
        described: What the figure shows, for those who do not see it.

    Returns:
        The element; "" if the file is no SVG, has too many elements, or one, an attribute or a value that is not known
        to be harmless.
    """
    if "<!ENTITY" in svg:
        return Markup("")
    try:
        root = ElementTree.fromstring(svg)
        if sum(1 for _ in root.iter()) > MOST_ELEMENTS or root.tag != f"{_SVG}svg":
            return Markup("")
        box = [float(number) for number in root.get("viewBox", "").split()]
        _, _, width, height = box
        if not (width > 0 and height > 0):
            return Markup("")
        referred = _referred(root)
        parts = [child for child in root if child.tag != f"{_SVG}title"]  # of the whole: the page says it beside
        content = "".join(_copied(child, prefix, referred) for child in parts)
    except (ElementTree.ParseError, ValueError, RecursionError, _UnknownError):
        return Markup("")
    view = " ".join(f"{number:g}" if number == int(number) else str(number) for number in box)
    head = Markup('<svg role="img" aria-label="{}" viewBox="{}">').format(described, view)
    return head + Markup(content) + Markup("</svg>")


class _UnknownError(Exception):
    """There is something in the file that is not known to be harmless."""


_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_SPACE = "{http://www.w3.org/XML/1998/namespace}space"
_ELEMENTS = frozenset([
    "circle", "clipPath", "defs", "ellipse", "g", "image", "line", "linearGradient", "path", "pattern", "polygon",
    "polyline", "radialGradient", "rect", "stop", "text", "title", "tspan", "use",
])  # fmt: skip
_LEFT_OUT = frozenset(["metadata", "desc"])
_GEOMETRY = frozenset([
    "clipPathUnits", "cx", "cy", "d", "dx", "dy", "fx", "fy", "gradientTransform", "gradientUnits", "height",
    "lengthAdjust", "offset", "pathLength", "patternContentUnits", "patternTransform", "patternUnits", "points",
    "preserveAspectRatio", "r", "rotate", "rx", "ry", "spreadMethod", "textLength", "viewBox", "width", "x", "x1",
    "x2", "y", "y1", "y2",
])  # fmt: skip
_PROPERTIES = DRAWING_PROPERTIES - {"cursor", "filter", "marker-start", "marker-mid", "marker-end"} | {
    "font", "font-stretch", "font-variant", "image-rendering",
}  # fmt: skip
_FUNCTIONS = frozenset(["matrix", "rgb", "rgba", "rotate", "scale", "skewX", "skewY", "translate", "url"])
_OWN_STYLE = re.compile(r"\s*\*\s*{\s*stroke-linejoin:\s*round;\s*stroke-linecap:\s*butt;?\s*}\s*")
"""Matplotlib's only rule, which the report's style sheet has for all figures."""

_REFERENCE = re.compile(r"url\(\s*[\"']?#([\w.:-]+)[\"']?\s*\)")
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]*")


def _referred(root: ElementTree.Element) -> frozenset[str]:
    """The ids that the file refers to; none of the elements so named may refer further, or drawing has no end."""
    names = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        if element.get("id") in names and any(_references(inner) for inner in element.iter()):
            raise _UnknownError
    return frozenset(names)


def _references(element: ElementTree.Element) -> list[str]:
    found = [name for value in element.attrib.values() for name in _REFERENCE.findall(value)]
    links = [element.get(key, "") for key in ("href", f"{_XLINK}href")]
    return found + [link.removeprefix("#") for link in links if link.startswith("#")]


def _copied(element: ElementTree.Element, prefix: str, referred: frozenset[str]) -> str:
    name = str(element.tag).removeprefix(_SVG)
    if name in _LEFT_OUT:
        return ""
    if name == "style" and _OWN_STYLE.fullmatch("".join(element.itertext())):
        return ""
    if name not in _ELEMENTS or element.tag != _SVG + name or (name == "title" and len(element)):
        raise _UnknownError
    attributes = "".join(_attribute(name, key, value, prefix, referred) for key, value in element.attrib.items())
    content = str(escape(_words(element.text)))
    for child in element:
        content += _copied(child, prefix, referred) + str(escape(_words(child.tail)))
    return f"<{name}{attributes}>{content}</{name}>" if content else f"<{name}{attributes}/>"


def _words(text: str | None) -> str:
    """Text, but not the blanks between elements."""
    return text if text and text.strip() else ""


def _attribute(element: str, key: str, value: str, prefix: str, referred: frozenset[str]) -> str:
    """One attribute as HTML has it; "" if it says nothing here."""
    if key == "id":
        return str(Markup(' id="{}{}"').format(prefix, value)) if value in referred else ""
    if key in ("class", "version") or key.startswith("data-"):
        return ""
    if key in ("href", f"{_XLINK}href"):
        if element == "use" and value.startswith("#"):
            return str(Markup(' href="#{}{}"').format(prefix, value[1:]))
        if element == "image" and _PICTURE.fullmatch(value):
            return str(Markup(' href="{}"').format("".join(value.split())))
        raise _UnknownError
    if key == _SPACE and value in ("preserve", "default"):
        return f' xml:space="{value}"'
    if key == "style":
        declared = [part.partition(":") for part in value.split(";") if part.strip()]
        if not {name.strip() for name, _, _ in declared} <= _PROPERTIES:
            raise _UnknownError
    elif key not in _GEOMETRY | _PROPERTIES:
        raise _UnknownError
    if re.search(r"[\\<>{}@]|/\*", value) or not set(re.findall(r"([\w-]*)\(", value)) <= _FUNCTIONS:
        raise _UnknownError
    if len(_REFERENCE.findall(value)) != value.lower().count("url"):
        raise _UnknownError
    inner = _REFERENCE.sub(lambda found: f"url(#{prefix}{found[1]})", " ".join(value.split()))
    return str(Markup(' {}="{}"').format(key, inner))
