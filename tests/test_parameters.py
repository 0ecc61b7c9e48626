"""Parameters mean what they look like, and what cannot be used is refused before a kernel starts."""

from __future__ import annotations

import math

import nbformat
import pytest

from resflow.errors import InvalidInputError
from resflow.notebook.checks import check_values
from resflow.workflow.declared_types import SourceText, as_declared
from resflow.workflow.parameters import (
    Parameter,
    declared_in_cell,
    declared_in_notebook,
    effective_values,
    parse_overrides,
    undeclared_names,
)

CELL = """
dataset: str = "breast_cancer:mean"  # a bundled data set, or the path of a file
width: int = 32  # units of the hidden layer
learning_rate: float = 1e-2
full_batch: bool = True
batch_size: int | None = None  # None: all samples # at once
activation: Literal["tanh", "relu"] = "tanh"
scale: float = 2 * math.pi
shape: "Optional[float]" = -1.5
layers: list[int] = [1, 2]
labels: set[str] = 2
options: dict = {}
seed = 0
third = 1 / 3
anything = None
words = ["a"]
"""
PARAMETERS = declared_in_cell(CELL)


def notebook(*cells: tuple[str, str]):
    """A notebook of code cells, given as (tag, source)."""
    node = nbformat.v4.new_notebook()
    node.cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]} if tag else {}) for tag, source in cells]
    return node


def override(name: str, text: str):
    return parse_overrides(PARAMETERS, [(name, text)])[name]


def test_typed_cell_is_read_with_its_comments():
    assert PARAMETERS[:2] == [
        Parameter("dataset", "str", "breast_cancer:mean", "a bundled data set, or the path of a file"),
        Parameter("width", "int", 32, "units of the hidden layer"),
    ]
    by_name = {parameter.name: parameter for parameter in PARAMETERS}
    names = "dataset width learning_rate full_batch batch_size activation scale shape layers labels options seed third"
    assert " ".join(by_name) == f"{names} anything words"
    assert by_name["batch_size"].help == "None: all samples # at once"
    assert by_name["scale"].default == "2 * math.pi"
    assert isinstance(by_name["scale"].default, SourceText)
    assert by_name["shape"].default == -1.5
    types = {name: by_name[name].annotation for name in ("seed", "third", "anything", "words")}
    assert types == {"seed": "int", "third": "float", "anything": "", "words": "list"}
    assert by_name["third"].default == 1 / 3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("full_batch", "false", False),
        ("full_batch", "True", True),
        ("batch_size", "none", None),
        ("batch_size", "null", None),
        ("batch_size", "64", 64),
        ("width", "+64", 64),
        ("learning_rate", "64", 64.0),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "-.5", -0.5),
        ("shape", "None", None),
        ("shape", "3", 3.0),
        ("dataset", "007", "007"),
        ("dataset", "none", "none"),
        ("dataset", "true", "true"),
        ("dataset", "1e-3", "1e-3"),
        ("activation", "relu", "relu"),
        ("seed", "7", 7),
        ("layers", "[3, 4]", [3, 4]),
        ("options", "{'a': [1, None]}", {"a": [1, None]}),
        ("third", "1e-3", 1e-3),
        ("words", "['b', 'c']", ["b", "c"]),
        ("dataset", "two\nlines", "two\nlines"),
        ("dataset", "[" * 10_000, "[" * 10_000),
        ("width", "9" * 4300, int("9" * 4300)),
        ("learning_rate", "inf", math.inf),
        ("anything", "0.5", 0.5),
        ("anything", "None", None),
        ("anything", "true", "true"),
        ("anything", "[1]", "[1]"),
        ("anything", "__import__('os').abort()", "__import__('os').abort()"),
    ],
)
def test_values_mean_what_they_look_like(name, text, value):
    parsed = override(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("width", "64.0", "width='64.0' is not of the declared type int: give a whole number"),
        ("width", "1e3", "declared type int"),
        ("width", "none", "declared type int"),
        ("full_batch", "0", "full_batch='0' is not of the declared type bool: give true or false"),
        ("learning_rate", "fast", "declared type float: give a number"),
        ("batch_size", "nil", r"declared type int \| None: give a whole number, such as 64 or none"),
        ("activation", "rel", "give one of tanh, relu; nearest is relu"),
        ("labels", "[1]", r"labels is declared as set\[str\], which no text can be read as"),
        ("layers", "1", r"layers='1' is not of the declared type list\[int\]: give a list, such as \[1, 2\]"),
        ("width", "9" * 5000, "has 5000 digits: give at most 4300"),
        ("anything", "9" * 5000, "has 5000 digits: give at most 4300"),
        ("width", "\u0663", "declared type int"),
        ("learning_rate", "1e999", "learning_rate='1e999' is no number that a float can hold"),
        ("learning_rate", "9" * 5000, "is no number that a float can hold"),
        ("learning_rate", "-0.1e-400", "is no number that a float can hold"),
        ("learning_rate", "__import__('os').abort()", "declared type float: give a number"),
        ("layers", "[" * 10_000, r"is not of the declared type list\[int\]"),
        ("layers", "[" + "-" * 100_000 + "1]", r"is not of the declared type list\[int\]"),
        ("layers", "[__import__('os').abort()]", r"is not of the declared type list\[int\]"),
        ("layers", "[1, {2}]", r"layers='\[1, \{2\}\]' holds \{2\}: numbers, texts, true, false, None, lists and"),
        ("layers", "[0x" + "f" * 5000 + "]", "holds a number of more than 4300 digits"),
        ("layers", "['\\ud800']", "holds text that is not Unicode"),
        ("options", "{1: 2}", "holds the key 1"),
        ("options", "[1]", "declared type dict: give a dictionary"),
        ("dataset", b"caf\xe9".decode("utf-8", "surrogateescape"), r"dataset='caf\\udce9' is not text in UTF-8"),
        ("dataset", "nul\0", "is not text in UTF-8"),
        ("", "1", "'' is not a parameter of the notebook"),
        ("learning-rate", "1", "'learning-rate' is not a parameter of the notebook: nearest is learning_rate"),
        ("if", "1", "if is not a parameter of the notebook"),
        ("two\nlines", "1", r"'two\\nlines' is not a parameter"),
        ("w" * 100_000, "1", "w … w+' is not a parameter of the notebook: nearest is"),
        ("widht", "64", "widht is not a parameter of the notebook: nearest is width; it declares dataset, width,"),
    ],
)
def test_unfit_values_are_refused_in_one_line_that_names_them(name, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        override(name, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_notebook_without_parameters_says_so():
    with pytest.raises(InvalidInputError, match="declares no parameters"):
        parse_overrides(declared_in_notebook(notebook(("", "x = 1"))), [("x", "2")])


def test_effective_values_are_defaults_overridden_by_what_was_injected():
    node = notebook(
        ("", "import math"),
        ("parameters", CELL),
        (
            "injected-parameters",
            '# Parameters\nwidth = 64\nlearning_rate = 1\nshape = float("nan")\nPAPERMILL_INPUT_PATH = "x"',
        ),
        ("", "width: int = 7"),
    )
    values = effective_values(node)
    assert list(values) == [parameter.name for parameter in PARAMETERS]
    assert (values["width"], values["dataset"], values["scale"]) == (64, "breast_cancer:mean", "2 * math.pi")
    assert values["learning_rate"] == 1.0
    assert type(values["learning_rate"]) is float
    assert math.isnan(values["shape"])


def test_an_int_where_a_float_is_declared_is_recorded_as_float():
    for annotation in ("float", "float | None"):
        assert type(as_declared(1, annotation)) is float
    for annotation in ("int", "int | float", "", "str"):
        assert type(as_declared(1, annotation)) is int
    assert as_declared(True, "float") is True


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 0, "width=0 must be at least 1"),
        ("depth", -1, "depth=-1 must be at least 1"),
        ("learning_rate", -0.1, "learning_rate=-0.1 must be a positive finite number"),
        ("learning_rate", math.inf, "positive finite"),
        ("learning_rate", math.nan, "positive finite"),
        ("max_norm", 0.0, "max_norm=0.0 must be a positive"),
        ("batch_size", 0, "batch_size=0"),
        ("ridge", -1.0, "ridge=-1.0 must be zero or"),
        ("test_fraction", 1.0, "between 0 and 1"),
        ("seed", "zero", "seed='zero' must be at least 0"),
        ("learning_rate", "adaptive", "learning_rate='adaptive' must be a positive finite number"),
        ("loss", ["logistic"], r"loss=\['logistic'\] must be a name"),
        ("dataset", "a" * 300 + ".csv", r"no such file that can be read \(File name too long\)"),
        ("loss", "logstic", "nearest is 'logistic'"),
        ("hessian", "net", "nearest is 'network'"),
    ],
)
def test_values_no_notebook_could_use_are_refused(name, value, message):
    with pytest.raises(InvalidInputError, match=message):
        check_values({name: value})


def test_usable_values_and_unknown_names_pass():
    check_values({"width": 1, "batch_size": None, "max_norm": None, "ridge": 0.0, "other": -1})
    check_values({parameter.name: parameter.default for parameter in PARAMETERS})


def test_names_mean_what_they_mean_in_the_library_only_where_the_notebook_asks_for_it():
    node = notebook(("parameters", "loss = 'mse'\nseed = -1\nbatch_size = 'auto'\nlearning_rate = 'adaptive'"))
    for parameter in declared_in_notebook(node):
        parameter.check(parameter.default)
    node.metadata["resflow"] = {"checks": "resflow.notebook.checks"}
    for parameter in declared_in_notebook(node):
        with pytest.raises(InvalidInputError, match=f"{parameter.name}="):
            parameter.check(parameter.default)


CELLS = {
    "magic": "%matplotlib inline\nwidth: int = 32  # units",
    "shell": "!echo hi\nwidth: int = 32  # units",
    "shell value": "files = !ls\nwidth: int = 32  # units",
    "help": "width?\nwidth: int = 32  # units",
    "escape": "path = '\\d'\nwidth: int = 32  # units",
}


@pytest.mark.parametrize("source", CELLS.values(), ids=CELLS)
def test_magics_and_shell_lines_are_passed_over(source):
    assert declared_in_cell(source)[-1] == Parameter("width", "int", 32, "units")


@pytest.mark.parametrize(
    "source",
    [
        "%%time\nwidth = 32",
        "%%bash\nwidth=32",
        "width <- 32L",
        "width: int = 32 +",
        "width = " + "9" * 5000,
        "width = " + "-" * 100_000 + "1",
        "width = " + "(" * 500 + "1" + ")" * 500,
        "width = '\0'",
        "from settings import *",
    ],
)
def test_where_a_cell_cannot_be_read_any_name_may_be_set_and_means_what_papermill_takes_it_for(source):
    node = notebook(("parameters", source))
    assert declared_in_notebook(node) == []
    assert effective_values(node) == {}
    pairs = [("width", "64"), ("name", "007x"), ("flag", "False")]
    values = parse_overrides([], pairs, undeclared_names(node))
    assert values == {"width": 64, "name": "007x", "flag": False}
    for name in ("learning-rate", "if", "", "a.b", "1st"):
        with pytest.raises(InvalidInputError, match="declares no parameters"):
            parse_overrides([], [(name, "1")], undeclared_names(node))


@pytest.mark.parametrize(
    "statement",
    ["width *= 2", "if width: width = 2", "width, other = 2, 3", "for width in (1, 2): pass", "from math import *"],
)
def test_what_a_later_statement_changes_only_the_kernel_can_tell(statement):
    changed, kept = declared_in_cell(f"width = 1\n{statement}\nkept = 1")
    assert isinstance(changed.default, SourceText)
    assert (changed.name, kept.name, kept.default) == ("width", "kept", 1)
    (again,) = declared_in_cell(f"width = 1\n{statement}\nwidth = 5")
    assert again.default == 5


def test_names_that_a_cell_sets_otherwise_may_be_set_and_no_others():
    node = notebook(("parameters", "a, (b, *c) = 1, (2, 3)\nif a:\n    d = e = 4\nfor i in [f := 1]: g: int = i"))
    declared, undeclared = declared_in_notebook(node), undeclared_names(node)
    assert parse_overrides(declared, [(name, "1") for name in "abcdefgi"], undeclared) == dict.fromkeys("abcdefgi", 1)
    with pytest.raises(InvalidInputError):
        parse_overrides(declared, [("h", "1")], undeclared)


def test_values_of_a_notebook_in_another_language_are_those_that_papermill_noted():
    node = notebook(("parameters", 'n=3\nmsg="hello"'), ("injected-parameters", 'n=5\nmsg="x"'))
    node.metadata["kernelspec"] = {"name": "bash", "language": "bash", "display_name": "Bash"}
    node.metadata["papermill"] = {"parameters": {"n": 5}}
    assert declared_in_notebook(node) == []
    assert effective_values(node) == {"n": 5}
    assert parse_overrides([], [("n", "4")], undeclared_names(node)) == {"n": 4}


@pytest.mark.parametrize("source", ["1 / 0", "9**9**9", "2 * math.pi", "float('x')", "{[]: 1}", "f'{1}'", "True * 3"])
def test_what_only_running_it_can_tell_is_left_as_written(source):
    (parameter,) = declared_in_cell(f"x = {source}")
    assert isinstance(parameter.default, SourceText)
    assert parameter.default.replace(" ", "") == source.replace(" ", "")
    assert parameter.annotation == ""
