"""In what two runs differ: said once, in the order of cause and effect, and counted where it is nothing."""

import json
import re

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output
from small_notebooks import assert_sound, in_project, make_project, resflow_here

from resflow.workflow import names
from resflow.workflow.environment import attach_environment
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import create_run, open_client

EPS = np.finfo(float).eps


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with in_project(root := make_project(tmp_path_factory.mktemp("diff") / "project")):
        yield root


@pytest.fixture
def run(project):
    def make(width=32, objective=0.25, digest="a" * 64, **tags):
        given = provenance_tags("work.ipynb") | tags
        parameters = {"width": width, "steps": 10}
        run = create_run(open_client(), notebook="work", name=f"width {width}", parameters=parameters, tags=given)
        run.set_tags({names.DATA_DIGEST: digest, names.DATA_PREPARATION: json.dumps({"dataset": "t", "seed": 0})})
        run.log_metrics({"objective": objective, "norms/w_norm": 2.0})
        attach_environment(run)
        run.end("FINISHED")
        return run

    return make


def test_runs_that_differ_in_nothing_are_told_so(project, run):
    done = resflow_here(project, "diff", run().id, run().id)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parameters: none differ, 2 the same\n" in done.stdout
    assert "metrics: none differ, 2 the same\n" in done.stdout
    assert "\n  " not in done.stdout


def test_everything_that_differs_is_named_with_both_values(project, run, monkeypatch):
    first = run(verdict="strict_saddle")
    monkeypatch.setenv("XLA_FLAGS", "--one")
    (project / "pyproject.toml").write_text("[project]\n# changed\n")
    second = run(width=64, objective=0.5, digest="b" * 64, verdict="not_stationary", **{names.NOTEBOOK_DIGEST: "c"})
    done = resflow_here(project, "diff", first.id, second.id)
    (project / "pyproject.toml").write_text("[project]\n")
    assert (done.returncode, done.stderr) == (1, "")
    said = done.stdout.splitlines()
    order = [line.split(":")[0] for line in said if not line.startswith((" ", "first", "second"))]
    assert order == ["parameters", "environment", "data", "notebook", "outcome", "metrics"]
    assert "  width  32 | 64" in said
    assert any(line.startswith("  XLA_FLAGS") and line.endswith(" | --one") for line in said)
    assert any(line.startswith("  uncommitted changes") and "none | environment/changes.diff" in line for line in said)
    assert "data: 1 differ, 2 the same" in said
    assert "  digest  aaaaaaaaaaaa… | bbbbbbbbbbbb…" in said
    assert "  digest  none | c" in said
    assert "  verdict  strict_saddle | not_stationary" in said
    assert "  objective  0.25 | 0.5 (by 0.25)" in said


def test_metric_that_differs_by_rounding_is_marked(project, run):
    done = resflow_here(project, "diff", run().id, run(objective=0.25 * (1 + 2 * EPS)).id)
    assert done.returncode == 1
    assert "  objective  0.25 | 0.25 (rounding, 2 units)" in done.stdout.splitlines()


def test_what_is_no_run_is_said_in_one_line(project, run):
    done = resflow_here(project, "diff", run().id, "nobody")
    assert done.returncode == 2
    assert "'nobody' is no run's id" in done.stderr


def notebook(*cells):
    """An executed notebook of code cells, each a source and the outputs it has; with the cell that papermill adds."""
    node = new_notebook(cells=[new_code_cell("width = 7", metadata={"tags": ["injected-parameters"]}, id="injected")])
    for number, (source, *outputs) in enumerate(cells):
        node.cells.append(new_code_cell(source, outputs=outputs, id=f"cell-{number}", execution_count=number))
    return node


def printed(text):
    return new_output("stream", text=text)


def shown(**data):
    return new_output("display_data", {name.replace("_", "/"): each for name, each in data.items()})


def with_notebook(run, *cells, **values):
    made = run(**values, **{names.SOURCE: "work.ipynb"})
    made.log_text(nbformat.writes(notebook(*cells)), "work.ipynb")
    return made


SVG = '<svg><metadata>{0}</metadata><path id="{0}" d="{1}"/></svg>'
HOSTILE = "x = '</pre><script>alert(1)</script>```'"


@pytest.fixture
def pair(run):
    first = with_notebook(
        run,
        ("import numpy as np",),
        ("for i in range(3):\n    print(i)", printed("0\n1\n2\n")),
        ("a = 1\nb = 2\nprint(a + b)", printed("3\n")),
        ("figure", shown(image_png="AAAA", text_plain="<Figure size 640x480 with 1 Axes>")),
        ("drawing", shown(**{"image_svg+xml": SVG.format("p1", "M 0 0")})),
        ("gone = np.zeros(3)", printed("[0. 0. 0.]")),
        ("fail", new_output("error", ename="ValueError", evalue="too small")),
    )
    second = with_notebook(
        run,
        ("import numpy as np",),
        ("print('new')", printed("new\n")),
        ("for i in range(3):\n    print(i)", printed("0\n1\n5\n")),
        ("a = 1\nb = 4\nprint(a + b)", printed("5\n")),
        ("figure", shown(image_png="BBBB", text_plain="<Figure size 640x480 with 1 Axes>")),
        ("drawing", shown(**{"image_svg+xml": SVG.format("p2", "M 0 0")})),
        (HOSTILE, printed("\x1b[31mred\x1b[0m")),
        ("fail", new_output("error", ename="ValueError", evalue="too large")),
        width=64,
    )
    return first, second


def test_executed_notebooks_are_compared_cell_by_cell(project, pair):
    done = resflow_here(project, "diff", *(run.id for run in pair))
    assert (done.returncode, done.stderr) == (1, "")
    _, _, said = done.stdout.partition("notebook: ")
    said, _, _ = said.partition("outcome: ")
    assert [*re.sub("SHA-256 .*", "SHA", said).splitlines()] == [
        "7 differ, 4 the same",
        "  cell 2: added",
        "    + print('new')",
        "    put out:",
        "    + new",
        "  cell 2 | 3: its outputs differ",
        "    put out:",
        "      1",
        "    - 2",
        "    + 5",
        "  cell 3 | 4: changed",
        "      a = 1",
        "    - b = 2",
        "    + b = 4",
        "      print(a + b)",
        "    put out:",
        "    - 3",
        "    + 5",
        "  cell 4 | 5: its outputs differ",
        "    put out:",
        "    - [image/png, SHA",
        "    + [image/png, SHA",
        "  cell 6: removed",
        "    - gone = np.zeros(3)",
        "    put out:",
        "    - [0. 0. 0.]",
        "  cell 7: added",
        f"    + {HOSTILE}",
        "    put out:",
        "    + red",
        "  cell 7 | 8: its outputs differ",
        "    put out:",
        "    - ValueError: too small",
        "    + ValueError: too large",
    ]


def test_page_has_all_of_it_and_runs_nothing(project, pair):
    done = resflow_here(project, "diff", *(run.id for run in pair), "--html", "differences.html")
    assert done.stdout.endswith("page    differences.html\n")
    html = (project / "differences.html").read_text()
    assert_sound(html)
    page = BeautifulSoup(html, "html.parser")
    assert [head.get_text() for head in page.select("h2")][-6:] == [
        "Parameters", "Environment", "Data", "Notebook", "Outcome", "Metrics",
    ]  # fmt: skip
    assert [head.get_text() for head in page.select("h3")][:2] == ["Cell 2: added", "Cell 2 | 3: its outputs differ"]
    assert ["width", "32", "64", ""] in [[cell.get_text() for cell in row.select("td")] for row in page.select("tr")]
    lines = [line.get_text() for line in page.select(".highlight .gi, .highlight .gd")]
    assert {"- b = 2", "+ b = 4"} <= {line[:1] + " " + line[1:].strip() for line in lines}
    assert f"+{HOSTILE}" in page.get_text()
    assert not page.select("script, iframe, img, link, object")


def test_page_that_cannot_be_written_is_refused_first(project, run):
    done = resflow_here(project, "diff", "a", "b", "--html", "nowhere/page.html")
    assert done.returncode == 2
    assert "there is no folder nowhere" in done.stderr


def test_long_outputs_are_compared_to_their_ends(project, run):
    lines = [f"{number}\n" for number in range(5000)]
    first, second = (
        with_notebook(run, ("print()", printed("".join([*lines, end])))) for end in ("the end\n", "the End\n")
    )
    done = resflow_here(project, "diff", first.id, second.id)
    assert "    - [3,001 more lines, SHA-256 " in done.stdout
    third = with_notebook(run, ("print()", printed("other\n" + "".join(f"{line}!" for line in lines))))
    done = resflow_here(project, "diff", first.id, third.id)
    assert re.search(r"\n    … [\d]+ more lines, which --html FILE writes\n", done.stdout)


@pytest.mark.parametrize(
    "text", ['{"cells": [', "[]", '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [3]}']
)
def test_damaged_notebook_is_told_and_the_rest_compared(project, run, text):
    first, second = with_notebook(run, ("1",)), with_notebook(run, ("1",), width=64)
    second.log_text(text, "work.ipynb")
    done = resflow_here(project, "diff", first.id, second.id)
    assert (done.returncode, done.stderr) == (1, "")
    assert "  executed  work.ipynb | work.ipynb: the executed notebook is cut off or damaged\n" in done.stdout
    assert "  width  32 | 64\n" in done.stdout
    done = resflow_here(project, "report", second.id)
    assert done.returncode == 2
    assert f"run {second.id}, work.ipynb: the executed notebook is cut off or damaged" in done.stderr
