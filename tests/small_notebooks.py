"""Small notebooks, projects of their own to run them in, and a look at what became of the runs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import mlflow
import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from legible import assert_legible

from resflow.workflow.cli import main
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import Run, create_run, open_client

BIN = Path(sys.executable).parent

PARAMETERS = "width: int = 32  # units\nrate: float = 0.5\nnote: str | None = None  # anything"
START = "from resflow.workflow.session import start_run\nrun = start_run(globals(), notebook='{name}')"
RECORD = """history = {step: {"objective": 1 / (1 + step), "linear_predictor_gap": -step / width} for step in range(5)}
run.log_history(history)
run.log_metrics({"best_linear_objective": rate})
run.describe("A **small** run.")"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS, checked: bool = False) -> Path:
    """A notebook with a parameters cell, if any, and the given code cells after it.

    `checked` says that the parameters mean what they mean in the library.
    """
    node = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    node.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    if checked:
        node.metadata["resflow"] = {"checks": "resflow.notebook.checks"}
    if parameters is not None:
        node.cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(node, path)
    return path


def write_recording_notebook(path: Path, *cells: str) -> Path:
    """A notebook that records a run, with the given cells before it says it is through."""
    return write_notebook(path, START.format(name=path.stem), RECORD, *cells, "run.finish()")


def make_project(root: Path) -> Path:
    """A project folder under version control, with one commit."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / ".gitignore").write_text("mlruns/\n*.ipynb\n")
    subprocess.run(["git", "-C", str(root), "init", "--quiet"], check=True)
    commit(root)
    return root


def commit(root: Path) -> str:
    """Commit all there is; the commit."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["add", "--all"], [*identity, "commit", "--quiet", "--allow-empty", "-m", "all"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    return subprocess.check_output(["git", "-C", str(root), "rev-parse", "HEAD"], text=True).strip()


@contextlib.contextmanager
def in_project(root: Path, **variables: str) -> Iterator[pytest.MonkeyPatch]:
    """While entered, the project's folder is the current one, and its own store the one in use."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.chdir(root)
        yield patch


@contextlib.contextmanager
def mlflow_at(uri: str) -> Iterator[None]:
    """While entered, MLflow's own calls go to the store at this address, which MLflow says in the environment, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)


def start(root: Path, *command: str) -> subprocess.Popen[str]:
    """Start a program of the environment in the project, as a shell that has not activated the environment does."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_", "VIRTUAL"))
    }
    environment |= {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    program, *arguments = command
    return subprocess.Popen(
        [str(BIN / program), *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> str:
    """What a file says, as soon as it says anything."""
    deadline = time.monotonic() + 180  # on a machine with much else to do
    while not (path.exists() and path.read_text()):
        assert process.poll() is None, (
            f"ended with {process.returncode} before it wrote {path}: {process.communicate()}"
        )
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
    return path.read_text()


def is_gone(pid: int, within: float = 5.0) -> bool:
    """True if the process ends within the given seconds."""
    deadline = time.monotonic() + within
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def resflow_here(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command `resflow` in this process, which has everything imported; notebooks still get a kernel each."""
    out, err = io.StringIO(), io.StringIO()
    with in_project(root, **environment) as patch:
        patch.setattr(sys, "argv", ["resflow", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main()
    return subprocess.CompletedProcess(sys.argv, exit_.value.code or 0, out.getvalue(), but_progress(err.getvalue()))


def but_progress(said: str) -> str:
    """What a command said but how far it was, which it says after ten seconds, and so on busy machines alone."""
    return re.sub(r"^cell \d+ of \d+, .*\n", "", said, flags=re.MULTILINE)


def runs_of(client, experiment: str) -> list:
    """The runs of an experiment, latest first."""
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def new_run() -> Run:
    """A run of a notebook called work, in the store that is in use."""
    return create_run(open_client(), notebook="work", name="work", parameters={}, tags=provenance_tags("work.ipynb"))


def artifacts_of(client, run, folder: str | None = None) -> set[str]:
    """The names of what a run attached."""
    return {entry.path for entry in client.list_artifacts(run.info.run_id, folder)}


def read_artifact(client, run, path: str) -> str:
    """The text of what a run attached."""
    return Path(client.download_artifacts(run.info.run_id, path)).read_text()


def assert_sound(html: str) -> None:
    """Check what a reader relies on who hears a page: one title, headings in order, images and tables described.

    And what one relies on who sees it: that the texts in figures are large enough.
    """
    page = BeautifulSoup(html, "html.parser")
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile("^h[1-6]$"))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels)), levels
    assert all(image.get("alt") for image in page.find_all("img"))
    assert all(figure.get("aria-label") for figure in page.select("figure svg"))
    assert all(head.get("scope") for head in page.find_all("th"))
    names = [element["id"] for element in page.find_all(id=True)]
    assert len(names) == len(set(names)), names
    targets = [link["href"] for link in page.find_all("a", href=re.compile("^#"))]
    assert {target.removeprefix("#") for target in targets} <= set(names)
    assert not page.find_all("script")
    assert_legible(html)
