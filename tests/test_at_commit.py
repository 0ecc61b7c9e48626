"""Runs executed again from the source that they had: its commit and what was uncommitted, and nothing left of that."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from small_notebooks import commit, in_project, make_project, resflow_here, start, wait_for, write_notebook
from warm_kernels import warm_kernels

import resflow
from resflow.workflow import environment, names
from resflow.workflow.artifact_list import LIST
from resflow.workflow.records import Run, open_client

CELLS = [
    """from pathlib import Path
import helper, time
from resflow.workflow.environment import attach_environment
from resflow.workflow.session import start_run
run = start_run(globals(), notebook='study')""",
    """if Path("slow").exists():
    Path("begun").write_text("begun")
    time.sleep(60)""",
    """from resflow.numerals import number_text
run.log_metrics({"objective": helper.factor * len(Path(table).read_text()), "third": float(number_text(1 / 3))})""",
    "run.finish()",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose repository has a folder above it, and whose data git does not keep."""
    top = make_project(tmp_path_factory.mktemp("commits") / "top")
    root = top / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "helper.py").write_text("factor = 1.0\n\nlast = 0\n\n")  # so that a diff ends in an empty line
    (root / "windows.txt").write_bytes(b"one\r\ntwo\r\n")
    commit(top)
    (root / "table.csv").write_text("0.5\n")
    (top / ".git" / "info" / "exclude").write_text("table.csv\n")
    write_notebook(root / "study.ipynb", *CELLS, parameters="table: str = 'table.csv'")
    hook = top / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    folder = tmp_path_factory.mktemp("kernels")
    modules = "resflow.workflow.session", "resflow.workflow.records", "mlflow.tracking"
    with warm_kernels(folder, *modules) as variables, in_project(root, **variables):
        yield root


def made(project):
    done = resflow_here(project, "run", "study.ipynb")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


@pytest.fixture(scope="module")
def run_id(project):
    """A run whose source has changed since: what was uncommitted, and then the commit."""
    (project / "helper.py").write_text("factor = 2.0\n\nlast = 0\n\n")
    (project / "windows.txt").write_bytes(b"one\r\nTWO\r\n")
    (project / "picture.bin").write_bytes(bytes(range(256)))
    subprocess.run(["git", "-C", str(project), "add", "picture.bin"], check=True)
    made_by = made(project)
    (project / "helper.py").write_text("factor = 3.0\n\nlast = 0\n\n")
    commit(project)
    return made_by


def rerun(project, name, *more, **variables):
    return resflow_here(project, "verify", "--rerun", name, *more, **variables)


def verdict_of(done):
    return next(line for line in done.stdout.splitlines() if line.startswith("verified"))


def all_files(project):
    """All that is in a repository and beside it, but for the store, and for programs that JAX compiled."""
    left_out = {"mlruns", ".resflow_cache"}
    files = (path for path in project.parent.rglob("*") if path.is_file() and left_out.isdisjoint(path.parts))
    return {path: path.read_bytes() for path in files}


def test_run_whose_source_changed_has_the_same_bits_at_its_commit(project, run_id, tmp_path, monkeypatch):
    done = rerun(project, run_id)
    assert done.returncode == 1
    assert "1 DIFFER: objective, since then code changed: helper.py" in verdict_of(done)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = all_files(project)
    done = rerun(project, run_id, "--at-commit", GIT_DIR=str(project / "nowhere"))
    assert (done.returncode, done.stderr) == (0, "")
    assert verdict_of(done) == "verified  2 with the same bits"
    assert "since " not in done.stdout
    tags = open_client().get_run(run_id).data.tags
    said = f"{tags[names.COMMIT][:12]}, with what was uncommitted and project/table.csv as it is now"
    assert f"\ncommit    {said}, which git does not keep\n" in done.stdout
    assert f" UTC, executed at {said}" in tags[names.EXECUTED]
    assert all_files(project) == files  # of the repository's too: no worktree is entered there
    run = Run(open_client(), run_id)
    assert json.loads(run.read_text(LIST)).keys() == {*run.every_file()} - {LIST}
    assert list(tmp_path.iterdir()) == []


def spoiled(run_id, tags=(), changes=None):
    """Another run like that one, but for these tags and what is attached as uncommitted."""
    client = open_client()
    stored = client.get_run(run_id)
    own = {key: value for key, value in stored.data.tags.items() if key != names.OUTCOME} | dict(tags)
    run = Run(client, client.create_run(stored.info.experiment_id, tags=own).info.run_id)
    source = Path(Run(client, run_id).artifact_folder)
    run.attach(source / "study.ipynb")
    if changes is not None:
        run.log_text((source / "environment" / "environment.json").read_text(), "environment/environment.json")
        run.log_text(changes, environment.CHANGES)
    run.end("FINISHED")
    return run


def test_source_that_cannot_be_had_is_told_in_one_line(project, run_id, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unknown = f"its commit {'0' * 12} is not in the repository {project.parent}: fetch it first"
    for tags, changes, said in (
        ({names.COMMIT: ""}, "", "the run recorded no commit: it ran in no git repository, or in one without any"),
        ({names.COMMIT: "0" * 40}, "", unknown),
        ({}, "nonsense\n", "environment/changes.diff does not apply to its commit "),
        ({}, "diff\n… cut here: 7 more characters\n", "what was uncommitted was too much to keep: "),
        ({}, None, "the run kept nothing of what was uncommitted when it ran"),
    ):
        run = spoiled(run_id, tags, changes)
        done = rerun(project, run.id, "--at-commit")
        assert done.returncode == 1
        assert verdict_of(done).startswith(f"verified  could not be checked: {said}")
    assert list(tmp_path.iterdir()) == []


def test_points_have_no_commit(project, run_id):
    done = resflow_here(project, "verify", run_id, "--at-commit")
    assert done.returncode == 2
    assert "--at-commit is for --rerun" in done.stderr


def test_library_is_that_of_the_commit_where_the_project_has_it(tmp_path, monkeypatch):
    root = make_project(tmp_path / "project")
    shutil.copytree(Path(resflow.__file__).parent, root / "resflow", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "helper.py").write_text("factor = 1.0\n")
    (root / "table.csv").write_text("0.5\n")
    commit(root)
    write_notebook(root / "study.ipynb", *CELLS, parameters="table: str = 'table.csv'")
    monkeypatch.setenv("JUPYTER_PATH", "")  # a kernel as it is for users, which imports the library itself
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.syspath_prepend(str(root))
    run_id = made(root)
    file = root / "resflow" / "numerals.py"
    text = file.read_text()
    file.write_text(text.replace("digits: int = 4", "digits: int = 5", 1))
    assert file.read_text() != text
    commit(root)
    done = rerun(root, run_id)
    assert "1 DIFFER: third, since then code changed: resflow/numerals.py" in verdict_of(done)
    done = rerun(root, run_id, "--at-commit")
    assert done.returncode == 0, done.stdout
    assert verdict_of(done) == "verified  2 with the same bits"


def test_killed_at_the_commit_leaves_nothing(project, run_id, tmp_path, monkeypatch):
    node = nbformat.read(project / "study.ipynb", as_version=4)
    begun, slow = tmp_path / "begun", tmp_path / "slow"
    node.cells[2].source = f"if Path({str(slow)!r}).exists():\n    Path({str(begun)!r}).write_text('x'); time.sleep(60)"
    nbformat.write(node, project / "study.ipynb")
    run_id = made(project)
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("JUPYTER_PATH", "")  # a kernel as it is for users, which ends with its client
    slow.touch()
    files = all_files(project)
    command = start(project, "resflow", "verify", "--rerun", "--at-commit", run_id)
    wait_for(begun, command)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    assert list(scratch.glob("resflow-*/source/project/helper.py"))
    assert all_files(project) == files
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    deadline = time.monotonic() + 10
    while list(scratch.glob("resflow-????????")) and time.monotonic() < deadline:  # the kernel may be ending still
        resflow_here(project, "verify", run_id)
    assert list(scratch.glob("resflow-????????")) == []
