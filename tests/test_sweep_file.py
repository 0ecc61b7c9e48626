"""Sweep files: what a good one means, and what a bad one is answered with before anything starts."""

from __future__ import annotations

import json
import math
import os
import textwrap
import time
from types import SimpleNamespace

import pytest
from small_notebooks import resflow_here, write_notebook

from resflow.errors import InvalidInputError
from resflow.workflow import sources
from resflow.workflow.sweeps.file import read_sweep_file
from resflow.workflow.sweeps.file.conditions import Condition
from resflow.workflow.sweeps.plan import Planner
from resflow.workflow.sweeps.plan.tables import plan_table
from resflow.workflow.sweeps.worker import attempt

PARAMETERS = """width: int = 32
depth: int = 1
learning_rate: float = 0.5
optimizer: str = "adam"
loss: str = "logistic"
batch_size: int | None = None
seed: int = 0
dataset: str = "breast_cancer"
target: str | None = None
clip: float | None = None
flag: bool = False
anything = None
state: str = "new"
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
    planned = sources.library_digest()
    assert sources.sources_digest() == planned
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    assert sources.library_digest() == planned  # of when the sweep was planned
    outcome = attempt.execute(SimpleNamespace(library=planned))
    assert outcome.status == "FAILED"
    assert "has other sources of resflow than the driver had at its start" in outcome.error


def test_own_keys_win_over_merged_ones_and_the_first_of_several_merges_counts(read):
    sweep = read("""
        notebook: work.ipynb
        axes:
          learning_rate: &range {from: 0.1, to: 0.5, count: 3}
          width: {<<: *range, from: 1, to: 3}
          depth: &other {from: 2, to: 4, step: 1}
          batch_size: {<<: [{from: 1}, *other]}
          seed: {from: 0, <<: [{to: 9, count: 2}, {to: 7}]}
    """)
    assert {axis.name: axis.values for axis in sweep.axes} == {
        "learning_rate": (0.1, 0.3, 0.5),
        "width": (1, 2, 3),
        "depth": (2, 3, 4),
        "batch_size": (1, 2, 3, 4),
        "seed": (0, 9),
    }


def test_axes_merged_from_elsewhere_stand_where_they_were_taken_from(read):
    sweep = read("""
        notebook: work.ipynb
        parameters: {anything: &axes {width: [1, 2], depth: [3]}}
        axes: {<<: *axes, depth: [4], seed: [0]}
    """)
    assert [(axis.name, axis.values) for axis in sweep.axes] == [("width", (1, 2)), ("depth", (4,)), ("seed", (0,))]


WORDS = {
    "~": None, "null": None, "": None, "true": True, "False": False, "12": 12, "-3": -3, "+7": 7, "0x1F": 31, "0": 0,
    "1.": 1.0, ".5": 0.5, "1e-4": 1e-4, "1E5": 1e5, "-.inf": -math.inf, "north": "north", "y": "y", "1:a": "1:a",
    "'no'": "no", '"1:30"': "1:30", "'010'": "010", "!!str 12": "12", "!!float 3": 3.0, "!!int '4'": 4, "a b": "a b",
}  # fmt: skip


@pytest.mark.parametrize(("word", "value"), WORDS.items(), ids=WORDS)
def test_words_mean_what_both_versions_of_yaml_make_of_them(read, word, value):
    (found,) = read(f"notebook: work.ipynb\naxes: {{width: [1]}}\nparameters: {{anything: {word}}}").parameters.values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("yes no on off Yes NO On OFF", "a truth value in YAML 1.1 and text in YAML 1.2: write true or false, or"),
        ("1:30 12:30:45 -1:30 1:30.5", "counted in sixties in YAML 1.1 and text in YAML 1.2: write the number, or"),
        ("010 007 -08 0_7", "octal in YAML 1.1 and decimal in YAML 1.2: write it without the first 0, or"),
        ("1_000 0b11 0o17 -0x1F 1_0.5", "a number in one version of YAML and text in another: write it in plain"),
        ("2026-01-31 2001-12-14t21:59:43.10-05:00", "a date in YAML 1.1 and text in YAML 1.2"),
    ],
)
@pytest.mark.parametrize("parameter", ["optimizer", "width", "anything"])
def test_words_of_two_meanings_are_named_with_what_to_write_instead(read, words, advice, parameter):
    for word in words.split():
        with pytest.raises(InvalidInputError) as caught:
            read(f"notebook: work.ipynb\naxes:\n  {parameter}: [{word}]")
        assert str(caught.value).startswith(f"sweep.yaml:3: {word} is ")
        assert advice in str(caught.value)
        assert f"'{word}' in quotes" in str(caught.value)


def test_names_that_are_words_are_names(read, folder):
    write_notebook(folder / "words.ipynb", "x = 1", parameters="on: int = 1\nno: int = 2")
    sweep = read("notebook: words.ipynb\naxes: {on: [1, 2]}\nparameters: {no: 3}\ntags: {off: 1, 2026-01-31: a}")
    assert (sweep.axes[0].name, sweep.parameters, sweep.tags) == ("on", {"no": 3}, {"off": "1", "2026-01-31": "a"})


def test_plan_shows_values_as_python_writes_them(read):
    sweep = read("notebook: work.ipynb\naxes: {batch_size: [null, 3], clip: [.inf, .nan], state: [old]}")
    table = plan_table(Planner(sweep).executions(), {})
    assert [str(value) for value in table["batch_size"]] == ["None", "None", "3", "3"]
    assert [str(value) for value in table["clip"]] == ["inf", "nan", "inf", "nan"]
    assert set(table["state"]) == {"to do"}
    assert set(table["state (parameter)"]) == {"old"}


def test_dry_run_shows_none_and_whole_numbers_as_text_and_as_json(folder):
    (folder / "pyproject.toml").touch()
    (folder / "shown.yaml").write_text("notebook: work.ipynb\naxes: {batch_size: [null, 3], clip: [.inf]}")
    axes = resflow_here(folder, "sweep", "shown.yaml", "--dry-run").stdout.splitlines()
    assert [line.split() for line in axes[:3]] == [
        ["axis", "values"],
        ["batch_size", "2", "None,", "3"],
        ["clip", "1", "inf"],
    ]
    assert axes[3:] == ["shown: 2 points in 2 executions, 0 finished"]
    text = resflow_here(folder, "sweep", "shown.yaml", "--dry-run", "--points").stdout
    assert [line.split()[:2] for line in text.splitlines()[1:3]] == [["None", "inf"], ["3", "inf"]]
    rows = [
        json.loads(line)
        for line in resflow_here(folder, "sweep", "shown.yaml", "--dry-run", "--json").stdout.splitlines()
    ]
    assert [(row["batch_size"], row["clip"]) for row in rows] == [(None, "inf"), (3, "inf")]


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_time_limit_that_is_none_is_refused(folder, seconds):
    (folder / "limited.yaml").write_text("notebook: work.ipynb\naxes: {batch_size: [3]}")
    done = resflow_here(folder, "sweep", "limited.yaml", "--time-limit", seconds)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--time-limit" in done.stderr


def test_ranges_reach_their_ends_and_no_further(read):
    def values(of, parameter="learning_rate"):
        (axis,) = read(f"notebook: work.ipynb\naxes: {{{parameter}: {{{of}}}}}").axes
        return axis.values

    assert values("from: 0.1, to: 0.5, step: 0.1") == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert values("from: 1, to: 2, step: 0.3") == (1, 1.3, 1.6, 1.9)
    assert values("from: 1.23456789012345e-7, to: 1, count: 2") == (1.23456789012345e-7, 1.0)
    assert values("from: 1000000, to: 1000000.0000004, count: 5")[2] == 1000000.0000002
    wide = values("from: 1e-308, to: 1e308, count: 5, scale: log")
    assert [round(math.log10(value)) for value in wide] == [-308, -154, 0, 154, 308]
    large = values("from: 9007199254740993, to: 9007199254740999, count: 4", "seed")
    assert large == tuple(range(9007199254740993, 9007199254741000, 2))


def test_large_grid_is_planned_with_conditions_in_seconds(read):
    condition = " and ".join(["width * depth + learning_rate < 1e9"] * 24)
    sweep = read(f"""
        notebook: work.ipynb
        axes: {{width: {{from: 1, to: 200, step: 1}}, learning_rate: {{from: 1e-5, to: 1, count: 100}}}}
        when: {condition}
    """)
    began = time.process_time()
    assert len(Planner(sweep).executions()) == 20_000
    assert time.process_time() - began < 4  # 1.3 s where 10 are promised for five times as many points


CONDITIONS = {
    "1 < a < 3 < 9": True, "a in [1, 2] and b not in ['x']": True, "'el' in b": True, "c is None or c > 3": True,
    "not (a == 2) or a != 2": False, "a // 2 + a % 2 - -1 == 2": True, "a / 4 >= 0.5": True, "b < 'help'": True,
    "c == None": True, "d == [1, 2]": True, "a > 5 and 1 / 0 > 1": False, "True is not False": True, "a == '2'": False,
}  # fmt: skip


@pytest.mark.parametrize(("text", "holds"), CONDITIONS.items(), ids=CONDITIONS)
def test_conditions_mean_what_python_makes_of_them(text, holds):
    values = {"a": 2, "b": "hello", "c": None, "d": [1, 2]}
    assert Condition(text, set(values)).holds(values) is eval(text, {}, values) is holds


UNDECIDABLE = {
    "'%' % 1 == ''": "% is for numbers, not for '%'",
    "[0] * 10 == []": "* is for numbers, not for [0]",
    "[0] * 100000000000 == []": "* is for numbers, not for [0]",
    "'a' * 1000000000 == ''": "* is for numbers, not for 'a'",
    "width // (depth - 1) > 1": "integer division",
    "optimizer > width": "> is for numbers, not for 'adam'",
    "batch_size > 3": "> is for numbers, not for None: ask `is not None and …` before",
    "width": "32 is neither true nor false",
    "not width": "32 is neither true nor false",
    "width and depth": "32 is neither true nor false",
    "width in 3": "in looks into a list",
    "width * 9223372036854775807 > 1": r"2^63 or more",
    "width * 1e308 > 1": "a number that is not finite",
    "-optimizer == 'a'": "- is for numbers",
}


@pytest.mark.parametrize(("text", "reason"), UNDECIDABLE.items(), ids=UNDECIDABLE)
def test_condition_without_an_answer_is_said_with_its_place_and_the_values(read, text, reason):
    sweep = read("notebook: work.ipynb\naxes: {width: [32]}\ndrop:\n  - depth > 99\n  - " + json.dumps(text))
    with pytest.raises(InvalidInputError) as caught:
        Planner(sweep).executions()
    assert str(caught.value).startswith(f"sweep.yaml:5: {text!r} cannot be decided")
    assert reason in str(caught.value)


NO_CONDITIONS = {
    "deep brackets": "(" * 300 + "1" + ")" * 300, "deep signs": "-" * 900 + "1 > 0", "deep not": "not " * 200 + "flag",
    "many parts": " and ".join(["flag==1"] * 67), "long": "depth > " + "1" * 1200, "huge": "depth > " + "9" * 900,
    "infinite": "depth > 1e999", "power": "10**10**10 > 1", "complex": "1j == depth", "bytes": "b'a' == depth",
    "ellipsis": "... == depth", "f-string": "f'{depth}' == 'a'", "call": "open('a')", "index": "optimizer[0] == 'a'",
    "attribute": "optimizer.x == 1", "lambda": "lambda: 1", "walrus": "(a := 1) == 1", "star": "[*[1]] == [1]",
    "if": "1 if flag else 2", "escape": "'\\d' == optimizer", "identity": "depth is 1", "glued": "1if flag else 2",
    "shift": "depth << 99 > 1", "statement": "depth = 1", "null": "depth > \x00", "await": "await depth",
}  # fmt: skip


@pytest.mark.parametrize("text", NO_CONDITIONS.values(), ids=NO_CONDITIONS)
def test_what_is_no_condition_is_refused_at_once(text):
    began = time.process_time()
    with pytest.raises(InvalidInputError):
        Condition(text, {"depth", "flag", "optimizer"})
    assert time.process_time() - began < 1


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
    "nothing like a float": (GOOD + "  learning_rate: [1e999]", r"sweep.yaml:4: 1e999 is too large for a number"),
    "nothing but nothing": (GOOD + "  learning_rate: [1e-999]", r"sweep.yaml:4: 1e-999 is too small for a number"),
    "400 digits": (
        GOOD + f"  depth: [{'9' * 400}]",
        r"sweep.yaml:4: 9+ … 9+ is not between|sweep.yaml:4: 9+ is not betw",
    ),
    "5,000 digits": (GOOD + f"  depth: [{'9' * 5000}]", r"sweep.yaml:4: 9+.* is not between -2\^63 and 2\^63 - 1"),
    "infinite range": (GOOD + "  learning_rate: {from: 1, to: .inf, count: 3}", r"to=inf must be a finite number"),
    "no number": (GOOD + "  learning_rate: {from: .nan, to: 1, count: 3}", r"from=nan must be a finite number"),
    "range of everything": (
        GOOD + "  learning_rate: {from: -1e308, to: 1e308, count: 3}",
        r"sweep.yaml:4: .*further apart than any number",
    ),
    "tiny step": (
        GOOD + "  learning_rate: {from: 1, to: 2, step: 1e-320}",
        r"sweep.yaml:4: .*makes more than 100000 val",
    ),
    "small step": (GOOD + "  depth: {from: 1, to: 1e9, step: 1}", r"sweep.yaml:4: .*makes more than 100000 values"),
    "half a step": (GOOD + "  depth: {from: 1, to: 5, step: 0.5}", r"sweep.yaml:4: .*step=0.5 must be a whole number"),
    "huge count": (GOOD + "  depth: {from: 1, to: 9, count: 1000000000}", r"at least 2, at most 100000"),
    "seeds beyond": (
        GOOD + "  seed: {seeds: 9, first: 9223372036854775807}",
        r"sweep.yaml:4: .*seeds of more than 2\^63",
    ),
    "1 and 1.0": (GOOD + "  anything: [1, 1.0]", r"sweep.yaml:4: axes.anything has 1 and 1.0, which are equal"),
    "1 and true": (GOOD + "  anything: [1, true]", r"sweep.yaml:4: axes.anything has 1 and True, which are equal"),
    "two zeros": (GOOD + "  clip: [0.0, -0.0]", r"sweep.yaml:4: axes.clip has 0.0 and -0.0, which are equal"),
    "two NaN": (GOOD + "  clip: [.nan, .NaN]", r"sweep.yaml:4: axes.clip has nan twice"),
    "a list twice": (GOOD + "  anything: [[1, {a: b}], [1, {a: b}]]", r"axes.anything has \[1, {'a': 'b'}\] twice"),
    "a count beyond": (GOOD + "strategy: {kind: random, count: 1000000000}", r"at least 1, at most 100000"),
    "binary": (GOOD + "  dataset: [!!binary aGVq]", r"sweep.yaml:4: 'aGVq' with the tag !!binary is not"),
    "set": (GOOD + "parameters: {anything: !!set {a, b}}", r"sweep.yaml:4: the tag !!set says something else"),
    "ordered map": (
        GOOD + "parameters: {anything: !!omap [a: 1]}",
        r"sweep.yaml:4: the tag !!omap says something else",
    ),
    "own tag": (GOOD + "parameters: {anything: !foo 1}", r"sweep.yaml:4: '1' with the tag !foo is not"),
    "wrong tag": (GOOD + "parameters: {anything: !!int a}", r"sweep.yaml:4: 'a' with the tag !!int is not"),
    "control character": (
        GOOD + "description: a\x07b",
        r"sweep.yaml:4: not YAML: the character U\+0007 is not allowed",
    ),
    "NUL": (GOOD + "description: a\x00b", r"sweep.yaml:4: not YAML: the character U\+0000 is not allowed"),
    "escaped control": (GOOD + 'description: "a\\e[31mb"', r"sweep.yaml:4: the character U\+001B in a text"),
    "half a character": (GOOD + 'description: "\\uD800"', r"sweep.yaml:4: the character U\+D800 in a text"),
    "no character": (GOOD + 'description: "\\U00110000"', r"sweep.yaml:4: not YAML: "),
    "tab": (GOOD + "\tdepth: [1]", r"sweep.yaml:4: not YAML: .*cannot start any token"),
    "open quote": (GOOD + "description: 'a", r"sweep.yaml:4: not YAML: .*quoted scalar.*unexpected end of stream"),
    "two documents": (GOOD + "---\n" + GOOD, r"sweep.yaml:4: not YAML: expected a single document"),
    "long text": (GOOD + f"description: {'a' * 5001}", r"sweep.yaml:4: a text of 5001 characters is too long"),
    "unknown alias": (GOOD + "  depth: *a", r"sweep.yaml:4: not YAML: .*undefined alias"),
    "recursion": (GOOD + "parameters: {anything: &a [*a]}", r"sweep.yaml:4: .*holds its own alias"),
    "laughs": (
        GOOD
        + "parameters:\n  anything:\n    - &a0 [x, x]\n"
        + "".join(f"    - &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30)),
        r"sweep.yaml:\d+: more than (20000 names and values|20 levels)",
    ),
    "depth": (GOOD + f"parameters: {{anything: {'[' * 5000}", r"^sweep.yaml:4: more than 20 levels"),
    "many values": (GOOD + f"  depth: [{'1,' * 30_000}]", r"^sweep.yaml:4: more than 20000 names and values"),
    "large": (GOOD + "#" * 300_000, r"sweep.yaml:1: 300\d+ bytes are more than a sweep file may have"),
    "merge of a number": (GOOD + "  depth: {<<: 1}", r"sweep.yaml:4: << must have an alias of named values"),
    "two merges": (GOOD + "  depth: {<<: {seeds: 1}, <<: {first: 2}}", r"sweep.yaml:4: << is given twice"),
    "a list as a key": (GOOD + "[a, b]: 1", r"sweep.yaml:4: a list in a sweep file must be a name"),
    "null as a key": (GOOD + "null: 1", r"sweep.yaml:4: null in a sweep file must be a name"),
    "true as a key": (GOOD + "true: 1", r"sweep.yaml:4: true in a sweep file must be a name"),
    "number as text": (GOOD + "name: 12", r"sweep.yaml:4: name=12 must be text in quotes"),
    "name too long": (GOOD + f"name: {'a' * 101}", r"sweep.yaml:4: name='a+' must be up to 100 letters"),
    "name with a sign": (GOOD + "name: a+b", r"sweep.yaml:4: name='a\+b' must be up to 100 letters"),
    "experiment in two lines": (GOOD + 'experiment: "a\\nb"', r"sweep.yaml:4: experiment=.* must be one line"),
    "experiment too long": (GOOD + f"experiment: {'a' * 201}", r"sweep.yaml:4: experiment=.*at most 200 bytes"),
    "tag of no such name": (GOOD + "tags: {a//b: 1}", r"sweep.yaml:4: tags.a//b: a tag's name must be"),
    "many tags": (GOOD + "tags: {" + ", ".join(f"a{i}: 1" for i in range(51)) + "}", r"sweep.yaml:4: 51 tags are too"),
    "notebook's name too long": (
        f"notebook: {'a' * 300}\naxes: {{width: [1]}}",
        r"sweep.yaml:1: .*(cannot be read|no such)",
    ),
    "line break in a name": (GOOD + '  "wi\\ndth": [1]', r"sweep.yaml:4: wi\\ndth is not a parameter"),
    "population of millions": (
        "notebook: crowd.ipynb\naxes:\n  seed: {seeds: 1000, run: population}\n"
        "  learning_rate: {from: 0.1, to: 1, count: 1000, run: population}",
        r"sweep.yaml:2: the population axes make 1000000 points in each execution",
    ),
    "search for nothing": (
        GOOD + "strategy: {kind: optuna, count: 3}\nmetric: m\ndirection: minimize\nwhen: width > 9",
        r"sweep.yaml:7: no combination of the axes meets the conditions",
    ),
    "huge": (
        "notebook: work.ipynb\naxes:\n  width: {from: 1, to: 3000, step: 1}\n  seed: {seeds: 4000}",
        r"^sweep.yaml:2: the axes make 12000000 combinations, more than 100000: shorten them, or use strategy random$",
    ),
    "a YAML tag": (
        GOOD + "parameters: {depth: !!python/name:os.system x}",
        r"sweep.yaml:4: .*!!python/name:os.system is not",
    ),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_answered_by_one_line_with_the_place(read, text, message):
    began = time.process_time()
    with pytest.raises(InvalidInputError, match=message) as caught:
        Planner(read(text)).executions()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert time.process_time() - began < 5


def test_missing_file_is_said(folder):
    with pytest.raises(InvalidInputError, match=r"none.yaml: there is no such sweep file \(looked for /"):
        read_sweep_file(folder / "none.yaml")


UNREADABLE = {
    "not UTF-8": (b"notebook: work.ipynb\nname: \xff\n", r"odd.yaml:2: byte 0xff is not text in UTF-8: save the file"),
    "UTF-16": ("notebook: work.ipynb\n".encode("utf-16"), r"odd.yaml:1: text in UTF-16: save it in UTF-8"),
}


@pytest.mark.parametrize(("data", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_file_that_is_no_text_is_said_with_the_line(folder, data, message):
    (folder / "odd.yaml").write_bytes(data)
    with pytest.raises(InvalidInputError, match=message):
        read_sweep_file(folder / "odd.yaml")


def test_mark_at_the_beginning_of_a_file_is_no_part_of_it(folder):
    (folder / "marked.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert len(read_sweep_file(folder / "marked.yaml").axes) == 1


def test_what_is_no_file_is_said(folder):
    os.mkfifo(folder / "pipe.yaml")
    with pytest.raises(InvalidInputError, match=r"pipe.yaml: not a file with content of its own"):
        read_sweep_file(folder / "pipe.yaml")
    with pytest.raises(InvalidInputError, match="a folder, not a sweep file"):
        read_sweep_file(folder)
    with pytest.raises(InvalidInputError, match="cannot be read: File name too long"):
        read_sweep_file(folder / ("a" * 300))
