"""What a notebook records comes back from MLflow as it was, whoever runs the notebook."""

from __future__ import annotations

import json
import math
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE
from nbconvert.preprocessors import ExecutePreprocessor
from papermill.exceptions import PapermillExecutionError
from small_notebooks import (
    artifacts_of,
    in_project,
    make_project,
    read_artifact,
    runs_of,
    start,
    write_notebook,
    write_recording_notebook,
)
from warm_kernels import warm_kernels

from resflow.errors import InvalidInputError
from resflow.workflow import records, session
from resflow.workflow.provenance import notebook_digest

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

CELLS = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("width: int = 32")
shell.run_cell("from resflow.workflow.session import start_run")
shell.run_cell("run = start_run(globals(), notebook='cells')")
shell.run_cell("first = run.id")
shell.run_cell("width: int = 48")
shell.run_cell("run = start_run(globals(), notebook='cells')")
shell.run_cell("unknown_name + 1  # a slip")
print(run_status := shell.user_ns["run"].client.get_run(shell.user_ns["run"].id).info.status)
print(shell.user_ns["run"].client.get_run(shell.user_ns["run"].id).data.tags["resflow.failed_cell"])
shell.run_cell("run.log_metrics({'objective': 1.0})")
shell.run_cell("run.finish()")
shell.run_cell("1 / 0  # afterwards")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder, which is the current one for the tests of this module."""
    root = make_project(tmp_path_factory.mktemp("tracking") / "project")
    with in_project(root):
        yield root


@pytest.fixture(scope="module")
def client(project):
    return records.open_client()


@pytest.fixture
def run(client):
    """A run to record to."""
    return records.create_run(client, notebook="work", name="work", parameters={}, tags={})


@pytest.fixture(scope="module")
def executed(project, client, tmp_path_factory):
    """Notebooks executed in every way there is; what the one executed cell by cell printed."""
    for name in ("engine", "plain", "jupyter"):
        write_recording_notebook(project / f"{name}.ipynb")
    write_recording_notebook(project / "raising.ipynb", "x = 1", "raise ValueError('no\\nsuch luck')")
    start_cell = "from resflow.workflow.session import start_run\nrun = start_run(globals(), notebook='unfinished')"
    write_notebook(project / "unfinished.ipynb", start_cell)
    (project / "cells.py").write_text(CELLS)
    cells = start(project, "python", "cells.py")
    changed = {"parameters": {"width": 64, "rate": 1}, "progress_bar": False}
    papermill.execute_notebook("engine.ipynb", "engine.out.ipynb", engine_name="resflow", **changed)
    modules = ("mlflow.store.tracking.sqlalchemy_store", "resflow.workflow.session")
    with warm_kernels(tmp_path_factory.mktemp("kernels"), *modules) as variables, in_project(project, **variables):
        papermill.execute_notebook("plain.ipynb", "plain.out.ipynb", **changed)
        ExecutePreprocessor().preprocess(nbformat.read("jupyter.ipynb", as_version=4))
        papermill.execute_notebook("unfinished.ipynb", "unfinished.out.ipynb", progress_bar=False)
        with pytest.raises(PapermillExecutionError):
            papermill.execute_notebook("raising.ipynb", "raising.out.ipynb", progress_bar=False)
    said, errors = cells.communicate(timeout=60)
    assert cells.returncode == 0, errors
    return said


def test_plain_papermill_records_the_same_run_as_the_engine(executed, client):
    unlike = ("resflow.owner", "resflow.kernel", "resflow.notebook_digest", "resflow.artifacts")

    def recorded(name):
        (run,) = runs_of(client, name)
        tags = {key: value for key, value in run.data.tags.items() if key not in unlike}
        tags["resflow.outcome"] = tags["resflow.outcome"].replace(run.info.run_id, "this run")
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "linear_predictor_gap")]
        return run.info.status, run.info.run_name, run.data.params, run.data.metrics, history, tags

    assert json.dumps(recorded("plain"), sort_keys=True).replace("plain", "engine") == json.dumps(
        recorded("engine"), sort_keys=True
    )
    status, name, parameters, *_ = recorded("plain")
    assert (status, name) == ("FINISHED", "plain width=64 rate=1.0")
    assert parameters == {"width": "64", "rate": "1.0", "note": "None"}
    for name in ("plain", "engine"):
        digest = notebook_digest(nbformat.read(f"{name}.ipynb", as_version=4))
        assert runs_of(client, name)[0].data.tags["resflow.notebook_digest"] == digest


def test_nbconvert_records_a_finished_run_too(executed, client):
    (run,) = runs_of(client, "jupyter")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "jupyter")
    assert run.data.params == {"width": "32", "rate": "0.5", "note": "None"}
    assert run.data.metrics["linear_predictor_gap"] == -4 / 32


def test_notebook_that_raises_in_its_own_run_is_failed(executed, client):
    (run,) = runs_of(client, "raising")
    assert run.info.status == "FAILED"
    assert run.data.tags["resflow.error"] == "ValueError: no\nsuch luck"
    assert run.data.tags["resflow.failed_cell"] == "5: raise ValueError('no\\nsuch luck')"


def test_kernel_that_ends_first_leaves_a_killed_run(executed, client):
    (run,) = runs_of(client, "unfinished")
    assert run.info.status == "KILLED"


def test_cells_mended_and_run_again_finish_their_run(executed, client):
    said = executed
    assert said.count("FAILED\nunknown_name + 1  # a slip\n") == 1  # of no notebook whose cells could be counted
    second, first = runs_of(client, "cells")
    assert first.info.status == "KILLED"  # given up by starting another
    assert second.info.status == "FINISHED"
    assert not {"resflow.failed_cell", "resflow.error"} & set(second.data.tags)
    assert second.info.run_name == "cells width=48"


def test_run_handed_over_must_exist(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(InvalidInputError, match="names no run"):
        session.start_run({}, notebook="x")


def test_history_of_thousands_of_values_comes_back_in_order(run, client):
    steps = np.arange(0, 1500, 2)
    history = pd.DataFrame({"step": steps, "objective": 1.0 / (1 + steps), "w_norm": np.sqrt(steps)})
    run.log_history(history)
    for name in ("objective", "w_norm"):
        found = client.get_metric_history(run.id, name)
        assert [metric.step for metric in found] == steps.tolist()
        assert [metric.value for metric in found] == history[name].tolist()


def test_metrics_that_are_not_finite_are_told(run, client):
    history = pd.DataFrame({"step": range(4), "a": [1, math.inf, 3, math.inf], "b": [math.inf, math.nan, 2.0, 1.0]})
    run.log_history(history.astype({"b": object}).assign(c=[None, 1.0, pd.NA, 2.0]))
    found = {name: [(m.step, m.value) for m in client.get_metric_history(run.id, name)] for name in "abc"}
    assert found["a"] == [(0, 1.0), (2, 3.0), (3, sys.float_info.max)]  # what MLflow keeps for infinity
    assert [step for step, _ in found["b"]] == [1, 2, 3]
    assert math.isnan(found["b"][0][1])
    assert found["c"] == [(1, 1.0), (3, 2.0)]
    run.log_metrics({"final": math.nan})
    recorded = client.get_run(run.id).data
    assert math.isnan(recorded.metrics["final"])
    assert recorded.tags["resflow.not_finite"].split("; ") == [
        "a is inf at 2 of 4 steps, first at 1",
        "b is inf/nan at 2 of 4 steps, first at 0",
        "final is nan at 1 of 1 steps, first at 0",
    ]


def test_steps_with_metrics_are_a_history_too(run, client):
    run.log_history({10: {"a": np.float32(0.5)}, 0: {"a": 1, "b": 2}})
    assert [(m.step, m.value) for m in client.get_metric_history(run.id, "a")] == [(0, 1.0), (10, 0.5)]


@pytest.mark.parametrize(("holds", "margin"), [(True, 0.25), (False, -1e-3)])
def test_claim_is_found_by_its_outcome_and_says_by_how_much(run, client, holds, margin):
    run.log_claim("bound_covers_gap", holds=holds, margin=margin)
    query = f"tags.claim = 'bound_covers_gap' and tags.claim_holds = '{str(holds).lower()}'"
    (found,) = client.search_runs([run.experiment_id], query)
    assert found.info.run_id == run.id
    assert found.data.metrics["claim_margin"] == margin


def test_figure_is_laid_out_once_for_its_files_and_again_if_it_changed(run, client, monkeypatch):
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from resflow.plots.svg import figure_svg

    laid_out = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: laid_out.append(1) or execute(self, fig))
    figure = Figure(layout="constrained")
    engine = figure.get_layout_engine()
    axes = figure.subplots()
    run.log_figure(figure, "line")
    assert len(laid_out) == 1
    figure_svg(figure)
    assert len(laid_out) == 2
    run.log_figure(figure, "line")  # it was shown, and is as it was then
    assert len(laid_out) == 2
    figure_svg(figure)
    left = axes.get_position().x0
    axes.set_ylabel("a label")
    run.log_figure(figure, "line")
    assert len(laid_out) == 4
    assert axes.get_position().x0 > left
    assert figure.get_layout_engine() is engine
    assert artifacts_of(client, run_of(client, run), "figures") == {"figures/line.png", "figures/line.pdf"}


def test_figures_tables_texts_and_description_are_attached(run, client):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([0, 1])
    run.log_figure(figure, "line")
    frame = pd.DataFrame({"x": [1, 2]})
    run.log_table(frame, "plain")
    run.log_table(frame.set_index(pd.Index(["a", "b"], name="name")), "named")
    run.log_text("hello", "notes/hello.md")
    run.describe("\n# Summary\n")
    run.rename("called otherwise")
    assert artifacts_of(client, run_of(client, run)) == {"figures", "tables", "notes"}
    assert artifacts_of(client, run_of(client, run), "figures") == {"figures/line.png", "figures/line.pdf"}
    assert read_artifact(client, run_of(client, run), "tables/plain.csv") == "x\n1\n2\n"
    assert read_artifact(client, run_of(client, run), "tables/named.csv") == "name,x\na,1\nb,2\n"
    recorded = run_of(client, run)
    assert recorded.data.tags["mlflow.note.content"] == "# Summary"
    assert recorded.info.run_name == run.name == "called otherwise"


def run_of(client, run):
    return client.get_run(run.id)


@pytest.mark.parametrize("names", [None, ["mean radius", "y", "intercept"]])
def test_data_set_is_an_input_with_its_digest(run, client, names):
    X, y = np.arange(12.0).reshape(4, 3), np.array([-1, 1, 1, -1])
    train, test = "ab" if names else "cd"  # MLflow takes data sets of one name and digest for one
    run.log_dataset("small", X, y, digest=train * 64, feature_names=names)
    run.log_dataset("small", X[:2], y[:2], digest=test * 64, feature_names=names, context="test")
    recorded = run_of(client, run)
    assert recorded.data.tags["resflow.data_digest"] == train * 64
    assert recorded.data.tags["resflow.data_digest.test"] == test * 64
    inputs = {entry.tags[0].value: entry.dataset for entry in recorded.inputs.dataset_inputs}
    assert (inputs["training"].name, inputs["training"].digest) == ("small", train * 36)
    assert inputs["test"].digest == test * 36
    profile = json.loads(inputs["training"].profile)
    assert profile.get("num_rows", 4) == 4
    if names:
        assert [name in inputs["training"].schema for name in names] == [True] * 3


def test_artifacts_of_an_experiment_stay_below_the_project_whatever_its_name(client, project, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "../../up / and % away")
    run = records.create_run(client, notebook="work", name="x", parameters={"long": "x" * 300}, tags={})
    experiment = client.get_experiment(run.experiment_id)
    assert experiment.name == "../../up / and % away"
    assert experiment.artifact_location == f"{(project / 'mlruns' / 'artifacts').as_uri()}/-up-and-away"
    client.delete_experiment(run.experiment_id)
    with pytest.raises(InvalidInputError, match="was deleted in MLflow: restore it"):
        records.create_run(client, notebook="work", name="x", parameters={}, tags={})
    for name in ("of\u00a0others", "of\ttabs"):  # which resflow makes none of
        made = client.create_experiment(name)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        assert records.create_run(client, notebook="work", name="x", parameters={}, tags={}).experiment_id == made
    for name in ("new\u00a0one", "no text \udcff", "x" * 300):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        with pytest.raises(InvalidInputError, match="must be one line of at most 200 bytes"):
            records.create_run(client, notebook="work", name="x", parameters={}, tags={})


def test_declared_parameters_are_found_in_the_cells_a_notebook_ran():
    cells = ["", "import os", "a: int = 1\nb: float = 2.0  # b", "a = 5", "c: int = 3\nprint(c)", "%magic"]
    declared = session.declared_in_namespace({"In": cells})
    assert [(p.name, p.annotation, p.default) for p in declared] == [("a", "int", 1), ("b", "float", 2.0)]
    edited = session.declared_in_namespace({"In": [*cells, "a: int = 9\nd: str = 'new'"]})
    assert [(p.name, p.default) for p in edited] == [("a", 1), ("d", "new")]
    annotated = session.declared_in_namespace({"__annotations__": {"a": int, "b": "float | None"}})
    assert [(p.name, p.annotation) for p in annotated] == [("a", "int"), ("b", "float | None")]


def test_busy_database_is_tried_again_and_other_errors_are_not(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    failures = [MlflowException("database is locked", error_code=TEMPORARILY_UNAVAILABLE)] * 2
    # What MLflow said when two runs logged one data set at the same moment.
    outrun = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest"
    failures.append(MlflowException(outrun, error_code=BAD_REQUEST))
    calls: list[object] = []

    def write(value):
        calls.append(value)
        if failures:
            raise failures.pop()
        return value

    assert records.patiently(write, 7) == 7
    assert len(calls) == 4

    def refuse():
        calls.append(None)
        raise MlflowException("bad", error_code=BAD_REQUEST)

    with pytest.raises(MlflowException, match="bad"):
        records.patiently(refuse)
    assert len(calls) == 5
