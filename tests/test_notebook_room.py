"""What this project's notebooks share, and how what they know reaches a workflow that knows none of it."""

import nbformat
import pytest
from small_notebooks import make_project, resflow_here, write_notebook

from resflow.errors import InvalidInputError
from resflow.notebook.checks import VARYING, check_population, check_values
from resflow.notebook.population import population_points
from resflow.workflow.goal import Goal
from resflow.workflow.notebook_metadata import goal_of
from resflow.workflow.parameters import declared_in_notebook
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.sweeps.file import read_sweep_file

CHECKS = "resflow.notebook.checks"


def notebook(**own):
    node = nbformat.v4.new_notebook(metadata={"resflow": own})
    node.cells = [nbformat.v4.new_code_cell("width: int = 8", metadata={"tags": ["parameters"]})]
    return node


def test_a_strangers_checks_are_found_by_the_name_that_the_notebook_gives_them(tmp_path, monkeypatch):
    (tmp_path / "my_checks.py").write_text(
        "from resflow.errors import InvalidInputError\n"
        "def check_values(values):\n"
        "    if values.get('width', 0) > 100:\n"
        "        raise InvalidInputError(f\"width={values['width']} must be at most 100\")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (parameter,) = declared_in_notebook(notebook(checks="my_checks"))
    parameter.check(-100)
    with pytest.raises(InvalidInputError, match="width=101 must be at most 100"):
        parameter.check(101)


@pytest.mark.parametrize("checks", ["no_such_module", "resflow.errors", "..", "a b", 5, ["x"], "\0", "x" * 10_000])
def test_checks_that_are_not_there_get_one_clear_line(checks):
    (parameter,) = declared_in_notebook(notebook(checks=checks))
    with pytest.raises(InvalidInputError, match=r"resflow\.checks=.* must be a module that can be imported") as caught:
        parameter.check(8)
    assert "\n" not in str(caught.value)


def test_a_notebook_says_what_its_runs_are_compared_by():
    node = notebook(metric="accuracy", maximize=True)
    assert goal_of(node) == Goal("accuracy", maximize=True) == Goal.in_tags(provenance_tags("a.ipynb", node))
    assert goal_of(notebook()) is None
    assert Goal.in_tags(provenance_tags("a.ipynb", notebook())) is None
    for theirs in (None, 5, "x", ["metric"]):
        node.metadata["resflow"] = theirs
        assert goal_of(node) is None


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"metric": 5}, "resflow.metric=5, which must be a metric's name"),
        ({"metric": ""}, "resflow.metric='', which must be"),
        ({"metric": "accuracy"}, "not if more of it is better: say resflow.maximize, too, as true or false"),
        ({"metric": "accuracy", "maximize": "yes"}, "say resflow.maximize, too"),
    ],
)
def test_a_goal_that_cannot_be_understood_gets_one_clear_line(own, message):
    with pytest.raises(InvalidInputError, match=message):
        goal_of(notebook(**own))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("room") / "project")
    path = write_notebook(
        root / "many.ipynb", parameters="width: int = 8\nseed: int = 0\npopulation: list | None = None"
    )
    node = nbformat.read(path, as_version=4)
    node.metadata["resflow"] = {"checks": CHECKS, "metric": "loss", "maximize": False}
    nbformat.write(node, path)
    return root


SWEEP = "notebook: many.ipynb\naxes:\n  {axis}: {{values: {values}, run: population}}\n"


def test_a_sweep_takes_its_goal_from_the_notebook_unless_its_file_says_another(project):
    path = project / "sweep.yaml"
    path.write_text(SWEEP.format(axis="seed", values=[0, 1]))
    assert read_sweep_file(path).goal == Goal("loss")
    path.write_text(path.read_text() + "metric: accuracy\ndirection: maximize\n")
    assert read_sweep_file(path).goal == Goal("accuracy", maximize=True)


def test_what_cannot_differ_within_a_population_is_said_before_anything_runs(project):
    path = project / "refused.yaml"
    path.write_text(SWEEP.format(axis="width", values=[8, 16]))
    with pytest.raises(InvalidInputError, match=r"refused.yaml:3.*width, which cannot differ within a population"):
        read_sweep_file(path)
    done = resflow_here(project, "run", "many.ipynb", "-p", "population", "[{'width': 4}]")
    assert done.returncode == 2
    assert "population[0] has width, which cannot differ within a population" in done.stderr


def test_members_get_what_they_have_of_their_own_and_the_rest_from_the_notebook():
    defaults = dict.fromkeys(VARYING) | {"seed": 7, "learning_rate": 0.1, "width": 8}
    points = population_points(None, defaults, learning_rate=[0.1, 0.2], seed=range(2))
    assert [(point["learning_rate"], point["seed"]) for point in points] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    assert all(point.keys() == set(VARYING) for point in points)
    (point,) = population_points([{"ridge": 0.5, "fingerprint": "f"}], defaults)
    assert point == dict.fromkeys(VARYING) | {"seed": 7, "learning_rate": 0.1, "ridge": 0.5, "fingerprint": "f"}


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ([], r"population=\[\] must be a list of at least one point"),
        ("all", "population='all' must be a list"),
        ([{"seed": 0}, 5], r"population\[1\]=5 must be a dict such as"),
        ([{"sed": 0}], r"population\[0\] has sed, which cannot differ within a population: nearest is seed of seed,"),
        ([{"seed": -1}], "seed=-1 must be at least 0"),
    ],
)
def test_populations_that_cannot_be_trained_together_are_refused(population, message):
    with pytest.raises(InvalidInputError, match=message):
        check_population("population", population)
    with pytest.raises(InvalidInputError, match=message):
        check_values({"population": population})
