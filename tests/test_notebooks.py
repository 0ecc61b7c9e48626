"""The notebooks as runs: what they record, that it can be repeated, and what bad input leaves behind."""

import base64
import shutil
from importlib.util import find_spec
from pathlib import Path

import chromium
import legible
import numpy as np
import pytest
from bs4 import BeautifulSoup
from described import TAGS, described_metrics, described_tags, matches
from small_notebooks import assert_sound, read_artifact, resflow_here
from warm_kernels import warm_kernels

from resflow.stationarity.report import VERDICTS
from resflow.workflow.names import RESERVED
from resflow.workflow.reports.comparison import load_comparison
from resflow.workflow.verification import verified

ROOT = Path(__file__).parents[1]
TRAIN = "notebooks/train_residual_unit.ipynb"
QUICK = {"steps": 400, "width": 16, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Kernels that have imported everything already, for all notebooks of this module."""
    with warm_kernels(tmp_path_factory.mktemp("kernels")) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory, kernels):
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    table = np.column_stack([np.random.default_rng(0).standard_normal((30, 2)), np.arange(30) % 3])
    np.savetxt(folder / "classes.csv", table, delimiter=",", header="a,b,kind", comments="")
    table[4, 1] = np.nan
    np.savetxt(folder / "holes.csv", table, delimiter=",", header="a,b,kind", comments="")
    return folder


def resflow_run(project, notebook=TRAIN, *, afresh=False, **parameters):
    pairs = [text for name, value in parameters.items() for text in ("-p", name, str(value))]
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false", "JUPYTER_PATH": ""} if afresh else {}
    return resflow_here(project, "run", notebook, *pairs, **environment)


def client_of(project):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")


def runs_of(project):
    client = client_of(project)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


@pytest.fixture(scope="module")
def two_equal_runs(project):
    for afresh in (True, False):  # in a new kernel that compiles by itself, and in one that takes what others compiled
        done = resflow_run(project, afresh=afresh, **QUICK)
        assert done.returncode == 0, done.stderr
    return [run for run in runs_of(project) if run.info.status == "FINISHED"]


def test_training_run_records_its_gap_its_bounds_and_its_inputs(project, two_equal_runs):
    run = two_equal_runs[0]
    metrics, client = run.data.metrics, client_of(project)
    assert metrics["linear_predictor_gap"] < -0.005
    np.testing.assert_allclose(
        metrics["linear_predictor_gap"], metrics["objective"] - metrics["linear/best_objective"], atol=1e-12
    )
    curves = {name: client.get_metric_history(run.info.run_id, name) for name in metrics}
    for name in (
        "objective",
        "linear_predictor_gap",
        "bounds/gap_certificate",
        "bounds/theorem1_bound",
        "norms/partial_grad_norm",
        "norms/w_norm",
        "curvature/lambda_min",
        "curvature/lambda_min_residual",
    ):
        assert [point.step for point in curves[name]] == list(range(0, 401, 20)), name
    for gap, certificate in zip(curves["linear_predictor_gap"], curves["bounds/gap_certificate"], strict=True):
        assert gap.value <= certificate.value + 1e-10
    for gap, bound in zip(curves["linear_predictor_gap"], curves["bounds/theorem3_bound"], strict=True):
        assert gap.value <= bound.value
    assert all(point.value >= 0 for point in curves["bounds/theorem2_slack"])
    assert all(0 <= point.value <= 1e-8 for point in curves["curvature/lambda_min_residual"])
    assert {"norms/V_norm", "test_linear_predictor_gap", "bounds/gap_allowed"} <= set(metrics)
    assert run.data.params["width"] == "16"
    assert run.data.params["dataset"] == "breast_cancer:mean"
    assert run.data.params["batch_size"] == "None"
    assert "linear-predictor gap" in run.data.tags["mlflow.note.content"]
    assert len(run.inputs.dataset_inputs) == 2


def test_training_run_keeps_its_notebook_its_report_and_its_figures(project, two_equal_runs):
    client, run_id = client_of(project), two_equal_runs[0].info.run_id
    kept = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"train_residual_unit.ipynb", "train_residual_unit.html", "figures"} <= kept
    figures = {artifact.path for artifact in client.list_artifacts(run_id, "figures")}
    names = ("objective", "gap", "curvature", "held_out")
    assert figures == {f"figures/{name}.{kind}" for name in names for kind in ("png", "pdf")}
    text = read_artifact(client, client.get_run(run_id), "train_residual_unit.html")
    assert_sound(text)
    page = BeautifulSoup(text, "html.parser")
    facts = [fact.get_text() for fact in page.select(".outcome dt")]
    assert facts == [
        "verdict on the last point",
        "training objective",
        "gap to the best linear predictor",
        "gap on samples not trained on",
    ]
    assert page.select_one(".outcome dd").get_text() == two_equal_runs[0].data.tags["verdict"].replace("_", " ")
    assert two_equal_runs[0].data.tags["verdict"] == "not_stationary"
    assert not page.select("figure img")
    assert len(page.select("figure svg")) == len(names)


MEASURES = """[document.querySelector(".outcome dd").getBoundingClientRect().bottom + scrollY,
    [...document.querySelectorAll("figure.sized :is(img, svg)")].map(image => image.getBoundingClientRect().width),
    document.documentElement.scrollWidth - document.documentElement.clientWidth]"""


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("window", "within"), [((legible.DESK, 900), 900), ((legible.PHONE, 844), 2 * 844)])
def test_report_opens_with_the_verdict_and_shows_figures_as_wide_as_their_texts_need(
    project, two_equal_runs, tmp_path, window, within
):
    text = read_artifact(client_of(project), two_equal_runs[0], "train_residual_unit.html")
    page = tmp_path / "page.html"
    page.write_text(text)
    _, (verdict_ends, widths, beyond) = chromium.evaluated(page, MEASURES, tmp_path, window)
    assert 0 < verdict_ends < within
    assert len(widths) >= 4
    np.testing.assert_allclose(widths, legible.shown_widths(text, window[0]), atol=1.0)
    assert beyond == 0  # the page does not move sideways


def test_runs_are_found_by_their_verdict(project, two_equal_runs, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    verdict = two_equal_runs[0].data.tags["verdict"]
    assert verdict in VERDICTS
    found = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.verdict = '{verdict}'")
    assert {run.info.run_id for run in two_equal_runs} <= set(found["run_id"])
    assert (found["metrics.curvature/lambda_min"] <= 0).all()
    others = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.verdict != '{verdict}'")
    assert not set(others["run_id"]) & set(found["run_id"])
    points = load_comparison(client_of(project), "train_residual_unit").points.set_index("run_id")
    assert points.loc[two_equal_runs[0].info.run_id, "verdict"] == verdict


CLAIMS = {
    "vector_outputs": (
        {"dataset": "wine:all", "steps": 60, "width": 6, "dense_limit": 150},
        "vector_certificate_bounds_gap",
        {"gap", "ranks", "curvature"},
    ),
    "deep_residual_networks": (
        {"blocks": 3, "inner": 2, "wider_inner": 6, "steps": 40, "log_every": 10, "checkpoints": 3},
        "deep_certificate_bounds_gap",
        {"gap", "curvature", "blocks", "near_identity"},
    ),
    "modalities": (
        {"modalities": ["mean", "worst"], "steps": 30, "seeds": 2, "width": 3},
        "superset_best_linear_never_worse",
        {"objectives", "gaps"},
    ),
    "skip_or_not": (
        {"seeds": 12, "widths": [2], "steps": 120, "log_every": 40, "epsilon": 0.1},
        "no_second_order_residual_unit_above_linear",
        {"ends", "shares", "stationary"},
    ),
    "sgd_output_skip": (
        {"longest": 1000, "counts": 2, "parts": 10, "seeds": 4, "width": 4, "inputs": 3},
        "theorem4_bound_holds_in_1_minus_delta_of_seeds",
        {"excess", "slopes"},
    ),
    "probe_network": (
        {"dataset": "wine:all", "steps": 150, "blocks": 2, "width": 4, "learning_rate": 0.01, "batch_size": None}
        | {"hessian": "network"},
        "network_no_worse_than_linear_probe",
        {"depth", "gains", "path"},
    ),
    "probe_torch_network": (
        {"epochs": 4},
        "network_no_worse_than_linear_probe",
        {"course"},
    ),
    "example_order": (
        {"epochs": 8, "seeds": 12, "learning_rates": "[0.03]", "width": 4},
        "grab_ends_below_random_reshuffling",
        {"gap", "paired", "prefix_sums"},
    ),
}


NEEDS_TORCH = "probe_torch_network"
if find_spec("torch") is None:
    del CLAIMS[NEEDS_TORCH]

SMALL = {name: parameters for name, (parameters, *_) in CLAIMS.items()} | {
    "norm_and_regularization": {"most_inputs": 1, "ridges": 2, "starts": 16, "steps": 200, "width": 4},
    "stationary_points": {
        "steps": 30, "width": 3, "starts": 60, "ridge_starts": 130, "atlas_width": 2, "atlas_samples": 20,
    },
    "train_population": {"seeds": 2, "learning_rates": "[0.01]", "steps": 40, "log_every": 20, "width": 3},
    "train_residual_unit": QUICK,
}  # fmt: skip
"""Every notebook that records a run, at the smallest size at which it still says what it says."""


@pytest.mark.parametrize("notebook", CLAIMS)
def test_notebook_tests_its_claim_and_says_how_it_came_out(project, notebook):
    parameters, claim, figures = CLAIMS[notebook]
    done = resflow_run(project, f"notebooks/{notebook}.ipynb", **parameters)
    assert done.returncode == 0, done.stderr
    (run,) = (run for run in finished_runs(project, notebook) if run.data.tags.get("claim") == claim)
    assert run.data.tags["claim_holds"] == "true"
    assert run.data.metrics["claim_margin"] > -1e-9
    assert run.info.status == "FINISHED"
    assert f"claim   {claim.replace('_', ' ')}: holds" in done.stdout
    if notebook in ("sgd_output_skip", NEEDS_TORCH):
        assert_verified(project, run)
    kept = {artifact.path for artifact in client_of(project).list_artifacts(run.info.run_id, "figures")}
    assert kept == {f"figures/{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert_sound(read_artifact(client_of(project), run, f"{notebook}.html"))


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_notebook_that_needs_torch_says_so_in_one_line_where_it_is_not_installed(project):
    done = resflow_run(project, f"notebooks/{NEEDS_TORCH}.ipynb")
    assert done.returncode == 2
    assert "resflow: error: networks of torch need it installed: pip install 'resflow[torch]'" in done.stderr


def test_same_parameters_and_seed_give_bit_identical_metrics(project, two_equal_runs):
    client = client_of(project)
    first, second = (
        {name: [p.value.hex() for p in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
        for run in two_equal_runs
    )
    assert len(first) >= 9
    assert first == second


def test_diverged_run_says_where_and_still_finishes(project):
    settings = {"loss": "squared", "dataset": "diabetes", "optimizer": "sgd", "learning_rate": 100.0, "width": 4}
    done = resflow_run(project, **settings)
    assert done.returncode == 0, done.stderr
    diverged = [run for run in runs_of(project) if run.data.tags.get("diverged_at", "never") != "never"]
    assert len(diverged) == 1
    steps = int(diverged[0].data.tags["diverged_at"])
    assert 0 < steps < 2000
    artifacts = project / "mlruns" / "artifacts" / "train_residual_unit" / diverged[0].info.run_id / "artifacts"
    assert f"training DIVERGED after {steps}" in (artifacts / "train_residual_unit.html").read_text()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dataset": "missing.csv"}, "there is no such file"),
        ({"dataset": "classes.csv", "target": "sort"}, "there is no column 'sort' for the target: nearest are"),
        ({"dataset": "holes.csv", "target": "kind"}, "holes.csv, line 6, column 'b': 'nan' is not finite"),
        ({"dataset": "classes.csv", "target": "kind"}, "has 3 distinct values (0, 1, 2)"),
        ({"dataset": "breast_cancer"}, "separable"),
        ({"dataset": "brest_cancer"}, "unknown: nearest are breast_cancer"),
        ({"width": 0}, "width=0 must be at least 1"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1 must be a positive"),
        ({"optimizer": "adem"}, "nearest is 'adam'"),
        ({"feature_map": "mpl"}, "nearest is 'mlp'"),
        ({"activation": "tahn"}, "nearest is 'tanh'"),
        ({"batch_size": 100000}, "batch_size=100000 must be at most"),
        ({"widht": 8}, "nearest is width"),
        ({"width": "wide"}, "width='wide'"),
    ],
)
def test_bad_input_gets_one_clear_line_and_leaves_nothing_running(project, parameters, message):
    done = resflow_run(project, **parameters)
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("resflow: error: "))
    assert message in line
    assert "Traceback" not in done.stderr
    assert {run.info.status for run in runs_of(project)} <= {"FINISHED", "FAILED"}
    assert not list(project.glob("*.ipynb"))


def test_norm_and_regularization_finds_the_minima_of_shamirs_figure_and_bounds_every_end(project):
    done = resflow_run(project, "notebooks/norm_and_regularization.ipynb", **SMALL["norm_and_regularization"])
    assert done.returncode == 0, done.stderr
    (run,) = (run for run in runs_of(project) if run.data.tags.get("claim", "").startswith("ridge_certificate"))
    assert_sound(read_artifact(client_of(project), run, "norm_and_regularization.html"))
    assert run.data.tags["claim_holds"] == "true"
    np.testing.assert_allclose(run.data.metrics["spurious/ridge_value"], 0.52491385, atol=1e-8)
    np.testing.assert_allclose(run.data.metrics["spurious/circle_value"], 0.0343174257, atol=1e-9)
    np.testing.assert_allclose(run.data.metrics["curvature/flattest_lambda_min"], -1e-6, rtol=1e-6)
    assert_verified(project, run)


def test_stationary_points_finds_no_counterexample_for_the_residual_unit_and_some_for_a_control(project):
    done = resflow_run(project, "notebooks/stationary_points.ipynb", **SMALL["stationary_points"])
    assert done.returncode == 0, done.stderr
    (run,) = (run for run in runs_of(project) if run.data.tags.get("claim", "").startswith("no_stationary_point"))
    text = read_artifact(client_of(project), run, "stationary_points.html")
    assert_sound(text)
    tables = {link.get_text(): link["href"] for link in BeautifulSoup(text, "html.parser").select("footer a")}
    assert set(tables) == {"newton_path.csv", "atlas_counts.csv"}
    for name, address in tables.items():
        csv = base64.b64decode(address.partition("base64,")[2]).decode()
        assert csv == read_artifact(client_of(project), run, f"tables/{name}")
    assert run.data.tags["claim_holds"] == run.data.tags["newton_converged"].lower() == "true"
    assert run.data.metrics["counterexamples"] == 0 < run.data.metrics["counts/stuck_with_ridge"]
    assert run.data.metrics["norms/newton_grad_norm"] <= 1e-10
    assert run.data.metrics["bounds/smallest_slack"] >= -1e-10


def test_every_metric_and_tag_that_a_notebook_records_is_described_and_nothing_else(project):
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {"compare_runs"}
    missing = {NEEDS_TORCH} - SMALL.keys()
    assert SMALL.keys() == there - missing
    metrics, tags = {}, set()
    for notebook, parameters in SMALL.items():
        if not finished_runs(project, notebook):
            done = resflow_run(project, f"notebooks/{notebook}.ipynb", **parameters)
            assert done.returncode == 0, done.stderr
        for run in finished_runs(project, notebook):
            tags |= {tag for tag in run.data.tags if not tag.startswith(RESERVED)}
            for name in run.data.metrics:
                metrics.setdefault(name, set()).add(notebook)
    assert tags == described_tags() - set(TAGS)
    rows = {name: notebooks - missing for name, notebooks in described_metrics().items()}
    logged = {shown: set() for shown in rows}
    for name, notebooks in metrics.items():
        (shown,) = (shown for shown in rows if matches(shown, name))
        logged[shown] |= notebooks
    assert logged == rows


@pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium on this machine")
def test_no_report_asks_for_anything_or_has_a_browser_complain(project, two_equal_runs, tmp_path):
    loud = tmp_path / "loud.html"
    loud.write_text("<!doctype html><title>x</title><img src='far.png'><script>console.log('hello')</script>")
    pages = sorted((project / "mlruns" / "artifacts").glob("*/*/artifacts/*.html"))
    found = chromium.heard([*pages, loud], tmp_path)
    assert len(found.pop("loud.html")) >= 2
    assert set(found) >= {"train_residual_unit.html"}
    assert [text for texts in found.values() for text in texts] == []


REPORTED = "<p>not the report</p>"


def test_report_of_a_run_is_written_again_from_its_notebook(project, two_equal_runs):
    run = two_equal_runs[0].info.run_id
    page = project / "mlruns" / "artifacts" / "train_residual_unit" / run / "artifacts" / "train_residual_unit.html"
    written = page.read_text()
    page.write_text(REPORTED)
    done = resflow_here(project, "report", run, "own.html")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"run     {two_equal_runs[0].info.run_name}" in done.stdout
    assert page.read_text() == written == (project / "own.html").read_text()
    for arguments, message in (
        (
            [run, "--metric", "objective", "--minimize"],
            "is one run: -p, --metric and --maximize are for comparisons: leave them out",
        ),
        ([run, "-p", "best", "3"], "is one run: -p"),
    ):
        done = resflow_here(project, "report", *arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr


def assert_verified(project, run):
    """All numbers, the claim and the tables come out again, of the stored arrays alone."""
    (found,) = verified(client_of(project), [run])
    assert found.holds, found.summary
    assert {"claim_margin", "claim_holds"} < {each.name for each in found.values}
    assert run.data.metrics.keys() <= {each.name for each in found.values}
    tables = {artifact.path for artifact in client_of(project).list_artifacts(run.info.run_id, "tables")}
    assert tables == {each.name.partition(":")[0] for each in found.values if each.name.startswith("tables/")}


def finished_runs(project, notebook):
    client = client_of(project)
    experiment = client.get_experiment_by_name(notebook)
    return client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'") if experiment else []
