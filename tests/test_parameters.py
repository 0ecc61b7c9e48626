"""Parameters mean what they look like, and what cannot be used is refused before a kernel starts."""

from __future__ import annotations

import math

import nbformat
import pytest

from resflow.errors import InvalidInputError
from resflow.workflow.declared_types import SourceText, as_declared
from resflow.workflow.parameters import (
    Parameter,
    check_values,
    declared_in_cell,
    declared_in_notebook,
    effective_values,
    parse_overrides,
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
seed = 0
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
    names = "dataset width learning_rate full_batch batch_size activation scale shape layers labels seed"
    assert " ".join(by_name) == names
    assert by_name["batch_size"].help == "None: all samples # at once"
    assert by_name["scale"].default == "2 * math.pi"
    assert isinstance(by_name["scale"].default, SourceText)
    assert by_name["shape"].default == -1.5
    assert by_name["seed"].annotation == "int"


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
        ("widht", "64", "widht is not a parameter of the notebook: nearest is width; it declares dataset, width,"),
    ],
)
def test_unfit_values_are_refused_in_one_line_that_names_them(name, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        override(name, text)
    assert "\n" not in str(caught.value)


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
        ("loss", "logstic", "nearest is 'logistic'"),
    ],
)
def test_values_no_notebook_could_use_are_refused(name, value, message):
    with pytest.raises(InvalidInputError, match=message):
        check_values({name: value})


def test_usable_values_and_unknown_names_pass():
    check_values(
        {"width": 1, "batch_size": None, "max_norm": None, "ridge": 0.0, "scale": SourceText("1/0"), "other": -1}
    )
    check_values({parameter.name: parameter.default for parameter in PARAMETERS})
