"""Tables and figures of reports: their captions, their numbers, and their data beside them."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output

from resflow.plots.svg import figure_svg
from resflow.workflow.reports.notebook_html import notebook_to_html

SVG = "http://www.w3.org/2000/svg"
FRAME = pd.DataFrame({"word": ["a", "b"], "value": [-0.25, np.nan], "count": [10, -2]}, index=["x", "y"])


def html_of(*outputs):
    shown = [new_output("display_data", data=data) for data in outputs]
    return notebook_to_html(new_notebook(cells=[new_code_cell("f()", outputs=shown)]), title="t")


def page(*outputs):
    return BeautifulSoup(html_of(*outputs), "html.parser")


def linked(link):
    kind, _, content = link["href"].partition(",")
    assert kind == "data:text/csv;charset=utf-8;base64"
    return base64.b64decode(content).decode()


def drawing_of(html):
    """The only figure of a page, as XML, which tells capital letters from small ones, as HTML does not."""
    text = re.search(r"<svg .*</svg>", html, re.DOTALL)[0].replace("viewbox=", "viewBox=")
    return text.replace("<svg ", f'<svg xmlns="{SVG}" ', 1)


def test_table_of_pandas_has_numbers_to_the_right_true_minus_signs_and_a_dash_for_none():
    soup = page({"text/html": FRAME._repr_html_()})
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in soup.select(".html tr")]
    assert rows == [["", "word", "value", "count"], ["x", "a", "−0.25", "10"], ["y", "b", "–", "−2"]]
    assert [cell.get_text() for cell in soup.select(".words")] == ["word", "a", "b"]
    assert "–: no value" in soup.select_one(".html").get_text()
    assert soup.select_one(".styled, .html style") is None


def test_table_goes_with_what_it_says_as_csv_or_with_what_the_notebook_gave():
    soup = page({"text/html": FRAME._repr_html_()}, {"text/html": FRAME._repr_html_(), "text/csv": "a\n1e-300\n"})
    shown, given = soup.select("a.data")
    assert linked(shown) == ",word,value,count\nx,a,-0.25,10\ny,b,,-2\n"
    assert linked(given) == "a\n1e-300\n"
    assert [link["download"] for link in (shown, given)] == ["table-1.csv", "table-2.csv"]


def test_infinite_numbers_are_shown_as_such_and_kept_as_numbers_are_written():
    frame = pd.DataFrame({"value": [np.inf, -np.inf], "word": ["inform", "b"]})
    soup = page({"text/html": frame._repr_html_()})
    assert [cell.get_text() for cell in soup.select(".html td")] == ["∞", "inform", "−∞", "b"]
    assert linked(soup.select_one("a.data")) == ",value,word\n0,inf,inform\n1,-inf,b\n"


def test_heads_of_several_levels_are_left_as_they_are():
    frame = FRAME.set_index("word", append=True)
    soup = page({"text/html": pd.concat({"one": frame, "two": frame}, axis=1)._repr_html_()})
    assert len(soup.select(".html td")) == 8
    assert not soup.select(".words")


@pytest.mark.parametrize(
    "html",
    [
        "<a download='x.csv' href='data:text/csv,a'>x</a>",
        "<a href='data:text/html,<script>f()</script>'>x</a>",
        "<table class='dataframe'><tr><td><a href='data:text/csv;base64,AAAA'>1</a></td></tr></table>",
    ],
)
def test_outputs_cannot_bring_along_links_of_their_own_kind(html):
    links = page({"text/html": html}).select(".html a")
    assert [link.get("href") for link in links] == [None]
    assert [link.get("download") for link in links] == [None]


def drawn(title, suptitle=""):
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([0, 1], [2, 3])
    axes.set_title(title, loc="left")
    if suptitle:
        figure.suptitle(suptitle, x=0.01, ha="left")
    plt.close(figure)
    return figure


@pytest.mark.parametrize(
    ("title", "suptitle"),
    [
        ("The gap\nfalls below 0", ""),
        ("a panel", "The gap\nfalls below 0"),
        (r"The gap falls below $\lambda_0$", ""),
        (r"The gap falls below $\frac{a}{b}$ 0", ""),
    ],
)
def test_finding_is_the_caption_and_is_not_said_twice(title, suptitle):
    svg = figure_svg(drawn(title, suptitle))
    html = html_of({"image/svg+xml": svg, "text/csv": "x\n1\n"})
    (figure,) = BeautifulSoup(html, "html.parser").find_all("figure")
    caption = figure.figcaption.get_text()
    assert caption.startswith("Figure 1. The gap falls below ")
    assert figure.svg["aria-label"] in caption
    shown = drawing_of(html)
    assert "The gap" in svg.split("<g ", 1)[1]
    assert "The gap" not in shown.split("<g", 1)[1]
    assert ("a panel" in shown) == bool(suptitle)
    before, after = (float(ElementTree.fromstring(text).get("viewBox").split()[3]) for text in (svg, shown))
    assert 10 < before - after < 60
    assert linked(figure.select_one("a.data")) == "x\n1\n"


def test_caption_has_true_minus_signs():
    (figure,) = page({"image/svg+xml": figure_svg(drawn("Gap -0.1 in a well-known case, -2e-05 at 1-3"))}).find_all(
        "figure"
    )
    assert figure.svg["aria-label"] == "Gap −0.1 in a well-known case, −2e−05 at 1-3"


def test_figure_without_a_title_of_its_own_is_shown_as_it_is():
    svg = figure_svg(drawn(""))
    html = html_of({"image/svg+xml": svg})
    shapes = [sum(1 for _ in ElementTree.fromstring(text).iter(f"{{{SVG}}}path")) for text in (svg, drawing_of(html))]
    assert shapes[0] == shapes[1] > 5
    (figure,) = BeautifulSoup(html, "html.parser").find_all("figure")
    assert figure.figcaption.get_text() == "Figure 1"
    assert figure.svg["aria-label"] == "Figure drawn by the cell that begins: f()"


def test_notebooks_show_figures_and_tables_with_their_data(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    from resflow.plots.svg import show_well

    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    with pd.option_context("display.float_format", None):
        show_well()
        shown, _ = shell.display_formatter.format(drawn("The gap"))
        table, _ = shell.display_formatter.format(FRAME)
        long, _ = shell.display_formatter.format(pd.DataFrame({"a": range(10_000)}))
    assert pd.read_csv(io.StringIO(shown["text/csv"])).to_numpy()[:, -2:].tolist() == [[0.0, 2.0], [1.0, 3.0]]
    assert {"image/svg+xml", "text/csv"} <= set(shown)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(table["text/csv"]), index_col=0), FRAME)
    assert {"text/html", "text/plain"} <= set(long)
    assert "text/csv" not in long
