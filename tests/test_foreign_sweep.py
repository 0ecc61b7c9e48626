"""A sweep of a notebook that knows nothing of resflow: autologged, the best of its runs the most accurate."""

from __future__ import annotations

import json

import nbformat
import pytest
from bs4 import BeautifulSoup
from small_notebooks import in_project, make_project, resflow_here, runs_of, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import records
from resflow.workflow.goal import Goal
from resflow.workflow.sweeps.state import Tally

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

FIT = """import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
mlflow.sklearn.autolog(log_models=False, log_datasets=False, log_post_training_metrics=False, silent=True)
X, y = load_iris(return_X_y=True)
model = LogisticRegression(C=C, max_iter=max_iter).fit(X, y)
mlflow.log_metric("accuracy", model.score(X, y))"""

IMPORTED = (
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "mlflow.sklearn",
    "mlflow.store.tracking.sqlalchemy_store",
    "resflow.notebook.comparison",
    "resflow.workflow.reports.comparison",
    "seaborn",
    "sklearn.datasets",
    "sklearn.utils.discovery",
)
"""What kernels of its points and of its reports have from the start."""

AXES = "notebook: {notebook}.ipynb\naxes: {{C: [0.001, 1.0], max_iter: [3, 200]}}\n"
GOAL = {"metric": "accuracy", "direction": "maximize"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which the same sweep is told by its file, by its notebook or by nobody what counts."""
    root = make_project(tmp_path_factory.mktemp("foreign") / "project")
    foreign = write_notebook(root / "foreign.ipynb", FIT, parameters="C = 1.0\nmax_iter = 200")
    node = nbformat.read(foreign, as_version=4)
    node.metadata["resflow"] = GOAL
    (root / "told").mkdir()
    nbformat.write(node, root / "told" / "foreign.ipynb")
    (root / "file.yaml").write_text(AXES.format(notebook="foreign") + "metric: accuracy\ndirection: maximize\n")
    (root / "notebook.yaml").write_text(AXES.format(notebook="told/foreign"))
    (root / "options.yaml").write_text(AXES.format(notebook="foreign"))
    with warm_kernels(tmp_path_factory.mktemp("kernels"), *IMPORTED) as variables, in_project(root, **variables):
        yield root


@pytest.fixture(scope="module", params=["file", "notebook", "options"])
def sweep(project, request):
    """The sweep's own run, and the accuracy of each of its points by C and max_iter; executed for the first only."""
    options = ["--metric", "accuracy", "--maximize"] if request.param == "options" else []
    said = resflow_here(project, "sweep", f"{request.param}.yaml", "--json", "--workers", "1", *options)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout.splitlines()[-1])["finished"] == 4
    runs = runs_of(records.open_client(), "foreign")
    (parent,) = [run for run in runs if run.data.tags.get("resflow.axes") and request.param in run.info.run_name]
    points = [run for run in runs if run.data.tags.get("resflow.role") == "run" and run.info.status == "FINISHED"]
    assert all("accuracy" in run.data.metrics for run in points), [(run.data.tags, run.data.metrics) for run in points]
    return parent, {(run.data.params["C"], run.data.params["max_iter"]): run.data.metrics["accuracy"] for run in points}


def test_best_run_of_an_autologged_sweep_is_the_one_of_largest_accuracy(project, sweep):
    parent, accuracy = sweep
    best = max(accuracy, key=accuracy.__getitem__)
    assert (len(accuracy), best, sorted(accuracy.values())[-2] < accuracy[best]) == (4, ("1.0", "200"), True)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_accuracy"] == accuracy[best]
    assert parent.info.run_name.endswith(f": 4 of 4, best accuracy {accuracy[best]:.4f}")
    assert Goal.in_tags(parent.data.tags) == Goal("accuracy", maximize=True)
    points = [run for run in runs_of(records.open_client(), "foreign") if run.data.tags.get("resflow.role") == "run"]
    assert {run.info.run_name for run in points} == {
        f"foreign C {strength}, max_iter {count}" for strength in ("0.001", "1") for count in (3, 200)
    }
    assert {Goal.in_tags(run.data.tags) for run in points} == {Goal("accuracy", maximize=True)}
    figures = {entry.path for entry in records.open_client().list_artifacts(parent.info.run_id, "figures")}
    assert {"figures/accuracy_against_C.png", "figures/accuracy_against_max_iter.png"} <= figures


def test_report_has_the_most_accurate_run_first(project, sweep):
    parent, accuracy = sweep
    most = f"{max(accuracy.values()):.5g}"
    report = resflow_here(project, "report", parent.data.tags["resflow.sweep"], "grid.html")
    assert report.returncode == 0, report.stderr
    soup = BeautifulSoup((project / "grid.html").read_text(), "html.parser")
    assert f"The best of them has accuracy {most}, the largest." in soup.get_text()
    rows = [row.get_text(" ").split() for row in soup.select("tr:has(a[href*='/runs/'])")]
    assert rows[0] == ["C", "1,", "max_iter", "200", most]
    assert [row[-1] for row in rows] == [f"{value:.5g}" for value in sorted(accuracy.values(), reverse=True)]
    assert not any(word in soup.get_text() for word in ("best linear predictor:", "arXiv", "local minimum", "theorem"))


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
