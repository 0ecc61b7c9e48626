"""In what two runs differ: said once, in the order of cause and effect, and counted where it is nothing."""

import json

import numpy as np
import pytest
from small_notebooks import in_project, make_project, resflow_here

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
