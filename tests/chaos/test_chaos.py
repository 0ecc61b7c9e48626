"""Whatever is killed at whatever moment: statuses stay true, the same command completes, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client
from processes import MARK, played_by, playing, wait_until_gone
from schedule import strike

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_notebooks import BIN, artifacts_of, make_project, runs_of, write_notebook

from resflow.workflow import records

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

POINTS = 4
PATIENCE = 60.0
"""Seconds in which whatever lost the process above it has to be gone."""

CELLS = (
    "import mlflow, time\nwith mlflow.start_run():\n    mlflow.log_metric('objective', 1.0 / (1 + seed))",
    "with mlflow.start_run(run_name='part', nested=True):\n    mlflow.log_metric('part', seed)\n    time.sleep(0.5)",
    "time.sleep(1.0)",
)
"""A stranger's notebook, whose own block calls the run finished long before it is."""


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("strikes")))


class Trial:
    """A project with folders of its own, in which one command is struck and given again."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind, self.value = make_project(root / "project"), kind, str(root)
        self.temporary = Path(tempfile.mkdtemp(prefix="chaos-"))  # with a short path, as sockets are below it
        write_notebook(self.root / "work.ipynb", *CELLS, parameters="seed: int = 0")
        (self.root / "work.yaml").write_text(f"notebook: work.ipynb\naxes: {{seed: {{seeds: {POINTS}}}}}\n")
        self.cluster: list[subprocess.Popen] = []

    def start(self, program: str, *arguments: str) -> subprocess.Popen:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}
        own = {MARK: self.value, "TMPDIR": str(self.temporary), "PATH": "/usr/bin:/bin"}
        return subprocess.Popen(
            [str(BIN / program), *arguments], cwd=self.root, env=kept | own, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def command(self) -> subprocess.Popen:
        """The command under trial."""
        if self.kind == "papermill":
            return self.start("papermill", "--engine", "resflow", "work.ipynb", "out.ipynb", "--no-progress-bar")
        options = ["--workers", "2"]
        if self.kind == "cluster":
            options = ["--scheduler", self.address()]
        return self.start("resflow", "sweep", "work.yaml", "--json", *options)

    def address(self) -> str:
        """The address of a Dask cluster, started if there is none or it was struck."""
        if self.cluster and any(process.poll() is not None for process in self.cluster):
            self.end_cluster()
        named = self.root / "dask.json"
        if not self.cluster:
            named.unlink(missing_ok=True)
            options = ("--port", "0", "--no-dashboard", "--scheduler-file", "dask.json")
            self.cluster = [self.start("dask", "scheduler", *options)]
            wait_until(lambda: named.exists() and named.read_text().endswith("}"), 60)  # written in parts
            address = json.loads(named.read_text())["address"]
            options = ("--nthreads", "1", "--nworkers", "2", "--no-dashboard", "--local-directory", "workers")
            self.cluster.append(self.start("dask", "worker", address, *options))
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)  # one that is struck as it starts ends the command above it
        return json.loads(named.read_text())["address"]

    def end_cluster(self) -> None:
        for process in self.cluster:
            process.terminate()
        for process in self.cluster:
            process.communicate(timeout=60)
        self.cluster = []

    def strike(self, command: subprocess.Popen, victim: str, number: int, delay: float) -> bool:
        """Send the signal to the first of the victims, if any appears before the command ends."""
        own = {"driver": command, "papermill": command, "scheduler": self.cluster[0] if self.cluster else None}
        found: list = [own[victim]] if own.get(victim) else []
        while not found and command.poll() is None:
            found = list(playing(victim, self.value))
            time.sleep(0.005)
        time.sleep(delay)
        if not found or command.poll() is not None:
            return False
        if victim in ("kernel", "point"):
            found = list(playing(victim, self.value)) or found
        try:
            os.kill(found[0].pid, number)
        except ProcessLookupError:
            return False
        return True


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished(runs: list) -> list:
    """The finished executions of the notebook, without the runs that it started itself and a sweep's parent."""
    return [run for run in runs if run.info.status == "FINISHED" and "resflow.notebook_digest" in run.data.tags]


def assert_statuses_are_true(client) -> list:
    """No run is at work, and every one that is finished has its notebook and its page."""
    runs = runs_of(client, "work")
    assert not [run for run in runs if run.info.status == "RUNNING"]
    for run in finished(runs):
        assert {"work.ipynb", "work.html"} <= artifacts_of(client, run), run.info.run_id
    return runs


def test_struck_at_any_moment_the_same_command_completes_and_nothing_is_left(seed, tmp_path, monkeypatch):
    blow = strike(seed)
    trial = Trial(tmp_path, blow.kind)
    monkeypatch.chdir(trial.root)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    try:
        first = trial.command()
        struck = trial.strike(first, blow.victim, blow.number, blow.delay)
        out, err = first.communicate(timeout=300)
        assert blow.kind == "papermill" or "Traceback" not in err, err
        left = wait_until_gone(trial.value, PATIENCE, but=below(trial.cluster))
        assert not left, [process.cmdline() for process in left]
        if (trial.root / "mlruns" / "mlflow.db").exists():
            client = records.open_client()
            if client.get_experiment_by_name("work"):
                runs = assert_statuses_are_true(client)
                if blow.kind != "papermill" and out and '"ended"' in out:
                    assert json.loads(out.splitlines()[-1])["finished"] == len(finished(runs))
        second = trial.command()
        out, err = second.communicate(timeout=300)
        assert second.returncode == 0, f"{blow}, struck {struck}: {out}\n{err}"
    finally:
        trial.end_cluster()
        left = wait_until_gone(trial.value, PATIENCE)
        for process in left:
            process.kill()
    assert not left, [process.cmdline() for process in left]
    client = records.open_client()
    runs = finished(assert_statuses_are_true(client))
    if blow.kind == "papermill":
        assert runs
    else:
        assert len(runs) == len({run.data.tags["resflow.fingerprint"] for run in runs}) == POINTS
        (parent,) = [run for run in runs_of(client, "work") if run.data.tags.get("resflow.role") == "sweep"]
        assert parent.info.status == "FINISHED"
    own = {"dask-scratch-space"} if blow.kind == "cluster" else set()  # of the user's cluster, and no sweep's
    assert {path.name for path in trial.temporary.iterdir()} <= own
    shutil.rmtree(trial.temporary)
    shutil.rmtree(tmp_path)


def below(cluster: list[subprocess.Popen]) -> set[int]:
    """The process ids of a cluster that goes on running, and of all below it but kernels."""
    ids: set[int] = set()
    for process in cluster:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            ids |= {process.pid, *(each.pid for each in family if played_by(each) != "kernel")}
    return ids
