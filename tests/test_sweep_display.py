"""What a sweep shows while it runs, as terminals of several widths show it."""

from __future__ import annotations

import pytest

from resflow.workflow.goal import Goal
from resflow.workflow.sweeps.progress import LiveDisplay
from resflow.workflow.sweeps.state import Tally


@pytest.fixture
def tally():
    return Tally(
        total=144, cached=9, done=126, running={"a", "b"}, goal=Goal("linear_predictor_gap"), capacity=2,
        best=-0.14342, best_label="features=relu, width=16, seed=3", executions_left=9, _seconds=[20.0],
    )  # fmt: skip


@pytest.mark.parametrize("columns", [80, 60, 44])
def test_time_left_stands_where_a_terminal_shows_it_in_one_line(tally, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    with LiveDisplay(tally):
        pass
    (line,) = filter(None, capsys.readouterr().out.splitlines())
    assert len(line) <= columns
    assert "135/144 finished, about 1 min 30 s" in line


def test_a_line_that_nothing_bounds_tells_everything(tally):
    assert tally.line() == (
        "135/144 finished, about 1 min 30 s left, 9 finished before, 2 running, best linear_predictor_gap -0.1434 "
        "(features=relu, width=16, seed=3)"
    )
