"""The wheel as a product: what is in it, and that it gives a working project in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(root: Path, kind: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the unpacked source distribution, as `pip wheel` of that does."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The environment of a process that imports the package from the unpacked wheel, not from the repository."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}
    return inherited | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}


def resflow(installed: dict[str, str], folder: Path, *commands: list[str]) -> str:
    """What commands print, one after another in one process; they have to succeed."""
    program = "import json, sys; from resflow.workflow.cli import cli\n"
    program += "for line in json.loads(sys.argv[1]): cli(line, 'resflow', standalone_mode=False)"
    command = [sys.executable, "-c", program, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=installed, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked() -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def test_wheel_has_the_package_and_its_project_of_notebooks_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    if not (ROOT / ".git").exists():
        pytest.skip("which files are tracked is known in a repository only")
    package = {name for name in tracked() if name.startswith("resflow/")}
    shipped = {f"resflow/examples/{name}" for name in tracked() if re.match(r"notebooks/|mlruns/", name)}
    assert names == package | shipped


def test_metadata_say_what_the_package_needs_and_how_it_is_called(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    assert folder == f"resflow-{PROJECT['version']}.dist-info"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert entries.split("\n\n") == [
        f"[console_scripts]\nresflow = {PROJECT['scripts']['resflow']}",
        "[papermill.engine]\nresflow = resflow.workflow.engine:ResflowEngine\n",
    ]


def test_new_notebook_runs_from_the_wheel_in_an_empty_folder(installed, tmp_path):
    said = resflow(installed, tmp_path, ["new", "study"], ["run", "study.ipynb", "-p", "steps", "20"])
    assert f"report  {tmp_path}/mlruns/artifacts/study/" in said
    assert "gap to the best linear predictor" in said
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns", "study.ipynb", "study.yaml"}


def test_examples_come_from_the_wheel_and_their_sweeps_can_be_planned(installed, tmp_path):
    copied = resflow(installed, tmp_path, ["examples", "project"], ["new", "project/plain", "--foreign"])
    assert "copied    11 notebooks and 3 sweeps" in copied
    project = tmp_path / "project"
    copies = sorted(path.relative_to(project) for path in project.glob("[mn]*/**/*.*"))
    assert [(project / path).read_bytes() for path in copies] == [(ROOT / path).read_bytes() for path in copies]
    plans = (["sweep", file, "--dry-run"] for file in ("notebooks/sweeps/width.yaml", "plain.yaml"))
    said = resflow(installed, project, *plans)
    assert re.search(r"^width: \d+ points in \d+ executions, 0 finished", said, re.MULTILINE)
    assert "plain: 4 points in 4 executions, 0 finished" in said
