"""The wheel as a product: what is in it, and that it gives a working project in an empty folder."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

from resflow.workflow.starting import write_notebook

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
    done = subprocess.run(command, cwd=folder, env=installed, capture_output=True, text=True, timeout=600)
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
    kernel = f"resflow-{PROJECT['version']}.data/data/share/jupyter/kernels/resflow/kernel.json"
    assert names == package | shipped | {kernel}


def test_metadata_say_what_the_package_needs_and_how_it_is_called(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        said = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    assert folder == f"resflow-{PROJECT['version']}.dist-info"
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert entries.split("\n\n") == [
        f"[console_scripts]\nresflow = {PROJECT['scripts']['resflow']}",
        "[jupyter_client.kernel_provisioners]\n"
        "resflow-forking = resflow.workflow.forking.provisioner:ForkingProvisioner",
        "[papermill.engine]\nresflow = resflow.workflow.engine:ResflowEngine\n",
    ]


def modules_of(requirements: list[str]) -> set[str]:
    """The modules of packages that are required."""
    provided = metadata.packages_distributions()
    names = {canonical(re.match(r"[\w.-]+", each).group()) for each in requirements}
    return {module for module, found in provided.items() if names.intersection(map(canonical, found))}


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@functools.cache
def modules_of_extras() -> list[str]:
    """The modules of packages that only extras require."""
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    return sorted(modules_of(extras) - modules_of(PROJECT["dependencies"]) - {"resflow"})


def without_extras(installed: dict[str, str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program run where the packages of all extras cannot be imported."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules_of_extras()})); "
    command = [sys.executable, "-c", hide + program, *arguments]
    return subprocess.run(command, env=installed, cwd=installed["PYTHONPATH"], capture_output=True, text=True)


def test_library_needs_no_extra(installed):
    assert {"click", "mlflow", "matplotlib", "psutil", "pytest"} < set(modules_of_extras())
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[0]
    done = without_extras(installed, "exec(sys.argv[1])", example)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gap 0\.\d+ ≤ [\d.]+ ≤ [\d.]+\n", done.stdout)


@pytest.mark.parametrize("command", [["run", "x.ipynb"], ["--help"]])
def test_command_without_its_extra_says_what_to_install(installed, command):
    done = without_extras(installed, "from resflow.workflow.entry import main; main()", *command)
    lacking = "resflow: error: the command needs the workflow's packages, and click is not installed: "
    assert (done.returncode, done.stderr) == (2, lacking + "pip install 'resflow[workflow]'\n")


@pytest.mark.parametrize("package", ["psutil", "papermill"])
def test_package_of_the_extra_that_is_lacking_is_named_wherever_it_is_imported(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook("plain", foreign=True)
    program = f"import sys; sys.modules['{package}'] = None; from resflow.workflow.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "run", "plain.ipynb"], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"and {package} is not installed: pip install 'resflow[workflow]'" in line


def test_new_notebook_runs_from_the_wheel_in_an_empty_folder(installed, tmp_path):
    said = resflow(installed, tmp_path, ["new", "study"], ["run", "study.ipynb", "-p", "steps", "20"])
    assert f"report  {tmp_path}/mlruns/artifacts/study/" in said
    assert "gap to the best linear predictor" in said
    assert {path.name for path in tmp_path.iterdir()} - {".resflow_cache"} == {"mlruns", "study.ipynb", "study.yaml"}


def test_examples_come_from_the_wheel_and_their_sweeps_can_be_planned(installed, tmp_path):
    copied = resflow(installed, tmp_path, ["examples", "project"], ["new", "project/plain", "--foreign"])
    notebooks, sweeps = (len([*(ROOT / "notebooks").glob(pattern)]) for pattern in ("*.ipynb", "sweeps/*.yaml"))
    assert f"copied    {notebooks} notebooks and {sweeps} sweeps" in copied
    project = tmp_path / "project"
    copies = sorted(path.relative_to(project) for path in project.glob("[mn]*/**/*.*"))
    assert [(project / path).read_bytes() for path in copies] == [(ROOT / path).read_bytes() for path in copies]
    plans = (["sweep", file, "--dry-run"] for file in ("notebooks/sweeps/width.yaml", "plain.yaml"))
    said = resflow(installed, project, *plans)
    assert re.search(r"^width: \d+ points in \d+ executions, 0 finished", said, re.MULTILINE)
    assert "plain: 4 points in 4 executions, 0 finished" in said
