"""A disk that is full at any moment leaves no run that counts as finished and is not whole; space mends everything.

`--moments 20` tries twenty moments of a run and as many of a sweep.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from forked_command import forked_command
from mlflow import MlflowClient
from small_disk import small_disk
from small_notebooks import make_project, write_notebook

from resflow.workflow.last_word import is_finished, status_of
from resflow.workflow.store import ensure_store

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

PAGE = 4096
WRITTEN = 110
"""Pages that a run of the notebook below writes, and a sweep of two points at most."""

LOG = """from resflow.workflow.session import start_run
run = start_run(globals(), notebook="work")
run.log_history({step: {"a": step, "b": -step} for step in range(500)})
run.log_text("t" * 20_000, "note.txt")
run.finish()
print("x" * 20_000)"""


def pytest_generate_tests(metafunc):
    """Spread the moments over what a command writes."""
    if "moment" in metafunc.fixturenames:
        count = metafunc.config.getoption("moments")
        pages = [WRITTEN * place // count for place in range(count)]
        metafunc.parametrize("moment", pages or [85], ids=lambda pages: f"{pages}_pages_left")


@pytest.fixture(autouse=True)
def costly(request):
    """Two starts of a sweep take half a minute: they are tried only where moments are asked for."""
    if not request.config.getoption("moments") and "sweep" in request.node.name:
        pytest.skip("only with --moments N")


@pytest.fixture
def disk(tmp_path, moment):
    """A disk with a project on it, and a store that was made in time; temporary files are there at even moments."""
    with small_disk(tmp_path / "disk") as disk:
        root = make_project(disk.folder / "project")
        ensure_store(root)
        (disk.folder / "tmp").mkdir()
        disk.environment = {"TMPDIR": str(disk.folder / "tmp")} if moment % 2 == 0 else {}
        yield disk


def points(client) -> list:
    """The runs that stand for a notebook's execution."""
    experiment = client.get_experiment_by_name("work")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if run.data.tags.get("resflow.role") != "sweep"]


def check(client) -> bool:
    """Check that no run counts as finished that is not whole; True if all count."""
    found = points(client)
    for run in found:
        if is_finished(run):
            folder = Path(run.info.artifact_uri.removeprefix("file://"))
            nbformat.read(folder / "work.ipynb", as_version=4)
            assert (folder / "work.html").read_text().rstrip().endswith("</html>")
            if "resflow.sweep" not in run.data.tags:
                assert run.data.metrics["a"] == 499
                assert len((folder / "note.txt").read_text()) == 20_000
    return all(map(is_finished, found))


def ended(client) -> Counter:
    """How often which status occurs."""
    return Counter(status_of(run) for run in points(client))


def test_disk_full_at_any_moment_of_a_run(disk, moment):
    root = disk.folder / "project"
    write_notebook(root / "work.ipynb", LOG, parameters=None)
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    disk.fill(moment * PAGE)
    code, said = forked_command(root, "run", "work.ipynb", **disk.environment)
    assert check(client) or code, said
    disk.empty()
    before = len(points(client))
    code, said = forked_command(root, "run", "work.ipynb")
    assert code == 0, said
    check(client)
    assert len(points(client)) == before + 1
    assert is_finished(points(client)[0])
    assert ended(client).keys() <= {"FINISHED", "FAILED", "KILLED"}


def test_disk_full_at_any_moment_of_a_sweep(disk, moment):
    root = disk.folder / "project"
    write_notebook(root / "work.ipynb", "print('x' * 20_000)", parameters="seed: int = 0")
    (root / "work.yaml").write_text("notebook: work.ipynb\naxes: {seed: {seeds: 2}}\n")
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    disk.fill(moment * PAGE)
    code, said = forked_command(root, "sweep", "work.yaml", "--json", "--workers", "1", **disk.environment)
    assert check(client) or code, said
    if code == 0:
        assert len(points(client)) == 2
    disk.empty()
    code, said = forked_command(root, "sweep", "work.yaml", "--json", "--workers", "1")
    assert code == 0, said
    check(client)
    statuses = ended(client)
    assert statuses.pop("FINISHED") == 2
    assert statuses.keys() <= {"FAILED", "KILLED"}
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("work").experiment_id], "tags.`resflow.role` = 'sweep'"
    )
    assert is_finished(parent)
    folder = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert len((folder / "tables" / "results.csv").read_text().splitlines()) == 3
    assert json.loads(said.splitlines()[-1])["finished"] == 2
