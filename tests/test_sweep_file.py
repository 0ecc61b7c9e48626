"""Sweep files: what a good one means, and what a bad one is answered with before anything starts."""

from __future__ import annotations

import textwrap

import pytest
from small_notebooks import write_notebook

from resflow.errors import InvalidInputError
from resflow.workflow.sweeps import attempt, fingerprint
from resflow.workflow.sweeps.file import read_sweep_file
from resflow.workflow.sweeps.plan import Planner

PARAMETERS = """width: int = 32
depth: int = 1
learning_rate: float = 0.5
optimizer: str = "adam"
loss: str = "logistic"
batch_size: int | None = None
seed: int = 0
dataset: str = "breast_cancer"
target: str | None = None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    write_notebook(folder / "work.ipynb", "x = 1", parameters=PARAMETERS, checked=True)
    write_notebook(folder / "crowd.ipynb", "x = 1", parameters=PARAMETERS + "population: list | None = None\n")
    write_notebook(folder / "bare.ipynb", "x = 1", parameters=None)
    (folder / "broken.ipynb").write_text("{}")
    (folder / "table.csv").write_text("a,y\n1,2\n")
    return folder


@pytest.fixture
def read(folder):
    def read(text: str, name: str = "sweep.yaml"):
        (folder / name).write_text(textwrap.dedent(text))
        return read_sweep_file(folder / name)

    return read


def points(sweep):
    return [point.values for execution in Planner(sweep).executions() for point in execution.points]


def test_axes_have_the_values_that_their_forms_stand_for(read):
    sweep = read("""
        notebook: work.ipynb
        axes:
          width: {from: 4, to: 64, count: 3, scale: log}
          depth: {from: 1, to: 6, step: 2}
          learning_rate: {from: 1e-4, to: 1e-1, count: 4, scale: log}
          seed: {seeds: 3, first: 10}
          batch_size: [16, null]
          optimizer: {values: [adam, "no"]}
    """)
    assert {axis.name: axis.values for axis in sweep.axes} == {
        "width": (4, 16, 64),
        "depth": (1, 3, 5),
        "learning_rate": (1e-4, 1e-3, 1e-2, 1e-1),
        "seed": (10, 11, 12),
        "batch_size": (16, None),
        "optimizer": ("adam", "no"),
    }
    assert (sweep.name, sweep.experiment, sweep.strategy.kind) == ("sweep", "work", "grid")


def test_whole_numbers_of_a_float_are_floats_so_that_1_and_1_0_are_one_point(read):
    template = "notebook: work.ipynb\nparameters: {{width: 8}}\naxes: {{learning_rate: [{}]}}"
    one, other = (Planner(read(template.format(text))).executions() for text in ("1, 2", "1.0, 2e0"))
    assert [each.id for each in one] == [each.id for each in other]


def test_grid_runs_through_every_combination_that_meets_the_conditions(read):
    sweep = read("""
        notebook: work.ipynb
        parameters: {depth: 2}
        axes: {width: [1, 2, 3], optimizer: [adam, sgd]}
        when: width * depth <= 4
        drop:
          - optimizer == 'sgd' and width in [1, 7]
          - batch_size is not None
    """)
    assert points(sweep) == [
        {"width": 1, "optimizer": "adam"},
        {"width": 2, "optimizer": "adam"},
        {"width": 2, "optimizer": "sgd"},
    ]


def test_random_draws_are_distinct_repeatable_and_inside_their_ranges(read):
    text = """
        notebook: work.ipynb
        axes:
          width: {{from: 2, to: 64, scale: log}}
          learning_rate: {{from: 1e-4, to: 1e-1, scale: log}}
          optimizer: [adam, sgd]
        drop: width > 32
        strategy: {{kind: random, count: 50, seed: {}}}
    """
    first, again, other = (points(read(text.format(seed))) for seed in (0, 0, 1))
    assert first == again != other
    assert len({tuple(values.items()) for values in first}) == 50
    assert all(2 <= values["width"] <= 32 and isinstance(values["width"], int) for values in first)
    assert all(1e-4 <= values["learning_rate"] <= 1e-1 for values in first)
    assert 10 <= sum(values["learning_rate"] < 10**-2.5 for values in first) <= 40  # half, in the logarithm
    assert {values["optimizer"] for values in first} == {"adam", "sgd"}


def test_population_axes_share_one_execution_for_each_combination_of_the_others(read):
    sweep = read("""
        notebook: crowd.ipynb
        axes:
          seed: {seeds: 4, run: population}
          width: [8, 16]
          learning_rate: {values: [0.1, 0.2], run: population}
    """)
    executions = Planner(sweep).executions()
    assert [(each.parameters, len(each.points), each.is_population) for each in executions] == [
        ({"width": 8}, 8, True),
        ({"width": 16}, 8, True),
    ]
    assert len({point.fingerprint for each in executions for point in each.points}) == 16


def test_fingerprint_changes_with_code_parameters_and_data_and_with_nothing_else(read, folder):
    text = "notebook: {}\nparameters: {{dataset: table.csv, target: y, width: {}}}\naxes: {{seed: [0]}}"

    def of(notebook="work.ipynb", width=8):
        (execution,) = Planner(read(text.format(notebook, width))).executions()
        return execution.id

    first = of()
    assert of() == first
    assert of(width=9) != first
    write_notebook(folder / "same.ipynb", "x = 1", parameters=PARAMETERS)
    write_notebook(folder / "other.ipynb", "x = 2", parameters=PARAMETERS)
    assert of("same.ipynb") == first
    assert of("other.ipynb") != first
    (folder / "copy").mkdir()
    (folder / "table.csv").write_text("a,y\n1,3\n")
    assert of() != first
    (folder / "table.csv").write_text("a,y\n1,2\n")
    assert of() == first


GOOD = "notebook: work.ipynb\naxes:\n  width: [1, 2]\n"


def test_worker_refuses_a_point_once_the_sources_of_the_library_were_edited(tmp_path, monkeypatch):
    planned = fingerprint.library_digest()
    assert fingerprint.sources_digest() == planned
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(fingerprint.resflow, "__file__", str(tmp_path / "__init__.py"))
    assert fingerprint.library_digest() == planned  # of when the sweep was planned
    outcome = attempt.execute({"library": planned})
    assert outcome.status == "FAILED"
    assert "has other sources of resflow than the driver had at its start" in outcome.error


MALFORMED = {
    "empty": ("", r"sweep.yaml:1: the file is empty"),
    "not YAML": ("notebook: [work", r"sweep.yaml:1: not YAML: .*expected"),
    "not a mapping": ("- 1\n", r"sweep.yaml:1: a sweep file must have named values, as in `name: …`, but is a list"),
    "no notebook": ("axes: {width: [1]}", r"sweep.yaml:1: notebook is missing"),
    "no axes": ("notebook: work.ipynb", r"sweep.yaml:1: axes is missing: say what varies"),
    "empty axes": ("notebook: work.ipynb\naxes: {}", r"sweep.yaml:2: axes is empty"),
    "axes a list": ("notebook: work.ipynb\naxes: [width]", r"sweep.yaml:2: axes must have named values"),
    "unknown key": (GOOD + "paramters: {depth: 2}", r"sweep.yaml:4: paramters is unknown: nearest is parameters"),
    "a key twice": (GOOD + "axes: {depth: [1]}", r"sweep.yaml:4: axes is given twice, first in line 2"),
    "a key that is a number": (GOOD + "1: 2", r"sweep.yaml:4: 1 in a sweep file must be a name"),
    "missing notebook": ("notebook: wrk.ipynb\naxes: {width: [1]}", r"sweep.yaml:1: .*wrk.ipynb: there is no such"),
    "no notebook at all": ("notebook: broken.ipynb\naxes: {width: [1]}", r"sweep.yaml:1: .*not a Jupyter notebook"),
    "no parameters": ("notebook: bare.ipynb\naxes: {width: [1]}", r"sweep.yaml:2: width is not a parameter.*none"),
    "unknown axis": (GOOD + "  widht: [1]", r"sweep.yaml:4: widht is not a parameter of work.ipynb: nearest is width"),
    "unknown parameter": (GOOD + "parameters:\n  dept: 1", r"sweep.yaml:5: dept is not a parameter .*nearest is depth"),
    "wrong type": (GOOD + "  seed:\n    - 1\n    - 2.5", r"sweep.yaml:6: seed=2.5 is not of the declared type int"),
    "truth for a number": (GOOD + "  seed: [true]", r"sweep.yaml:4: seed=True is not of the declared type int"),
    "text for a number": (GOOD + "parameters: {learning_rate: fast}", r"sweep.yaml:4: learning_rate='fast' is not of"),
    "value out of range": (GOOD + "  learning_rate: [-1]", r"sweep.yaml:4: learning_rate=-1.0 must be a positive"),
    "unknown loss": (GOOD + "parameters:\n  loss: logistics", r"sweep.yaml:5: .*logistics.*"),
    "unknown data set": (GOOD + "  dataset: [wyne]", r"sweep.yaml:4: dataset='wyne' is unknown: nearest are wine"),
    "missing data file": (GOOD + "parameters: {dataset: no.csv}", r"sweep.yaml:4: .*there is no such file"),
    "fixed and varied": (GOOD + "parameters: {width: 3}", r"sweep.yaml:3: width is both fixed .* and varied"),
    "axis a single value": (GOOD + "  depth: 2", r"sweep.yaml:4: axes.depth must be a list of values"),
    "axis without values": (GOOD + "  depth: []", r"sweep.yaml:4: axes.depth has no values"),
    "a value twice": (GOOD + "  depth: [1, 2, 1]", r"sweep.yaml:4: axes.depth has 1 twice"),
    "no form of axis": (GOOD + "  depth: {run: notebook}", r"sweep.yaml:4: axes.depth must have one of values, from"),
    "two forms of axis": (GOOD + "  depth: {values: [1], seeds: 2}", r"sweep.yaml:4: axes.depth must have one of"),
    "unknown key of an axis": (
        GOOD + "  depth: {form: 1, to: 2}",
        r"sweep.yaml:4: axes.depth.form is unknown: .* from",
    ),
    "range without end": (GOOD + "  depth: {from: 1}", r"sweep.yaml:4: axes.depth has from, but no to"),
    "range that falls": (
        GOOD + "  depth: {from: 3, to: 1, count: 2}",
        r"sweep.yaml:4: .*from=3 must be less than to=1",
    ),
    "range of text": (GOOD + "  depth: {from: a, to: 1, count: 2}", r"sweep.yaml:4: axes.depth.from='a' must be a fin"),
    "logarithm of zero": (
        GOOD + "  learning_rate: {from: 0, to: 1, count: 3, scale: log}",
        r"sweep.yaml:4: axes.learning_rate: from=0 must be positive where scale is log",
    ),
    "unknown scale": (
        GOOD + "  depth: {from: 1, to: 9, count: 3, scale: lag}",
        r"scale=lag is unknown: nearest is log",
    ),
    "too dense": (
        GOOD + "  depth: {from: 1, to: 3, count: 9}",
        r"sweep.yaml:4: axes.depth: 9 whole numbers.*at most 3",
    ),
    "count and step": (GOOD + "  depth: {from: 1, to: 3, count: 2, step: 1}", r"axes.depth has both count and step"),
    "count of one": (GOOD + "  depth: {from: 1, to: 3, count: 1}", r"count=1 must be a whole number, at least 2"),
    "half a number": (GOOD + "  depth: {from: 0.5, to: 3, count: 2}", r"depth is declared as int"),
    "no seeds": (GOOD + "  seed: {seeds: 0}", r"sweep.yaml:4: axes.seed.seeds=0 must be a whole number, at least 1"),
    "unknown way to run": (GOOD + "  seed: {seeds: 2, run: populaton}", r"run=populaton is unknown: nearest is popul"),
    "no populations": (GOOD + "  seed: {seeds: 2, run: population}", r"sweep.yaml:4: .* work.ipynb declares no param"),
    "population filled by hand": (
        "notebook: crowd.ipynb\naxes: {width: [1]}\nparameters: {population: []}",
        r"sweep.yaml:3: parameters.population is what the population axes fill",
    ),
    "open range in a grid": (
        GOOD + "  learning_rate: {from: 0.1, to: 1}",
        r"sweep.yaml:4: axes.learning_rate is a range without count or step",
    ),
    "unknown strategy": (GOOD + "strategy: gird", r"sweep.yaml:4: strategy=gird is unknown: nearest is grid"),
    "random without count": (GOOD + "strategy: random", r"sweep.yaml:4: strategy: random needs a count"),
    "optuna without metric": (
        GOOD + "strategy: {kind: optuna, count: 3}",
        r"sweep.yaml:4: strategy: optuna needs to know what is better: say metric",
    ),
    "metric within the strategy": (
        GOOD + "strategy: {kind: optuna, count: 3, metric: gap}",
        r"sweep.yaml:4: metric stands at the top of the file",
    ),
    "unknown direction": (
        GOOD + "metric: gap\ndirection: minimise",
        r"sweep.yaml:5: direction=minimise is unknown: nearest is minimize",
    ),
    "metric without direction": (GOOD + "metric: accuracy", r"sweep.yaml:4: direction is missing: say if more of acc"),
    "direction without metric": (GOOD + "direction: maximize", r"sweep.yaml:4: .*but there is none: name it"),
    "metric of no such name": (GOOD + "metric: a//b\ndirection: maximize", r"sweep.yaml:4: metric='a//b' must be"),
    "a count for a grid": (GOOD + "strategy: {kind: grid, count: 3}", r"strategy.count does not go with kind: grid"),
    "optuna of populations only": (
        "notebook: crowd.ipynb\naxes: {seed: {seeds: 3, run: population}}\n"
        "strategy: {kind: optuna, count: 3}\nmetric: gap\ndirection: minimize",
        r"sweep.yaml:3: strategy: optuna needs an axis with run: notebook",
    ),
    "condition that is none": (GOOD + "when: width <", r"sweep.yaml:4: 'width <' is not a condition"),
    "condition on the unknown": (
        GOOD + "drop: [wdth > 1]",
        r"sweep.yaml:4: 'wdth > 1' speaks of wdth.*nearest is width",
    ),
    "condition that calls": (
        GOOD + "when: __import__('os').system('true')",
        r"sweep.yaml:4: .* uses .*: a condition has parameters, numbers",
    ),
    "condition that cannot be decided": (
        GOOD + "when: optimizer < 3",
        r"'optimizer < 3' cannot be decided for optimizer",
    ),
    "nothing left": (GOOD + "when: width > 2", r"sweep.yaml:4: no combination of the axes meets the conditions"),
    "fewer than drawn": (
        GOOD + "strategy: {kind: random, count: 3}",
        r"strategy.count=3, but only 2 distinct combinations that",
    ),
    "too many": (
        GOOD + "  seed: {seeds: 50000}\n  depth: [1, 2]",
        r"the axes make 200000 combinations, more than 100000",
    ),
    "a tag of resflow's": (GOOD + "tags: {resflow.sweep: x}", r"sweep.yaml:4: .*resflow. or mlflow. are kept"),
    "a tag that is a list": (GOOD + "tags: {question: [a]}", r"sweep.yaml:4: tags.question=\['a'\] must be one text"),
    "a name that is no name": (GOOD + "name: a/b", r"sweep.yaml:4: name='a/b' must be up to 100 letters"),
    "a YAML tag": (
        GOOD + "parameters: {depth: !!python/name:os.system x}",
        r"sweep.yaml:4: .*!!python/name:os.system is not",
    ),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_answered_by_one_line_with_the_place(read, text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        Planner(read(text)).executions()
    assert "\n" not in str(caught.value)


def test_missing_file_is_said(folder):
    with pytest.raises(InvalidInputError, match=r"none.yaml: there is no such sweep file \(looked for /"):
        read_sweep_file(folder / "none.yaml")
