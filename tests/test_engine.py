"""Whatever becomes of a notebook, its run says so, shows it, and leaves no kernel behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from small_notebooks import (
    artifacts_of,
    in_project,
    is_gone,
    make_project,
    read_artifact,
    runs_of,
    start,
    wait_for,
    write_notebook,
    write_recording_notebook,
)
from warm_commands import warm_commands

from resflow.workflow import records
from resflow.workflow.engine import AttachmentError
from resflow.workflow.execution import private_transport
from resflow.workflow.forking.provisioner import ForkingProvisioner
from resflow.workflow.interruption import Interruptions, Terminated
from resflow.workflow.last_word import is_finished, status_of
from resflow.workflow.outcome import Outcome, outcome_of, said_of
from resflow.workflow.provenance import notebook_digest, provenance_tags
from resflow.workflow.reports import notebook_html as report

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

SLEEP = "import os, pathlib, time\npathlib.Path('{name}.pid').write_text(str(os.getpid()))\ntime.sleep(120)"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder, which is the current one for the tests of this module."""
    root = make_project(tmp_path_factory.mktemp("engine") / "project")
    (root / "notebooks").mkdir()
    with in_project(root):
        yield root


@pytest.fixture(scope="module")
def client(project):
    return records.open_client()


def execute(path, **options):
    """Execute a notebook in this process, as papermill does."""
    output = path.with_suffix(".executed.ipynb")
    return papermill.execute_notebook(path, output, engine_name="resflow", progress_bar=False, **options)


@pytest.fixture(scope="module")
def good(project, client):
    """The run of a notebook that goes through, and its executed notebook."""
    path = write_recording_notebook(
        project / "notebooks" / "good.ipynb",
        "import json, os, sys\nprint(json.dumps([sys.executable, run.owned, dict(os.environ)]))",
        "from ipykernel import get_connection_info\nprint(get_connection_info())",
    )
    (project / "pyproject.toml").write_text("[project]\nname = 'changed'\n")
    executed = execute(path, parameters={"width": 64, "rate": 2})
    (run,) = runs_of(client, "good")
    return run, executed


def test_run_has_every_parameter_with_its_effective_value(good):
    run, _ = good
    assert run.info.status == "FINISHED"
    assert run.data.params == {"width": "64", "rate": "2.0", "note": "None"}
    assert run.info.run_name == "good width=64 rate=2.0"


def test_notebook_records_to_the_run_that_the_engine_made(good, client, project):
    run, executed = good
    python, owned, environment = json.loads(executed.cells[4].outputs[0].text)
    assert (python, owned) == (sys.executable, False)
    assert environment["MLFLOW_RUN_ID"] == run.info.run_id == executed.metadata.resflow.run_id
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlruns/mlflow.db"
    assert not {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"} & set(os.environ)
    assert run.data.metrics == {"objective": 0.2, "linear_predictor_gap": -4 / 64, "best_linear_objective": 2.0}
    history = client.get_metric_history(run.info.run_id, "objective")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / (1 + step)) for step in range(5)]
    assert run.data.tags["mlflow.note.content"] == "A **small** run."


def test_kernel_is_talked_to_through_files_of_this_user_that_are_gone_afterwards(good):
    _, executed = good
    connection = json.loads(executed.cells[5].outputs[0].text)
    assert connection["transport"] == "ipc"
    assert not Path(connection["ip"]).parent.exists()


def test_ports_are_used_where_the_path_is_too_long_for_a_socket(tmp_path, monkeypatch):
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    with private_transport("python3") as transport:
        assert transport == {"KernelManager": {"transport_encryption": "auto"}}


def test_run_says_where_it_comes_from(good, project):
    run, _ = good
    tags = run.data.tags
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=project
    ).stdout
    assert tags["mlflow.source.git.commit"] == commit.strip()
    assert tags["resflow.git_dirty"] == "true"
    assert tags["mlflow.source.name"] == "notebooks/good.ipynb"
    assert tags["mlflow.source.type"] == "NOTEBOOK"
    source = nbformat.read(project / "notebooks" / "good.ipynb", as_version=4)
    assert tags["resflow.notebook_digest"] == notebook_digest(source)
    assert tags["resflow.python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"resflow.version.numpy", "resflow.version.mlflow", "resflow.platform", "resflow.owner"} <= set(tags)


def test_executed_notebook_and_html_are_attached_under_the_project(good, client, project):
    run, _ = good
    assert artifacts_of(client, run) == {"good.ipynb", "good.html", "environment"}
    attached = nbformat.reads(read_artifact(client, run, "good.ipynb"), as_version=4)
    assert attached.cells[4].outputs
    assert "<html" in read_artifact(client, run, "good.html")
    assert (project / "mlruns" / "artifacts" / "good" / run.info.run_id / "artifacts" / "good.html").is_file()


@pytest.fixture(scope="module")
def ended(project, client, tmp_path_factory):
    """Processes of papermill whose notebooks raise, and that are terminated, interrupted or killed; how each ended."""
    write_notebook(project / "raises.ipynb", "x = 1", "x / (x - 1)  # here", "x = 2")
    signals = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT, "killed": signal.SIGKILL}
    for name in signals:
        block = ["import mlflow\nwith mlflow.start_run():\n    pass"] if name == "killed" else []
        write_notebook(project / f"{name}.ipynb", *block, SLEEP.format(name=name))
    options = ("-p", "width", "8")
    with warm_commands(tmp_path_factory.mktemp("commands")) as programs:
        papermill = (str(programs / "papermill"), "--engine", "resflow")
        processes = {
            name: start(project, *papermill, f"{name}.ipynb", f"{name}.out.ipynb", *options)
            for name in ("raises", *signals)
        }
        kernels = {name: int(wait_for(project / f"{name}.pid", processes[name])) for name in signals}
        for name, number in signals.items():
            processes[name].send_signal(number)
        messages = {name: process.communicate(timeout=300) for name, process in processes.items()}
    return processes, messages, kernels


def test_notebook_that_raises_is_failed_with_its_cell_and_error(ended, client):
    processes, messages, _ = ended
    assert processes["raises"].returncode not in (0, None)
    assert "ZeroDivisionError" in messages["raises"][1]
    (run,) = runs_of(client, "raises")
    assert run.info.status == "FAILED"
    assert run.data.tags["resflow.failed_cell"] == "4: x / (x - 1)  # here"  # the injected cell counts
    assert run.data.tags["resflow.error"] == "ZeroDivisionError: division by zero"
    attached = nbformat.reads(read_artifact(client, run, "raises.ipynb"), as_version=4)
    assert attached.cells[3].outputs[0].ename == "ZeroDivisionError"
    assert "ZeroDivisionError" in read_artifact(client, run, "raises.html")


@pytest.mark.parametrize(
    ("name", "number", "code"), [("terminated", signal.SIGTERM, 143), ("interrupted", signal.SIGINT, 1)]
)
def test_signal_makes_the_run_killed_and_leaves_no_kernel(ended, client, name, number, code):
    processes, messages, kernels = ended
    assert processes[name].returncode == code, messages[name]
    assert is_gone(kernels[name], within=0.5)
    (run,) = runs_of(client, name)
    assert run.info.status == "KILLED"
    assert run.data.tags["resflow.error"] == f"{number.name} in cell 3: import os, pathlib, time"
    assert artifacts_of(client, run) == {f"{name}.ipynb", f"{name}.html", "environment"}
    assert "Traceback" not in messages[name][1]
    assert "destroyed" not in messages[name][1]


def test_run_whose_process_was_killed_outright_is_marked_when_the_store_is_opened(ended, client):
    processes, _, kernels = ended
    assert processes["killed"].returncode == -signal.SIGKILL
    assert is_gone(kernels["killed"])
    (run,) = runs_of(client, "killed")
    assert (run.info.status, status_of(run)) == ("FINISHED", "RUNNING")  # as its notebook left a block of its own
    records.open_client()
    (run,) = runs_of(client, "killed")
    assert run.info.status == "KILLED"
    assert "cut off" in run.data.tags["resflow.error"]


def test_run_whose_process_lives_is_left_alone(client):
    run = records.create_run(client, notebook="alive", name="alive", parameters={}, tags=provenance_tags("alive"))
    elsewhere = {"resflow.owner": "another-machine/1/0.0"}
    records.create_run(client, notebook="alive", name="elsewhere", parameters={}, tags=elsewhere)
    records.open_client()
    assert [each.info.status for each in runs_of(client, "alive")] == ["RUNNING", "RUNNING"]
    run.end("FINISHED")


def test_dead_kernel_is_failed_at_the_cell_that_lost_it(project, client):
    path = write_notebook(project / "dies.ipynb", "import os\nos._exit(7)", "x = 2", parameters=None)
    with pytest.raises(DeadKernelError):
        execute(path)
    (run,) = runs_of(client, "dies")
    assert run.info.status == "FAILED"
    assert run.data.tags["resflow.failed_cell"] == "1: import os"
    assert run.data.tags["resflow.error"] == "DeadKernelError: Kernel died with exit code 7"
    assert artifacts_of(client, run) == {"dies.ipynb", "dies.html", "environment"}


def test_cell_that_takes_too_long_is_failed_and_its_kernel_ended(project, client):
    path = write_notebook(project / "hangs.ipynb", SLEEP.format(name="hangs"))
    with pytest.raises(CellTimeoutError):
        execute(path, execution_timeout=1)
    (run,) = runs_of(client, "hangs")
    assert run.info.status == "FAILED"
    assert run.data.tags["resflow.error"].startswith("CellTimeoutError: ")
    assert run.data.tags["resflow.failed_cell"] == "2: import os, pathlib, time"
    assert is_gone(int((project / "hangs.pid").read_text()), within=0.5)


def test_kernel_is_interrupted_at_its_end_only_if_a_cell_is_at_work(project, client, monkeypatch):
    sent, send = [], ForkingProvisioner.send_signal

    async def seen(provisioner, number):
        sent.append(number)
        await send(provisioner, number)

    monkeypatch.setattr(ForkingProvisioner, "send_signal", seen)
    path = write_notebook(project / "told.ipynb", "pass")
    execute(path)
    assert signal.SIGINT not in sent
    write_notebook(path, "import pathlib, time\ntry:\n    time.sleep(60)\nfinally:\n    pathlib.Path('told').touch()")
    with pytest.raises(CellTimeoutError):
        execute(path, execution_timeout=1)
    assert signal.SIGINT in sent
    assert (project / "told").exists()


def test_kernel_that_does_not_exist_is_a_failed_run(project, client):
    path = write_notebook(project / "nokernel.ipynb", "x = 1")
    with pytest.raises(Exception, match="no-such-kernel"):
        execute(path, kernel_name="no-such-kernel", language="python")
    (run,) = runs_of(client, "nokernel")
    assert run.info.status == "FAILED"
    assert "no-such-kernel" in run.data.tags["resflow.error"]


@pytest.mark.parametrize("broken", ["log_text", "set_terminated", "tags"])
def test_run_whose_record_cannot_be_written_is_not_finished(project, client, monkeypatch, broken):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    path = write_notebook(project / f"full_{broken}.ipynb", "x = 1", parameters=None)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for method in ("set_tag", "log_batch") if broken == "tags" else (broken,):
        monkeypatch.setattr(f"mlflow.tracking.MlflowClient.{method}", full)
    with pytest.raises(AttachmentError, match="No space left on device") as caught:
        execute(path)
    (run,) = runs_of(client, path.stem)
    assert not is_finished(run)
    assert status_of(run) == ("FAILED" if broken == "log_text" else "RUNNING")  # until this process is gone
    assert said_of(caught.value).endswith(f"(run {run.info.run_id}, FAILED)")


@pytest.mark.parametrize(
    ("name", "source", "raised"),
    [("unattached", "x = 1", AttachmentError), ("unattached_too", "1 / 0", PapermillExecutionError)],
)
def test_failing_attachment_is_said_and_hides_nothing(project, client, monkeypatch, caplog, name, source, raised):
    monkeypatch.setattr(report, "notebook_to_html", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    path = write_notebook(project / f"{name}.ipynb", source)
    with pytest.raises(raised, match="disk full" if raised is AttachmentError else "division by zero"):
        execute(path)
    assert "disk full" in caplog.text
    (run,) = runs_of(client, path.stem)
    assert (run.info.status, status_of(run)) == ("FAILED", "FAILED")
    assert "disk full" in run.data.tags["resflow.attachment_error"]
    assert artifacts_of(client, run) == {f"{path.stem}.ipynb", "environment"}


@pytest.mark.parametrize("first", ["resflow.workflow.engine", "resflow.workflow.execution", "papermill"])
def test_engine_is_registered_whatever_is_imported_first(first):
    program = f"import {first}; from papermill.engines import papermill_engines as e; print(e.get_engine('resflow'))"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "resflow.workflow.engine.ResflowEngine" in outcome.stdout, outcome.stderr


def test_quitting_by_sys_exit_counts_as_papermill_counts_it():
    def executed(ename, evalue):
        cell = nbformat.v4.new_code_cell("quit")
        cell.outputs = [nbformat.v4.new_output("error", ename=ename, evalue=evalue, traceback=[])]
        cell.metadata["papermill"] = {"exception": True}
        return nbformat.v4.new_notebook(cells=[cell])

    assert outcome_of(executed("SystemExit", "0")) == Outcome("FINISHED")
    assert outcome_of(executed("SystemExit", "3")) == Outcome("FAILED", "SystemExit: 3", "1: quit")
    assert outcome_of(nbformat.v4.new_notebook(), KeyboardInterrupt()) == Outcome(
        "KILLED", "SIGINT before the first cell"
    )


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_signal_waits_while_a_run_is_being_written_and_the_second_is_ignored():
    passed = []
    before = signal.getsignal(signal.SIGTERM)

    def go() -> None:
        with Interruptions() as interruptions:
            send(signal.SIGTERM)
            passed.append("written")
            try:
                with interruptions.raised():
                    passed.append("never")
            finally:
                send(signal.SIGINT)
                passed.append("concluded")

    with pytest.raises(Terminated) as caught:
        go()
    assert caught.value.code == 143
    assert passed == ["written", "concluded"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signal_after_the_notebook_is_through_is_raised_when_all_is_written():
    passed = []

    def go() -> None:
        with Interruptions() as interruptions:
            with interruptions.raised():
                passed.append("through")
            send(signal.SIGINT)
            passed.append("concluded")

    with pytest.raises(KeyboardInterrupt):
        go()
    assert passed == ["through", "concluded"]


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruptions() as interruptions, interruptions.raised():
            send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
