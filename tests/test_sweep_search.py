"""Sweeps whose points Optuna chooses: they learn, they go on where they were, and they try nothing twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from small_notebooks import write_notebook

from resflow.errors import InvalidInputError
from resflow.workflow.sweeps.file import read_sweep_file
from resflow.workflow.sweeps.plan import Planner
from resflow.workflow.sweeps.plan.search import SearchSource

PARAMETERS = """width: int = 32
rate: float = 0.5
kind: str = 'a'
seed: int = 0
size: int | None = 3
widths: list = [8]
population: list | None = None
"""
GOAL = "metric: loss\ndirection: minimize\n"
AXES = "width: {from: 1, to: 64}\n  rate: {from: 1e-4, to: 1.0, scale: log}\n  kind: [a, b]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    write_notebook(folder / "work.ipynb", "x = 1", parameters=PARAMETERS)
    return folder


def read(folder, count=30, axes=AXES, more=""):
    text = f"notebook: work.ipynb\naxes:\n  {axes}\nstrategy: {{kind: optuna, count: {count}}}\n{GOAL}{more}\n"
    (folder / "search.yaml").write_text(text)
    return read_sweep_file(folder / "search.yaml")


def as_run(execution, point, value, ended):
    """A finished run as the store would give it back: parameters are texts."""
    parameters = {name: str(each) for name, each in (execution.parameters | point.values).items()}
    data = SimpleNamespace(tags={"resflow.fingerprint": point.fingerprint}, params=parameters, metrics={"loss": value})
    return SimpleNamespace(data=data, info=SimpleNamespace(end_time=ended))


def by_fingerprint(runs):
    return {run.data.tags["resflow.fingerprint"]: run for run in runs}


def search(sweep, loss, runs, most=1000, free=2):
    """Search until the source has no more, or `most` executions were made; the new runs are appended to `runs`."""
    source = SearchSource(sweep, Planner(sweep), by_fingerprint(runs))
    made = 0
    while (executions := source.take(free)) and made < most:
        for execution in executions:
            new = {}
            for point in execution.points:
                new[point.fingerprint] = as_run(execution, point, loss(point.values), len(runs))
                runs.append(new[point.fingerprint])
            source.told(execution, new)
            made += 1
    return source, made


def bowl(values):
    """Smallest at width 20, rate 0.01 and kind b."""
    from math import log10

    return (values["width"] / 20 - 1) ** 2 + (log10(values["rate"]) + 2) ** 2 + (values["kind"] == "a")


def test_search_finds_better_points_than_it_began_with_and_tries_none_twice(folder):
    runs = []
    sweep = read(folder, count=60)
    _, made = search(sweep, bowl, runs)
    losses = [run.data.metrics["loss"] for run in runs]
    assert made == len(runs) == len({run.data.tags["resflow.fingerprint"] for run in runs}) == 60
    assert sum(losses[-20:]) < sum(losses[:20]) / 2
    assert min(losses) < 0.3


def test_search_goes_on_from_the_runs_in_the_store(folder):
    runs = []
    sweep = read(folder, count=20)
    search(sweep, bowl, runs, most=8)
    before = [run.data.tags["resflow.fingerprint"] for run in runs]
    source, made = search(sweep, bowl, runs)
    assert len(source.trials) == len(before)
    assert len(before) + made == 20
    assert len({run.data.tags["resflow.fingerprint"] for run in runs}) == 20
    source, made = search(sweep, bowl, runs)
    assert (made, source.left) == (0, 0)


def test_trials_whose_value_is_none_are_known_again(folder):
    runs = []
    sweep = read(folder, count=4, axes="size: [null, 3]\n  width: {from: 1, to: 64}")
    search(sweep, lambda values: values["width"], runs)
    source = SearchSource(sweep, Planner(sweep), by_fingerprint(runs))
    assert {execution.values["size"] for execution in source.trials} == {None, 3}
    assert (len(source.trials), source.left) == (4, 0)


@pytest.mark.parametrize(
    ("axes", "more", "there_are"),
    [
        ("kind: [a, b]\n  width: [1, 2]", "", 4),
        ("kind: [a, b]\n  width: {from: 1, to: 3}", "", 6),
        ("widths: [[1, 2], [3], []]\n  kind: [a, b]", "", 6),
        ("kind: [a, b]\n  width: {from: 1, to: 3}", "drop: width == 2 and kind == 'a'", 5),
    ],
)
@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_search_of_few_combinations_tries_each_once_and_ends(folder, axes, more, there_are, count, value):
    runs = []
    sweep = read(folder, count=count, axes=axes, more=more)
    assert SearchSource(sweep, Planner(sweep), {}).left == min(count, there_are)
    source, made = search(sweep, lambda _: value, runs)
    assert made == len(by_fingerprint(runs)) == min(count, there_are)
    assert source.left == 0
    source, made = search(sweep, lambda _: value, runs)
    assert (made, source.left) == (0, 0)


def test_search_goes_on_where_no_run_has_a_finite_value(folder):
    runs = []
    for count in (2, 4, 6):
        _, made = search(read(folder, count=count), lambda _: float("nan"), runs)
        assert made == 2
    assert len(by_fingerprint(runs)) == 6


def test_runs_outside_of_an_axis_as_it_is_now_are_no_trials(folder):
    runs = []
    search(read(folder, count=8, axes="rate: {from: 0.0, to: 1.0}"), lambda values: values["rate"], runs)
    kept = [run for run in runs if float(run.data.params["rate"]) >= 0.5]
    assert 0 < len(kept) < 8
    narrow = read(folder, count=8, axes="rate: {from: 0.5, to: 1.0}")
    source, made = search(narrow, lambda values: values["rate"], runs)
    assert (len(source.trials), made) == (len(kept), 8 - len(kept))
    assert all(float(run.data.params["rate"]) >= 0.5 for run in runs[8:])


def test_value_of_a_trial_with_a_population_is_the_mean_over_its_members(folder):
    sweep = read(folder, count=12, axes="width: {from: 1, to: 64}\n  seed: {seeds: 3, run: population}")
    runs = []
    _, made = search(sweep, lambda values: values["width"] + values["seed"], runs)
    assert (made, len(runs)) == (12, 36)
    again = SearchSource(sweep, Planner(sweep), by_fingerprint(runs))
    assert [execution.points[0].values["width"] + 1 for execution in again.trials] == list(again.values())


def test_members_of_a_trial_that_was_cut_off_are_at_hand_when_it_is_chosen_again(folder):
    sweep = read(folder, count=3, axes="width: {from: 1, to: 64}\n  seed: {seeds: 3, run: population}")
    runs = []
    search(sweep, lambda values: values["width"] + values["seed"], runs)
    kept = runs[1:]
    again = SearchSource(sweep, Planner(sweep), by_fingerprint(kept))
    assert (len(again.trials), again.left) == (2, 1)
    assert again.begun == by_fingerprint(kept[:2])
    elsewhere = read(folder, count=3, axes="width: {from: 65, to: 99}\n  seed: {seeds: 3, run: population}")
    assert SearchSource(elsewhere, Planner(elsewhere), by_fingerprint(kept)).begun == {}


def test_conditions_hold_for_what_is_chosen_and_ones_too_narrow_are_said(folder):
    runs = []
    search(read(folder, count=10, more="drop: width > 10"), bowl, runs)
    assert all(int(run.data.params["width"]) <= 10 for run in runs)
    with pytest.raises(InvalidInputError, match="no combination meets the conditions"):
        search(read(folder, count=10, more="drop: width > 0"), bowl, [])
