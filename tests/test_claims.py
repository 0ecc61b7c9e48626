"""The list of claims: every finished run that tested one counts once, and the smallest margin of several is shown."""

import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from small_notebooks import assert_sound, in_project, make_project, resflow_here

from resflow.workflow import names
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import create_run, open_client


@pytest.fixture
def project(tmp_path):
    with in_project(make_project(tmp_path / "project")):
        yield tmp_path / "project"


def run(claim, margin, *, notebook="bound.ipynb", data="wine", status="FINISHED", **tags):
    created = create_run(
        open_client(), notebook="bound", name="x", parameters={}, tags=provenance_tags(notebook) | tags
    )
    created.log_dataset(data, np.ones((2, 1)), digest=f"{data}-0123456789abcdef")
    created.log_dataset("held out", np.ones((2, 1)), digest="f" * 40, context="test")
    created.log_claim(claim, holds=margin >= 0, margin=margin)
    created.end(status)
    return created


def test_claims_are_listed_with_where_on_what_by_how_much_and_verified_when(project):
    good = "2026-11-27 10:0{} UTC, {}: 3 with the same bits (Linux)"
    first = run("bound_holds", 0.5, **{names.VERIFIED: good.format(1, "from the stored point")})
    second = run("bound_holds", 0.25, **{names.EXECUTED: good.format(2, "executed")})
    changed = "2026-11-27 10:03 UTC, from the stored point: 1 with the same bits, 1 DIFFER: x (Linux)"
    second.set_tags({names.VERIFIED: changed})
    failing = run("bound_holds", -1e-3, data="a | b <i>")
    run("bound_holds", -7.0, status="FAILED")
    run("bound_holds", -8.0, **{names.SUPERSEDED: "f"})
    unknown = run("other_claim", float("nan"), notebook="other.ipynb")
    done = resflow_here(project, "claims", "claims.html")
    assert (done.returncode, done.stderr) == (0, "")
    said = re.sub(r"20\d\d-\d\d-\d\d$", "DAY", done.stdout, flags=re.MULTILINE).splitlines()
    assert said == [
        "claim     bound holds",
        f"  FAILS in 1 of 1 run, smallest margin −0.001 (run {failing.id[:8]}…)",
        "    of bound.ipynb on a | b <i> (a | b <i>-01…), DAY",
        "    not verified",
        f"  holds in 2 of 2 runs, smallest margin 0.25 (run {second.id[:8]}…)",
        "    of bound.ipynb on wine (wine-0123456…), DAY",
        "    from stored points 1 of 2 runs, 1 NOT, last 2026-11-27 10:03 UTC; "
        "executed again 1 of 2 runs, last 2026-11-27 10:02 UTC",
        "claim     other claim",
        f"  FAILS in 1 of 1 run, smallest margin not a number (run {unknown.id[:8]}…)",
        "    of other.ipynb on wine (wine-0123456…), DAY",
        "    not verified",
        "page      claims.html",
    ]
    assert first.id[:8] not in done.stdout
    html = (project / "claims.html").read_text()
    assert_sound(html)
    page = BeautifulSoup(html, "html.parser")
    assert [heading.get_text() for heading in page.find_all("h2")] == ["Bound holds", "Other claim"]
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in page.find_all("tr")]
    assert [row[1] for row in rows if row] == ["a | b <i> (a | b <i>-01…)", *["wine (wine-0123456…)"] * 2]
    assert page.find("i") is None


def test_store_without_a_claim_says_how_to_make_one(project):
    done = resflow_here(project, "claims", "claims.html")
    assert done.returncode == 2
    assert "tested a claim: a notebook logs one by record(claim=...)" in done.stderr
    assert not (project / "claims.html").exists()
