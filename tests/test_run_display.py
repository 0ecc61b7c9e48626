"""What is shown of a notebook at work: cells, and the steps that its kernel tells of, in a file and nowhere else."""

import threading
import time

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from resflow.workflow import progress, run_display
from resflow.workflow.progress import PROGRESS, Steps, steps_told, tell_steps
from resflow.workflow.run_display import RunDisplay

CELLS = [new_markdown_cell("# A notebook"), new_markdown_cell("text\n\n## Training\n\nmore"), new_code_cell("1")]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS, str(tmp_path / "progress"))
    monkeypatch.setattr(progress, "_told", -1.0)
    return tmp_path / "progress"


def test_steps_told_are_read_whole_and_not_written_more_often_than_is_looked(file):
    for done in range(1000):
        tell_steps(done, 1000)
    assert steps_told(file).done < 999
    tell_steps(1000, 1000)
    assert steps_told(file) == Steps(1000, 1000)


@pytest.mark.parametrize("text", ["", "3", "3 x", "5 4", "-1 4", "0 0", "1 2 3", "é 1"])
def test_what_makes_no_sense_is_nothing_told(file, text):
    file.write_text(text, encoding="utf-8")
    assert steps_told(file) is None


def test_work_goes_on_where_steps_cannot_be_told(monkeypatch, tmp_path):
    monkeypatch.delenv(PROGRESS, raising=False)
    tell_steps(0, 3)
    monkeypatch.setenv(PROGRESS, str(tmp_path / "gone" / "progress"))
    tell_steps(0, 3)
    assert list(tmp_path.iterdir()) == []


def test_lines_name_cell_phase_steps_and_time_left_and_become_rarer(file, monkeypatch, capsys):
    monkeypatch.setattr(run_display, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(run_display, "FIRST_LINE", 0.3)
    threads = threading.active_count()
    with RunDisplay(CELLS, file) as display:
        display.cell_start(2)
        for done in range(0, 101, 5):
            tell_steps(done, 100)
            time.sleep(0.08)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[-1].startswith("cell 3 of 3, Training, ")
    assert " of 100 steps, about " in lines[-1]
    assert lines[-1].endswith(" left")
    assert threading.active_count() == threads


def test_steps_of_one_cell_are_not_shown_of_the_next(file):
    display = RunDisplay(CELLS, file)
    display.cell_start(1)
    tell_steps(50, 100)
    display.cell_start(2)
    display._pace.told(steps_told(file))
    assert "steps" not in display.line()


def test_a_kernel_tells_of_steps_and_the_executed_notebook_has_no_trace_of_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_display, "FIRST_LINE", 0.5)
    code = """
import time
from resflow.workflow.progress import tell_steps
for done in range(41):
    tell_steps(done, 40)
    time.sleep(0.1)
"""
    notebook = new_notebook(cells=[new_markdown_cell("# Count"), new_code_cell(code)])
    nbformat.write(notebook, "count.ipynb")
    kernel = {"kernel_name": "python3", "language": "python"}
    papermill.execute_notebook("count.ipynb", "out.ipynb", engine_name="resflow", **kernel)
    said = capsys.readouterr().err
    assert "cell 2 of 2, Count, " in said
    assert " of 40 steps, about " in said
    assert nbformat.read("out.ipynb", as_version=4).cells[1].outputs == []
    plain = papermill.execute_notebook("count.ipynb", None, progress_bar=False, **kernel)
    assert plain.cells[1].outputs == []
