"""Runs verified by their stored points: the same bits, or which value differs, or the reason why it cannot be told."""

import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest
from small_notebooks import in_project, make_project, resflow_here

import resflow
from resflow.errors import InvalidInputError
from resflow.notebook import (
    Trained,
    TrainedGroups,
    TrainedStream,
    load_model,
    load_models,
    population_points,
    prepare,
    prepare_population,
    prepare_split,
    probed,
    record,
    train_members,
)
from resflow.notebook.checks import VARYING
from resflow.studies.skip_comparison import compare_architectures
from resflow.training.population import PopulationLayout
from resflow.workflow import names
from resflow.workflow.compared import Outcome
from resflow.workflow.provenance import provenance_tags
from resflow.workflow.records import Run, create_run, open_client
from resflow.workflow.stored_points import attach_points
from resflow.workflow.verification import Recomputed, compared

EPS = np.finfo(float).eps
EPSILON = 1e-3


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("verified") / "project")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    table = np.column_stack([X, X @ [1.0, -1.0, 0.5] + np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(60)])
    np.savetxt(root / "table.csv", table, delimiter=",", header="a,b,c,y", comments="")
    with in_project(root):
        yield root


def new_run(parameters=None, **tags):
    given = provenance_tags("work.ipynb") | tags
    return create_run(open_client(), notebook="work", name="work", parameters=parameters or {}, tags=given)


@pytest.fixture
def run(project):
    """A run that did what notebooks do: trained, looked at the last point, and recorded that."""
    run = new_run()
    train, test = prepare_split(run, "table.csv", target="y", loss="squared", test_fraction=0.25, seed=0)
    fit = resflow.fit_linear_predictor(train.X, train.y, loss="squared")
    keys, d = resflow.random_keys(0), train.X.shape[1]
    unit = resflow.build_model(
        "residual_unit", d, resflow.feature_map("mlp", d, width=4, key=keys.features), key=keys[0]
    )
    result = resflow.train(
        unit, train.X, train.y, loss="squared", options=resflow.TrainingOptions(steps=40), key=keys.batches,
        measure=resflow.StationarityMeasure.against(fit, "squared"),
    )  # fmt: skip
    point = resflow.Point.of(result.model, train.X, train.y, "squared")
    report, split = resflow.analyze(point, fit, epsilon=EPSILON), resflow.fit_augmented(point, fit)
    gap = resflow.held_out_gap(result.model(test.X), test.X, test.y, loss="squared", fit=fit)
    record(
        run,
        name="verified",
        trained=Trained(result.model, fit, ["linear", "stationarity", "verdict", "augmented", "held_out"], EPSILON),
        history=pd.DataFrame(result.history),
        metrics=report.metrics() | split.metrics() | {
            "best_linear_objective": fit.objective, "linear_fit_grad_norm": fit.grad_norm, "of_nothing": 1.0,
            "test_linear_predictor_gap": gap.gap, "test_linear_predictor_gap_error": gap.standard_error,
        },
        tags={
            "linear_fit_converged": fit.converged, "augmented_fit_converged": split.converged,
            "verdict": report.verdict,
        },
        summary="It went well.",
    )  # fmt: skip
    run.end("FINISHED")
    return run


def verify(project, name):
    done = resflow_here(project, "verify", name, "--points")
    assert not done.stderr or done.returncode == 2
    return done


def verdict_of(done):
    return next(line for line in done.stdout.splitlines() if line.startswith("verified"))


def test_every_value_of_the_last_point_comes_out_with_the_same_bits(project, run):
    done = verify(project, run.id)
    assert done.returncode == 0, done.stdout
    assert verdict_of(done) == "verified  25 with the same bits"
    assert "since " not in done.stdout
    shown = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    recorded = run.stored.data
    assert set(shown) == {*recorded.metrics, "verdict", "linear_fit_converged", "augmented_fit_converged"} - {
        "of_nothing"
    }
    assert all(line.endswith("same bits") for line in shown.values())
    assert "left out  of_nothing: nothing that computes them from the point was named" in done.stdout
    assert "from the stored point: 25 with the same bits (Linux" in recorded.tags[names.VERIFIED]


def test_value_that_was_recorded_otherwise_is_named(project, run):
    objective = run.stored.data.metrics["objective"]
    run.log_metrics({"objective": objective * (1 + 8 * EPS)}, step=1000)
    run.set_tags({"verdict": "strict_saddle", names.VERSION + "jax": "0.1"})
    (project / "pyproject.toml").write_text("[project]\n# changed since\n")
    done = verify(project, run.id)
    (project / "pyproject.toml").write_text("[project]\n")
    assert done.returncode == 1
    assert "since     uncommitted changes were none, are others" in done.stdout
    assert re.fullmatch(
        r"verified  23 with the same bits, 1 within rounding \(at most [78]\S* units\), 1 DIFFER: verdict",
        verdict_of(done),
    )
    assert "strict_saddle  differs, now not_stationary" in done.stdout
    assert f"since     jax was 0.1, is {jax.__version__}" in done.stdout


def flip_a_bit(run):
    file = Path(run.artifact_folder) / "points" / "final.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 1
    file.write_bytes(content)


def lose_the_file(run):
    shutil.rmtree(Path(run.artifact_folder) / "points")


def lose_the_data(run):
    run.remove_tags([names.KEPT_DATA])
    Path("table.csv").unlink()


def change_the_data(run):
    run.remove_tags([names.KEPT_DATA])
    table = Path("table.csv").read_text()
    Path("table.csv").write_text(table.replace("1", "2", 1))


def fail(run):
    run.end("FAILED")


OBSTACLES = {
    "bit": (flip_a_bit, "the stored point changed: points/final.npz has SHA-256 "),
    "file": (lose_the_file, "the stored point is gone: points/final.npz is not among the artifacts"),
    "point": (lambda run: run.remove_tags([names.STORED_POINT]), "no point is stored: the run recorded none"),
    "data": (change_the_data, "the data changed: what is read from table.csv now has the digest "),
    "no data": (lose_the_data, "there is no such file (looked for "),
    "failed": (fail, "the run is FAILED"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_run_that_cannot_be_checked_says_why(project, run, name):
    spoil, said = OBSTACLES[name]
    table = (project / "table.csv").read_text()
    spoil(run)
    done = verify(project, run.id)
    (project / "table.csv").write_text(table)
    assert done.returncode == 1
    assert verdict_of(done).startswith("verified  could not be checked: ")
    assert said in verdict_of(done)
    assert said in run.stored.data.tags[names.VERIFIED]


def test_point_from_a_stranger_has_no_module_of_his_imported(project, monkeypatch):
    (project / "strangers.py").write_text("open('imported', 'w').close()\ndef recompute(*_): return []\n")
    monkeypatch.syspath_prepend(project)
    run = new_run()
    run.set_tags(attach_points(run, "final", {}, {"verifier": "strangers"}))
    run.end("FINISHED")
    done = verify(project, run.id)
    assert done.returncode == 1
    assert verdict_of(done) == (
        "verified  could not be checked: the stored point names 'strangers' to verify it: modules other than resflow's "
        "own are not imported"
    )
    assert not (project / "imported").exists()


def test_run_that_kept_no_point_is_led_to_executing_it_again(project):
    run = new_run()
    run.end("FINISHED")
    done = verify(project, run.id)
    assert done.returncode == 1
    assert verdict_of(done).endswith("no point is stored: the run recorded none; --rerun executes its notebook instead")


def test_members_of_a_population_and_runs_of_a_sweep_are_verified_together(project, run):
    parent = new_run(**{names.SWEEP: "many", names.ROLE: names.Role.SWEEP})
    population = new_run({"loss": "squared"}, **{names.SWEEP: "many", names.ROLE: names.Role.POPULATION})
    defaults = dict.fromkeys(VARYING) | {"init_scale": 1.0, "ridge": 0.0}
    points = population_points(None, defaults, learning_rate=[0.01, 1e9], seed=[0, 1])
    problem = prepare_population(population, points, "table.csv", target="y", loss="squared", test_fraction=0.25)
    keys, d = jax.random.split(jax.random.key(0), 4), problem.X.shape[2]
    build = eqx.filter_vmap(
        lambda k: resflow.build_model("residual_unit", d, resflow.feature_map("mlp", d, width=3, key=k), key=k)
    )
    train_members(
        population, points, problem, build(keys), keys, loss="squared", epsilon=EPSILON,
        options=resflow.TrainingOptions(steps=20, log_every=10),
        layout=PopulationLayout((jax.devices()[0],), chunk=1, chunks=3),  # in two files: of three members, and of one
        measure=[resflow.GapMeasure.against(fit, "squared") for fit in problem.linear_fits],
    )  # fmt: skip
    population.end("FINISHED")
    run.set_tags({names.SWEEP: "many"})
    parent.end("FINISHED")
    done = verify(project, "many")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": 15 with the same bits\n") == 4
    assert verdict_of(done) == "verified  5 of 5 runs have all values again"
    members = run.client.search_runs([run.experiment_id], f"tags.`{names.PARENT}` = '{population.id}'")
    one = Run(run.client, members[0].info.run_id)
    seed = int(members[0].data.params["seed"])
    point = resflow.notebook.load_point(one.id)
    np.testing.assert_array_equal(point.X, problem.train[seed].X)
    one.log_metrics({"linear_predictor_gap": 0.5}, step=1000)
    done = verify(project, population.id)
    assert done.returncode == 1
    assert f"{one.id}  {one.name}: 14 with the same bits, 1 DIFFER: linear_predictor_gap" in done.stdout
    assert verdict_of(done) == "verified  3 of 4 runs have all values again"
    _, last = sorted((project / "mlruns").glob("**/points/members_*.npz"))
    last.write_bytes(last.read_bytes()[:-1])
    done = verify(project, population.id)
    assert done.stdout.count(": 15 with the same bits\n") == 3
    assert done.stdout.count(f": could not be checked: the stored point changed: points/{last.name} has SHA-256") == 1


def test_what_is_no_run_and_no_sweep_is_said_in_one_line(project, run):
    done = verify(project, "manny")
    assert done.returncode == 2
    assert "'manny' is neither the id of a run nor the name of a sweep" in done.stderr
    done = verify(project, "0" * 32)
    assert done.returncode == 2
    assert "is neither the id of a run" in done.stderr


@pytest.mark.parametrize(
    ("recorded", "again", "outcome", "units"),
    [
        (0.1, 0.1, Outcome.SAME, 0.0),
        (math.nan, math.nan, Outcome.SAME, 0.0),
        (1.7976931348623157e308, math.inf, Outcome.SAME, 0.0),  # as MLflow keeps it
        (-1.7976931348623157e308, math.inf, Outcome.DIFFERS, math.inf),
        (1.0, 1.0 + 4 * EPS, Outcome.WITHIN, 4.0),
        (0.0, 2 * EPS, Outcome.WITHIN, 4.0),  # of a difference of numbers of size 0.5
        (1e-3, 1e-3 + 1e-10, Outcome.DIFFERS, 2e-10 / EPS),
        (1.0, math.nan, Outcome.DIFFERS, math.inf),
    ],
)
def test_values_are_compared_in_units_of_rounding(recorded, again, outcome, units):
    stored = SimpleNamespace(data=SimpleNamespace(metrics={"curvature/lambda_min": recorded}, tags={}))
    (found,) = compared(
        stored, Recomputed({"lambda_min": again, "objective": 1.0, "verdict": "x"}, scale=0.5, tables={})
    )
    assert (found.name, found.outcome) == ("curvature/lambda_min", outcome)
    assert found.units == pytest.approx(units, rel=1e-6)


def test_models_in_groups_are_verified_against_the_table_of_their_ends(project):
    run = new_run()
    data = prepare(run, "table.csv", target="y", loss="squared")
    fit = resflow.fit_linear_predictor(data.X, data.y, loss="squared")
    ends, _, models = compare_architectures(
        data.X, data.y, loss="squared", fit=fit, seeds=range(3), widths=[2], epsilon=EPSILON, training={"steps": 20}
    )
    record(
        run,
        name="three of each",
        trained=TrainedGroups(models, fit, ["ends"], EPSILON),
        metrics={"best_linear_objective": fit.objective},
        tables={"ends": ends},
        summary="They were compared.",
    )
    run.end("FINISHED")
    again = load_models(run.id)
    assert list(again) == ["residual_unit 2", "output_skip 2", "no_skip 2"]
    np.testing.assert_array_equal(again["residual_unit 2"].V, models["residual_unit 2"].V)
    with pytest.raises(InvalidInputError, match="load_models gives them all"):
        load_model(run.id)
    done = verify(project, run.id)
    assert done.returncode == 0, done.stdout
    assert re.search(r"tables/ends.csv: linear_predictor_gap +9 values  same bits", done.stdout)
    assert re.search(r"tables/ends.csv: verdict +9 values  same bits", done.stdout)
    ends.loc[4, ["linear_predictor_gap", "verdict"]] = 0.5, "strict_saddle"
    run.log_table(ends, "ends")
    done = verify(project, run.id)
    assert done.returncode == 1
    assert "2 DIFFER: tables/ends.csv: linear_predictor_gap, tables/ends.csv: verdict" in verdict_of(done)
    assert "now 1 of them otherwise" in done.stdout
    shutil.rmtree(Path(run.artifact_folder) / "tables")
    assert "1 DIFFER: tables/ends.csv" in verdict_of(verify(project, run.id))


def test_network_of_any_framework_is_verified_by_its_residual_stream(project):
    run, rng = new_run(), np.random.default_rng(1)
    train, test = prepare_split(run, "table.csv", target="y", loss="squared", test_fraction=0.25, seed=0)
    order = rng.permutation(len(train.y))
    hidden = [np.tanh(part.X @ rng.standard_normal((4, 4))).astype(np.float32) for part in (train, test)]
    stream = {
        "representations": [train.X.astype(np.float32)[order], hidden[0][order]],
        "head": (rng.standard_normal(4), np.zeros(())),
        "y": train.y[order],
        "held_out": ([test.X.astype(np.float32), hidden[1]], test.y),
    }
    settings = {"loss": "squared", "ridge": 0.01}
    report = resflow.probe(**stream, **settings)
    found = probed(report)
    record(
        run, name="looked at", claim=found.claim, trained=TrainedStream(stream, settings), metrics=found.metrics,
        tags=found.tags, tables={"blocks": report.table().reset_index()}, summary="It was looked at.",
    )  # fmt: skip
    run.end("FINISHED")
    done = verify(project, run.id)
    assert done.returncode == 0, done.stdout
    assert re.search(r"claim_holds +\w+ +same bits", done.stdout)
    assert re.search(r"tables/blocks.csv: verdict +2 values  same bits", done.stdout)
    assert "left out" not in done.stdout
    with pytest.raises(InvalidInputError, match="keeps a network's residual stream"):
        load_model(run.id)
    stream["y"][0] += 1.0
    TrainedStream(stream, settings).keep(run)
    done = verify(project, run.id)
    assert done.returncode == 1
    assert "could not be checked: the stored residual stream has other labels y than table.csv" in done.stdout
