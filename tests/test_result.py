"""The top and the foot of a run's report: what came out, and where it comes from."""

from __future__ import annotations

import json

import pytest
from bs4 import BeautifulSoup
from mlflow.entities import Metric, Run, RunData, RunInfo, RunTag
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from resflow.workflow import names
from resflow.workflow.reports.facts import Fact
from resflow.workflow.reports.notebook_html import notebook_to_html
from resflow.workflow.reports.result import result_of

OURS = {
    names.FACTS: json.dumps([["verdict", "strict saddle"], ["gap", "−0.1 <b>"]]),
    names.CLAIM: "certificate_bounds_gap",
    names.CLAIM_HOLDS: "true",
    names.DESCRIPTION: "The gap is **-0.1**.",
    names.COMMIT: "0" * 40,
    names.GIT_DIRTY: "true",
    names.DATA_DIGEST: "abc",
    names.DATA_DIGEST + ".test": "def",
    names.NOTEBOOK_DIGEST: "123",
    names.PYTHON: "3.11.7",
    names.VERSION + "jax": "0.10.2",
    names.PLATFORM: "Linux",
    names.PRECISION: "float64",
    names.SOURCE: "notebooks/my notebook.ipynb",
}


def stored(tags, metrics=None):
    info = RunInfo("id", "0", "me", "RUNNING", 0, None, "active", "file:///nowhere", run_name="named")
    data = RunData([Metric(key, value, 0, 0) for key, value in (metrics or {}).items()], [], [])
    data._tags = {tag.key: tag.value for tag in (RunTag(*pair) for pair in tags.items())}
    return Run(info, data)


def notebook(*injected):
    cells = [new_code_cell('name: str = "a"\nwidth: int = 32\n', metadata={"tags": ["parameters"]})]
    cells += [new_code_cell("\n".join(injected), metadata={"tags": ["injected-parameters"]})] if injected else []
    return new_notebook(cells=[new_markdown_cell("# Does it?"), *cells])


def page(run, nb, **options):
    return BeautifulSoup(notebook_to_html(nb, title="t", result=result_of(run, nb), **options), "html.parser")


def test_result_opens_the_page_before_parameters_and_notebook():
    soup = page(stored(OURS, {names.CLAIM_MARGIN: -1e-12}), notebook("width = 64"))
    (box,) = soup.select(".outcome")
    lines = dict(zip(*([each.get_text() for each in box.find_all(tag)] for tag in ("dt", "dd")), strict=True))
    assert lines == {
        "verdict": "strict saddle",
        "gap": "−0.1 <b>",
        "claim: certificate bounds gap": "holds, margin −1e−12",
    }
    assert box.find("strong").get_text() == "-0.1"
    order = [element.get("class")[0] for element in soup.main.find_all(["section", "footer"]) if element.get("class")]
    assert order[:2] == ["outcome", "parameters"]
    assert soup.title.get_text() == "Does it? – named"


def test_only_what_differs_from_its_default_is_seen_unfolded():
    soup = page(stored({}), notebook("width = 64"))
    shown = [row.th.get_text() for row in soup.select(".parameters > .scroll tbody tr")]
    folded = [row.th.get_text() for row in soup.select(".parameters details tbody tr")]
    assert (shown, folded) == (["width"], ["name"])
    assert soup.select_one("details.defaults summary").get_text() == "The other 1 at its default"
    assert page(stored({}), notebook()).select_one("details.defaults summary").get_text() == "All 2 at their defaults"


def test_claim_that_fails_is_seen():
    (box,) = page(stored(OURS | {names.CLAIM_HOLDS: "false"}, {names.CLAIM_MARGIN: -0.25}), notebook()).select(
        ".outcome.unmet"
    )
    assert box.select_one(".claim").get_text() == "FAILS, margin −0.25"


def test_failure_takes_the_place_of_a_result():
    soup = page(stored(OURS), notebook(), failure="SIGTERM in cell 2")
    assert soup.select(".failure")
    assert not soup.select(".outcome")


@pytest.mark.parametrize("facts", ["", "{", "[1]", '{"a": 1}', '[["a"]]'])
def test_foreign_run_shows_the_metric_that_counts_and_some_others(facts):
    tags = {names.METRIC: "accuracy", names.DIRECTION: "maximize"} | ({names.FACTS: facts} if facts else {})
    metrics = {"accuracy": 0.96, "a/b": 1.0, "loss": float("nan")} | {f"m_{i}": float(i) for i in range(9)}
    shown = result_of(stored(tags, metrics), notebook()).facts
    assert shown[0] == Fact("accuracy (to maximize)", "0.96")
    assert list(shown[1:]) == [Fact("loss", "not a number"), *(Fact(f"m {i}", str(i)) for i in range(4))]


def test_run_without_facts_of_its_own_shows_its_claim_and_summary_alone():
    assert result_of(stored(OURS | {names.FACTS: "[]"}, {"accuracy": 0.5}), notebook()).facts == ()


def test_foot_says_where_the_run_comes_from_and_how_to_make_it_again():
    soup = page(stored(OURS), notebook("width = 64", 'name = "x y"'))
    foot = dict(zip(*([each.get_text() for each in soup.footer.find_all(tag)] for tag in ("dt", "dd")), strict=True))
    assert foot == {
        "run": "id",
        "commit": "0" * 40 + ", with uncommitted changes",
        "data": "digest abc",
        "test data": "digest def",
        "notebook": "SHA-256 123",
        "versions": "Python 3.11.7, jax 0.10.2",
        "platform": "Linux, computed in float64",
        "again": "resflow run 'notebooks/my notebook.ipynb' -p name 'x y' -p width 64",
    }


def test_foot_says_that_the_commit_is_unknown_outside_a_repository():
    tags = {key: value for key, value in OURS.items() if key != names.COMMIT}
    said = dict(result_of(stored(tags), notebook()).provenance)["commit"]
    assert said == "unknown: it ran in no git repository with a commit, or without git"


def test_command_that_nobody_types_is_left_out():
    nb = notebook(f"name = {'x' * 3000!r}")
    assert "again" not in dict(result_of(stored(OURS), nb).provenance)


def test_foot_brings_along_short_tables_and_leads_to_long_ones_beside_the_page():
    run, nb = stored(OURS), notebook()
    result = result_of(run, nb)._replace(tables=(("tables/a.csv", "x\n1\n"), ("tables/b.csv", "")))
    links = BeautifulSoup(notebook_to_html(nb, title="t", result=result), "html.parser").select("footer a")
    assert [(link.get_text(), link["download"]) for link in links] == [("a.csv", "a.csv"), ("b.csv", "b.csv")]
    assert [link["href"] for link in links] == ["data:text/csv;charset=utf-8;base64,eAoxCg==", "tables/b.csv"]
