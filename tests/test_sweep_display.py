"""What a sweep shows while it runs, as terminals of several widths show it, and how far it says that it is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import time

import psutil
import pytest
from small_notebooks import BIN, make_project, resflow_here, write_notebook

from resflow.workflow.goal import Goal
from resflow.workflow.progress import Steps
from resflow.workflow.sweeps import progress, tally
from resflow.workflow.sweeps.progress import LineDisplay, LiveDisplay
from resflow.workflow.sweeps.tally import Running, Tally
from resflow.workflow.sweeps.worker.events import Started, StepsDone, StepsWatch, message, received


class Clock:
    """Seconds as a test lets them pass."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (tally, progress, tally.Pace.__init__.__globals__):
        space = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(space, "time", clock)
    return clock


@pytest.fixture
def late():
    return Tally(
        total=144, cached=9, done=126, goal=Goal("linear_predictor_gap"), capacity=2, running=running(1, 1),
        best=-0.14342, best_label="features=relu, width=16, seed=3", executions_left=9, _seconds=[20.0],
    )  # fmt: skip


def running(*points):
    return {str(number): Running(count) for number, count in enumerate(points)}


@pytest.mark.parametrize("columns", [80, 60, 44])
def test_time_left_stands_where_a_terminal_shows_it_in_one_line(late, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with LiveDisplay(late):
        pass
    written = capsys.readouterr().out
    lines = {line for line in re.split(r"[\r\n]|\x1b\[[\d;?]*[A-Za-z]", written) if line.strip()}
    assert all(len(line) <= columns for line in lines)
    assert any("135/144 finished, about 1 min 30 s" in line for line in lines)
    assert written.endswith("\x1b[1A\x1b[2K")  # nothing of it stays


def test_a_line_that_nothing_bounds_tells_everything(late):
    late.steps_told("1", Steps(630, 1000))
    assert late.line() == (
        "135/144 finished, about 1 min 30 s left, 9 finished before, 2 running at 63% of their steps, "
        "best linear_predictor_gap −0.1434 (features=relu, width=16, seed=3)"
    )


def test_first_points_move_bar_and_time_left_by_their_steps(clock):
    four = Tally(total=4, capacity=2, executions_left=4)
    for execution in ("a", "b"):
        four.started(execution, 1)
    assert (four.share, four.seconds_left()) == (0.0, None)
    clock.now = 10.0  # imports
    for execution in ("a", "b"):
        four.steps_told(execution, Steps(0, 1000))
    assert (four.share, four.seconds_left()) == (0.0, None)
    clock.now = 30.0
    for execution, done in (("a", 250), ("b", 500)):
        four.steps_told(execution, Steps(done, 1000))
    assert four.share == 0.75 / 4
    # a takes 90 s in all and b 50, of which 60 and 20 are left; the two that wait take 70 each, on two workers
    assert four.seconds_left() == (60 + 20 + 2 * 70) / 2
    assert four.line() == "0/4 finished, about 1 min 50 s left, 2 running at 38% of their steps"
    four.ended("b", done=1, failed=0, seconds=50.0)
    assert four.share == 1.25 / 4
    assert four.seconds_left() == max(60, (60 + 2 * 50) / 2)


def test_members_of_a_population_count_by_the_steps_of_their_execution():
    tally = Tally(total=200, cached=100, running=running(100), executions_left=1)
    tally.steps_told("0", Steps(1, 2))
    assert tally.share == 0.75
    tally.steps_told("gone", Steps(1, 2))
    assert tally.share == 0.75


def test_what_tells_of_no_steps_is_expected_to_take_as_long_as_what_ended(clock):
    tally = Tally(total=3, done=1, capacity=1, running=running(1), executions_left=2, _seconds=[20.0])
    clock.now = 15.0
    assert tally.seconds_left() == 5 + 20
    clock.now = 40.0  # it takes longer, and that it is over would be untrue
    assert tally.seconds_left() == 4 + 20


def test_worker_tells_of_steps_once_a_second_at_most_and_of_none_twice(tmp_path, monkeypatch):
    clock, told, file = Clock(), [], tmp_path / "progress"
    monkeypatch.setitem(StepsWatch.look.__globals__, "time", clock)
    watch = StepsWatch(told.append, "execution")
    for tenth in range(10, 60):
        clock.now = tenth / 10
        if tenth in range(20, 45):
            file.write_text(f"{tenth} 100")
        watch.look(file)
    assert told == [StepsDone("execution", done, 100) for done in (20, 30, 40, 44)]
    for event in (told[0], Started("execution", 2, "host:1")):
        assert received(list(message(event))) == event


def test_lines_where_it_is_no_terminal_come_at_growing_intervals(late, clock, capsys):
    display = LineDisplay(late)
    for second in range(1, 100):
        clock.now = float(second)
        display.refresh()
    assert len(capsys.readouterr().out.splitlines()) == 3  # after 10, 20 and 40 seconds more


@pytest.mark.parametrize("strokes", [1, 2])
def test_ctrl_c_while_workers_start_is_one_line_and_the_end_of_all_processes(tmp_path, strokes):
    project = make_project(tmp_path / "project")
    write_notebook(project / "short.ipynb", "pass")
    (project / "short.yaml").write_text("notebook: short.ipynb\naxes:\n  width: [1, 2, 3, 4]\n")
    terminal, inside = pty.openpty()
    command = ["setsid", "--ctty", "--wait", BIN / "resflow", "sweep", "short.yaml", "--workers", "2"]
    process = subprocess.Popen(command, cwd=project, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    said = b""
    try:
        while b"points to do" not in said:
            said += os.read(terminal, 4096)
        deadline = time.monotonic() + 60
        while len(family := psutil.Process(process.pid).children(recursive=True)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # the driver, and workers of which nobody knows how far they are
        for _ in range(strokes):
            os.write(terminal, b"\x03")
            time.sleep(0.2)
        with contextlib.suppress(OSError):  # the other side is closed
            while more := os.read(terminal, 4096):
                said += more
        assert process.wait(timeout=60) == 130, said.decode()
    finally:
        os.close(terminal)
    assert b"Traceback" not in said, said.decode()
    assert said.decode().rstrip().endswith("resflow: stopped: the same command goes on from here")
    assert not psutil.wait_procs(family, timeout=10)[1]


def test_a_sweep_tells_of_the_steps_of_points_at_work(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project")
    loop = "import time\nfor done in range(41):\n    tell_steps(done, 40)\n    time.sleep(0.15)"
    mask = "import signal\nassert not signal.pthread_sigmask(signal.SIG_BLOCK, [])"  # not what workers have blocked
    write_notebook(project / "long.ipynb", "from resflow.workflow.progress import tell_steps", loop, mask)
    (project / "long.yaml").write_text("notebook: long.ipynb\naxes:\n  width: [1, 2]\n")
    monkeypatch.setattr(progress, "FIRST_LINE", 1.0)
    monkeypatch.setattr(progress, "LONGEST_WAIT", 1.0)
    done = resflow_here(project, "sweep", "long.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "long: 2 of 2 points to do in 2 executions"
    at_work = [line for line in lines if line.startswith("0/2 finished, about ")]
    shares = [int(found[1]) for line in at_work if (found := re.search(r" running at (\d+)% of their steps$", line))]
    assert len(shares) >= 3
    assert len(set(shares)) >= 3  # not in order, where one begins later than the other
    again = resflow_here(project, "sweep", "long.yaml")
    assert again.stdout.splitlines()[0] == "long: all 2 points are finished"
