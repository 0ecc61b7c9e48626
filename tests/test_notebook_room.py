"""What this project's notebooks share, and how what they know reaches a workflow that knows none of it."""

import json

import equinox as eqx
import jax
import nbformat
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from small_notebooks import artifacts_of, make_project, read_artifact, resflow_here, runs_of, write_notebook

import resflow
from resflow.data.dataset import Standardization
from resflow.errors import InvalidInputError
from resflow.notebook import (
    Claim,
    below_title,
    first_and_last,
    gap_title,
    labelled_data,
    load_stream,
    population_points,
    prepare,
    prepare_split,
    record,
    train_members,
)
from resflow.notebook.checks import VARYING, check_population, check_values
from resflow.plots.curves import plot_objective
from resflow.studies.population_problem import population_problem
from resflow.workflow.goal import Goal
from resflow.workflow.names import FINGERPRINT
from resflow.workflow.parameters import declared_in_notebook
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import create_run, open_client
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
    node = notebook(metric="accuracy", direction="maximize")
    assert Goal.in_metadata(node) == Goal("accuracy", maximize=True) == Goal.in_tags(provenance_tags("a.ipynb", node))
    assert Goal.in_metadata(notebook()) is None
    assert Goal.in_tags(provenance_tags("a.ipynb", notebook())) is None
    for theirs in (None, 5, "x", ["metric"]):
        node.metadata["resflow"] = theirs
        assert Goal.in_metadata(node) is None


@pytest.mark.parametrize(
    "own",
    [
        {"metric": 5, "direction": "minimize"},
        {"metric": "", "direction": "minimize"},
        {"metric": "accuracy"},
        {"direction": "maximize"},
        {"metric": "accuracy", "direction": "most"},
    ],
)
def test_a_goal_that_cannot_be_understood_gets_one_clear_line(own):
    with pytest.raises(
        InvalidInputError, match=r"metadata say metric=.* and direction=.* under resflow: name a metric"
    ):
        Goal.in_metadata(notebook(**own))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("room") / "project")
    path = write_notebook(
        root / "many.ipynb", parameters="width: int = 8\nseed: int = 0\npopulation: list | None = None"
    )
    node = nbformat.read(path, as_version=4)
    node.metadata["resflow"] = {"checks": CHECKS, "metric": "loss", "direction": "minimize"}
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
    (point,) = population_points([{"ridge": 0.5, FINGERPRINT: "f"}], defaults)
    assert point == dict.fromkeys(VARYING) | {"seed": 7, "learning_rate": 0.1, "ridge": 0.5, FINGERPRINT: "f"}


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


STEPS = {"step": [0, 10, 20], "linear_predictor_gap": [1.0, 0.5, -0.25]}


def history(**columns):
    return pd.DataFrame(STEPS | columns)


def test_titles_say_that_bounds_hold_and_by_how_much_one_fails():
    frame = history(gap_certificate=[2.0, 0.5 - 1e-12, 0.0], theorem3_bound=[np.inf, 1.0, np.nan])
    assert gap_title(frame, "gap_certificate") == "Gap -0.25 at the end, never above its certificate"
    assert gap_title(frame, "gap_certificate", "theorem3_bound") == (
        "Gap -0.25 at the end, never above its certificate and its bound of Theorem 3"
    )
    frame.loc[1, "theorem3_bound"] = 0.375
    assert gap_title(frame, "gap_certificate", "theorem3_bound") == (
        "The gap exceeds its bound of Theorem 3 by 0.12: the bound is violated, which is a bug"
    )


@pytest.mark.parametrize(
    ("gaps", "title"),
    [
        ([1.0, -0.5, -0.25], "Below the best linear predictor from step 10 on, as far as measured"),
        ([-1.0, -0.5, -0.25], "Below the best linear predictor from step 0 on, as far as measured"),
        ([-1.0, 0.5, 0.25], "Final objective 2 against the linear predictor's 1.75"),
        ([-1.0, -0.5, np.nan], "Final objective 2 against the linear predictor's nan"),
    ],
)
def test_title_says_from_which_step_on_the_objective_stayed_below(gaps, title):
    assert below_title(history(linear_predictor_gap=gaps, objective=2.0)) == title


def test_first_and_last_measurement_stand_side_by_side():
    table = first_and_last(history())
    assert table.columns.tolist() == [0, 20]
    assert table.loc["linear_predictor_gap"].tolist() == ["1", "−0.25"]


def test_claims_allow_for_rounding_and_for_bounds_that_are_not_there():
    assert Claim.of_bound("c", [[1.0, np.nan], [-5e-9, np.inf]], scale=100.0) == Claim("c", True, -5e-9)
    assert not Claim.of_bound("c", [1.0, -5e-9]).holds
    assert not Claim.of_bound("c", [1.0], besides=False).holds
    assert not Claim.of_bound("c", [np.nan]).holds
    assert (Claim("c", True, 1.0).outcome, Claim("c", False, 1.0).outcome) == ("holds", "FAILS")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of its own in a project of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return create_run(open_client(), notebook="room", name="room", parameters={}, tags={})


def test_run_of_a_sweep_is_called_by_what_varies_there(run, capsys):
    run.set_tags({"resflow.point": "learning_rate 0.01"})
    record(run, name="gap -0.1", of="width 4, seed 3", summary="Done.")
    assert run.name == "gap -0.1, learning_rate 0.01"


def test_everything_is_recorded_in_one_call(run, capsys):
    figure = plot_objective(history(objective=1.0), 0.5, title="A title")
    record(
        run,
        name="a good run",
        of="seed 3",
        summary="\nIt went **well**: strict_saddle, -1.5.\n",
        claim=Claim("it_goes_well", True, 0.5),
        history=[history(), pd.DataFrame({"step": [5], "lambda_min": [-1.0]})],
        metrics={"best": 0.25, "lambda_min": 7.0},
        tags={"verdict": "strict_saddle", "diverged_at": "never"},
        tables={"counts": pd.DataFrame({"runs": [3]}, index=pd.Index(["stuck"], name="outcome"))},
        figures={"gap": figure},
    )
    stored = run.client.get_run(run.id)
    assert stored.info.run_name == "a good run, seed 3"
    assert stored.data.metrics == {
        "linear_predictor_gap": -0.25,
        "curvature/lambda_min": -1.0,
        "best": 0.25,
        "claim_margin": 0.5,
    }
    assert [point.step for point in run.client.get_metric_history(run.id, "linear_predictor_gap")] == [0, 10, 20]
    assert [point.step for point in run.client.get_metric_history(run.id, "curvature/lambda_min")] == [5]
    expected = {"claim": "it_goes_well", "claim_holds": "true", "verdict": "strict_saddle", "diverged_at": "never"}
    assert expected.items() <= stored.data.tags.items()
    assert stored.data.tags["mlflow.note.content"] == "It went **well**: strict saddle, −1.5."
    assert read_artifact(run.client, stored, "tables/counts.csv") == "outcome,runs\nstuck,3\n"
    assert artifacts_of(run.client, stored, "figures") == {"figures/gap.png", "figures/gap.pdf"}
    facts = json.loads(stored.data.tags["resflow.facts"])
    assert facts == [["verdict on the last point", "strict saddle"], ["gap to the best linear predictor", "−0.25"]]


def test_data_are_prepared_by_the_training_set_and_logged(run):
    options = {"target": None, "loss": "logistic", "test_fraction": 0.25, "seed": 3}
    train, test = prepare_split(run, "breast_cancer:mean", **options)
    np.testing.assert_allclose(train.X[:, :-1].mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(train.X[:, :-1].std(axis=0), 1.0, rtol=1e-12)
    assert (train.X[:, -1] == 1).all()
    assert (test.X[:, -1] == 1).all()
    plain, plain_test = prepare_split(run, "breast_cancer:mean", **options, standardize=False, intercept=False)
    scaling = Standardization.fit(plain)
    np.testing.assert_array_equal(test.X[:, :-1], scaling.apply(plain_test).X)
    tags = run.client.get_run(run.id).data.tags
    assert tags["resflow.data_digest"] == plain.digest
    assert tags["resflow.data_digest.test"] == plain_test.digest
    whole = prepare(run, "wine:all", target=None, loss="softmax", intercept=False)
    assert set(whole.y) == {0.0, 1.0, 2.0}
    inputs = run.client.get_run(run.id).inputs.dataset_inputs
    assert {(each.dataset.name, each.tags[0].value) for each in inputs} == {
        ("breast_cancer:mean", "training"), ("breast_cancer:mean", "test"), ("wine:all", "training"),
    }  # fmt: skip


def test_opening_the_run_sets_the_precision(tmp_path):
    write_notebook(
        make_project(tmp_path / "project") / "opening.ipynb",
        "from resflow.notebook import start_run\nrun = start_run(globals(), notebook='opening')",
        "import jax.numpy as jnp\nassert jnp.ones(1).dtype == 'float64'\nrun.finish()",
    )
    done = resflow_here(tmp_path / "project", "run", "opening.ipynb")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/project/mlruns/mlflow.db")
    (stored,) = runs_of(client, "opening")
    assert stored.data.tags["resflow.precision"] == "float64"


def test_members_of_a_population_are_runs_of_their_own_below_the_notebooks(run):
    run.log_parameters({"loss": "logistic", "seeds": 2, "population": None})
    defaults = dict.fromkeys(VARYING) | {"init_scale": 1.0, "ridge": 0.0}
    points = population_points(None, defaults, learning_rate=[0.01], seed=[0, 1])
    points[1][FINGERPRINT] = "of the second"
    data = labelled_data("breast_cancer:mean", target=None, loss="logistic")
    settings = {"test_fraction": 0.25, "standardize": True, "intercept": True, "loss": "logistic"}
    problem = population_problem(data, points, **settings)
    assert problem.summary().loc["linear fits", "problem"] == "all 2 converged"
    keys, d = jax.random.split(jax.random.key(0)), problem.X.shape[2]
    build = eqx.filter_vmap(
        lambda k: resflow.build_model("residual_unit", d, resflow.feature_map("mlp", d, width=3, key=k), key=k)
    )
    trained = train_members(
        run, points, problem, build(keys), keys, loss="logistic", epsilon=1e-3,
        options=resflow.TrainingOptions(steps=20, log_every=10),
        measure=[resflow.GapMeasure.against(fit, "logistic") for fit in problem.linear_fits],
    )  # fmt: skip
    assert 0 < trained.recording_seconds < trained.seconds
    assert trained.summary().loc["members", "training"] == 2
    parent = run.client.get_run(run.id)
    assert parent.data.tags["resflow.role"] == "population"
    members = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.id}'")
    for member, (seed, fingerprint) in zip(
        sorted(members, key=lambda each: each.data.params["seed"]), ((0, None), (1, "of the second")), strict=True
    ):
        assert member.info.status == "FINISHED"
        assert member.data.params == {"loss": "logistic", **{name: str(points[seed][name]) for name in VARYING}}
        assert member.data.tags["resflow.role"] == "member"
        assert member.data.tags.get("resflow.fingerprint") == fingerprint
        assert member.data.tags["verdict"] == trained.outcomes.loc[seed, "verdict"]
        gaps = run.client.get_metric_history(member.info.run_id, "linear_predictor_gap")
        assert [point.step for point in gaps] == [0, 10, 20]
        assert [point.value for point in gaps] == trained.result.history["linear_predictor_gap"][seed].tolist()
        assert member.info.run_name == f"gap {gaps[-1].value:+.4f}, seed {seed}"  # which is all that varies
        assert {each.dataset.digest for each in member.inputs.dataset_inputs} == {
            part[problem.data_sets[seed]].digest[:36] for part in (problem.train, problem.test)
        }


@pytest.fixture
def kept(monkeypatch):
    """The files of which a run would keep a copy."""
    files = []
    monkeypatch.setattr("resflow.notebook.stream.keep_data", lambda run, name: files.append(name))
    return files


@pytest.mark.usefixtures("unchecked_types")
def test_stream_of_a_network_is_read_from_a_file_or_refused_in_one_line(tmp_path, kept):
    rng, file, run = np.random.default_rng(0), tmp_path / "stream.npz", RecordedData()
    arrays = {"h_0": rng.standard_normal((20, 3)), "h_1": rng.standard_normal((20, 3)), "W": np.eye(3)}
    for saved, message in (
        (None, "there is no such file"),
        (arrays, "has no array y"),
        (arrays | {"y": np.arange(20) % 3, "test_h_0": arrays["h_0"]}, "has no array test_y"),
        ({"h_0": np.array([None])}, "is no .npz file of numbers"),
        (arrays | {"y": np.arange(20) % 3, "h_0": np.array(1.0)}, r"h_0 has shape \(\), but must have 2 axes"),
    ):
        if saved is not None:
            np.savez(file, **saved)
        with pytest.raises(InvalidInputError, match=message) as raised:
            load_stream(run, str(file))
        assert "\n" not in str(raised.value)
    labels = {"y": np.arange(20) % 3, "test_y": np.arange(20) % 3}
    np.savez(file, **arrays, **labels, test_h_0=arrays["h_0"], test_h_1=arrays["h_1"])
    report = resflow.probe(**load_stream(run, str(file)), ridge=1.0)
    assert (report.samples, report.held_out_samples) == (20, 20)
    assert run.contexts == ["training", "test"]
    assert kept == [str(file)]


@pytest.mark.usefixtures("unchecked_types", "kept")
def test_damaged_stream_is_refused_in_one_line_wherever_the_damage_is(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "stream.npz"
    np.savez_compressed(file, h_0=rng.standard_normal((9, 2)), h_1=np.zeros((9, 2)), W=np.eye(2), y=np.arange(9) % 2)
    whole, said = file.read_bytes(), []
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            resflow.probe(**load_stream(RecordedData(), str(file)), ridge=1.0)
        except InvalidInputError as error:
            said.append(str(error))
    assert len(said) > len(whole) / 22
    assert not any("\n" in line for line in said)


class RecordedData:
    """Keeps which data a notebook logs."""

    def __init__(self):
        self.contexts = []

    def log_dataset(self, name, X, y, *, digest, feature_names, context):
        assert len(X) == len(y)
        assert X.shape[1] == len(feature_names)
        self.contexts.append(context)
