"""A sweep of a notebook that knows nothing of resflow: autologged, the best of its runs the most accurate."""

from __future__ import annotations

import json

import pytest
from bs4 import BeautifulSoup
from small_notebooks import in_project, make_project, resflow_here, runs_of, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import tracking
from resflow.workflow.goal import Goal
from resflow.workflow.sweeps.progress import Tally

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

FIT = """import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
mlflow.sklearn.autolog(log_models=False, log_datasets=False, log_post_training_metrics=False, silent=True)
X, y = load_iris(return_X_y=True)
model = LogisticRegression(C=C, max_iter=max_iter).fit(X, y)
mlflow.log_metric("accuracy", model.score(X, y))"""

SWEEP = """notebook: foreign.ipynb
metric: accuracy
direction: maximize
axes:
  C: [0.001, 1.0]
  max_iter: [5, 200]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("foreign") / "project")
    write_notebook(root / "foreign.ipynb", FIT, parameters="C = 1.0\nmax_iter = 200")
    (root / "grid.yaml").write_text(SWEEP)
    with warm_kernels(tmp_path_factory.mktemp("kernels")) as variables, in_project(root, **variables):
        yield root


def test_best_run_of_an_autologged_sweep_is_the_one_of_largest_accuracy(project):
    said = resflow_here(project, "sweep", "grid.yaml", "--json", "--workers", "1")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[-1])["finished"] == 4
    client = tracking.open_client()
    runs = [run for run in runs_of(client, "foreign") if run.data.tags.get("resflow.role") == "run"]
    accuracy = {(run.data.params["C"], run.data.params["max_iter"]): run.data.metrics["accuracy"] for run in runs}
    best = max(accuracy, key=accuracy.__getitem__)
    assert len(accuracy) == len(set(accuracy.values())) == 4
    assert best == ("1.0", "200")
    (parent,) = [run for run in runs_of(client, "foreign") if run.data.tags.get("resflow.role") == "sweep"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_accuracy"] == accuracy[best]
    assert parent.info.run_name == f"sweep grid: 4 of 4, best accuracy {accuracy[best]:.4f}"
    assert Goal.in_tags(parent.data.tags) == Goal("accuracy", maximize=True)
    figures = {entry.path for entry in client.list_artifacts(parent.info.run_id, "figures")}
    assert {"figures/accuracy_against_C.png", "figures/accuracy_against_max_iter.png"} <= figures

    report = resflow_here(project, "report", "grid", "grid.html")
    assert report.returncode == 0, report.stderr
    soup = BeautifulSoup((project / "grid.html").read_text(), "html.parser")
    assert f"The best of them has accuracy {accuracy[best]:.5g}, the largest." in soup.get_text()
    rows = [row.get_text(" ") for row in soup.select("tr:has(a[href*='/runs/'])")]
    assert rows[0].split()[1:] == ["1", "200", f"{accuracy[best]:.5g}"]
    assert "best linear predictor:" not in soup.get_text()


def test_best_of_a_tally_follows_its_goal_and_is_never_what_is_not_finite():
    values = {"a": 0.5, "b": 0.9, "c": 1.7976931348623157e308, "d": float("nan"), "e": None, "f": float("inf")}
    for goal, best in ((Goal("accuracy", maximize=True), "b"), (Goal("loss"), "a"), (Goal("gap"), "a")):
        tally = Tally(goal=goal)
        for place, value in values.items():
            tally.consider(value, place)
        assert (tally.best, tally.best_label) == (values[best], best)
    assert "best gap +0.5 (a)" in tally.line()
    tally = Tally()
    tally.consider(0.5, "a")
    assert "best" not in tally.line()
