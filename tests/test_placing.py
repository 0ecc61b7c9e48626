"""New notebooks and copied examples: whole or not at all, in place of nothing, or one line that says why not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
import yaml
from small_notebooks import resflow_here

from resflow.errors import InvalidInputError
from resflow.workflow import placing
from resflow.workflow.examples import copy_examples, own_or_shipped
from resflow.workflow.parameters import declared_in_notebook
from resflow.workflow.placing import place
from resflow.workflow.project import project_root
from resflow.workflow.starting import write_notebook

ROOT = Path(__file__).parents[1]
BOTH = {"a.yaml": b"one", "a.ipynb": b"two"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("foreign", [False, True])
def test_new_notebook_and_its_sweep_bear_the_name_and_can_be_planned(here, foreign):
    done = resflow_here(here, "new", "my-study.ipynb", *["--foreign"] * foreign)
    assert done.returncode == 0, done.stderr
    assert set(contents(here)) == {"my-study.ipynb", "my-study.yaml"}
    assert "resflow run my-study.ipynb" in done.stdout
    assert f"sqlite:///{here}/mlruns/mlflow.db" in done.stdout
    notebook = nbformat.read("my-study.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert ("resflow" in code.replace("`resflow run`", "")) != foreign
    assert 'notebook="my-study"' in code or foreign
    sweep = yaml.safe_load(Path("my-study.yaml").read_text())
    assert sweep["notebook"] == "my-study.ipynb"
    assert set(sweep["axes"]) < {parameter.name for parameter in declared_in_notebook(notebook)}
    plan = resflow_here(here, "sweep", "my-study.yaml", "--dry-run")
    assert "my-study: 4 points in 4 executions, 0 finished" in plan.stdout, plan.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a notebook is called by"),
        (".", "a notebook is called by"),
        ("..", "a notebook is called by"),
        ("folder/", "a notebook is called by"),
        (".hidden", "a notebook is called by"),
        ("study.yaml", "a notebook is called by"),
        ("two words", "a notebook is called by"),
        ("x" * 51, "a notebook is called by"),
        ("caf\udce9", r"name='caf\udce9'"),
        ('a"; print("b', "a notebook is called by"),
        ("nowhere/study", "there is no folder 'nowhere': make it first"),
        ("there", "there.ipynb: is there already: choose another name, or move it away"),
        ("swept", "swept.yaml: is there already"),
        ("folder", "folder.ipynb: is there already"),
        ("dangling", "dangling.ipynb: is there already"),
    ],
)
def test_name_that_cannot_be_used_is_one_line_and_changes_nothing(here, name, message):
    Path("there.ipynb").write_text("mine")
    Path("swept.yaml").write_text("mine")
    Path("folder.ipynb").mkdir()
    Path("dangling.ipynb").symlink_to("nothing")
    before = contents(here)
    done = resflow_here(here, "new", name)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert contents(here) == before


@pytest.mark.parametrize("command", [["new", "study"], ["examples", "."], ["examples", "project"]])
def test_folder_that_cannot_be_written_is_said(here, monkeypatch, command):
    def refuses(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(here / "x"))

    monkeypatch.setattr(tempfile, "mkdtemp", refuses)  # as root may write anywhere
    done = resflow_here(here, *command)
    assert done.returncode == 2
    assert "cannot be made: Permission denied: choose another folder or name" in done.stderr
    assert list(here.iterdir()) == []


def test_foreign_notebook_records_by_plain_mlflow_what_its_runs_are_compared_by(here):
    write_notebook("plain", foreign=True)
    done = resflow_here(here, "run", "plain.ipynb", "-p", "epochs", "5", "-p", "dataset", "iris")
    assert done.returncode == 0, done.stderr
    assert re.search(r"test log loss \(to minimize\) +0\.", done.stdout)
    (report,) = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("report"))
    assert "Warning" not in Path(report).read_text()


def test_examples_are_those_of_the_repository_and_make_a_project(here):
    done = resflow_here(here, "examples", "a project")
    assert done.returncode == 0, done.stderr
    assert "cd 'a project' && resflow run notebooks/train_residual_unit.ipynb" in done.stdout
    folder = here / "a project"
    tracked = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/sweeps/*.yaml"), ROOT / "mlruns" / "README.md"]
    assert contents(folder) == {str(path.relative_to(ROOT)): path.read_bytes() for path in tracked}
    assert project_root(folder / "notebooks") == folder
    again = resflow_here(here, "examples", "a project")
    assert (again.returncode, again.stderr) == (
        2,
        "resflow: error: a project/notebooks: is there already: choose another name, or move it away\n",
    )


def test_examples_join_what_is_in_a_folder_and_leave_its_store_alone(here):
    (here / "mlruns").mkdir()
    (here / "mlruns" / "mlflow.db").write_bytes(b"a store")
    copy_examples(Path())
    assert (here / "mlruns" / "mlflow.db").read_bytes() == b"a store"
    assert not (here / "mlruns" / "README.md").exists()
    assert own_or_shipped("compare_runs") == here / "notebooks" / "compare_runs.ipynb"


def test_notebook_of_a_project_comes_before_the_shipped_one(here):
    assert own_or_shipped("compare_runs") == ROOT / "notebooks" / "compare_runs.ipynb"


@pytest.mark.parametrize("folder", ["here", "new"])
@pytest.mark.parametrize("call", [1, 2])
def test_failure_at_any_file_leaves_nothing(here, monkeypatch, folder, call):
    calls = []

    def fails(finished, target):
        calls.append(target)
        if len(calls) == call:
            raise OSError(28, "No space left on device", str(target))
        os.link(finished, target)

    monkeypatch.setattr(placing, "give_name", fails)
    with pytest.raises(OSError, match="No space left"):
        place(here if folder == "here" else here / "new", BOTH)
    assert list(here.iterdir()) == []


def test_file_that_somebody_else_makes_meanwhile_is_kept(here, monkeypatch):
    name = placing.give_name

    def later(finished, target):
        target.write_text("mine")
        name(finished, target)

    monkeypatch.setattr(placing, "give_name", later)
    with pytest.raises(InvalidInputError, match="is there already"):
        place(here, {"a.ipynb": b"new"})
    assert contents(here) == {"a.ipynb": b"mine"}


def test_file_system_without_links_gets_the_files_too(here, monkeypatch):
    def refuses(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    place(here, BOTH)
    assert contents(here) == BOTH


KILLED = """
import os, signal
from pathlib import Path
from resflow.workflow import placing
name, left = placing.give_name, [{left}]
def kill(finished, target):
    if not left.pop():
        os.kill(os.getpid(), signal.SIGKILL)
    left.append(left_after := False)
    name(finished, target)
placing.give_name = kill
from resflow.workflow.{module} import {function}
{function}({argument})
"""


@pytest.mark.parametrize("first", [False, True], ids=["before the first", "between the two"])
@pytest.mark.parametrize(
    ("module", "function", "argument"),
    [("starting", "write_notebook", "'study'"), ("examples", "copy_examples", "Path('.')")],
)
def test_same_call_completes_what_a_killed_one_began_and_sweeps_it_up(here, module, function, argument, first):
    program = KILLED.format(left=first, module=module, function=function, argument=argument)
    killed = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(path.name.startswith("resflow-") for path in here.iterdir())
    calls = {"write_notebook": lambda: write_notebook("study"), "copy_examples": lambda: copy_examples(Path())}
    calls[function]()
    expected = {"study.ipynb", "study.yaml"} if function == "write_notebook" else {"mlruns", "notebooks"}
    assert {path.name for path in here.iterdir()} == expected
