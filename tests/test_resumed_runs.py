"""A run that was killed as it trained: the same command goes on from there, says so, and ends with the same bits."""

from __future__ import annotations

import os
import signal
import time

import nbformat
import pytest
from small_notebooks import in_project, is_gone, make_project, resflow_here, runs_of, start, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import checkpoints, records
from resflow.workflow.last_word import is_finished
from resflow.workflow.rerun import scratch_store
from resflow.workflow.variables import changed_environment

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

OFTEN = {"RESFLOW_CHECKPOINT_SECONDS": "0.2"}
TRAIN = """import os, pathlib
import jax, mlflow, numpy as np, resflow
pathlib.Path("kernel.pid").write_text(str(os.getpid()))
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
X, key = rng.standard_normal((60, 4)), jax.random.key(0)
f = resflow.feature_map("mlp", 4, width=6, key=key)
unit = resflow.build_model("residual_unit", 4, f, key=key)
options = resflow.TrainingOptions(steps=steps, log_every=50, batch_size=16)
y = np.sign(X[:, 0] + X[:, 1] ** 2 - 1 + rng.standard_normal(60))
result = resflow.train(unit, X, y, loss="logistic", options=options, key=key)
with mlflow.start_run():
    mlflow.log_metrics({"w": float(np.sum(result.model.W)), "objective": float(result.history["objective"][-1])})"""


@pytest.fixture
def kernels(tmp_path_factory, monkeypatch):
    """Kernels that have imported everything already."""
    with warm_kernels(tmp_path_factory.mktemp("kernels")) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield


def test_run_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, kernels, monkeypatch):
    root = make_project(tmp_path)
    write_notebook(root / "train.ipynb", TRAIN, parameters="steps: int = 0")
    command = ["run", "train.ipynb", "-p", "steps", "150000"]
    kept = root / ".resflow_cache" / "checkpoints"
    monkeypatch.setenv(*next(iter(OFTEN.items())))
    killed = start(root, "resflow", *command)
    try:
        deadline = time.monotonic() + 180
        while not list(kept.glob("*/*.npz")):
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        kernel = int((root / "kernel.pid").read_text())
        for process in (killed.pid, kernel):
            os.kill(process, signal.SIGKILL)
        killed.communicate()
    assert is_gone(kernel)

    again = resflow_here(root, *command, **OFTEN)
    assert again.returncode == 0, again.stderr
    assert list(kept.iterdir()) == []  # of a run that is FINISHED nothing is kept
    undisturbed = resflow_here(root, *command, **OFTEN)
    assert undisturbed.returncode == 0, undisturbed.stderr
    with in_project(root):
        latest, resumed, first = runs_of(records.open_client(), "train")
    assert is_finished(resumed)
    assert is_finished(latest)
    assert not is_finished(first)
    assert resumed.data.tags["resflow.trainings_resumed"] == "1"
    assert "resflow.trainings_resumed" not in latest.data.tags
    assert resumed.data.metrics == latest.data.metrics


def test_who_executes_may_say_that_nothing_is_to_be_kept(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook()
    (kept,) = checkpoints.Checkpoints(tmp_path, notebook, "python3").environment.values()
    assert kept.startswith(str(tmp_path / ".resflow_cache" / "checkpoints"))
    with scratch_store() as changes, changed_environment(changes):
        assert checkpoints.Checkpoints(tmp_path, notebook, "python3").environment == {}
        assert os.environ[checkpoints.FOLDER] == ""


def test_what_nobody_came_back_to_is_thrown_away(tmp_path):
    old, new = (tmp_path / ".resflow_cache" / "checkpoints" / name for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    long_ago = time.time() - 2 * checkpoints.FORGOTTEN
    os.utime(old, (long_ago, long_ago))
    checkpoints.Checkpoints(tmp_path, nbformat.v4.new_notebook(), "python3")
    assert new.exists()
    assert not old.exists()
