"""How large the texts of a report's figures come out on a screen: from the figures' font sizes and the page's style."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from bs4 import BeautifulSoup

DESK, PHONE = 1400, 390
"""Widths of windows, in pixels."""

SMALLEST = {DESK: 10.0, PHONE: 8.0}
"""Pixels that a text must have there to be read."""


def assert_legible(html: str) -> None:
    """Check that no text in a vector figure is too small, on a desk's screen or on a telephone's."""
    for window, least in SMALLEST.items():
        too_small = [(text, size) for text, size in texts_of_figures(html, window) if size < least]
        assert not too_small, (window, too_small)


def texts_of_figures(html: str, window: int) -> list[tuple[str, float]]:
    """The texts of a page's vector figures, with the size of their letters in pixels where a window is that wide."""
    sizes = []
    for own, svg in _vector_figures(html):
        scale = _shown(html, own, window) / float(svg.attrib["viewBox"].split()[2])
        for text in svg.iter("{http://www.w3.org/2000/svg}text"):
            words = " ".join("".join(text.itertext()).split())
            sizes += [(words, scale * size) for size in _letters(text)]
    return sizes


def shown_widths(html: str, window: int) -> list[float]:
    """How wide a page shows its figures of known size, in pixels where a window is that wide."""
    sized = BeautifulSoup(html, "html.parser").select("figure.sized")
    return [_shown(html, float(re.search(r"--width: (\d+)px", figure["style"])[1]), window) for figure in sized]


def _vector_figures(html: str) -> Iterator[tuple[float, ElementTree.Element]]:
    """The figures that are parts of the page or pictures of it, each with its own width in pixels."""
    for text in re.findall(r"<figure .*?</figure>", html, re.DOTALL):
        figure = BeautifulSoup(text, "html.parser").figure
        if found := re.search(r"<svg .*</svg>", text, re.DOTALL):
            svg = found[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
            svg = svg.replace("viewbox=", "viewBox=")  # which are one to HTML
        elif figure.img["src"].startswith("data:image/svg+xml;base64,"):
            svg = base64.b64decode(figure.img["src"].partition(",")[2])
        else:
            continue
        yield float(re.search(r"--width: (\d+)px", figure["style"])[1]), ElementTree.fromstring(svg)


def _shown(html: str, own: float, window: int) -> float:
    """How wide the page shows a figure of a certain width of its own."""
    enlarged, margin = re.search(r"--shown: min\(([\d.]+) \* var\(--width\), 100vw - ([\d.]+)rem\)", html).groups()
    (least,) = re.search(
        r"figure\.sized :is\(img, svg\) {[^}]*min-width: calc\(([\d.]+) \* var\(--width\)\)", html
    ).groups()
    (usual,) = re.search(r"\nhtml { font-size: ([\d.]+)%", html).groups()
    narrow, then = re.search(r"\(max-width: (\d+)rem\) {\s*html { font-size: ([\d.]+)%", html).groups()
    rem = 16 * float(then if window <= 16 * float(narrow) else usual) / 100
    return max(min(float(enlarged) * own, window - float(margin) * rem), float(least) * own)


def _letters(text: ElementTree.Element) -> list[float]:
    """The sizes of the letters in a text, those of indices and exponents among them, in the figure's own units."""
    styles = [part.get("style", "") for part in text.iter()]
    sizes = [float(size) for style in styles for size in re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", style)]
    assert sizes, ElementTree.tostring(text)
    assert "scale(" not in text.get("transform", ""), ElementTree.tostring(text)
    return sizes
