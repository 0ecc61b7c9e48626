"""Sweeps as commands: nothing lost and nothing twice, whoever is killed at whatever moment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_notebooks import (
    artifacts_of,
    in_project,
    make_project,
    read_artifact,
    resflow_here,
    runs_of,
    start,
    wait_for,
    write_notebook,
)

from resflow.workflow import records
from resflow.workflow.forking.client import KERNELS
from resflow.workflow.last_word import is_finished, status_of
from resflow.workflow.records import open_client
from resflow.workflow.sweeps.file import read_sweep_file
from resflow.workflow.sweeps.parent import open_parent
from resflow.workflow.sweeps.worker import cluster
from resflow.workflow.sweeps.worker.process import Task
from resflow.workflow.sweeps.worker.server import PointServer

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

PATIENCE = 600.0
"""Seconds that a sweep may take, on a machine with much else to do."""

WORK = """import os, pathlib, sqlite3, time
folder = pathlib.Path(marks)
if width in (8, 14):  # what leaving `with mlflow.start_run():` does, without the time it takes to import MLflow
    with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"), timeout=20) as database:
        run_id = os.environ["MLFLOW_RUN_ID"]
        database.execute("UPDATE runs SET status = 'FINISHED', end_time = 1 WHERE run_uuid = ?", [run_id])
with open(folder / f"{width}-{seed}.started", "a") as file:
    file.write(f"{os.getpid()}\\n")
deadline = time.monotonic() + 600
while width == 8 and not (folder / "go").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
if width == 13:
    raise ValueError("thirteen")
if width == 14:
    os._exit(9)
if width == 15:
    time.sleep(60)"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder, the current one for this module, with a notebook that waits, raises or dies as it is told."""
    root = make_project(tmp_path_factory.mktemp("sweep") / "project")
    write_notebook(root / "work.ipynb", WORK, parameters='width: int = 1\nseed: int = 0\nmarks: str = "."')
    with in_project(root):
        yield root


@pytest.fixture(scope="module")
def client(project):
    return records.open_client()


KINDS = ("forked", "ordinary")
"""Of kernels."""


@pytest.fixture(params=KINDS)
def kernels(request, monkeypatch):
    """Which kernels points get; the processes that tests start are told."""
    monkeypatch.setenv(KERNELS, named(request.param))
    return request.param


def named(kind: str) -> str:
    """What the environment says for kernels of this kind."""
    return kind if kind == "ordinary" else ""


def write_sweep(project: Path, name: str, axes: str) -> Path:
    """A sweep file of that name, with an experiment and a folder for marks of its own."""
    (project / name).mkdir()
    text = f"notebook: work.ipynb\nexperiment: {name}\nparameters: {{marks: {project / name}}}\naxes: {axes}\n"
    (project / f"{name}.yaml").write_text(text)
    return project / f"{name}.yaml"


def sweep(project: Path, name: str, *options: str):
    """Start `resflow sweep` with events as JSON."""
    return start(project, "resflow", "sweep", f"{name}.yaml", "--json", *options)


def events_of(process) -> list[dict]:
    """What a sweep said, once it ended."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors, errors
    return [json.loads(line) for line in output.splitlines()]


def below(client, name: str) -> list:
    """The runs of a sweep but its parent."""
    return [run for run in runs_of(client, name) if run.data.tags["resflow.role"] != "sweep"]


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def marks(project: Path, name: str) -> dict[str, list[int]]:
    """The kernels that started each point."""
    return {path.stem: [int(pid) for pid in path.read_text().split()] for path in (project / name).glob("*.started")}


def assert_whole(client, project: Path, name: str, count: int) -> None:
    """Every point is finished exactly once, no run is left RUNNING, and no kernel is left at all."""
    runs = below(client, name)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert all(map(is_finished, finished))
    assert len(finished) == count
    assert len({run.data.tags["resflow.fingerprint"] for run in finished}) == count
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    kernels = [pid for pids in marks(project, name).values() for pid in pids]
    assert not [pid for pid in kernels if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def started_by(process, module: str) -> list[psutil.Process]:
    """The processes below `process` whose command line speaks of `module`."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [each for each in family if any(module in part for part in each.cmdline())]


def test_sweep_killed_with_its_driver_and_a_worker_goes_on_and_repeats_nothing_finished(project, client, kernels):
    name = f"killed_{kernels}"
    write_sweep(project, name, "{width: [1, 8], seed: {seeds: 2}}")
    driver = sweep(project, name, "--workers", "2")
    wait_until(lambda: {"8-0", "8-1"} <= marks(project, name).keys(), driver)
    driver.kill()
    driver.communicate()
    before = {path: path.stat().st_mtime_ns for path in (project / name).glob("1-*.started")}

    again = sweep(project, name, "--workers", "2")
    wait_until(lambda: all(len(marks(project, name)[point]) == 2 for point in ("8-0", "8-1")), again)
    refused = resflow_here(project, "sweep", f"{name}.yaml")
    assert refused.returncode == 2
    assert f"'{name}' is being run by" in refused.stderr

    victim = started_by(again, "multiprocessing.forkserver")[-1]
    victim.kill()
    wait_until(lambda: sum(len(pids) for pids in marks(project, name).values()) == 7, again)
    (project / name / "go").touch()
    events = events_of(again)
    assert again.returncode == 0
    assert (events[0]["event"], events[0]["cached"]) == ("begun", 2)
    assert [event["attempt"] for event in events if event["event"] == "repeated"] == [2]
    assert {path: path.stat().st_mtime_ns for path in (project / name).glob("1-*.started")} == before
    assert_whole(client, project, name, 4)
    assert sum(run.info.status == "KILLED" for run in below(client, name)) == 3
    told = {run.data.tags["resflow.kernel"].partition(":")[0] for run in below(client, name) if is_finished(run)}
    assert told == {kernels if sys.platform == "linux" else "ordinary"}
    (parent,) = [run for run in runs_of(client, name) if run.data.tags["resflow.role"] == "sweep"]
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in below(client, name)} == {parent.info.run_id}
    assert json.loads(parent.data.tags["resflow.axes"]) == ["width", "seed"]
    assert artifacts_of(client, parent) == {"sweep.yaml", "tables"}
    table = read_artifact(client, parent, "tables/results.csv").splitlines()
    assert table[0].startswith("width,seed,state,run_id,error")
    assert len(table) == 5


@pytest.fixture(scope="module")
def failing(project):
    """What sweeps with points that fail said, and their exit codes, by kinds of kernels: both at once, as they wait."""
    options = ("--retries", "1", "--time-limit", "20", "--workers", "1")  # so that one follows those that failed
    processes = {}
    for kind in KINDS:
        write_sweep(project, f"failing_{kind}", "{width: [13, 14, 15, 2]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KERNELS, named(kind))
            processes[kind] = start(project, "resflow", "sweep", f"failing_{kind}.yaml", *options)
    return {kind: (*process.communicate(timeout=PATIENCE), process.returncode) for kind, process in processes.items()}


def test_points_that_fail_stop_no_others_and_are_said_at_the_end(project, client, kernels, failing):
    name = f"failing_{kernels}"
    output, errors, code = failing[kernels]
    assert code == 1
    assert "Traceback" not in errors
    last = output.split(f"{name}: 1 of 4 points finished, 3 failed")[1]
    assert "width=13: FAILED: ValueError: thirteen" in last
    assert "width=14: LOST: DeadKernelError: Kernel died" in last
    assert "width=15: KILLED: it took longer than the time limit of 20 s" in last
    notebooks = [Path(line.split(" (run ")[0].strip()) for line in last.splitlines() if " (run " in line]
    assert len(notebooks) == 3
    assert all(path.is_file() for path in notebooks)
    statuses = sorted((run.data.params["width"], run.info.status) for run in below(client, name))
    assert statuses == [
        ("13", "FAILED"), ("14", "FAILED"), ("14", "FAILED"), ("15", "KILLED"), ("2", "FINISHED"),
    ]  # fmt: skip
    (parent,) = [run for run in runs_of(client, name) if run.data.tags["resflow.role"] == "sweep"]
    assert (parent.info.status, parent.data.tags["resflow.error"]) == ("FAILED", "3 of 4 points are not finished")
    plan = resflow_here(project, "sweep", f"{name}.yaml", "--dry-run").stdout
    assert f"{name}: 4 points in 4 executions, 1 finished; the rest takes about" in plan


def test_points_have_the_environment_of_the_command_and_workers_no_modules_of_its_folder(tmp_path):
    make_project(tmp_path)
    (tmp_path / "distributed.py").write_text("raise SystemExit('imported in place of the library')")
    look = "import json, os\njson.dump(dict(os.environ), open('seen.json', 'w'))"
    write_notebook(tmp_path / "look.ipynb", look, parameters="width: int = 1")
    (tmp_path / "look.yaml").write_text("notebook: look.ipynb\naxes: {width: [1]}\n")
    process = sweep(tmp_path, "look")
    assert events_of(process)[-1]["finished"] == 1
    added = json.loads((tmp_path / "seen.json").read_text()).keys() - os.environ.keys()
    assert not {name for name in added if name.startswith(("PYTHONSAFE", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_"))}


def test_running_cluster_is_joined_and_points_of_another_sweep_are_shared(project, client, monkeypatch):
    write_sweep(project, "remote", "{width: [3], seed: {seeds: 2}}")
    scheduler = start(project, "dask", "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", "dask.json")
    address = json.loads(wait_for(project / "dask.json", scheduler))["address"]
    worker = start(project, "dask", "worker", address, "--nthreads", "1", "--no-dashboard")
    try:
        process = sweep(project, "remote", "--scheduler", address)
        assert events_of(process)[-1]["finished"] == 2
        assert process.returncode == 0
        assert_whole(client, project, "remote", 2)
    finally:
        for each in (worker, scheduler):
            each.terminate()
            each.communicate(timeout=30)
    text = (project / "remote.yaml").read_text()
    (project / "other.yaml").write_text(text.replace("seeds: 2", "seeds: 1"))
    said = resflow_here(project, "sweep", "other.yaml", "--json").stdout
    (event, *_, ended) = map(json.loads, said.splitlines())
    assert (event["cached"], event["executions"], ended["finished"]) == (1, 0, 1)
    shared = [run for run in below(client, "remote") if "resflow.also_in.other" in run.data.tags]
    assert [run.data.params["seed"] for run in shared] == ["0"]

    monkeypatch.setattr(records.Run, "log_metrics", full)
    said = resflow_here(project, "sweep", "other.yaml", "--json")
    assert (said.returncode, json.loads(said.stdout.splitlines()[-1])["finished"]) == (1, 1)
    (line,) = said.stderr.splitlines()
    assert "not whole: recording the results failed: OSError: [Errno 28] No space left on device" in line
    (parent,) = [run for run in runs_of(client, "remote") if run.info.run_name.startswith("sweep other")]
    assert status_of(parent) == "FAILED"
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert resflow_here(project, "sweep", "other.yaml", "--json").returncode == 0
    assert is_finished(client.get_run(parent.info.run_id))


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_scheduler_that_does_not_answer_is_said_in_one_line(project, client, monkeypatch):
    write_sweep(project, "nowhere", "{width: [1]}")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    said = resflow_here(project, "sweep", "nowhere.yaml", "--scheduler", "tcp://127.0.0.1:1")
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "--scheduler tcp://127.0.0.1:1: no Dask scheduler answers there" in said.stderr
    assert not [run for run in runs_of(client, "nowhere") if run.info.status == "RUNNING"]


def test_attempt_is_over_only_when_its_process_is_gone_even_if_the_server_above_it_died():
    work = ["sleep", f"1.{os.getpid()}"]
    dies_at_once = f"import subprocess as s; input(); print(s.Popen({work}, stdout=s.DEVNULL).pid, flush=True)"
    server = object.__new__(PointServer)
    server._connection, theirs = socket.socketpair()
    server._answers = server._connection.makefile()
    with theirs, subprocess.Popen([sys.executable, "-c", dies_at_once], stdin=theirs, stdout=theirs):
        theirs.close()
        assert server.execute(Task("", "", "", {}, {}), lambda: "") == (-signal.SIGKILL, "")
        assert server._is_gone()
        server.close()
    assert work not in [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]


def test_sweep_started_again_says_no_longer_what_went_wrong_before(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_notebook(tmp_path / "any.ipynb", "pass")
    (tmp_path / "sweep.yaml").write_text("notebook: any.ipynb\naxes: {width: [1]}\n")
    sweep, client = read_sweep_file(Path("sweep.yaml")), open_client()
    open_parent(client, sweep).end("FAILED", error="1 of 1 points are not finished")
    parent = open_parent(client, sweep).stored
    assert parent.info.status == "RUNNING"
    assert "resflow.error" not in parent.data.tags
