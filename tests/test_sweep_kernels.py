"""Kernels of a sweep's points: forked where they can be, the same in all else, and gone with whoever asked for them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import psutil
import pytest
from small_notebooks import in_project, is_gone, make_project, runs_of, write_notebook

from resflow.workflow import records
from resflow.workflow.forking.client import KERNELS, ORDINARY
from resflow.workflow.last_word import is_finished, status_of
from resflow.workflow.outcome import LOST_KERNEL
from resflow.workflow.store import tracking_uri
from resflow.workflow.sweeps.worker.process import Task
from resflow.workflow.sweeps.worker.server import PointServer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

SAYS = """import json, os, subprocess, time
family = [os.getpid(), os.getppid()]
if lasts:
    family.append(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
with open(marks + ".new", "w") as file:
    json.dump([family, os.environ.get("GIVEN"), subprocess.getoutput("ulimit -v")], file)
os.rename(marks + ".new", marks)
time.sleep(lasts)"""


class Points:
    """A server of points in a project of its own, and what it is told to execute."""

    def __init__(self, root, kernels: str) -> None:
        self.root, self.kernels, self.server = root, kernels, PointServer()
        write_notebook(root / "work.ipynb", SAYS, parameters="marks: str = ''\nlasts: int = 0")

    def execute(self, name: str, *, lasts: int = 0, until=lambda: "", **given: str) -> tuple[int, str]:
        (self.root / f"{name}.tmp").mkdir()
        environment = os.environ | {KERNELS: self.kernels, "MLFLOW_TRACKING_URI": tracking_uri()} | given
        values = {"marks": str(self.root / name), "lasts": lasts}
        text = (self.root / "work.ipynb").read_text()
        return self.server.execute(Task(str(self.root / f"{name}.tmp"), text, "work.ipynb", values, environment), until)

    def said(self, name: str) -> tuple[list[int], str | None, str]:
        return json.loads((self.root / name).read_text())

    def kernel(self, name: str) -> tuple[int, int]:
        """The kernel that executed it, and the process that this was started by."""
        return self.said(name)[0][:2]

    def began(self, name: str) -> bool:
        return (self.root / name).exists()

    def run(self):
        return runs_of(records.open_client(), "work")[0]

    def close(self) -> bool:
        """Have the server end; whether it does."""
        if self.server._connection.fileno() != -1:
            self.server.close()
        return is_gone(self.server.pid)


@pytest.fixture
def points(request, tmp_path):
    with in_project(make_project(tmp_path)):
        found = Points(tmp_path, request.param)
        yield found
        found.close()


on = pytest.mark.parametrize("points", [""], indirect=True, ids=["forked"])
on_and_off = pytest.mark.parametrize("points", ["", ORDINARY], indirect=True, ids=["forked", "ordinary"])


@on
def test_points_are_forked_from_one_server_that_ends_with_its_worker(points):
    for name in ("one", "two"):
        assert points.execute(name) == (0, "")
        assert points.run().data.tags["resflow.kernel"] == "forked"
    (one, server), (two, same) = points.kernel("one"), points.kernel("two")
    assert (one != two, server == same) == (True, True)
    assert psutil.Process(server).ppid() == points.server.pid
    assert points.execute("other", GIVEN="ä") == (0, "")
    other = points.kernel("other")[1]
    assert other != server  # another environment is another server's, and the former ends with its last kernel
    assert is_gone(server)
    assert points.said("other")[1] == "ä"
    assert points.close()
    assert is_gone(other)


@on_and_off
def test_point_that_is_stopped_takes_all_along_that_its_notebook_started(points):
    reason = "it took longer than the time limit of 1 s"
    code, why = points.execute("long", lasts=600, until=lambda: reason * points.began("long"))
    assert (code, why) == (143, reason)
    kernel, *others = points.said("long")[0]
    assert is_gone(kernel)
    assert is_gone(others[-1])
    assert status_of(points.run()) == "KILLED"
    assert points.execute("next") == (0, "")
    assert is_finished(points.run())


@on_and_off
def test_run_is_killed_and_nothing_left_if_the_process_above_it_is_killed(points):
    executing = threading.Thread(target=points.execute, args=("long",), kwargs={"lasts": 600})
    executing.start()
    wait_until(lambda: points.began("long"))
    family = psutil.Process(points.server.pid).children(recursive=True)
    kernel, _, sleeping = map(psutil.Process, points.said("long")[0])
    assert kernel in family
    os.kill(points.server.pid, signal.SIGKILL)
    executing.join(60)
    left = psutil.wait_procs([each for each in family if each != sleeping], timeout=10)[1]
    sleeping.kill()  # in a session of its own, which it asked for
    assert left == []
    assert status_of(points.run()) == "KILLED"


@on
def test_kernel_that_is_lost_with_its_server_is_said_and_the_next_has_another(points):
    executing = threading.Thread(target=points.execute, args=("lost",), kwargs={"lasts": 600})
    executing.start()
    wait_until(lambda: points.began("lost"))
    kernel, server, sleeping = points.said("lost")[0]
    os.kill(server, signal.SIGKILL)
    executing.join(60)
    os.kill(sleeping, signal.SIGKILL)
    assert is_gone(kernel)
    assert status_of(points.run()) == "FAILED"
    assert points.run().data.tags["resflow.error"].startswith(LOST_KERNEL)
    assert points.execute("next") == (0, "")
    assert points.run().data.tags["resflow.kernel"] == "forked"
    assert points.kernel("next")[1] != server


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
