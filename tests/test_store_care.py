"""Looking after a store: what is missing in it is found, and what can go goes, but nothing that is in use."""

import io
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fabricated_runs import fabricate
from mlflow.entities import ViewType
from small_notebooks import in_project, make_project, resflow_here

from resflow.workflow import artifact_list, names, store_cleaning
from resflow.workflow.artifact_list import LIST, attach_list
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import Run, create_run, open_client
from resflow.workflow.store_cleaning import removable_in, remove
from resflow.workflow.stored_points import attach_points

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose store has runs of all kinds, some of which are going on."""
    root = tmp_path_factory.mktemp("care") / "my project"
    fabricate(make_project(root))
    return root


@pytest.fixture
def new_run(project):
    """Makes a run as the engine leaves one behind."""

    def make(end="FINISHED", listed=True, **tags):
        with in_project(project):
            given = provenance_tags("work.ipynb") | {names.KERNEL: "forked"} | tags
            run = create_run(open_client(), notebook="work", name="whole", parameters={}, tags=given)
            run.log_text("{}", "work.ipynb")
            run.log_text("<html>...</html>\n", "work.html")
            run.set_tags(attach_points(run, "final", {"w": np.ones(3)}, {}))
            run.log_text("{}", "environment/environment.json")
            run.log_text("x,y\n1,2\n", "tables/ends.csv")
            if listed:
                attach_list(run)
            if end:
                run.end(end)
            return run

    return make


def folder_of(run):
    return Path(run.artifact_folder)


def in_store(project):
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as connection:
        return {row[0] for row in connection.execute("SELECT run_uuid FROM runs")}


def files_in(project):
    return {path for path in (project / "mlruns").rglob("*") if path.is_file() and "mlflow.db" not in path.name}


def check(project):
    done = resflow_here(project, "store", "check")
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_whole_store_is_found_whole(project, new_run):
    new_run()
    code, said = check(project)
    assert code == 0
    assert said.startswith("database  sound, ")
    assert "finished runs: nothing wrong; " in said


FAULTS = {
    "work.html": "the report work.html is missing",
    "work.ipynb": "the executed notebook work.ipynb is missing",
    "points/final.npz": "the stored point is gone: points/final.npz is not among the artifacts",
    "environment/environment.json": "environment/environment.json is missing",
}


def test_missing_artifacts_of_finished_runs_are_found(project, new_run):
    spoiled = {}
    for path, what in FAULTS.items():
        runs = new_run(), new_run(listed=False)
        failed = new_run("FAILED", listed=False)  # which promises nothing
        for each in (*runs, failed):
            (folder_of(each) / path).unlink()
        spoiled |= dict.fromkeys(runs, what) | {failed: None}
    code, said = check(project)
    assert code == 1
    for run, what in spoiled.items():
        told = [line for line in said.splitlines() if line.startswith(f"run       {run.id}")]
        assert [line.partition("whole: ")[2].startswith(what) for line in told] == ([True] if what else [])
        run.client.delete_run(run.id)


SPOILED = {
    "tables/ends.csv is missing": ("tables/ends.csv", None),
    "tables/ends.csv has 4 bytes, and 8 when the run ended": ("tables/ends.csv", b"x,y\n"),
    "tables/ends.csv changed since the run ended": ("tables/ends.csv", b"x,y\n1,3\n"),
    "work.ipynb changed since the run ended": ("work.ipynb", b"[]"),
    f"{LIST} is missing": (LIST, None),
    f"{LIST} changed since the run ended": (LIST, b"{}\n"),
    "": ("work.html", b"<html>again</html>\n"),  # as `resflow report` writes it
}


def test_whatever_runs_had_attached_and_is_not_as_it_was_is_found(project, new_run):
    runs = {}
    for said, (path, content) in SPOILED.items():
        runs[said] = run = new_run()
        run.log_text("x", "tables/later.csv")
        file = folder_of(run) / path
        file.unlink() if content is None else file.write_bytes(content)
    code, told = check(project)
    assert code == 1
    for said, run in runs.items():
        found = [line.partition("whole: ")[2] for line in told.splitlines() if run.id in line]
        assert found == ([said] if said else [])
        run.client.delete_run(run.id)


def test_of_files_that_are_large_the_size_is_listed_alone(project, new_run, monkeypatch):
    monkeypatch.setattr(artifact_list, "READ", 8)
    run = new_run()
    listed = json.loads((folder_of(run) / LIST).read_text())
    assert listed["environment/environment.json"].keys() == {"size", "sha256"}
    assert listed["tables/ends.csv"] == {"size": 8}
    assert listed["points/final.npz"]["sha256"] == run.stored.data.tags[names.STORED_POINT_DIGEST]
    assert listed["work.html"] == {}
    run.client.delete_run(run.id)


def test_artifact_that_is_not_as_it_was_is_found(project, new_run):
    run = new_run()
    (folder_of(run) / "work.html").write_text("<html>")
    (folder_of(run) / "work.ipynb").write_text('{"cells": [')
    (folder_of(run) / "points" / "final.npz").write_bytes(b"")
    code, said = check(project)
    assert code == 1
    for what in ("report work.html is cut off", "notebook work.ipynb is cut off", "the stored point changed"):
        assert what in said
    run.client.delete_run(run.id)


def test_run_that_is_nested_in_none_and_copy_that_is_not_whole_are_found(project, new_run):
    lost = new_run(**{names.PARENT: "0" * 32})
    begun = new_run(**{names.IMPORTED_FROM: "unfinished " + "1" * 32})
    code, said = check(project)
    assert code == 1
    assert f"{lost.id}  whole: is nested in the run {'0' * 32}, which is deleted or gone" in said
    assert f"{begun.id}  whole: was not imported whole: import it again" in said
    for run in (lost, begun):
        run.client.delete_run(run.id)


@pytest.mark.parametrize("damage", ["cut off", "a page zeroed", "a row without its run"])
def test_damaged_database_is_found(tmp_path, damage):
    root = make_project(tmp_path / "project")
    fabricate(root)
    database = root / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        if damage == "a row without its run":
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("DELETE FROM runs WHERE run_uuid = (SELECT min(run_uuid) FROM params)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = database.read_bytes()
    if damage == "cut off":
        database.write_bytes(content[: len(content) // 2])
    elif damage == "a page zeroed":
        database.write_bytes(content[:-4096] + bytes(4096))
    done = resflow_here(root, "store", "check")
    assert done.returncode == 1, done
    assert "is damaged" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def rubbish(project, new_run):
    """A deleted run, a deleted experiment with one, and a folder of a run that is gone."""
    with in_project(project):
        client = open_client()
        location = (project / "mlruns" / "7").as_uri()  # where MLflow itself puts it, in a process that begins here
        experiment = client.create_experiment(f"gone {os.urandom(4).hex()}", location)
        last = client.create_run(experiment).info.run_id
        client.log_text(last, "text", "note.txt")
        client.set_terminated(last)
        client.delete_experiment(experiment)
    deleted = new_run()
    deleted.client.delete_run(deleted.id)
    orphan = folder_of(deleted).parents[1] / os.urandom(16).hex() / "artifacts"
    orphan.mkdir(parents=True)
    (orphan / "note.txt").write_text("text")
    return deleted, last, experiment, orphan.parent


def test_what_was_deleted_goes_and_nothing_else(project, rubbish):
    deleted, last, experiment, orphan = rubbish
    runs, files = in_store(project), files_in(project)
    before = {path: path.read_bytes() for path in files}
    done = resflow_here(project, "store", "clean", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed   all of it\n" in done.stdout
    gone = {path for path in files if not {deleted.id, last, orphan.name}.isdisjoint(path.parts)}
    assert len(gone) >= 6, gone
    assert {deleted.id, last} <= runs - in_store(project)
    remaining = files_in(project)
    assert all(path.read_bytes() == before[path] for path in remaining)
    assert gone.isdisjoint(remaining)
    assert not orphan.exists()
    with in_project(project):
        known = open_client().search_experiments(view_type=ViewType.ALL)
        assert experiment not in {each.experiment_id for each in known}
    assert resflow_here(project, "store", "clean", "--yes").stdout == "nothing to remove\n"
    assert check(project)[0] == 0


def test_it_says_how_much_and_asks(project, rubbish, monkeypatch):
    runs, files = in_store(project), files_in(project)
    asked = resflow_here(project, "store", "clean")
    assert asked.returncode == 2
    assert "say --yes" in asked.stderr
    assert "orphans   1 folders of runs that the store does not have, 0.0 MB\n" in asked.stdout

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    refused = resflow_here(project, "store", "clean")
    assert "Remove them for good?" in refused.stdout
    assert refused.returncode == 130
    assert (in_store(project), files_in(project)) == (runs, files)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert "removed   all of it\n" in resflow_here(project, "store", "clean").stdout


def test_what_is_going_on_and_what_others_are_nested_in_stays(project, new_run):
    going_on = new_run(end="")  # which this process answers for
    above = new_run()
    below = new_run(**{names.PARENT: above.id})
    for run in (going_on, above):
        run.client.delete_run(run.id)
    files = files_in(project)
    said = resflow_here(project, "store", "clean", "--yes").stdout
    assert "kept      1 deleted runs that may be going on\n" in said
    assert "kept      1 deleted runs that have others nested in them\n" in said
    assert {going_on.id, above.id, below.id} <= in_store(project)
    assert {path for path in files if not {going_on.id, above.id, below.id}.isdisjoint(path.parts)} <= files_in(project)
    going_on.client.restore_run(going_on.id)
    going_on.end("FINISHED")
    for run in (below, going_on):
        run.client.delete_run(run.id)
    resflow_here(project, "store", "clean", "--yes")
    assert {going_on.id, above.id, below.id}.isdisjoint(in_store(project))


def test_run_that_is_restored_while_it_asks_stays(project, rubbish):
    deleted, *_ = rubbish
    with in_project(project):
        agreed = removable_in(project)
        assert deleted.id in agreed.runs
        deleted.client.restore_run(deleted.id)
        remove(project, agreed)
        assert Run(deleted.client, deleted.id).files() == ["work.html", "work.ipynb"]


def test_cleaning_that_is_stopped_goes_on(project, rubbish, monkeypatch):
    deleted, *_ = rubbish
    removed = store_cleaning.shutil.rmtree

    def stop(folder):
        removed(folder)
        if folder.name == deleted.id:
            raise KeyboardInterrupt

    monkeypatch.setattr(store_cleaning.shutil, "rmtree", stop)
    assert resflow_here(project, "store", "clean", "--yes").returncode == 130
    monkeypatch.undo()
    assert "removed   all of it\n" in resflow_here(project, "store", "clean", "--yes").stdout
    assert deleted.id not in in_store(project)


def test_files_of_another_store_in_the_same_folder_stay(project):
    """MLflow itself, started here on a database of its own, puts them into mlruns/NUMBER."""
    folder = project / "mlruns" / "1" / os.urandom(16).hex() / "artifacts"
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("text")
    resflow_here(project, "store", "clean", "--yes")
    assert (folder / "note.txt").exists()


def test_store_of_others_is_not_cleaned(project):
    done = resflow_here(project, "store", "clean", MLFLOW_TRACKING_URI="sqlite:////tmp/other.db")
    assert done.returncode == 2
    assert "only the project's own store can be cleaned" in done.stderr
