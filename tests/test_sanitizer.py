"""Foreign HTML in reports: it runs nothing, asks for nothing, and takes nothing else along."""

from __future__ import annotations

import re
import socketserver
import threading
import time

import chromium
import nh3
import pytest
from bs4 import BeautifulSoup
from hostile_html import HOSTILE, KEPT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from resflow.workflow.reports.notebook_html import notebook_to_html
from resflow.workflow.reports.sanitizer import sanitized

FAR = "http://far.invalid"
LOADING = ("src", "srcset", "poster", "background", "data", "action", "formaction", "ping", "xlink:href", "codebase")
LOADS = re.compile(r"(@import|\burl|-set)\W*(http|FAR|//)", re.IGNORECASE)


def hostile(far=FAR):
    return [html.replace("FARHOST", far.removeprefix("http://")).replace("FAR", far) for html in HOSTILE]


@pytest.mark.parametrize("html", hostile(), ids=range(len(HOSTILE)))
def test_hostile_output_becomes_a_balanced_fragment_that_names_no_other_host(html):
    clean = str(sanitized(html))
    soup = BeautifulSoup(f"<section>{clean}</section><p id='after'>after</p>", "html.parser")
    assert soup.find(id="after").parent is soup
    for element in soup.find_all(True):
        assert element.name not in (
            "script", "iframe", "object", "embed", "meta", "base", "link", "form", "template", "textarea", "title",
            "plaintext", "xmp", "noscript", "select", "frame", "frameset", "video", "audio", "foreignobject", "dialog",
        )  # fmt: skip
        assert not [name for name in element.attrs if name.startswith("on")]
        assert not [name for name in LOADING if name in element.attrs and element.name != "img"]
        assert str(element.get("src", "data:")).startswith("data:")
        assert str(element.get("href", "https:")).startswith(("#", "https:"))
        assert not LOADS.search(str(element.get("style", "")) + str(element.get("fill", "")))
        assert element.name != "style" or not LOADS.search(element.get_text())


@pytest.mark.parametrize("html", [*hostile(), *KEPT.values()])
def test_sanitized_html_is_read_by_browsers_as_it_is_written(html):
    once = str(sanitized(html))
    tags = {name.lower() if name.islower() else name for name in re.findall(r"<([a-zA-Z0-9]+)", once)}
    attributes = {name for tag in re.findall(r"<[a-zA-Z0-9]+((?: [^\s=<>]+=\"[^\"]*\")+)", once) for name in re.findall(
        r" ([^\s=<>\"]+)=\"", tag
    )}  # fmt: skip
    again = nh3.clean(
        once,
        tags=tags,
        attributes={"*": attributes - {"rel"} | {"href"}},
        clean_content_tags=set(),
        url_schemes={"http", "https", "mailto", "data"},
    )
    assert again == once


def test_what_notebooks_mean_to_show_is_kept():
    shown = {name: BeautifulSoup(sanitized(html), "html.parser") for name, html in KEPT.items()}
    assert [cell.get_text() for cell in shown["pandas"].find_all(["th", "td"])] == ["", "a", "0", "1.5"]
    assert shown["pandas"].table["class"] == ["dataframe"]
    assert shown["pandas"].table.parent["class"] == ["scroll"]
    assert shown["link"].a.attrs == {"href": "https://example.org/?a=1&b=2", "rel": ["noopener", "noreferrer"]}
    assert "fill:#1f77b4" in shown["swatches"].rect["style"].replace(" ", "")
    drawing = str(sanitized(KEPT["gradient"]))
    for part in ('viewBox="0 0 9 9"', '<linearGradient id="g">', "<clipPath", 'fill="url(#g)"', 'clip-path="url(#c)"'):
        assert part in drawing
    assert shown["folded"].input.attrs == {"id": "s1", "type": "checkbox", "checked": ""}
    assert shown["folded"].label["for"] == "s1"
    assert shown["data"].img["src"] == "data:image/png;base64,AAAA"


def test_a_styled_table_keeps_its_colours_and_colours_nothing_else():
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2.0]})
    soup = BeautifulSoup(sanitized(frame.style.background_gradient().to_html(table_uuid="x")), "html.parser")
    scope = soup.select_one(".styled > div")["class"][-1]
    assert f":where(.{scope}) #T_x_row1_col0 {{background-color: #023858; color: #f1f1f1}}" in soup.style.get_text()
    assert soup.find(id="T_x_row1_col0").get_text() == "2.000000"


@pytest.mark.parametrize("name", ["plaintext", "PLAINTEXT", "xmp", "listing"])
def test_elements_that_take_the_rest_as_text_end_where_they_are_closed(name):
    soup = BeautifulSoup(sanitized(f"<{name}>a</{name}><b>after</b> <plaintexts>"), "html.parser")
    assert soup.pre.get_text() == "a"
    assert soup.b.get_text() == "after"


def test_rules_for_the_whole_page_become_rules_for_the_output():
    html = "<style>:root {--a: 1px} body p, td > b {color: red} @media print {i {color: blue}}</style><p>x</p>"
    soup = BeautifulSoup(sanitized(html), "html.parser")
    scope = f":where(.{soup.select_one('.styled > div')['class'][-1]})"
    assert soup.style.get_text().splitlines() == [
        f"{scope} {{--a: 1px}}",
        f"{scope} p, {scope} td > b {{color: red}}",
        f"@media print {{{scope} i {{color: blue}}}}",
    ]


def test_wide_tables_are_marked_by_the_columns_of_the_outer_one():
    row = "<tr>" + "<td>1</td>" * 12 + "</tr>"
    wide = BeautifulSoup(sanitized(f"<table>{row}</table>"), "html.parser")
    nested = BeautifulSoup(sanitized(f"<table><tr><td><table>{row}</table></td></tr></table>"), "html.parser")
    assert wide.div["class"] == ["scroll", "wide"]
    assert [div["class"] for div in nested.find_all("div")] == [["scroll"]]


def test_half_characters_and_zero_bytes_do_not_stop_a_report():
    nb = new_notebook(
        cells=[
            new_code_cell("1", outputs=[new_output("display_data", data={"text/html": "<b>\ud800</b>\x00"})]),
            new_code_cell("2", outputs=[new_output("stream", text="\udfff")]),
        ]
    )
    assert "<b>?</b>" in notebook_to_html(nb, title="t").encode().decode()


@pytest.mark.parametrize(
    "html", ["<div>" * 200_000, "<table><td>" * 50_000, "<" * 100_000, "<p " * 100_000, "&" * 100_000]
)
def test_very_deep_or_broken_html_takes_no_time(html):
    started = time.monotonic()
    assert "shown" in sanitized(f"{html}> shown")
    assert time.monotonic() - started < 5


MARKS = """[...document.querySelectorAll('.seen')].filter(mark => {
    mark.scrollIntoView({block: 'center'});
    const box = mark.getBoundingClientRect();
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return mark.checkVisibility({opacityProperty: true, visibilityProperty: true}) && top === mark;
}).map(mark => mark.textContent)"""


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
def test_browser_stays_on_the_page_asks_nobody_and_shows_all_that_follows(tmp_path):
    heard = []

    class Listener(socketserver.BaseRequestHandler):
        def handle(self):
            heard.append(self.request.recv(1000))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cells = []
        for number, html in enumerate(hostile(f"http://127.0.0.1:{server.server_address[1]}")):
            cells.append(new_code_cell("x", outputs=[new_output("display_data", data={"text/html": html})]))
            cells.append(new_markdown_cell(f"{html}\n"))
            cells.append(new_markdown_cell(f'<span class="seen">after{number}</span>'))
        text = notebook_to_html(new_notebook(cells=cells), title="hostile")
        page = tmp_path / "page.html"
        page.write_text(
            re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        )  # without the second wall
        place, seen = chromium.evaluated(page, MARKS, tmp_path)
        server.shutdown()
    assert place == page.as_uri()
    assert heard == []
    assert [name for name in (f"after{number}" for number in range(len(HOSTILE))) if name not in seen] == []
