"""Whatever a notebook's file holds: it runs if papermill could run it, or one line says why not."""

from __future__ import annotations

import copy
import json
import logging
import random
import warnings
from collections.abc import Iterator
from typing import Any

import nbformat
import papermill
import pytest
from command import check, resflow
from nbformat import v4
from small_notebooks import in_project, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import run_command
from resflow.workflow.records import open_client

RUN_FOR_REAL = 10
"""One mutant in so many has a kernel; the others stop just before."""


def originals() -> list[dict[str, Any]]:
    """Notebooks that are in order: with outputs, parameters, attachments, and of the formats 3 and 4.0."""
    output = v4.new_output("stream", text="a\nb")
    plot = v4.new_output("display_data", {"text/plain": "1", "image/png": "aGk="}, metadata={"image/png": {"width": 3}})
    cells = [
        v4.new_markdown_cell("# A title\n$x^2$", attachments={"a.png": {"image/png": "aGk="}}),
        v4.new_code_cell("a: int = 1  # one\nb = 'x'", metadata={"tags": ["parameters"]}, outputs=[output]),
        v4.new_code_cell("print(a, b)", outputs=[plot], execution_count=3),
        v4.new_raw_cell("raw"),
        v4.new_code_cell("a"),
    ]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    now = v4.new_notebook(cells=cells, metadata=kernel | {"language_info": {"name": "python", "version": "3"}})
    before = json.loads(nbformat.writes(now)) | {"nbformat_minor": 0}
    for cell in before["cells"]:
        del cell["id"]
    third = nbformat.convert(copy.deepcopy(now), 3)
    return [json.loads(json.dumps(each)) for each in (now, before, third)]


WORDS: list[Any] = [None, True, 0, -1, 4, 5, 99, 1.5, 10**400, "", "x" * 100_000, [], {}, [None], {"a": 1}]
WORDS += ["code", "markdown", "parameters", "python3", "no-such", "\x00", "\u2028", "😀"]
WORDS += ["%%bash\nexit 3", "!true", "a = (", ["x = 1\n", "x"]]
KEYS = ["name", "source", "metadata", "tags", "outputs", "id", "papermill", "resflow"]
KEYS += ["kernelspec", "language", "language_info", "widgets"]


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object with one of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def mutant(seed: int) -> bytes:
    """A notebook's file of which one to three things are not as they were."""
    draw = random.Random(seed)
    notebook = copy.deepcopy(draw.choice(ORIGINALS))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
        parent, key = draw.choice(list(places(notebook)))
        match draw.randrange(7):
            case 0:
                del parent[key]
            case 1 | 2:
                parent[key] = copy.deepcopy(draw.choice(WORDS))
            case 3 if isinstance(parent, dict):
                parent[draw.choice(KEYS)] = copy.deepcopy(draw.choice(WORDS))
            case 4 if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key]))
            case 5:
                parent[key] = nested(draw.choice((3, 60, 200)), draw.choice("[{"))
            case _:
                other, name = draw.choice(list(places(notebook)))
                parent[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(parent[key])
        if not (notebook and list(places(notebook))):
            break
    text = json.dumps(notebook, ensure_ascii=draw.random() < 0.5, indent=draw.choice((None, 1)))
    data = text.encode(draw.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32", "utf-7"]), "replace")
    match draw.randrange(12):
        case 0:
            data = data[: draw.randrange(len(data) + 1)]
        case 1:
            place = draw.randrange(len(data) + 1)
            data = data[:place] + bytes([draw.randrange(256)]) + data[place + draw.randrange(2) :]
        case 2:
            place = draw.randrange(len(data) + 1)
            data = data[:place] + draw.randbytes(draw.randrange(1, 50)) + data[place:]
        case 3:
            others = (data + data, b"\n" + data, data + b"\0", data[::-1], draw.randbytes(200), b"[" * 100_000)
            data = draw.choice(others)
    return data


def nested(depth: int, kind: str) -> Any:
    node: Any = 1
    for _ in range(depth):
        node = [node] if kind == "[" else {"a": node}
    return node


ORIGINALS = originals()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    (root / "pyproject.toml").touch()
    kernels = tmp_path_factory.mktemp("kernels")
    with warm_kernels(kernels, "IPython") as variables, in_project(root, **variables):
        write_notebook(root / "first.ipynb", "1")
        assert resflow("run", "first.ipynb", seconds=60).code == 0  # the kernels' server and the store are there now
        yield root


def papermill_runs(path, parameters: dict[str, int]) -> bool:
    """Whether papermill without resflow runs the notebook."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = papermill.execute_notebook(path, path.with_suffix(".plain.ipynb"), parameters, progress_bar=False)
        return done is not None
    except Exception:  # whatever it is: papermill does not run it
        return False


def test_what_papermill_runs_is_run_and_all_else_refused_in_one_line(project, seeds, monkeypatch):
    path = project / "mutant.ipynb"
    execute = run_command._execute

    def stop_before_the_kernel(node, notebook, output, values, kernel, **options):
        prepared = run_command._prepared(node, values, run_command._chosen_kernel(node, kernel))
        nbformat.writes(prepared).encode()
        return 0

    for seed in seeds:
        path.write_bytes(mutant(seed))
        for_real = seed % RUN_FOR_REAL == 0
        monkeypatch.setattr(run_command, "_execute", execute if for_real else stop_before_the_kernel)
        ended = resflow("run", "mutant.ipynb", *["-p", "a", "2"] * (seed % 2))
        check(ended, seed)
        assert ended.code in ((0, 1, 2) if for_real else (0, 2)), (seed, ended)
        if ended.code:
            refused = ("not a parameter", "declares no parameters", "declared type", "nested more than 100 levels")
            expected = any(message in ended.err for message in refused)
            assert expected or not papermill_runs(path, {"a": 2} if seed % 2 else {}), (seed, ended.err)
    client = open_client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert client.search_runs(experiments, "attributes.status = 'RUNNING'") == []
