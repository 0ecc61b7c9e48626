"""What counts of a run is the last word of whoever answers for it, not the status that its notebook sets."""

from __future__ import annotations

import json
import os
import socket
import sys
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import pytest
from mlflow.exceptions import MlflowException
from nbclient.exceptions import DeadKernelError
from small_notebooks import in_project, is_gone, make_project, runs_of, write_notebook

from resflow.workflow import records
from resflow.workflow.kernels import kernel_language, kernel_name, speaks_ipc
from resflow.workflow.last_word import is_finished, status_of, word
from resflow.workflow.names import OUTCOME
from resflow.workflow.provenance import owner_is_gone, owner_of, owner_tag, provenance_tags
from resflow.workflow.sweeps.file import read_sweep_file
from resflow.workflow.sweeps.parent import open_parent
from resflow.workflow.sweeps.plan import Planner
from resflow.workflow.sweeps.worker import attempt
from resflow.workflow.sweeps.worker.job import Job, Limits, Place

# MLflow's own use of SQLAlchemy, which deprecates it
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

# What leaving `with mlflow.start_run():` does, without the two seconds that importing MLflow takes.
BLOCK_LEFT = """import os, sqlite3
with sqlite3.connect(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"), timeout=20) as database:
    run_id = os.environ["MLFLOW_RUN_ID"]
    database.execute("UPDATE runs SET status = 'FINISHED', end_time = 1 WHERE run_uuid = ?", [run_id])"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder, the current one for this module, with kernels of its own to choose from."""
    root = make_project(tmp_path_factory.mktemp("last_word") / "project")
    stillborn = [sys.executable, "-c", "import os; os._exit(3)", "{connection_file}"]
    bash = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    silent = [sys.executable, "-c", "import os, time; open('silent.pid', 'w').write(str(os.getpid())); time.sleep(60)"]
    specs = {"stillborn": (stillborn, "python"), "silent": (silent, "python"), "bash": (bash, "bash")}
    for name, (argv, language) in specs.items():
        spec = root / "jupyter" / "kernels" / name / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"argv": argv, "display_name": name, "language": language}))
    with in_project(root, JUPYTER_PATH=str(root / "jupyter")):
        yield root


@pytest.fixture(scope="module")
def client(project):
    return records.open_client()


@pytest.fixture
def run(client):
    """A run that is at work, and whose owner is gone."""
    tags = {"resflow.owner": f"{socket.gethostname()}/{2**31 - 1}/1.0"}
    return records.create_run(client, notebook="by_hand", name="by hand", parameters={"a": 1}, tags=tags)


def stored(run):
    return run.client.get_run(run.id)


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_status_that_a_notebook_sets_does_not_end_its_run(run, client, status):
    client.set_terminated(run.id, status)
    assert (stored(run).info.status, status_of(stored(run))) == (status, "RUNNING")
    assert not is_finished(stored(run))
    records.open_client()  # as its owner is gone
    assert (stored(run).info.status, status_of(stored(run))) == ("KILLED", "KILLED")
    assert stored(run).data.tags["resflow.error"] == "cut off: the process that ran it is gone"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_last_word_holds_whatever_is_made_of_the_status_afterwards(run, client, status):
    run.end(status)
    assert (stored(run).info.status, status_of(stored(run))) == (status, status)
    client.update_run(run.id, status="RUNNING")  # as `mlflow.start_run(run_id=...)` does
    assert status_of(stored(run)) == "RUNNING"
    records.open_client()
    assert (stored(run).info.status, status_of(stored(run))) == (status, status)
    client.set_terminated(run.id, "FINISHED")
    assert is_finished(stored(run)) == (status == "FINISHED")
    client.set_terminated(run.id, "FAILED")
    assert not is_finished(stored(run))


def test_last_word_is_the_last_thing_that_is_written(run, client, monkeypatch):
    def full(*written, tags=(), **__):
        assert not [tag for tag in tags if tag.key == OUTCOME and "FINISHED" not in tag.value]
        assert OUTCOME not in written or "FINISHED" in written[-1]
        raise MlflowException("database or disk is full")

    for method in ("log_batch", "set_tag"):
        monkeypatch.setattr(client, method, full)
    run.client = client
    with pytest.raises(MlflowException):
        run.end("FINISHED")
    assert (stored(run).info.status, status_of(stored(run))) == ("FINISHED", "RUNNING")
    with pytest.raises(MlflowException):
        records.record_run(
            client, run.experiment_id, name="member", parameters={}, tags={"resflow.fingerprint": "half"},
            history={0: {"a": 1.0}}, metrics={}, inputs=[], since=0,
        )  # fmt: skip
    assert records.finished_points(client, run.experiment_id, ["half"]) == {}


def test_member_with_more_values_than_a_batch_holds_is_recorded_whole(run, client):
    history = {step: {"a": step, "b": -step} for step in range(1100)}
    run_id = records.record_run(
        client, run.experiment_id, name="long", parameters={"p": 1}, tags={}, history=history, metrics={"last": 2.0},
        inputs=[], since=0,
    )  # fmt: skip
    assert is_finished(client.get_run(run_id))
    assert [metric.value for metric in client.get_metric_history(run_id, "a")] == list(range(1100))
    assert client.get_run(run_id).data.metrics["last"] == 2.0


def test_tags_copied_from_another_run_say_nothing(run, client):
    other = records.create_run(client, notebook="by_hand", name="other", parameters={}, tags={})
    run.set_tags(word("FINISHED", other.id) | {"resflow.fingerprint": "copied"})
    client.set_terminated(run.id, "FINISHED")
    assert status_of(stored(run)) == "RUNNING"
    assert records.finished_points(client, run.experiment_id, ["copied"]) == {}
    other.end("FINISHED")


def test_runs_that_are_not_of_resflow_are_what_mlflow_says(client):
    run = client.create_run("0")
    client.set_terminated(run.info.run_id, "FINISHED")
    records.open_client()
    assert status_of(client.get_run(run.info.run_id)) == "FINISHED"
    assert not is_finished(client.get_run(run.info.run_id))


HOST = socket.gethostname()
NO_OWNERS = (
    "", "/", "//", "///", "x", HOST, f"{HOST}/", f"{HOST}/1", f"{HOST}//", f"{HOST}/x/y", f"{HOST}/1/", f"{HOST}/1/nan",
    f"{HOST}/1/inf", f"{HOST}/1/1e5", f"{HOST}/0/1.0", f"{HOST}/-1/1.0", f"{HOST}/1.5/1.0", f"{HOST}/{2**31}/1.0",
    f"{HOST}/{10**40}/1.0", f"{HOST}/1/{'9' * 5000}", f"{HOST}/²/1.0", f"{HOST}/1_0/1.0", "/1/1.0", f"{HOST}/ 1/1.0",
)  # fmt: skip


@pytest.mark.parametrize("tag", NO_OWNERS, ids=range(len(NO_OWNERS)))
def test_malformed_owner_is_nobody_known_and_never_gone(tag):
    assert owner_of(tag) is None
    assert not owner_is_gone(tag)


def test_malformed_tags_of_owner_and_sign_of_life_break_nothing(run, client, project, monkeypatch):
    for place, tag in enumerate(NO_OWNERS):
        odd = records.create_run(client, notebook="odd", name=str(place), parameters={}, tags={"resflow.owner": tag})
        monkeypatch.setattr(odd, "client", client)
    records.open_client()
    assert {each.info.status for each in runs_of(client, "odd")} == {"RUNNING"}
    write_notebook(project / "held.ipynb", "x = 1", parameters="a: int = 1")
    (project / "held.yaml").write_text("notebook: held.ipynb\naxes: {a: [1]}\n")
    sweep = read_sweep_file(project / "held.yaml")
    parent = open_parent(client, sweep)
    for tags in ({"resflow.owner": "?"}, {"resflow.owner": "elsewhere/1/2.0", "resflow.driver_seen": "?"}):
        parent.set_tags(tags)
        assert open_parent(client, sweep).id == parent.id
    parent.end("KILLED")


def test_owner_is_told_from_another_process_of_its_number():
    mine = owner_of(owner_tag())
    assert mine is not None
    assert mine.pid == os.getpid()
    assert not owner_is_gone(owner_tag())
    assert owner_is_gone(f"{mine.host}/{mine.pid}/{mine.started - 60:.2f}")
    assert not owner_is_gone(f"another-machine/{mine.pid}/1.0")


def test_process_that_this_user_cannot_see_is_not_gone(monkeypatch):
    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert not owner_is_gone(f"{HOST}/{os.getpid()}/1.0")
    assert owner_is_gone(f"{HOST}/{2**31 - 1}/1.0")


FLUENT = """import mlflow, os
from mlflow.tracking import MlflowClient
from resflow.workflow.last_word import status_of
engines = os.environ["MLFLOW_RUN_ID"]
for factor in (1, 2, 4):
    with mlflow.start_run(run_name=f"x{factor}"):
        mlflow.log_param("alpha", alpha * factor)
run = MlflowClient().get_run(engines)
print(run.info.status, status_of(run))
mlflow.start_run(run_name="open")
mlflow.start_run(run_name="below", nested=True)
client, experiment = MlflowClient(), run.info.experiment_id
print(mlflow.active_run().info.run_id)"""


def test_later_runs_of_a_notebook_are_below_the_engines_and_end_with_it(project, client):
    path = write_notebook(project / "fluent.ipynb", FLUENT, "os._exit(1)", parameters="alpha: float = 0.5")
    with pytest.raises(DeadKernelError) as caught:
        papermill.execute_notebook(path, path.with_suffix(".out.ipynb"), engine_name="resflow", progress_bar=False)
    runs = {run.info.run_name: run for run in runs_of(client, "fluent")}
    engines = runs.pop("x1")
    how = "DeadKernelError: Kernel died with exit code 1"
    assert caught.value.__notes__[-1] == f"resflow: cell 3: os._exit(1): {how} (run {engines.info.run_id}, FAILED)"
    executed = nbformat.read(project / "fluent.out.ipynb", as_version=4)
    said = [output.text for output in executed.cells[1].outputs if output.name == "stdout"]
    assert said[0].startswith("FINISHED RUNNING\n")
    assert (status_of(engines), engines.data.params) == ("FAILED", {"alpha": "0.5"})
    parents = {name: run.data.tags["mlflow.parentRunId"] for name, run in runs.items()}
    assert parents == dict.fromkeys(["x2", "x4", "open"], engines.info.run_id) | {"below": runs["open"].info.run_id}
    assert {name: run.info.status for name, run in runs.items()} == {
        "x2": "FINISHED", "x4": "FINISHED", "open": "FAILED", "below": "FAILED",
    }  # fmt: skip
    assert runs["below"].data.tags["resflow.error"] == how


def test_runs_left_open_end_with_a_run_that_finished_and_half_a_member_is_killed(run, client):
    tags = {"mlflow.parentRunId": run.id}
    own = client.create_run(run.experiment_id, tags=tags).info.run_id
    member = records.create_run(client, notebook="by_hand", name="member", parameters={}, tags=tags)
    client.set_terminated(member.id, "FINISHED")  # and killed before the rest was written
    records.end_children(client, run.id, "FINISHED", "left open")
    assert client.get_run(own).info.status == "FINISHED"
    assert status_of(stored(member)) == "KILLED"


def job_for(project, client, kernel: str, *cells: str, retries: int) -> Job:
    """A sweep's job that executes these cells in that kernel."""
    path = write_notebook(project / f"{kernel}_job.ipynb", *cells, parameters="a: int = 1")
    node = nbformat.read(path, as_version=4)
    node.metadata.kernelspec.name = kernel
    nbformat.write(node, path)
    (project / f"{kernel}.yaml").write_text(f"notebook: {path.name}\nexperiment: {kernel}\naxes: {{a: [1]}}\n")
    sweep = read_sweep_file(project / f"{kernel}.yaml")
    parent = open_parent(client, sweep)
    parent.end("KILLED")
    (execution,) = Planner(sweep).executions()
    place = Place(client.tracking_uri, parent.experiment_id, parent.id, session="s")
    return Job.of(sweep, execution, list(execution.points), place, Limits(retries=retries))


def attempts(client, experiment: str) -> list:
    """The runs below a sweep's, earliest first."""
    return [run for run in runs_of(client, experiment)[::-1] if run.data.tags["resflow.role"] != "sweep"]


def test_kernel_that_dies_as_it_starts_is_lost_and_tried_again(project, client):
    outcome = attempt.execute(job_for(project, client, "stillborn", "x = 1", retries=1))
    assert (outcome.status, outcome.attempts) == ("LOST", 2)
    assert outcome.error.startswith("DeadKernelError: the kernel stillborn did not start: Kernel died")
    runs = attempts(client, "stillborn")
    assert [(status_of(run), run.data.tags["resflow.error"]) for run in runs] == [("FAILED", outcome.error)] * 2


def test_kernel_that_does_not_answer_in_time_is_dead_and_gone(project, client):
    path = write_notebook(project / "unanswered.ipynb", "x = 1", parameters=None)
    options = {"engine_name": "resflow", "progress_bar": False, "kernel_name": "silent", "start_timeout": 2}
    with pytest.raises(DeadKernelError, match="the kernel silent did not start: Kernel didn't respond in 2 seconds"):
        papermill.execute_notebook(path, None, **options)
    (run,) = runs_of(client, "unanswered")
    assert status_of(run) == "FAILED"
    assert is_gone(int((project / "silent.pid").read_text()))


def test_kernel_that_is_not_installed_is_failed_at_once(project, client):
    outcome = attempt.execute(job_for(project, client, "absent", "x = 1", retries=1))
    assert (outcome.status, outcome.attempts) == ("FAILED", 1)
    assert "No such kernel named absent" in outcome.error
    assert [status_of(run) for run in attempts(client, "absent")] == ["FAILED"]


def test_point_process_killed_after_its_notebook_left_a_block_is_repeated(project, client, monkeypatch):
    monkeypatch.setenv("RESFLOW_KERNELS", "ordinary")  # whose parent is that process
    killed_once = "\nif not os.path.exists('once'):\n    open('once', 'w').close()\n    os.kill(os.getppid(), 9)"
    outcome = attempt.execute(job_for(project, client, "python3", BLOCK_LEFT + killed_once, retries=1))
    assert (outcome.status, outcome.attempts) == ("FINISHED", 2), outcome
    first, second = attempts(client, "python3")
    assert (first.info.status, status_of(first)) == ("KILLED", "KILLED")
    assert is_finished(second)
    assert outcome.run_id == second.info.run_id


def test_store_that_cannot_be_written_fails_an_attempt_in_one_line(project, client, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attempt, "finished_points", full)
    outcome = attempt.execute(job_for(project, client, "python3", "x = 1", retries=1))
    assert outcome.status == "FAILED"
    assert outcome.error.endswith("OSError: [Errno 28] No space left on device")


@pytest.mark.parametrize(
    ("metadata", "kernel", "language"),
    [
        ({}, "python3", "python"),
        ({"kernelspec": {"display_name": "Python 3", "language": "python"}}, "python3", "python"),
        ({"kernelspec": {"name": "", "display_name": "x"}}, "python3", "python"),
        ({"kernelspec": "?"}, "python3", "python"),
        ({"kernelspec": {"language": "Bash"}}, "bash", "Bash"),
        ({"language_info": {"name": "bash"}}, "bash", "bash"),
        ({"kernelspec": {"name": "mine"}, "language_info": {"name": "R"}}, "mine", "R"),
    ],
)
def test_kernel_is_the_one_named_or_one_of_the_language(project, metadata, kernel, language):
    nb = nbformat.from_dict({"metadata": metadata, "cells": [], "nbformat": 4, "nbformat_minor": 5})
    assert (kernel_name(nb), kernel_language(nb)) == (kernel, language)


def test_only_ipykernel_on_this_machine_is_talked_to_through_files(project, monkeypatch):
    def speaks(*argv, metadata=None):
        spec = SimpleNamespace(argv=list(argv), metadata=metadata or {})
        monkeypatch.setattr("resflow.workflow.kernels.KernelSpecManager.get_kernel_spec", lambda self, name: spec)
        return speaks_ipc("any")

    assert speaks("python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
    assert speaks("python3.12", "-Xfrozen_modules=off", "-m", "ipykernel", "-f", "{connection_file}")
    assert not speaks("python", "-m", "xpython_launcher", "-f", "{connection_file}")
    assert not speaks("docker", "run", "image", "python", "-m", "ipykernel_launcher", "-f", "{connection_file}")
    assert not speaks("python", "-m", "ipykernel_launcher", metadata={"kernel_provisioner": {"provisioner_name": "x"}})
    assert not speaks("ijskernel")


@pytest.mark.parametrize(
    ("kernel", "source"), [("xpython", "print('a' * 3)"), ("bash", "echo aaa"), (None, "print('a' * 3)")]
)
def test_kernels_that_know_ports_only_and_a_kernelspec_without_a_name_run(project, client, kernel, source):
    if kernel == "xpython":
        pytest.importorskip("xeus_python_shell", reason="xeus-python is not installed")
    path = write_notebook(project / f"{kernel}_kernel.ipynb", source, parameters=None)
    node = nbformat.read(path, as_version=4)
    node.metadata.kernelspec = {"display_name": "P", "language": "python"} | ({"name": kernel} if kernel else {})
    path.write_text(json.dumps(node))
    executed = papermill.execute_notebook(path, None, engine_name="resflow", progress_bar=False)
    assert executed.cells[0].outputs[0].text.strip() == "aaa"
    (run,) = runs_of(client, f"{kernel}_kernel")
    assert is_finished(run)


def test_run_whose_parameters_cannot_be_written_is_failed(client, monkeypatch):
    def refuse(self, parameters):
        raise MlflowException("no parameters today")

    monkeypatch.setattr(records.Run, "log_parameters", refuse)
    tags = provenance_tags("refused")
    with pytest.raises(MlflowException, match="today"):
        records.create_run(client, notebook="refused", name="refused", parameters={"a": 1}, tags=tags)
    (run,) = runs_of(client, "refused")
    assert status_of(run) == "FAILED"
    assert "MlflowException" in run.data.tags["resflow.error"]
