"""The embedded store: one per project, whole or absent, and honest about where its artifacts are."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from ready_stores import build

from resflow.errors import InvalidInputError
from resflow.workflow import store
from resflow.workflow.project import artifact_root, project_root

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def built_as_for_users(monkeypatch):
    """No copies of a store that is ready."""
    monkeypatch.setattr(store, "_build", build)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder of its own, with awkward characters in its name, as the current directory."""
    root = tmp_path / "my project #1 é"
    (root / "notebooks" / "deep").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(root)
    return root


def log_a_run(root: Path, text: str) -> str:
    """A run with one artifact in an experiment `work` of the store at `root`; returns its id."""
    client = MlflowClient(tracking_uri=store.ensure_store(root))
    found = client.get_experiment_by_name("work")
    experiment = found.experiment_id if found else client.create_experiment("work", f"{artifact_root(root)}/work")
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, text, "note.txt")
    client.log_param(run_id, "path", f"{root}/data.csv")
    return run_id


def read_note(root: Path, run_id: str) -> str:
    client = MlflowClient(tracking_uri=store.ensure_store(root))
    return Path(client.download_artifacts(run_id, "note.txt")).read_text()


def test_store_is_the_same_from_any_folder_inside_the_project(project, monkeypatch):
    first = store.tracking_uri()
    monkeypatch.chdir(project / "notebooks" / "deep")
    assert store.tracking_uri() == first == f"sqlite:///{project}/mlruns/mlflow.db"


def test_folder_that_mlflow_drops_beside_a_notebook_is_not_taken_for_a_project(project):
    (project / "notebooks" / "mlruns" / "0").mkdir(parents=True)
    assert project_root(project / "notebooks") == project
    (project / "notebooks" / "mlruns" / "README.md").touch()
    assert project_root(project / "notebooks") == project / "notebooks"


def test_environment_overrides_the_embedded_store(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert store.tracking_uri() == "http://127.0.0.1:1"
    assert not (project / "mlruns").exists()


def test_new_store_has_write_ahead_logging_and_leaves_nothing_of_its_making(project):
    store.tracking_uri()
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert {path.name for path in (project / "mlruns").iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_six_processes_starting_at_once_make_one_sound_store(project):
    program = """
import os, time
from mlflow.store.tracking import sqlalchemy_store
from mlflow.tracking import MlflowClient
from resflow.workflow import store
start = time.time() + 0.5
children = []
for _ in range(6):
    if (child := os.fork()) == 0:  # nothing is connected yet
        time.sleep(max(0, start - time.time()))
        client = MlflowClient(tracking_uri=store.tracking_uri())
        run = client.create_run("0")
        for step in range(5):
            client.log_metric(run.info.run_id, "m", step, step=step)
        os._exit(0)
    children.append(child)
raise SystemExit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stderr
    runs = MlflowClient(tracking_uri=store.tracking_uri()).search_runs(["0"])
    assert [run.data.metrics["m"] for run in runs] == [4.0] * 6


def test_process_killed_while_making_the_store_leaves_nothing_broken(project):
    program = "from resflow.workflow import store; store.tracking_uri()"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    unfinished, database = project / "mlruns" / "mlflow.db.unfinished", project / "mlruns" / "mlflow.db"
    deadline = time.monotonic() + 600
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert unfinished.exists()
    assert not database.exists()
    run_id = log_a_run(project, "sound")
    assert read_note(project, run_id) == "sound"
    assert not list(unfinished.parent.glob("*unfinished*"))


def test_moved_project_is_noticed_and_mended(project):
    run_id = log_a_run(project, "before the move")
    moved = project.with_name("moved to #2")
    project.rename(moved)
    os.chdir(moved)
    with pytest.raises(store.StoreMovedError, match="resflow store relocate") as caught:
        store.tracking_uri()
    assert str(project) in str(caught.value)
    assert str(moved) in str(caught.value)

    assert store.relocate(moved) == 3  # the locations of the two experiments and of the run
    assert store.relocate(moved) == 0
    assert read_note(moved, run_id) == "before the move"
    later = log_a_run(moved, "after the move")
    assert read_note(moved, later) == "after the move"
    assert not project.exists()
    client = MlflowClient(tracking_uri=store.tracking_uri())
    assert client.get_run(run_id).data.params["path"] == f"{project}/data.csv"  # a record of what was, not a location


def test_copied_project_does_not_write_to_the_original(project):
    run_id = log_a_run(project, "original")
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    with pytest.raises(store.StoreMovedError):
        store.check_not_moved(copy)
    store.relocate(copy)
    store.check_not_moved(copy)
    store.check_not_moved(project)
    shutil.rmtree(project / "mlruns" / "artifacts")
    os.chdir(copy)
    assert read_note(copy, run_id) == "original"


def test_every_kind_of_location_is_relocated(project):
    store.tracking_uri()
    database = project / "mlruns" / "mlflow.db"
    plain, uri = f"{project}/mlruns/artifacts/1/x", f"{project.as_uri()}/mlruns/artifacts/1/x"
    values = {"runs": ("run_uuid", "artifact_uri"), "trace_tags": ("request_id", "value")}
    with sqlite3.connect(database) as connection:
        for location in (plain, uri):
            connection.execute("INSERT INTO runs (run_uuid, artifact_uri) VALUES (?, ?)", (location[:1], location))
            connection.execute(
                "INSERT INTO trace_tags (request_id, key, value) VALUES (?, 'mlflow.artifactLocation', ?)",
                (location[:1], location),
            )
            connection.execute(
                "INSERT INTO trace_tags (request_id, key, value) VALUES (?, 'mlflow.note', ?)", (location[:1], location)
            )
    connection.close()
    moved = project.with_name("moved")
    project.rename(moved)
    assert store.relocate(moved) == 5
    with sqlite3.connect(moved / "mlruns" / "mlflow.db") as connection:
        for table, (key, column) in values.items():
            found = {
                row[0] for row in connection.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE '%moved%'")
            }
            assert found == {plain.replace(str(project), str(moved)), uri.replace(project.as_uri(), moved.as_uri())}, (
                key
            )
        assert connection.execute(
            "SELECT count(*) FROM trace_tags WHERE key = 'mlflow.note' AND value LIKE '%moved%'"
        ).fetchone() == (0,)
    connection.close()
    os.chdir(moved)


def test_project_reached_through_a_symbolic_link_is_not_taken_for_moved(project):
    log_a_run(project, "x")
    link = project.with_name("link")
    link.symlink_to(project)
    store.check_not_moved(link)


def test_folder_names_that_the_database_address_cannot_carry_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"has a '\?' in its name.*rename"):
        store.ensure_store(tmp_path / "why?")
    assert not (tmp_path / "why?").exists()
