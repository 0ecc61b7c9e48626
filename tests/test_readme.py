"""The README's promises: its commands run, its example prints what it says, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "library.md").read_text()
BIN = Path(sys.executable).parent
COMMANDS = commands(README)


def test_readme_is_short():
    assert len(README.splitlines()) <= 130


def test_links_and_pictures_lead_to_files():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"demo", "test", "ui", "lab"} <= set(named) <= set(targets)


def test_continuous_integration_calls_the_same_commands():
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test" in script
    assert "make lint" in script


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder of its own, with the notebooks and the file that the README's commands speak of."""
    folder = tmp_path_factory.mktemp("project with a space")
    (folder / "pyproject.toml").touch()
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 2))
    table = np.column_stack([X, X[:, 0] + X[:, 1] ** 2])
    np.savetxt(folder / "table.csv", table, delimiter=",", header="size,age,price", comments="")
    return folder


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.split()[0] in ("resflow", "papermill")])
def test_commands_run_as_they_stand(command, project):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command.split(), cwd=project, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_examples_print_bounds_in_order_and_a_verdict(capsys):
    names = {}
    bounds, ridge = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(bounds, names)
    gap, certificate, bound = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    assert gap <= certificate <= bound
    exec(ridge, names)
    assert capsys.readouterr().out.startswith("not stationary")


def test_guide_to_the_library_does_what_it_shows(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(example, {})
    said = capsys.readouterr().out
    assert "softmax loss, 3 outputs" in said
    assert "\nnot stationary" in said
    assert "It met its tolerance. gap -" in said
