"""Eight processes recording at once lose nothing: neither in SQLite nor through a server with PostgreSQL behind it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from crowd import STEPS
from fabricated_runs import fabricate
from mlflow.entities import LoggedModelOutput
from mlflow.tracking import MlflowClient
from small_notebooks import make_project, resflow_here, runs_of

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

PROCESSES = 8
CROWD = Path(__file__).with_name("crowd.py")


def assert_nothing_is_lost(project: Path, uri: str | None, runs_each: int) -> None:
    """Let the processes record, and find every run whole."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {"MLFLOW_TRACKING_URI": uri} if uri else {}
    command = [sys.executable, str(CROWD), str(PROCESSES), str(runs_each)]
    outcome = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)
    assert outcome.returncode == 0, outcome.stderr
    assert "Error" not in outcome.stderr, outcome.stderr
    client = MlflowClient(uri or f"sqlite:///{project}/mlruns/mlflow.db")
    runs = runs_of(client, "crowd")
    names = {f"{number}-{each}" for number in range(PROCESSES) for each in range(runs_each)}
    assert sorted(run.info.run_name for run in runs) == sorted(names)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all(run.data.params["n"] == run.info.run_name for run in runs)
    assert all(run.data.metrics["b"] == 1 - STEPS for run in runs)
    assert {len(run.inputs.dataset_inputs) for run in runs} == {1}
    assert len({each.dataset.name for run in runs for each in run.inputs.dataset_inputs}) == runs_each
    for run in runs[::PROCESSES]:
        assert len(client.get_metric_history(run.info.run_id, "a")) == STEPS
        assert Path(client.download_artifacts(run.info.run_id, "note.txt")).read_text() == run.info.run_name


def test_eight_processes_record_80_runs_in_sqlite_and_lose_nothing(tmp_path):
    assert_nothing_is_lost(make_project(tmp_path / "project"), None, 10)


def postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps off the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@pytest.fixture(scope="module")
def database():
    """The address of a PostgreSQL server of its own, in a temporary folder, reached through a socket there."""
    programs = postgresql()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="resflow-pg-"))
    as_owner: list[str] = []
    if os.getuid() == 0:  # as which PostgreSQL refuses to run
        if not shutil.which("runuser"):
            pytest.skip("PostgreSQL does not run as root, and there is no runuser")
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]

    def call(program: str, *arguments: str) -> None:
        command = [*as_owner, str(programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=60)

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    settings = f"-c listen_addresses= -c fsync=off -k {folder}"
    call("pg_ctl", "-D", data, "-o", settings, "-l", str(folder / "log"), "-w", "start")
    try:
        call("createdb", "-h", str(folder), "-U", "postgres", "mlflow")
        yield f"postgresql+psycopg://postgres@/mlflow?host={folder}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """The address of `mlflow server` on that database."""
    tmp_path = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{address}/health"):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except URLError:
        return False


def test_eight_processes_record_through_a_server_with_postgresql_and_lose_nothing(server, tmp_path):
    assert_nothing_is_lost(make_project(tmp_path / "project"), server, 4)


def test_sweep_exported_from_sqlite_comes_back_the_same_from_a_server_with_postgresql(server, tmp_path):
    client = fabricate(project := tmp_path / "project")
    run = client.search_runs(["1"], "tags.`resflow.role` = 'member'", max_results=1)[0].info.run_id
    client.log_text(run, "öäü", "notes/of all, öäü.txt")
    client.log_metric(run, "never", float("nan"), step=3)
    client.log_metric(run, "always", float("-inf"), step=-(2**62))
    model = client.create_logged_model("1", "unit", source_run_id=run, tags={"who": "we"}, params={"width": "4"})
    (files := tmp_path / "model" / "data").mkdir(parents=True)
    (files / "weights.bin").write_bytes(bytes(range(256)))
    client.log_model_artifacts(model.model_id, str(files.parent))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, 2)])
    client.log_metric(run, "loss", 0.5, model_id=model.model_id)
    first, again = tmp_path / "first.zip", tmp_path / "again.zip"
    commands = (
        (["export", "skip", str(first)], {}, "exported  39 runs, "),
        (["import", str(first)], {"MLFLOW_TRACKING_URI": server}, "imported  39 runs into train_population\n"),
        (["import", str(first)], {"MLFLOW_TRACKING_URI": server}, "imported  0 runs; 39 were there already\n"),
        (["export", "skip", str(again)], {"MLFLOW_TRACKING_URI": server}, "exported  39 runs, "),
    )
    for command, environment, said in commands:
        done = resflow_here(project, *command, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(said)
    assert again.read_bytes() == first.read_bytes()
