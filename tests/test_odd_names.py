"""Notebooks, experiments and attached files that are called, or hold, what nobody would expect."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from small_notebooks import in_project, make_project, resflow_here, runs_of, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import names, records
from resflow.workflow.reports.comparison import load_comparison

TABLES = """import mlflow, pathlib
pathlib.Path('x.parquet').write_bytes(b'PAR1' + bytes(range(128, 256)))
pathlib.Path('latin.csv').write_bytes(b'a\\n\\xff\\n')
for name in ('x.parquet', 'latin.csv'):
    mlflow.log_artifact(name, 'tables')
mlflow.log_metric('score', 2.0)"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("odd") / "project")
    with (
        warm_kernels(tmp_path_factory.mktemp("kernels"), "mlflow.store.tracking.sqlalchemy_store") as variables,
        in_project(root, **variables),
    ):
        yield root


@pytest.fixture(scope="module")
def linked(project):
    """The run of a link to a notebook, which attached tables that are no text."""
    (project / "there").mkdir()
    write_notebook(project / "there" / "real.ipynb", TABLES)
    (project / "alias.ipynb").symlink_to("there/real.ipynb")
    done = resflow_here(project, "run", "alias.ipynb")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(records.open_client(), "alias")
    return run


@pytest.fixture(scope="module")
def comparing(project):
    """The run of a notebook whose name ends as that of the one that compares others."""
    write_notebook(project / "my_compare_runs.ipynb", "import mlflow\nmlflow.log_metric('score', 1.0)")
    assert resflow_here(project, "run", "my_compare_runs.ipynb").returncode == 0
    (run,) = runs_of(records.open_client(), "my_compare_runs")
    return run


def test_run_of_a_link_with_tables_of_bytes_is_whole(project, linked):
    assert linked.data.tags[names.SOURCE] == "alias.ipynb"
    assert resflow_here(project, "store", "check").returncode == 0


def test_notebook_whose_name_ends_as_the_comparing_one_is_compared(comparing):
    points = load_comparison(records.open_client(), "my_compare_runs").points
    assert list(points["run_id"]) == [comparing.info.run_id]


@pytest.mark.parametrize("name", ["long" * 100, "two\nlines"])
def test_experiment_that_cannot_be_called_so_is_refused(project, name):
    write_notebook(project / "plain.ipynb", "1")
    done = resflow_here(project, "run", "plain.ipynb", MLFLOW_EXPERIMENT_NAME=name)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "must be one line of at most 200 bytes" in line
    assert "MLFLOW_EXPERIMENT_NAME" in line


@pytest.mark.parametrize(
    ("file", "command"),
    [("alias.ipynb", "report"), ("environment/environment.json", "diff"), ("environment/environment.json", "verify")],
)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b"[1]", b'{"a": '])
def test_damaged_files_are_told_in_one_line(project, linked, comparing, file, command, content):
    place = Path(unquote(urlsplit(linked.info.artifact_uri).path)) / file
    before = place.read_bytes()
    place.write_bytes(content)
    try:
        others = [comparing.info.run_id] if command == "diff" else []
        done = resflow_here(project, command, linked.info.run_id, *others)
    finally:
        place.write_bytes(before)
    assert "internal error" not in done.stderr
    assert "cut off or damaged" in done.stderr + done.stdout
