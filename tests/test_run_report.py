"""Reports of runs that have none to write: one line that says why."""

from __future__ import annotations

import pytest
from fabricated_runs import fabricate, make
from small_notebooks import resflow_here


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def runs(project):
    """The ids of runs of every kind that cannot be reported on, each with what is said of it."""
    client = fabricate(project)
    experiment = client.create_experiment("others", artifact_location=(project / "artifacts").as_uri())
    parent = make(client, experiment, role="sweep", sweep="s", name="s", axes=["seed"])
    population = make(client, experiment, role="population", sweep="s", name="p", parent=parent)
    member = make(client, experiment, role="member", sweep="s", name="m", parent=population)
    bare = make(client, experiment, role="run", sweep="s", name="bare", parent=parent)
    running = make(client, experiment, role="run", sweep="s", name="r", parent=parent, status="RUNNING")
    deleted = make(client, experiment, role="run", sweep="s", name="d", parent=parent)
    client.delete_run(deleted)
    return {
        parent: "is that of a sweep: report it by the sweep's name, s",
        member: f"is a member of a population, which has one notebook for all: report {population} instead",
        bare: "has no executed notebook attached: only what `resflow run`, a sweep or papermill",
        running: "is still running: its report is written when it ends",
        deleted: "was deleted in MLflow: restore it first",
        "f" * 32: "no run, sweep or experiment has the id or the name 'ffff",
    }


def test_every_run_without_a_report_gets_one_line_that_says_why(project, runs):
    for run, message in runs.items():
        done = resflow_here(project, "report", run)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert message in line
    assert not list(project.glob("*.html"))
