"""The HTML report of an executed notebook, and the mathematics in it."""

from __future__ import annotations

import base64
import copy
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from resflow.workflow.reports.excerpts import whole_outputs
from resflow.workflow.reports.mathml import UnsupportedLatexError, latex_to_mathml
from resflow.workflow.reports.notebook_html import notebook_to_html

PIXEL = base64.b64encode(b"\x89PNG not really").decode()
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"

PARAMETERS = """\
dataset: str = "breast_cancer:mean"  # data set, optionally with a feature group
width: int = 32  # features k = 32 of the map f_θ
learning_rate: float = 1e-2
max_norm: float | None = None  # bound r on ‖w‖ # or none
separator: str = "#"  # "#" inside a text is no comment
scale: float = 2 * 3
"""
INJECTED = '# Parameters\nwidth = 64\nlearning_rate = 0.01\nextra = "<b>&\'"\n'

FORMULAS = [
    r"p(x) = w^\top (x + V f_\theta(x))",
    r"\min_{\|u\| \le r} F_{\mathrm{lin}}(u)",
    r"\nabla^2 F_\theta",
    r"w \in \mathbb{R}^{d \times k}",
    r"\underbrace{\langle G, \nabla F\rangle}_{\text{certificate}}",
    r"\begin{aligned} a &= b \\ &\le c \end{aligned}",
    r"\tfrac12 (p - y)^2",
    r"\operatorname{mean}_i \ell'_i",
    r"\lVert w \rVert_F",
    r"\lambda_{\min}",
    r"\begin{pmatrix} K & \gamma Q \\ \gamma Q^\top & 0 \end{pmatrix}",
    r"\begin{cases} \tfrac12 p^2 & |p| \le \delta \\ \delta |p| & \text{otherwise} \end{cases}",
    r"\operatorname*{arg\,min}_u F(u)",
    r"\left\| \frac{a}{b} \right\|",
    r"a \\ b",
]


def code(source, *outputs, count=1, **metadata):
    return new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)


def shows(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def raises(name, message, traceback=()):
    return new_output("error", ename=name, evalue=message, traceback=list(traceback))


def page(*cells, title="A run", **keywords):
    html = notebook_to_html(new_notebook(cells=list(cells)), title=title, **keywords)
    return BeautifulSoup(html, "html.parser")


@pytest.fixture(scope="module")
def everything():
    """A notebook with one of each: text, mathematics, parameters, tables, figures, streams."""
    return new_notebook(
        metadata={"papermill": {"start_time": "2026-01-02T03:04:05.678", "duration": 12.345}},
        cells=[
            new_markdown_cell("# Did it get stuck?\n\nThe gap of $p(x) = w^\\top x$.\n\n$$F(w) \\le \\tfrac12$$"),
            code(PARAMETERS, tags=["parameters"]),
            code(INJECTED, tags=["injected-parameters"], count=2),
            new_markdown_cell("\n".join(rf"\begin{{align}}{f}\end{{align}}" for f in ("a &= b", "c &= d"))),
            new_markdown_cell(
                "| $a$ | b |\n|---|---|\n| $\\lambda_{\\min}$ | 2 |\n\n![far](https://example.org/a.png)"
            ),
            code("# Draw it\nplot()", shows({"image/png": PIXEL + "\n", "text/plain": "<Figure>"}), count=3),
            code("svg()", shows({"image/svg+xml": "<svg><script>1</script></svg>"}), count=4),
            code("frame", shows({"text/html": "<table class='dataframe'><tr><td>1</td></tr></table>"}), count=5),
            code("print()", new_output("stream", name="stdout", text="fit 10%\rfit 99%\n"), count=6),
            code("1", new_output("execute_result", data={"text/plain": "<object at 0>"}, execution_count=7), count=7),
        ],
    )


def test_report_is_byte_identical_when_exported_twice_and_leaves_the_notebook_alone(everything):
    before = copy.deepcopy(everything)
    assert notebook_to_html(everything, title="t") == notebook_to_html(everything, title="t")
    assert everything == before


def test_report_asks_for_nothing_outside_itself(everything):
    html = notebook_to_html(everything, title="t")
    soup = BeautifulSoup(html, "html.parser")
    assert not soup.find_all(["script", "link", "iframe", "object", "embed", "base"])
    for element in soup.find_all(True):
        for name in ("src", "srcset", "data", "poster", "background", "action"):
            assert str(element.get(name, "data:")).startswith("data:")
        assert not [name for name in element.attrs if name.startswith("on")]
    assert not re.search(r"@import|url\(", html)
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none';")
    assert "[image not included: far]" in soup.get_text()


def test_formulas_in_text_and_tables_become_mathml_without_a_dollar_left(everything):
    soup = BeautifulSoup(notebook_to_html(everything, title="t"), "html.parser")
    assert len(soup.find_all("math")) == 6
    assert len(soup.find_all("math", display="block")) == 3
    for cell in soup.select("section.text"):
        assert "$" not in cell.get_text()
        assert "\\" not in cell.get_text()


def test_title_of_the_notebook_opens_the_page_once(everything):
    soup = BeautifulSoup(notebook_to_html(everything, title="width 64"), "html.parser")
    assert [heading.get_text() for heading in soup.find_all("h1")] == ["Did it get stuck?"]
    assert soup.select_one(".kicker").get_text() == "width 64"
    assert soup.title.get_text() == "Did it get stuck? – width 64"
    assert soup.select_one(".executed").get_text() == "Executed 2026-01-02 03:04 UTC, 12.3 s"
    assert [heading.get_text() for heading in page(title="bare").find_all("h1")] == ["bare"]


def test_parameter_table_gives_value_default_and_explanation(everything):
    soup = BeautifulSoup(notebook_to_html(everything, title="t"), "html.parser")
    rows = soup.select(".parameters tbody tr")
    cells = {row.th.get_text(): [cell.get_text() for cell in row.find_all("td")] for row in rows}
    assert cells == {
        "dataset": ["'breast_cancer:mean'", "same", "data set, optionally with a feature group"],
        "width": ["64", "changed from 32", "features k = 32 of the map f_θ"],
        "learning_rate": ["0.01", "same", ""],
        "max_norm": ["None", "same", "bound r on ‖w‖ # or none"],
        "separator": ["'#'", "same", '"#" inside a text is no comment'],
        "scale": ["6.0", "same", ""],
        "extra": ['"<b>&\'"', "none", "not among the notebook's declared parameters"],
    }
    assert [row.th.get_text() for row in rows if "changed" in row.get("class", [])] == ["width", "extra"]


def test_parameters_that_are_not_python_give_no_table_and_no_failure():
    soup = page(code("%%R\nwidth <- 3", tags=["parameters"]))
    assert soup.select_one(".parameters") is None
    assert "width <- 3" in soup.get_text()


def test_code_is_folded_under_its_first_comment_or_line():
    soup = page(code("\n# Train the unit\nx = 1", count=3), code("y = f(x)", count=4), code("never()", count=None))
    details = soup.select("details.code")
    assert [entry.summary.get_text() for entry in details] == ["[3] Train the unit", "[4] y = f(x)", "not run never()"]
    assert not any(entry.has_attr("open") for entry in details)
    assert "x = 1" in details[0].get_text()


def test_outputs_are_all_there(everything):
    soup = BeautifulSoup(notebook_to_html(everything, title="t"), "html.parser")
    png, svg = soup.select("figure img")
    assert png["src"] == f"data:image/png;base64,{PIXEL}"
    assert png["alt"] == "Figure: Draw it"
    assert base64.b64decode(svg["src"].removeprefix("data:image/svg+xml;base64,")).startswith(b"<svg>")
    assert svg["alt"] == "Figure drawn by the cell that begins: svg()"
    assert all("scroll" in table.parent["class"] for table in soup.find_all("table"))
    assert soup.select_one("pre.result").get_text() == "<object at 0>"
    assert soup.select_one("pre.stream").get_text() == "fit 99%\n"


def test_heads_of_tables_say_of_what_they_are_the_head():
    table = "<table><thead><tr><th></th><th>a</th></tr></thead><tbody><tr><th>0</th><td>1</td></tr></tbody></table>"
    soup = page(code("f()", shows({"text/html": table + "<table><tr><th scope='colgroup'>x</th></tr></table>"})))
    assert [head["scope"] for head in soup.select(".html th")] == ["col", "col", "row", "colgroup"]


def test_image_in_html_that_says_nothing_of_itself_says_that():
    image = f"<img src='data:image/png;base64,{PIXEL}'>"
    soup = page(code("f()", shows({"text/html": image + image.replace("<img", "<img alt='The gap'")})))
    assert [each["alt"] for each in soup.select(".html img")] == ["no description", "The gap"]


def test_code_of_two_languages_is_each_marked_as_its_own():
    def marked(language):
        nb = new_notebook(cells=[code("true if x")], metadata={"language_info": {"name": language}})
        return str(BeautifulSoup(notebook_to_html(nb, title=""), "html.parser").select(".highlight"))

    assert marked("python") != marked("bash")
    assert marked("python") == marked("python")


def test_a_figure_can_say_itself_what_it_shows():
    soup = page(code("f()", shows({"image/png": PIXEL}, **{"image/png": {"alt": "The gap falls", "width": 320}})))
    assert soup.img["alt"] == "The gap falls"
    assert soup.figure["style"] == "--width: 320px"


def test_figures_are_numbered_and_sized_and_say_their_title():
    drawn = '<svg width="144pt"><metadata><dc:title>Gap $\\lambda_{\\min}$ &lt; 0</dc:title></metadata></svg>'
    soup = page(code("f()", shows({"image/svg+xml": drawn}), shows({"image/png": PIXEL})))
    first, second = soup.find_all("figure")
    assert first.img["alt"] == "Gap λmin < 0"
    assert first["style"] == "--width: 192px"
    assert not second.has_attr("style")
    assert [each.figcaption.get_text() for each in (first, second)] == ["Figure 1. Gap λmin < 0", "Figure 2"]
    assert first.a["href"] == f"#{first['id']}"


@pytest.mark.parametrize("mime", ["image/gif", "image/webp"])
def test_pictures_of_every_kind_that_browsers_show_are_shown(mime):
    assert page(code("f()", shows({mime: PIXEL}))).img["src"] == f"data:{mime};base64,{PIXEL}"


def test_picture_beside_a_script_takes_its_place():
    drawn = shows({"text/html": "<div></div><script>draw()</script>", "image/png": PIXEL})
    table = shows({"text/html": "<table><tr><td>1</td></tr></table>", "image/png": PIXEL})
    soup = page(code("f()", drawn, table))
    assert len(soup.select("figure img")) == len(soup.find_all("table")) == 1
    assert "was left out" not in soup.get_text()


def test_output_that_cannot_be_shown_says_so_and_a_raw_cell_is_text():
    soup = page(code("f()", shows({"application/x-thing": "?"})), new_raw_cell("a < b\n  c"))
    assert soup.select_one("p.note").get_text().startswith("An output of type application/x-thing was left out")
    assert soup.select_one("section.text pre").get_text() == "a < b\n  c"


@pytest.mark.parametrize("text", ["line\n" * 300_000, "x" * 3_000_000])
def test_output_of_endless_length_is_cut_and_says_so(text):
    nb = new_notebook(cells=[code("f()", new_output("stream", text=text), shows({"text/plain": text}))])
    html = notebook_to_html(nb, title="t")
    assert len(html) < 500_000
    assert html.count("more characters: the executed notebook has all of it") == 2


def test_whole_of_an_output_that_is_cut_lies_beside_the_page_that_names_it():
    parts = ["".join(f"line {number}\n" for number in range(start, start + 300)) for start in range(0, 300_000, 300)]
    lines = "".join(parts)
    rows = "".join(f"<tr><td onclick='f()'>{number}</td></tr>" for number in range(60_000))
    printed = [new_output("stream", text=part) for part in parts]
    wide = [shows({"text/html": f"<table>{rows}</table>"}), shows({"text/html": "<p>short</p>"})]
    nb = new_notebook(cells=[new_markdown_cell("Text"), code("f()", *printed, *wide, raises("E", "m", [lines]))])
    whole = dict(whole_outputs(nb))
    assert list(whole) == ["outputs/cell-1-1.txt", "outputs/cell-1-2.html", "outputs/cell-1-4.txt"]
    assert whole["outputs/cell-1-1.txt"] == whole["outputs/cell-1-4.txt"] == lines
    assert "<td>59999</td>" in whole["outputs/cell-1-2.html"]
    assert "onclick" not in whole["outputs/cell-1-2.html"]
    html = notebook_to_html(nb, title="t", attached=True)
    soup = BeautifulSoup(html, "html.parser")
    assert [link["href"] for link in soup.select("p.note a")] == list(whole)
    assert len(html) < 2_000_000


def test_endless_outputs_of_one_cell_are_counted():
    text = page(code("f()", *(shows({"text/plain": str(number)}) for number in range(1234)))).get_text()
    assert "1,034 more outputs: the executed notebook has them" in text


def osc(address, text):
    return f"\x1b]8;id=1;{address}\x1b\\{text}\x1b]8;;\x07"


def test_links_of_terminals_lead_to_the_web_only_and_colours_stay_about_them():
    text = f"\x1b[31mred {osc('https://example.org/?a&b', 'x' + chr(27) + '[0m<y>')} plain {osc('file:///etc', 'file')}"
    soup = page(code("f()", new_output("stream", text=text + osc("javascript:f()", "run"))))
    printed = soup.select_one("pre.stream")
    assert printed.get_text() == "red x<y> plain filerun"
    assert [(link["href"], link.get_text()) for link in printed.find_all("a")] == [("https://example.org/?a&b", "x<y>")]
    assert printed.select_one(".ansi-red-fg").get_text().startswith("red ")
    assert "plain" not in printed.select_one(".ansi-red-fg").get_text()


@pytest.mark.parametrize(
    "order",
    ["\x1b]0;title\x07", "\x1b]1337;File=inline=1:AAAA\x07", "\x1bPq#0\x1b\\", "\x1b_Gf=1;AA\x1b\\", "\x1b(B", "\x1b7",
     "\x1b[2K", "\x1b[?25l", "\x1b=", "\x9b", "\x08"],
)  # fmt: skip
def test_other_orders_to_terminals_leave_no_trace(order):
    soup = page(code("f()", new_output("stream", text=f"be{order}fore\nafter"), raises("E", f"a{order}b")))
    assert soup.select_one("pre.stream").get_text() == "before\nafter"
    assert soup.select_one(".failure pre").get_text() == "ab"


def test_long_pages_open_with_a_list_of_their_sections():
    texts = ["A `b` and $c$", "A `b` and $c$", *(f"Part {number}" for number in range(4))]
    soup = page(*(new_markdown_cell(f"## {text}\n\nText") for text in texts))
    links = soup.select("nav a")
    assert [link.get_text() for link in links] == ["A b and c", "A b and c", *texts[2:]]
    targets = [link["href"].removeprefix("#") for link in links]
    assert len(set(targets)) == len(texts)
    assert all(soup.find("h2", id=target) for target in targets)
    assert not page(*(new_markdown_cell(f"## {text}") for text in texts[:5])).select("nav")


def test_failed_notebook_says_at_the_top_which_cell_and_what_error():
    traceback = ["\x1b[31mValueError\x1b[0m: a < b", "\x1b[0;32m----> 1\x1b[0m fail()"]
    soup = page(
        new_markdown_cell("# Title"),
        code("fine()", count=1),
        code("# Fit the unit\nfail()", raises("ValueError", "\x1b[31ma < b\x1b[0m", traceback), count=2),
        code("later()", count=None),
    )
    banner = soup.select_one(".failure")
    assert banner.find_previous("section") is None
    assert "This run failed" in banner.get_text()
    assert "Cell [2], Fit the unit, raised ValueError:" in banner.get_text()
    assert banner.pre.get_text() == "a < b"
    failed = soup.find(id=banner.a["href"].removeprefix("#"))
    assert failed.details.has_attr("open")
    assert "----> 1 fail()" in failed.select_one(".error").get_text()
    assert "\x1b" not in str(soup)
    assert len(soup.select("details[open]")) == 1


def test_papermill_marker_cells_are_left_out_and_its_silent_failures_are_not():
    tag = {"tags": ["papermill-error-cell-tag"]}
    soup = page(
        new_markdown_cell("<span style='color:red'>An Exception was encountered at</span>", metadata=tag),
        new_markdown_cell("# Title"),
        new_markdown_cell("<span id='papermill-error-cell'>stopped</span>", metadata=tag),
        code("slow()", count=4, papermill={"exception": True}),
    )
    assert "An Exception was encountered" not in soup.get_text()
    assert soup.find(id="papermill-error-cell") is None
    assert soup.h1.get_text() == "Title"
    assert "Cell [4], slow(), raised Error" in soup.select_one(".failure").get_text()


def test_failure_told_by_the_caller_is_shown_and_exit_zero_is_none():
    assert "killed by <SIGTERM>" in page(code("f()"), failure="killed by <SIGTERM>").select_one(".failure").get_text()
    assert page(code("exit()", raises("SystemExit", "0"))).select_one(".failure") is None
    assert page(code("exit(3)", raises("SystemExit", "3"))).select_one(".failure") is not None


def test_titles_parameters_errors_and_terminal_text_are_escaped():
    colours = f"\x1b[31m{HOSTILE}\x1b[0m"
    soup = page(
        code(f"x: str = {HOSTILE!r}  # {HOSTILE}", tags=["parameters"]),
        code(f"# {HOSTILE}", new_output("stream", name="stderr", text=colours), shows({"text/plain": HOSTILE})),
        code(f"f()  # {HOSTILE}", raises(HOSTILE, colours, [colours]), shows({"image/png": HOSTILE})),
        title=HOSTILE,
        failure=HOSTILE,
    )
    assert soup.find("script") is None
    assert soup.find(onerror=True) is None
    assert soup.find("img", src="x") is None
    assert soup.title.get_text() == soup.h1.get_text() == HOSTILE
    assert soup.select_one("pre.stderr .ansi-red-fg").get_text() == HOSTILE
    assert soup.select_one(".failure pre").get_text() == HOSTILE
    assert soup.select_one(".failure strong").get_text() == HOSTILE
    assert soup.select_one(".parameters td:last-child").get_text() == HOSTILE


def test_html_outputs_keep_their_look_and_lose_what_runs_or_loads():
    html = (
        "<style>.a {color: red; background: url(https://x.org/y.png)} @import 'z.css';</style><p class='a'>kept</p>"
        "<script>alert(1)</script><a href='javascript:alert(1)'>no</a><a href='https://arxiv.org'>yes</a>"
        "<p onclick='f()' style='color: blue; background: URL(\"//x.org\")'>blue</p><iframe src='https://x.org'></iframe>"
        "</div></section></main><b>unclosed<!-- <section> "
    )
    soup = page(code("html", shows({"text/html": html})), new_markdown_cell("<script>2</script>after"))
    output = soup.select_one(".html")
    assert not output.find_all(["script", "iframe"])
    assert [link.get("href") for link in output.find_all("a")] == [None, "https://arxiv.org"]
    assert "x.org" not in str(output)
    assert "z.css" not in str(output)
    assert output.select_one("p.a").get_text() == "kept"
    assert "color: blue" in output.find(string="blue").parent["style"]
    assert "runs no scripts" in output.get_text()
    assert "after" in soup.find("main").get_text()
    assert "after" not in output.get_text()


def test_missing_attachments_and_local_images_do_not_break_the_report():
    image = new_markdown_cell("![here](attachment:a.png) ![gone](attachment:b.png) ![local](figures/c.png)")
    image.attachments = {"a.png": {"image/png": PIXEL}}
    soup = page(image)
    assert [element["src"] for element in soup.find_all("img")] == [f"data:image/png;base64,{PIXEL}"]
    assert "[image not included: gone] [image not included: local]" in soup.get_text()


def test_latex_that_cannot_be_drawn_stands_there_as_code():
    text = r"$\undefinedmacro{<b>}$, $$\begin{tikzcd} A \end{tikzcd}$$ and $\frac{$ but $x$"
    soup = page(new_markdown_cell(text), code("s", shows({"text/latex": r"$\displaystyle \oops$"})))
    fallen = [element.get_text() for element in soup.select("code.latex")]
    assert fallen == [r"\undefinedmacro{<b>}", r"\begin{tikzcd} A \end{tikzcd}", r"\frac{", r"\displaystyle \oops"]
    assert len(soup.find_all("math")) == 1


@pytest.mark.parametrize("display", [False, True])
@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_of_the_notebooks_are_drawn_completely(formula, display):
    math = BeautifulSoup(latex_to_mathml(formula, display=display), "html.parser").math
    assert math["alttext"] == formula
    assert not re.search(r"[\\&$]", math.get_text())
    assert not math.find_all(["merror", "mfenced"])
    assert {element.get("mathvariant", "normal") for element in math.find_all(True)} == {"normal"}


def test_aligned_environments_become_tables_with_columns():
    rows = BeautifulSoup(latex_to_mathml(r"\begin{aligned} a &= b \\ &\le c \end{aligned}"), "html.parser").find_all(
        "mtr"
    )
    assert [len(row.find_all("mtd")) for row in rows] == [2, 2]


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (r"\min_u F", '<munder><mo movablelimits="true" lspace="0" rspace="0">min</mo><mi>u</mi></munder>'),
        (r"\langle G \rangle", '<mo stretchy="false" form="prefix">⟨</mo>'),
        (r"\lVert w \rVert", '<mo stretchy="false" lspace="0" rspace="0">‖</mo>'),
        (r"a \ge -b", '<mo form="prefix">−</mo>'),
        (r"\log x", '<mi>log</mi><mspace width="0.167em"></mspace><mi>x</mi>'),
        (r"\mathrm{poly}", "<mi>poly</mi>"),
        (r"\mathrm{d}x", '<mi mathvariant="normal">d</mi><mi>x</mi>'),
        (r"\mathbf{1}\boldsymbol{\theta}\mathbb{R}", "𝟏"),
        (r"\boldsymbol{\theta}", "𝜽"),
        (r"x \sim y", "<mo>∼</mo>"),
        (r"x := y", "<mo>≔</mo>"),
        (r"a \! b", '<mspace width="-0.167em">'),
        (r"\text{a < b & <i>}", "<mtext>a\xa0&lt;\xa0b\xa0&amp;\xa0&lt;i&gt;</mtext>"),
    ],
)
def test_gaps_of_the_converter_are_mended(formula, expected):
    assert expected in latex_to_mathml(formula)


@pytest.mark.parametrize(
    "formula",
    [
        r"\frac{",
        r"a^b^c",
        r"\begin{matrix} a",
        r"\oops x",
        "a & b",
        r"\begin{tabular}{c} a \end{tabular}",
        r"\eqref{a}",
    ],
)
def test_what_would_be_drawn_wrongly_is_refused(formula):
    with pytest.raises(UnsupportedLatexError):
        latex_to_mathml(formula)


def test_formulas_carry_no_links_styles_or_markup():
    math = latex_to_mathml(r"\href{javascript:alert(1)}{x} \style{color:red}{y} \class{z}{z} \text{<script>1</script>}")
    assert not re.search(
        r"javascript:alert\(1\)\"|<script|style=|class=|href=",
        math.replace(math.split('alttext="')[1].split('"')[0], ""),
    )


def test_report_of_a_notebook_read_from_a_file_is_the_same(everything, tmp_path):
    nbformat.write(everything, tmp_path / "executed.ipynb")
    again = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert notebook_to_html(again, title="t") == notebook_to_html(everything, title="t")
