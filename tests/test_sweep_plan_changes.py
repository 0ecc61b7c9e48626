"""What counts as a sweep's is what it plans: whatever its file, its data or its own run went through meanwhile."""

from __future__ import annotations

import json

import pytest
from small_notebooks import in_project, make_project, new_run, resflow_here, runs_of, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import names, records
from resflow.workflow.reports.comparison import load_comparison

SCORE = "import mlflow\nmlflow.log_metric('score', len(open(dataset).read()) + x)"
SWEEP = "notebook: {notebook}\naxes: {{x: {x}}}\nmetric: score\ndirection: maximize\n"
NOTEBOOK = "a {x} of 'q'.ipynb"
"""Papermill would put the parameter in place of the braces."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("planned") / "project")
    write_notebook(root / NOTEBOOK, SCORE, parameters='x = 1\ndataset = "d.csv"')
    with (
        warm_kernels(tmp_path_factory.mktemp("kernels"), "mlflow.store.tracking.sqlalchemy_store") as variables,
        in_project(root, **variables),
    ):
        yield root


def swept(root, name, data, x, strategy="grid"):
    """Start the sweep on such data with such values; its own run, and the scores of the points that count, by x."""
    (root / "d.csv").write_text(data)
    text = SWEEP.format(notebook=json.dumps(NOTEBOOK), x=x) + f"strategy: {strategy}\n"
    (root / f"{name}.yaml").write_text(text)
    done = resflow_here(root, "sweep", f"{name}.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr + done.stdout
    comparison = load_comparison(records.open_client(), name)
    points = comparison.points
    return comparison.parent_id, dict(zip(points["x"], points["score"], strict=True))


def executed(client):
    return [run for run in runs_of(client, NOTEBOOK[:-6]) if run.data.tags.get(names.ROLE) == "run"]


def test_points_that_are_no_longer_planned_do_not_count_until_they_are_again(project):
    client = records.open_client()
    short, long = "a\n1\n", "a\n1\n2\n"
    for data, x in ((short, [1, 2]), (long, [1, 2]), (short, [1, 2]), (short, [2, 3]), (short, [1, 2])):
        parent, scores = swept(project, "s", data, x)
        assert scores == {value: len(data) + value for value in x}
        assert client.get_run(parent).data.metrics["best_score"] == max(scores.values())
    assert len(executed(client)) == 5  # nothing twice


def test_trials_of_a_search_that_it_would_not_choose_any_more_do_not_count_until_they_may_be_again(project):
    client = records.open_client()
    before = len(executed(client))
    short, long, longest = "a\n3\n", "a\n3\n4\n", "a\n3\n4\n5\n"
    strategy = "{kind: optuna, count: 2}"
    plans = ((longest, [1, 2]), (short, [1, 2]), (longest, [1, 2]), (long, [2, 3]), (long, [3]), (long, [2, 3]))
    for data, x in plans:
        parent, scores = swept(project, "searched", data, x, strategy)
        assert scores == {value: len(data) + value for value in x}
        run = client.get_run(parent)
        assert run.data.metrics["best_score"] == max(scores.values())
        assert run.info.run_name == f"sweep searched: {len(x)} of {len(x)}, best score {max(scores.values()):.4f}"
    assert len(executed(client)) == before + 6  # nothing twice


def test_sweeps_own_run_may_be_deleted(project):
    client = records.open_client()
    first, scores = swept(project, "deleted", "a\n", [5, 6])
    client.delete_run(first)
    second, again = swept(project, "deleted", "a\n", [5, 6])
    assert second != first
    assert again == scores
    assert len(records.everything_below(client, client.get_run(second))) == 3
    assert resflow_here(project, "store", "check").returncode == 0


def test_run_that_was_first_stands_for_its_duplicate_in_the_other_sweep(tmp_path):
    with in_project(make_project(tmp_path / "project")):
        runs = [new_run() for _ in range(2)]
        for run, sweep in zip(runs, ("one", "other"), strict=True):
            run.set_tags({names.FINGERPRINT: "f", names.SWEEP: sweep, names.PARENT: f"parent of {sweep}"})
            run.end("FINISHED")
        client, experiment = runs[0].client, runs[0].experiment_id
        records.drop_duplicates(client, experiment, ["f"])
        first, second = (run.stored.data.tags for run in runs)
        assert first[names.ALSO_IN + "other"] == "parent of other"
        assert names.FINGERPRINT not in second
        assert second[names.DUPLICATE_OF] == runs[0].id
        found = records.runs_of_sweep(client, experiment, "other")
        assert [run.info.run_id for run in found] == [runs[0].id]
        runs[0].remove_tags([names.DUPLICATE_OF, names.ALSO_IN + "other", names.ALSO_IN + "other"])
