"""Figures as parts of a page: what is drawn stays, what runs, loads or reaches further keeps a figure out."""

from __future__ import annotations

import re

import chromium
import matplotlib as mpl
import matplotlib.pyplot as plt
import nh3
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output

from resflow.plots.svg import figure_svg
from resflow.workflow.reports.inline_svg import MOST_ELEMENTS, inline_svg
from resflow.workflow.reports.notebook_html import notebook_to_html

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9" viewBox="0 0 9 9">'
SHAPE = '<path id="p" d="M 0 0 L 1 1"/>'


def inlined(content, prefix="a-"):
    return str(inline_svg(f"{HEAD}{content}</svg>", prefix=prefix, described="Dots"))


def everything():
    """A figure with all that matplotlib writes: marks, bands, hatches, maps, pictures, mathematics, rotated texts."""
    figure, grid = plt.subplots(2, 2, layout="constrained")
    plt.close(figure)
    lines, bars, texts, maps = grid.flat
    lines.plot([1, 2, 3], [3, 1, 2], "o-", label="a < b & c")
    lines.fill_between([1, 2], [1, 1], [2, 2], alpha=0.3)
    lines.errorbar([1, 2], [2, 2], yerr=[1, 1], capsize=3)
    lines.legend()
    bars.bar(["one", "two"], [1, 2], hatch="//")
    bars.tick_params(axis="x", rotation=20)
    texts.scatter(range(5), range(5), s=range(1, 6), c=range(5))
    texts.set(title=r"$\frac{a}{b}^2$", xscale="symlog")
    maps.imshow(np.eye(3))
    figure.colorbar(maps.pcolormesh(np.eye(3)), ax=maps)
    return figure_svg(figure)


def test_what_matplotlib_draws_is_a_part_of_the_page_that_browsers_read_as_it_is_written():
    svg = everything()
    html = str(inline_svg(svg, prefix="figure-1-", described="Two < three"))
    assert html.startswith('<svg role="img" aria-label="Two &lt; three" viewBox="0 0 ')
    for name in ("path", "use", "text", "clipPath", "pattern", "image"):
        assert svg.count(f"<{name} ") == html.count(f"<{name} ") > 0, name
    assert "a &lt; b &amp; c" in html
    tags = set(re.findall(r"<([a-zA-Z]+)", html))
    attributes = set(re.findall(r' ([a-zA-Z-]+)="', html))
    again = nh3.clean(html, tags=tags, attributes={"*": attributes}, clean_content_tags=set(), url_schemes={"data"})
    as_elements = re.sub(r"<([a-zA-Z]+)([^<>]*)/>", r"<\1\2></\1>", html)
    assert again == as_elements.replace("&#34;", '"').replace("&#39;", "'")


def test_ids_are_those_that_the_figure_refers_to_under_its_own_prefix():
    one, other = (str(inline_svg(everything(), prefix=prefix, described="")) for prefix in ("a-", "b-"))
    for html, prefix in ((one, "a-"), (other, "b-")):
        ids = re.findall(r' id="([^"]*)"', html)
        referred = set(re.findall(r'(?:href="|url\()#([^")]*)', html))
        assert set(ids) == referred
        assert len(ids) == len(referred)
        assert all(name.startswith(prefix) for name in ids)


@pytest.mark.parametrize(
    "content",
    [
        "<script>f()</script>",
        "<style>p {color: red}</style>",
        '<path onclick="f()"/>',
        "<foreignObject><p>x</p></foreignObject>",
        '<a href="https://example.org"><path/></a>',
        '<image href="https://example.org/a.png"/>',
        '<image href="data:image/svg+xml;base64,AAAA"/>',
        '<use href="other.svg#a"/>',
        '<path fill="url(https://example.org/a.svg#b)"/>',
        '<path style="fill: u\\72l(https://example.org)"/>',
        '<path style="position: fixed"/>',
        '<path style="background: image-set(&quot;a.png&quot; 1x)"/>',
        '<set attributeName="href" to="javascript:f()"/>',
        '<animate attributeName="d"/>',
        '<filter id="f"><feImage href="#p"/></filter>',
        "<g><title><b>x</b></title></g>",
        "<p>x</p>",
        '<p xmlns="http://www.w3.org/1999/xhtml">x</p>',
        '<path fill="expression(f())"/>',
        "<text><tspan>never closed</text>",
        '<g id="a"><use href="#b"/><use href="#b"/></g><g id="b"><use href="#a"/></g>',
        '<pattern id="q"><rect fill="url(#q)"/></pattern><rect fill="url(#q)"/>',
        SHAPE * MOST_ELEMENTS,
        "<g>" * 2000 + "</g>" * 2000,
    ],
)
def test_with_anything_else_a_figure_is_no_part_of_the_page(content):
    assert inlined(SHAPE) == '<svg role="img" aria-label="Dots" viewBox="0 0 9 9"><path d="M 0 0 L 1 1"/></svg>'
    assert inlined(SHAPE + content) == ""


@pytest.mark.parametrize(
    "svg",
    [
        "", "<svg>", "<p/>", "<svg/>", HEAD.replace("0 0 9 9", "0 0 9") + "</svg>",
        HEAD.replace("9 9", "x y") + "</svg>", HEAD.replace("9 9", "0 0") + "</svg>",
        HEAD.replace("9 9", "nan nan") + "</svg>",
        f'<!DOCTYPE svg [<!ENTITY a "b">]>{HEAD}<text>&a;</text></svg>',
    ],
)  # fmt: skip
def test_what_is_no_drawing_is_left_to_the_browser(svg):
    assert inline_svg(svg, prefix="a-", described="") == ""


def test_foreign_figure_with_a_style_sheet_stays_a_picture():
    svg = f"{HEAD}<style>path {{fill: red}}</style>{SHAPE}</svg>"
    output = new_output("display_data", data={"image/svg+xml": svg})
    html = notebook_to_html(new_notebook(cells=[new_code_cell("f()", outputs=[output])]), title="t")
    soup = BeautifulSoup(html, "html.parser")
    assert not soup.select("figure svg")
    assert soup.select_one("figure img")["src"].startswith("data:image/svg+xml;base64,")


PIXELS = """(() => {
    const boxes = [...document.querySelectorAll("figure svg use")].map(mark => mark.getBoundingClientRect());
    const svg = document.querySelector("figure svg");
    const styles = ["strokeLinejoin", "strokeLinecap"].map(name => getComputedStyle(svg.querySelector("path"))[name]);
    return [boxes.filter(box => box.width + box.height > 0).length, boxes.length, styles,
            [...document.querySelectorAll("figure svg")].map(each => each.getBoundingClientRect().height)];
})()"""


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
def test_browser_draws_every_mark_of_two_figures_on_one_page(tmp_path):
    with mpl.rc_context({"figure.figsize": (4, 3)}):
        outputs = [new_output("display_data", data={"image/svg+xml": everything()}) for _ in range(2)]
    page = tmp_path / "page.html"
    page.write_text(notebook_to_html(new_notebook(cells=[new_code_cell("f()", outputs=outputs)]), title="t"))
    _, (drawn, marks, styles, heights) = chromium.evaluated(page, PIXELS, tmp_path)
    assert drawn == marks > 50
    assert styles == ["round", "butt"]
    assert heights[0] == heights[1] > 200
