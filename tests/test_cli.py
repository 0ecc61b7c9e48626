"""The command `resflow`: what it says, and with which exit code."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote
from urllib.request import urlopen

import click
import nbformat
import psutil
import pytest
from fabricated_runs import fabricate
from small_notebooks import but_progress, is_gone, resflow_here, write_notebook

from resflow.errors import InvalidInputError
from resflow.workflow.cli import cli
from resflow.workflow.ui import free_port, links

RESFLOW = Path(sys.executable).parent / "resflow"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    cells = [nbformat.v4.new_code_cell("size: int = 1  # how much", metadata={"tags": ["parameters"]})]
    cells.append(
        nbformat.v4.new_code_cell(
            "import os, pathlib, time\nassert size != 7, 'seven'\nif size > 40:\n"
            "    pathlib.Path(f'{size}.pid').write_text(str(os.getpid()))\n    time.sleep(60)"
        )
    )
    claim = "start_run(globals(), notebook='tiny').log_claim('size_is_small', holds=size < 2, margin=2.0 - size)"
    cells.append(nbformat.v4.new_code_cell(f"from resflow.workflow.session import start_run\n{claim}"))
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "tiny.ipynb")
    (folder / "text.ipynb").write_text("not a notebook")
    return folder


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}


def command(project, *arguments):
    line = [RESFLOW, *arguments]
    return subprocess.run(line, cwd=project, env=environment(), capture_output=True, text=True, timeout=120)


def statuses(project):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {run.data.params.get("size"): run.info.status for run in runs}


def test_finished_run_says_where_its_report_is(project):
    done = command(project, "run", "tiny.ipynb", "out.ipynb", "-p", "size", "3")
    assert done.returncode == 0, done.stderr
    (report,) = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("report"))
    assert "<html" in Path(report).read_text()
    assert "claim   size is small: FAILS, margin −1\n" in done.stdout
    assert nbformat.read(project / "out.ipynb", as_version=4).metadata["resflow"]["run_id"] in done.stdout
    assert statuses(project)["3"] == "FINISHED"


def test_notebook_that_raises_is_named_with_its_cell_and_exits_with_1(project):
    done = resflow_here(project, "run", "tiny.ipynb", "-p", "size", "7")
    assert done.returncode == 1
    assert "AssertionError: seven" in done.stderr
    assert statuses(project)["7"] == "FAILED"


def test_kernel_that_dies_is_one_line_with_the_cell_how_it_ended_and_the_run(project):
    write_notebook(project / "osexit.ipynb", "import os; os._exit(3)", "print('b')", parameters=None)
    done = command(project, "run", "osexit.ipynb")
    assert done.returncode == 1
    (line,) = but_progress(done.stderr).splitlines()
    place = "cell 1: import os; os._exit(3): DeadKernelError: Kernel died with exit code 3"
    run = r"\(run [0-9a-f]{32}, FAILED\); the executed notebook is attached to the run"
    assert re.fullmatch(rf"resflow: error: osexit.ipynb: {re.escape(place)} {run}", line)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_run_is_killed_with_its_kernel_and_says_so_in_one_line(project, number, code):
    size = str(40 + number)
    mark = project / f"{size}.pid"
    process = subprocess.Popen(
        [RESFLOW, "run", "tiny.ipynb", "-p", "size", size],
        cwd=project,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (mark.is_file() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert but_progress(said) == f"resflow: error: {number.name}: the run is recorded as KILLED\n"
    assert is_gone(int(mark.read_text()), within=0.5)
    assert statuses(project)[size] == "KILLED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.ipynb"], "there is no such notebook"),
        (["run", "tinny"], "): nearest is tiny.ipynb"),
        (["run", "text.ipynb"], "not a Jupyter notebook"),
        (["run", "tiny.ipynb", "nowhere/out.ipynb"], "there is no folder nowhere"),
        (["run", "tiny.ipynb", "-p", "size", "big"], "size='big' is not of the declared type int"),
        (["run", "tiny.ipynb", "-p", "sise", "1"], "sise is not a parameter of the notebook: nearest is size"),
        (["ui", "--port", "0"], "0"),
        (["walk"], "no such command 'walk': resflow -h says what is allowed"),
        (["store", "walk"], "resflow store -h says what is allowed"),
        (["run"], "missing argument 'NOTEBOOK': resflow run -h says what is allowed"),
        (["run", "tiny.ipynb", "-p", "size"], "option '-p' requires 2 arguments"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project, arguments, message):
    done = resflow_here(project, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("resflow: error: ")
    assert message in line


@pytest.mark.parametrize("group", [[], ["store"]], ids=["resflow", "store"])
def test_group_without_a_command_shows_its_help_and_exits_with_2(project, group):
    done, asked = resflow_here(project, *group), resflow_here(project, *group, "-h")
    assert (done.returncode, asked.returncode) == (2, 0)
    assert done.stderr.strip() == asked.stdout.strip()
    assert done.stdout == ""


def commands(group):
    for name, command in sorted(group.commands.items()):
        yield [name]
        yield from ([name, *below] for below in commands(command)) if isinstance(command, click.Group) else ()


@pytest.mark.parametrize("path", [[], *commands(cli)], ids=" ".join)
def test_help_says_everything_within_80_columns(project, path):
    said = resflow_here(project, *path, "-h", COLUMNS="80").stdout
    assert "..." not in said.replace("[ARGS]...", "")
    assert max(map(len, said.splitlines())) <= 80


def test_store_commands_say_where_runs_are_and_that_nothing_moved(project):
    assert resflow_here(project, "store", "where").stdout.strip() == f"sqlite:///{project}/mlruns/mlflow.db"
    assert "was not moved" in resflow_here(project, "store", "relocate").stdout


def test_taken_port_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInputError, match="is taken"):
            free_port(taken.getsockname()[1])
    assert 5000 <= free_port(None) < 5100


CHARTS = "compareRunsMode=CHART&workflowType=machine_learning"


def test_links_lead_to_experiments_to_runs_above_linear_and_to_sweeps(tmp_path):
    client = fabricate(tmp_path)
    lines = list(links(client, "http://a"))
    assert f"train_population: http://a/#/experiments/1/runs?{CHARTS}" in lines
    above = lines[lines.index(f"train_population: http://a/#/experiments/1/runs?{CHARTS}") + 1]
    assert above.startswith(f"  above linear: http://a/#/experiments/1/runs?{CHARTS}&orderByKey=metrics.%60linear")
    assert "&orderByAsc=false&searchFilter=metrics.linear_predictor_gap" in above
    (line,) = (line for line in lines if line.startswith("sweep skip: http://a/#/experiments/1/runs/"))
    assert line.endswith("?workflowType=machine_learning")
    runs = unquote(lines[lines.index(line) + 1])
    assert runs.startswith("  its runs, best first: http://a/#/experiments/1/runs?")
    condition = re.search("&orderByKey=metrics.`linear_predictor_gap`&orderByAsc=true&searchFilter=(.*)", runs)[1]
    points = client.search_runs(["1"], condition)
    assert {run.data.tags["resflow.role"] for run in points} == {"member"}


def test_server_that_ends_by_itself_is_one_line_with_what_it_said_last(project, monkeypatch):
    ending = "import sys; sys.exit('no server today')"
    monkeypatch.setattr("resflow.workflow.ui.guarded.__file__", str(project / "guarded.py"))
    (project / "guarded.py").write_text(f"import os; print(os.getpgid(0), flush=True); {ending}")
    done = resflow_here(project, "ui")
    assert done.returncode == 1
    starting, line = done.stderr.splitlines()
    assert starting.startswith("MLflow's server is starting")
    assert line.startswith("resflow: error: MLflow's server ended with exit code 1: no server today (traceback in ")
    assert done.stdout == ""


def hang_up(process, terminal):
    os.close(terminal)


ENDS = {
    "Ctrl-C": lambda process, terminal: os.write(terminal, b"\x03"),
    "SIGTERM": lambda process, terminal: process.terminate(),
    "SIGKILL": lambda process, terminal: process.kill(),
    "its terminal": hang_up,
}


@pytest.mark.parametrize("end", ENDS)
def test_ui_serves_the_store_and_ends_with_everything_it_started(project, end):
    resflow_here(project, "store", "where")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    terminal, inside = pty.openpty()

    process = subprocess.Popen(
        ["setsid", "--ctty", RESFLOW, "ui", "--port", str(port)],
        cwd=project,
        env=environment(),
        stdin=inside,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(inside)
    family = []
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                assert urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read() == b"OK"
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.5)
        line = process.stdout.readline().decode().strip()  # said once the server answers
        assert f": http://127.0.0.1:{port}/#/experiments/" in line
        assert line.endswith(CHARTS)
        family = psutil.Process(process.pid).children(recursive=True)
        assert all("sqlite" not in " ".join(member.cmdline()) for member in family)
    finally:
        ENDS[end](process, terminal)
        if end in ("SIGTERM", "SIGKILL"):
            os.close(terminal)
    _, said = process.communicate(timeout=30)
    if end == "Ctrl-C":  # which is how it is ended: no fault, and nothing that the server has to say
        os.close(terminal)
        assert process.returncode == 0
        assert said.decode() == "MLflow's server is starting; its addresses follow once it answers.\n"
    assert len(family) >= 2
    assert not psutil.wait_procs(family, timeout=10)[1]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
