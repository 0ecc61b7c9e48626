"""Whatever is given by `-p`: what the notebook gets means what was written, or one line says why it can't."""

from __future__ import annotations

import math
import random

import nbformat
import pytest
from command import check, resflow
from small_notebooks import in_project, runs_of, write_notebook
from warm_kernels import warm_kernels

from resflow.workflow import run_command
from resflow.workflow.records import open_client

TYPES = {
    "count": "int",
    "rate": "float",
    "flag": "bool",
    "name": "str",
    "size": "int | None",
    "scale": "Optional[float]",
    "kind": 'Literal["tanh", "relu", 3, True, None]',
    "either": "int | str",
    "layers": "list[int]",
    "options": "dict",
    "both": "list | float | None",
    "unknown": "np.ndarray",
}
CELL = "\n".join(f"{name}: {kind!r} = 1  # of type {kind}" for name, kind in TYPES.items())
CELL += "\nplain = 1\nempty = None\ntotal = 10**-3\nfirst, second = 1, 2"
NAMES = [*TYPES, "plain", "empty", "total", "first", "second"]
OPEN = "%matplotlib inline\n" + CELL

NUMBERS = [
    "0",
    "7",
    "-3",
    "+4",
    "1e3",
    "0.5",
    "-.5",
    "1E-5",
    "inf",
    "-inf",
    "nan",
    "1_000",
    "٣",
    "0x1f",
    "1e999",
    "1e-999",
]
NUMBERS += ["9" * 4300, "9" * 4301, "-" + "9" * 5000, "0." + "0" * 400 + "1", "1e", "1.2.3", "--1", "1+2", "10**3", "∞"]
WORDS = ["true", "True", "FALSE", "none", "None", "null", "tanh", "tan", "relu", "word", "", " ", "007", "a b", "π"]
LISTS = [
    "[]",
    "[1, 2]",
    "[1.5, 'a', None]",
    "[[1], [2]]",
    "[1, {2}]",
    "[b'x']",
    "[...]",
    "[1j]",
    "(1, 2)",
    "[1",
    "[true]",
]
DICTS = ["{}", "{'a': 1}", "{1: 2}", "{'a': [1, {'b': None}]}", "{'a': {1}}", "{'a'}", "{[]: 1}", "{'a': 1e999}"]
HOSTILE = [
    "__import__('os').abort()",
    "[__import__('os').abort()]",
    "exit()",
    "'; import os; os.abort() #",
    '"""',
    "\\",
]
HOSTILE += [
    "two\nlines",
    "\r",
    "\t",
    "\x1b[31m",
    "caf\udce9",
    "\ud800",
    "nul\0",
    "[" * 10_000,
    "(" * 10_000,
    "[" * 90 + "]" * 90,
]
HOSTILE += [
    "-" * 100_000,
    "[" + "-" * 100_000 + "1]",
    "{" * 5_000,
    "x" * 100_000,
    "['\\ud800']",
    "[0x" + "f" * 5000 + "]",
]
HOSTILE += [
    "{'a': " * 95 + "1" + "}" * 95,
    "1 + " * 20_000 + "1",
    "%s%n",
    "{0}",
    "${HOME}",
    "`id`",
    "😀",
    "\u2028",
    "\ufeff1",
]
TEXTS = [*NUMBERS, *WORDS, *LISTS, *DICTS, *HOSTILE]
ODD_NAMES = [
    "",
    "-",
    "count ",
    "Count",
    "cuont",
    "count.x",
    "count-er",
    "if",
    "None",
    "1st",
    "two\nlines",
    "\ud800",
    "n" * 100_000,
]
ODD_NAMES += [
    "__import__('os').abort()",
    "count=1",
    "*",
    "π",
    "PAPERMILL_INPUT_PATH",
    "get_ipython",
    "a/b",
    "%time",
    "'",
    "{x}",
]


def mutant(seed: int) -> list[tuple[str, str]]:
    """Names and values: given ones, parts of several, and ones with something inserted, doubled or left out."""
    draw = random.Random(seed)

    def text(choices: list[str]) -> str:
        chosen = draw.choice(choices)
        for _ in range(draw.choice((0, 0, 0, 1, 2))):
            place = draw.randrange(len(chosen) + 1)
            other = draw.choice(
                (draw.choice(TEXTS)[:20], chr(draw.choice((draw.randrange(128), draw.randrange(0x11000)))))
            )
            match draw.randrange(4):
                case 0:
                    chosen = chosen[:place] + other + chosen[place:]
                case 1:
                    chosen = chosen[:place] + chosen[place + 1 :]
                case 2:
                    chosen = chosen[:place] * 2
                case 3:
                    chosen = chosen[place:] + other
        return chosen

    return [
        (draw.choice(NAMES) if draw.random() < 0.8 else text(ODD_NAMES), text(TEXTS))
        for _ in range(draw.choice((1, 1, 1, 2, 3)))
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("parameters")
    (root / "pyproject.toml").touch()
    write_notebook(root / "typed.ipynb", "assert count != 13", parameters=CELL)
    write_notebook(root / "open.ipynb", "1", parameters=OPEN)
    write_notebook(root / "none.ipynb", "1", parameters=None)
    with warm_kernels(tmp_path_factory.mktemp("kernels"), "IPython") as variables, in_project(root, **variables):
        yield root


@pytest.fixture
def injected(monkeypatch):
    """The values that the last command would have run its notebook with, read off the cell that papermill writes."""
    found = {}

    def stop_before_the_kernel(node, notebook, output, values, kernel, **options):
        found.clear()
        written = run_command._prepared(node, values, run_command._chosen_kernel(node, kernel))
        nbformat.writes(written).encode()
        cells = [cell for cell in written.cells if "injected-parameters" in cell.metadata.tags]
        space = {}
        for cell in cells:
            exec(cell.source, {"float": float}, space)  # what it may hold, the claims below say
        found.update(given=values, got=space)
        return 0

    monkeypatch.setattr(run_command, "_execute", stop_before_the_kernel)
    return found


def same(one, other) -> bool:
    """True if two values are equal, as are their types, at every depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def test_values_reach_the_notebook_as_they_are_meant_or_are_refused(project, injected, seeds):
    for seed in seeds:
        pairs = mutant(seed)
        notebook = ("typed", "typed", "typed", "open", "none")[seed % 5]
        injected.clear()
        arguments = [part for pair in pairs for part in ("-p", *pair)]
        ended = resflow("run", f"{notebook}.ipynb", *arguments)
        check(ended, (seed, notebook, [(name[:100], text[:100]) for name, text in pairs]))
        assert ended.code in (0, 2), (seed, pairs, ended)
        if ended.code == 0:
            assert same(injected["got"], injected["given"]), (seed, pairs)
            assert notebook != "none", (seed, pairs)
            assert all(name in NAMES or (notebook == "open" and name.isidentifier()) for name, _ in pairs), (
                seed,
                pairs,
            )
            for name, text in dict(pairs).items():
                value = injected["given"][name]
                assert allowed(value, text, TYPES.get(name, "")), (seed, name, text, value)


def allowed(value, text: str, kind: str) -> bool:
    """True if a value of the declared type is what the text says, as far as that can be told in another way."""
    if type(value) is str:
        return value == text and kind in ("str", "int | str", "", TYPES["kind"])
    if kind in ("int", "bool", "float", "list[int]", "dict"):
        assert type(value).__name__ == kind.split("[")[0]
    if isinstance(value, bool) or value is None:
        return text.lower() in (str(value).lower(), "null")
    if isinstance(value, int | float):
        return float(text) == value or value != value or abs(value) > 1e300
    return repr(value)[0] == text.strip()[0]


VALID = {
    "int": ["0", "-7", "9" * 4300],
    "float": ["1", "1e-3", "-inf"],
    "bool": ["true", "False"],
    "str": ["", "1", "[" * 999],
}
INVALID = {
    "int": ["", "1.0", "1e3", "9" * 4301],
    "float": ["", "x", "1e999"],
    "bool": ["", "0", "yes"],
    "str": ["\udcff", "\0"],
}


@pytest.mark.parametrize("kind", VALID)
def test_texts_of_a_type_are_taken_and_others_refused(project, injected, kind):
    name = next(name for name in TYPES if TYPES[name] == kind)
    for code, texts in ((0, VALID[kind]), (2, INVALID[kind])):
        for text in texts:
            ended = resflow("run", "typed.ipynb", "-p", name, text)
            check(ended, (name, text[:50]))
            assert ended.code == code, (name, text[:50], ended)


def test_a_few_are_run_and_recorded_with_their_values(project):
    for name, text in (
        ("name", "x" * 100_000),
        ("layers", "[[" * 40 + "]]" * 40),
        ("count", "9" * 4300),
        ("count", "13"),
    ):
        ended = resflow("run", "typed.ipynb", "-p", name, text, seconds=60)
        check(ended, (name, text[:50]))
        assert ended.code == (1 if text == "13" else 0), ended
        run = runs_of(open_client(), "typed")[0]
        assert run.info.status == ("FAILED" if ended.code else "FINISHED")
        recorded = run.data.params[name]
        assert recorded == text or (recorded[:30] == text[:30] and recorded[-1] == "…")
        assert f"{name}={text[:20]}" in run.info.run_name
