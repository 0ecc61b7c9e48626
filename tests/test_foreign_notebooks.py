"""Notebooks that know nothing of resflow run under it as under papermill, or one line says what to do."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from bs4 import BeautifulSoup
from papermill.exceptions import PapermillExecutionError
from small_notebooks import in_project, make_project, resflow_here, runs_of
from warm_kernels import warm_kernels

from resflow.workflow.goal import Goal
from resflow.workflow.records import open_client
from resflow.workflow.run_parameters import parameters_of

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
BASH = {"kernelspec": {"name": "bash", "display_name": "Bash", "language": "bash"}}
XPYTHON = {"kernelspec": {"name": "xpython", "display_name": "xpython", "language": "python"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder, the current one for the tests of this module, with kernels of Python and of bash."""
    root = make_project(tmp_path_factory.mktemp("foreign") / "project")
    kernels = tmp_path_factory.mktemp("kernels")
    bash = {"argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"], "display_name": "Bash"}
    gone = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "Gone", "language": "python"}
    with (
        warm_kernels(kernels, "mlflow.tracking", "mlflow.sklearn", "sklearn.linear_model") as variables,
        in_project(root, **variables),
    ):
        for name, spec in (("bash", bash | {"language": "bash", "env": {"PS1": "$"}}), ("gone", gone)):
            folder = Path(variables["JUPYTER_PATH"]) / "kernels" / name
            folder.mkdir()
            (folder / "kernel.json").write_text(json.dumps(spec))
        yield root


def write(name: str, parameters: str | None, *sources: str, metadata: dict | None = PYTHON) -> str:
    """A notebook in the current folder, written by hand as other programs do; its name."""
    cells = [{"cell_type": "code", "id": f"c{place}", "source": source} for place, source in enumerate(sources)]
    if parameters is not None:
        cells.insert(0, {"cell_type": "code", "id": "p", "source": parameters, "metadata": {"tags": ["parameters"]}})
    for cell in cells:
        cell.update({"metadata": cell.get("metadata", {}), "outputs": [], "execution_count": None})
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata or {}, "cells": cells}
    Path(f"{name}.ipynb").write_text(json.dumps(notebook))
    return f"{name}.ipynb"


def printed(path: str) -> str:
    """What the cells of an executed notebook printed or gave."""
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


RUN = {
    "no metadata": ("nometa", "a: int = 1", "print(a)", None, ["-p", "a", "3"], "3", {"a": "3"}),
    "magics": (
        "magic",
        "%matplotlib inline\n!echo hi\nx = 1",
        "print(x)",
        PYTHON,
        ["-p", "x", "7"],
        "hi\r\n7",
        {"x": "7"},
    ),
    "cell magic": ("capture", "%%capture\nx = 1", "print(x)", PYTHON, ["-p", "x", "7"], "7", {"x": "7"}),
    "bash": (
        "bash_params",
        'msg="hello"\nn=3',
        "for i in $(seq $n); do echo $msg $i; done",
        BASH,
        ["-p", "n", "2"],
        "hello 1\nhello 2",
        {"n": "2"},
    ),
    "xpython": (
        "xpython_params",
        "msg: str = 'hello'\nn: int = 3",
        "print(msg * n)",
        XPYTHON,
        ["-p", "n", "2"],
        "hellohello",
        {"msg": "hello", "n": "2"},
    ),
}


@pytest.mark.parametrize(("name", "parameters", "cell", "metadata", "options", "said", "logged"), RUN.values(), ids=RUN)
def test_parameters_cell_of_whatever_kind_is_run_with_what_was_set(
    project, name, parameters, cell, metadata, options, said, logged
):
    done = resflow_here(project, "run", write(name, parameters, cell, metadata=metadata), "out.ipynb", *options)
    assert done.returncode == 0, done.stderr
    assert printed("out.ipynb").strip() == said
    (run,) = runs_of(open_client(), name)
    assert (run.info.status, run.data.params) == ("FINISHED", logged)


def test_notebook_may_log_its_parameters_itself(project):
    cell = (
        "import math\nlr: float = 0.5\nn = 1 / 3\nsteps = 10 * 100\nrate = 10**-3\npi = math.pi\nwhole: float = 1\n"
        "dims: list = [1, 2]\nname = None\nunsaid = math.e\nother = object"
    )
    write(
        "own",
        cell,
        "import mlflow\nwith mlflow.start_run():\n"
        "    mlflow.log_params({'lr': lr, 'n': n, 'steps': steps, 'rate': rate})",
        "with mlflow.start_run(mlflow.last_active_run().info.run_id):\n"
        "    mlflow.log_params({'pi': pi, 'whole': whole, 'dims': 'x'.join(map(str, dims)), 'name': name})",
    )
    done = resflow_here(project, "run", "own.ipynb", "-p", "lr", "2")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(open_client(), "own")
    logged = {"lr": "2.0", "n": str(1 / 3), "steps": "1000", "rate": "0.001", "pi": str(math.pi), "whole": "1"}
    assert run.data.params == logged | {"dims": "1x2", "name": "None", "unsaid": str(math.e), "other": "object"}
    assert run.info.status == "FINISHED"


def test_names_of_the_library_mean_nothing_in_a_notebook_of_somebody_else(project):
    cell = (
        "dataset = 'iris'\nloss = 'mse'\nbatch_size = 'auto'\nseed = -1\nwidth = '100px'\narchitecture = 'resnet50'\n"
        "learning_rate = 'adaptive'"
    )
    done = resflow_here(project, "run", write("names_that_are_ours", cell, "print(seed)"), "-p", "loss", "mae")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(open_client(), "names_that_are_ours")
    assert run.data.params["loss"] == "mae"


def test_names_of_the_library_are_checked_in_its_own_notebooks_before_a_run_begins(project):
    notebook = Path(__file__).parents[1] / "notebooks" / "train_residual_unit.ipynb"
    done = resflow_here(project, "run", str(notebook), "-p", "width", "0")
    assert (done.returncode, done.stderr) == (2, "resflow: error: width=0 must be at least 1\n")
    assert open_client().get_experiment_by_name("train_residual_unit") is None


def test_byte_order_mark_and_missing_parts_keep_no_notebook_from_running(project):
    path = Path(write("bom", "a: int = 1\nb: str = 'x'", "print(a, b)"))
    notebook = json.loads(path.read_text())
    del notebook["cells"][1]["metadata"], notebook["cells"][1]["outputs"]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(notebook).encode())
    done = resflow_here(project, "run", "bom.ipynb", "out.ipynb")
    assert done.returncode == 0, done.stderr
    assert printed("out.ipynb") == "1 x\n"
    assert nbformat.read("out.ipynb", 4).metadata.papermill.input_path == "bom.ipynb"


def test_run_s_place_may_have_braces_and_what_is_there_is_replaced(project):
    write("plain", "a: int = 1", "print(a)")
    Path("{a}.ipynb").write_text("before")
    done = resflow_here(project, "run", "plain.ipynb", "{a}.ipynb")
    assert done.returncode == 0, done.stderr
    assert printed("{a}.ipynb") == "1\n"


HOSTILE = {
    "line magic": "%matplotlib inline\nx = 1",
    "cell magic": "%%capture\nx = 1",
    "shell value": "y = !echo hi\nx = 1",
    "another language": "x <- c(1, 2)",
    "no statement": "# x = 1",
    "nothing": "",
    "f-string": "name = 'a'\nx = f'{name!r:>5}'",
    "walrus": "if (x := 1): pass",
    "type comments": "x = [1]  # type: List[int] a list",
    "several lines": "x = [\n  1,  # one\n  2,\n]\ny = '''a\n# no comment\n'''",
    "tuples": "(x, y), *z = (1, 2), 3, 4",
    "semicolons": "x = 1; print(x);",
    "carriage returns": "%matplotlib inline\r\nx = 1\r\n",
    "definitions": "import functools\n@functools.cache\ndef f(a): return a\nx = f(1)",
    "conditions": "try:\n    x = 1 / 0\nexcept ZeroDivisionError as error:\n    x = 'none'",
    "imports": "from math import *\nfrom math import pi as x",
    "augmented": "x = 2\nx **= 3",
    "attributes": "class A: pass\nx = A()\nx.b: int = 2\nx = x.b",
    "annotation alone": "y: float\nx = 1",
    "names beyond ASCII": "größe: float = 1e-3  # in µm\nx = '日本', größe",
    "await": "import asyncio\nx = await asyncio.sleep(0, 1)",
    "no literal": "x = b'\\xff', 1j, ..., {1}, 10**5000 > 0",
    "raises": "x = 1\nraise ValueError(x)",
    "syntax error": "x = = 1",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_parameters_cell_gives_under_the_engine_what_it_gives_under_papermill(project, source):
    path, gave = write("hostile", source, "print(repr(x))"), []
    for engine in (None, "resflow"):
        raised = ""
        try:
            papermill.execute_notebook(path, "out.ipynb", {"x": 7}, engine_name=engine, progress_bar=False)
        except PapermillExecutionError as error:
            raised = str(error)
        cells = [cell for cell in nbformat.read("out.ipynb", 4).cells if cell.cell_type == "code"]
        gave.append((raised, [(cell.source, cell.execution_count, cell.outputs) for cell in cells]))
    assert without_numbers_of_processes(gave[0]) == without_numbers_of_processes(gave[1])


def without_numbers_of_processes(gave: tuple) -> str:
    """What a notebook gave, but for the folders that are named after its kernel's process."""
    return re.sub(r"ipykernel_\d+", "ipykernel", repr(gave))


def test_notebook_may_be_given_in_memory(project):
    node = nbformat.read(write("node", "a: int = 1", "print(a)"), 4)
    executed = papermill.execute_notebook(node, None, {"a": 3}, engine_name="resflow", progress_bar=False)
    assert executed.cells[-1].outputs[0].text == "3\n"
    run = open_client().get_run(executed.metadata.resflow.run_id)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "notebook a=3", {"a": "3"})


def test_notebook_may_log_its_parameters_in_another_form_or_with_another_value(project):
    cell = (
        "import mlflow\nwith mlflow.start_run():\n"
        "    mlflow.log_params({'lr': f'{lr:.3e}', 'flag': 'yes', 'batch_size': 32, 'rate': rate})"
    )
    write("formatted", "lr: float = 0.5\nflag = True\nbatch_size = None\nrate = 10**-3\nwidth = 3", cell)
    done = resflow_here(project, "run", "formatted.ipynb", "-p", "lr", "2")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(open_client(), "formatted")
    logged = {"lr": "2.000e+00", "flag": "yes", "batch_size": "32", "rate": "0.001", "width": "3"}
    assert run.data.params == logged
    assert parameters_of(run) == logged | {"lr": "2.0", "flag": "True", "batch_size": "None"}


def test_parameters_are_logged_before_the_kernel_starts_if_the_notebook_logs_none(project):
    cell = "from resflow.workflow.records import open_client\nimport os\n"
    cell += "print(sorted(open_client().get_run(os.environ['MLFLOW_RUN_ID']).data.params.items()))"
    done = resflow_here(project, "run", write("early", "a = 1\nb = 10 * a\nc = [1]\nd = 2\nd **= 3", cell), "out.ipynb")
    assert done.returncode == 0, done.stderr
    assert printed("out.ipynb") == "[('a', '1'), ('b', '10'), ('d', '8')]\n"
    (run,) = runs_of(open_client(), "early")
    assert run.data.params == {"a": "1", "b": "10", "c": "[1]", "d": "8"}


ACCURACY = {"metric": "accuracy", "direction": "maximize"}


def test_metric_that_counts_is_said_by_metadata_or_options_and_the_run_says_it(project):
    cell = "import mlflow\nmlflow.log_metrics({'accuracy': a / 10, 'loss': 1 / a})"
    write("goal", "a = 1", cell, metadata=PYTHON | {"resflow": ACCURACY})
    for options, goal in (
        ([], Goal("accuracy", maximize=True)),
        (["--metric", "loss", "--minimize"], Goal("loss")),
    ):
        done = resflow_here(project, "run", "goal.ipynb", *options)
        assert done.returncode == 0, done.stderr
        assert re.search(rf"^  {goal.metric} \(to {goal.direction}\) +[0-9.]+$", done.stdout, re.MULTILINE)
        latest = runs_of(open_client(), "goal")[0]
        assert Goal.in_tags(latest.data.tags) == goal
    assert resflow_here(project, "run", "goal.ipynb", "-p", "a", "5").returncode == 0
    report = resflow_here(project, "report", "goal", "goal.html")
    assert report.returncode == 0, report.stderr
    text = BeautifulSoup(Path("goal.html").read_text(), "html.parser").get_text()
    assert "The best of them has accuracy 0.5, the largest." in text
    report = resflow_here(project, "report", "goal", "goal.html", "--metric", "loss", "--maximize")
    assert report.returncode == 0, report.stderr
    text = BeautifulSoup(Path("goal.html").read_text(), "html.parser").get_text()
    assert "The best of them has loss 1, the largest." in text


@pytest.mark.parametrize(
    ("own", "options", "message"),
    [
        ({}, ["--metric", "accuracy"], "--metric accuracy: is more of it better? Say --maximize or --minimize"),
        ({}, ["--maximize"], "--maximize and --minimize say what is better of a metric: name it by --metric"),
        ({}, ["--metric", "", "--maximize"], "--metric '' names no metric: give its name, or leave it out"),
        ({"metric": "accuracy"}, [], "the notebook's metadata say metric='accuracy' and direction=None under resflow"),
        ({"metric": 5, "direction": "maximize"}, [], "the notebook's metadata say metric=5 and direction='maximize'"),
    ],
)
def test_half_a_goal_is_refused_before_a_run_is_made(project, own, options, message):
    done = resflow_here(project, "run", write("half", None, "1", metadata=PYTHON | {"resflow": own}), *options)
    assert (done.returncode, done.stderr.startswith(f"resflow: error: {message}")) == (2, True), done.stderr
    assert open_client().get_experiment_by_name("half") is None


REFUSED = {
    "unknown kernel": (
        ["badkernel.ipynb"],
        r"no kernel 'conda_env_xyz' is installed: .* by -k .* of .*bash, gone, python3",
    ),
    "chosen kernel": (["plain.ipynb", "-k", "pithon3"], "no kernel 'pithon3' is installed: .*nearest is python3"),
    "kernel without a program": (
        ["plain.ipynb", "-k", "gone"],
        "to be started by '/no/such/python', which is not there",
    ),
    "newer format": (["v5.ipynb"], "v5.ipynb: has nbformat 5, newer than any that can be read: save it as nbformat 4"),
    "folder as notebook": (["folder"], "folder: there is no such notebook .it is a folder"),
    "no folder": (["plain.ipynb", "nowhere/out.ipynb"], "there is no folder nowhere: make it first"),
    "folder as output": (["plain.ipynb", "folder"], "folder: this is a folder: name a file"),
    "itself as output": (["plain.ipynb", "./plain.ipynb"], "this is the notebook itself: name another file"),
    "long output": (["plain.ipynb", "o" * 300], "cannot be written: File name too long"),
    "device as output": (["plain.ipynb", "/dev/full"], "/dev/full: this is no ordinary file"),
    "output not in UTF-8": (["plain.ipynb", "caf\udce9"], "the name is not UTF-8"),
    "language without parameters": (
        ["odd.ipynb", "-p", "a", "1"],
        "parameters cannot be set in this notebook: No parameter",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_one_line_and_exit_code_2_and_no_run(project, arguments, message):
    write("plain", "a: int = 1", "print(a)")
    write("badkernel", None, "1", metadata={"kernelspec": {"name": "conda_env_xyz", "language": "python"}})
    write("odd", "a = 1", "1", metadata={"kernelspec": {"name": "python3", "language": "befunge", "display_name": ""}})
    write("v5", "a = 1", "1")
    Path("v5.ipynb").write_text(Path("v5.ipynb").read_text().replace('"nbformat": 4', '"nbformat": 5'))
    Path("folder").mkdir(exist_ok=True)
    before = len(open_client().search_runs([each.experiment_id for each in open_client().search_experiments()]))
    done = resflow_here(project, "run", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.search(message, line), line
    assert len(open_client().search_runs([each.experiment_id for each in open_client().search_experiments()])) == before


def test_kernel_may_be_chosen(project):
    write("elsewhere", "a: int = 1", "print(a)", metadata={"kernelspec": {"name": "conda_env_xyz"}})
    done = resflow_here(project, "run", "elsewhere.ipynb", "out.ipynb", "-k", "python3", "-p", "a", "2")
    assert done.returncode == 0, done.stderr
    assert printed("out.ipynb") == "2\n"


@pytest.mark.parametrize(
    ("name", "choice", "said"),
    [
        ("ml_setexp", "set_experiment('other exp')", "MLFLOW_EXPERIMENT_NAME"),
        ("ml_seturi", "set_tracking_uri('sqlite:///other.db')", "MLFLOW_TRACKING_URI"),
    ],
)
def test_notebook_that_chooses_where_its_run_goes_is_told_how_to_do_that(project, caplog, name, choice, said):
    cell = f"import mlflow\nmlflow.{choice}\nwith mlflow.start_run(run_name='mine'): pass"
    done = resflow_here(project, "run", write(name, None, cell))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    call = choice.partition("(")[0]
    advised = rf"leave out mlflow\.{call}, and choose the \w+ by the environment variable {said}"
    assert re.search(advised, line)
    (run,) = runs_of(open_client(), name)
    assert run.info.run_id in line
    assert re.search(f"{advised}$", run.data.tags["resflow.error"])
    with pytest.raises(PapermillExecutionError):
        papermill.execute_notebook(f"{name}.ipynb", None, engine_name="resflow", progress_bar=False)
    assert re.search(f"^resflow has opened the run already.*{advised}$", caplog.records[-1].getMessage())


def test_experiment_may_be_chosen(project):
    done = resflow_here(project, "run", write("ml_setexp", None, "1"), MLFLOW_EXPERIMENT_NAME="other exp")
    assert done.returncode == 0
    assert len(runs_of(open_client(), "other exp")) == 1


def test_errors_are_one_line_however_many_the_notebook_raises(project):
    cell = "raise ValueError('first\\nsecond' + 'x' * 10_000)"
    done = resflow_here(project, "run", write("talks", None, "1", cell))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("resflow: error: cell 2 of talks.ipynb raised ValueError: first secondxx")
    (run,) = runs_of(open_client(), "talks")
    assert line.endswith(f"(run {run.info.run_id}, FAILED; the executed notebook is attached to the run)")
    assert len(line) < 1000


def test_what_autologging_logs_of_a_model_agrees_with_the_notebook_s_parameters(project):
    cell = (
        "import mlflow\nfrom sklearn.datasets import load_iris\nfrom sklearn.linear_model import LogisticRegression\n"
        "mlflow.sklearn.autolog(log_models=False, log_datasets=False)\nX, y = load_iris(return_X_y=True)\n"
        "model = LogisticRegression(C=C, max_iter=max_iter).fit(X, y)\n"
        "mlflow.log_metric('accuracy', model.score(X, y))"
    )
    write("autolog_accuracy", "C = 1.0\nmax_iter = 200", cell)
    done = resflow_here(project, "run", "autolog_accuracy.ipynb", "-p", "C", "2")
    assert done.returncode == 0, done.stderr
    runs = runs_of(open_client(), "autolog_accuracy")
    (run,) = (run for run in runs if run.info.run_id in done.stdout)
    assert (run.data.params["C"], run.data.params["max_iter"], run.data.params["solver"]) == ("2.0", "200", "lbfgs")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert any(run.data.metrics.get("accuracy", 0) > 0.9 for run in runs)
