"""Comparing runs: what is read from MLflow, what is drawn of it, and the report of a sweep."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import chromium
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from fabricated_runs import LEVEL, STEPS, fabricate, make
from mlflow.tracking import MlflowClient
from small_notebooks import assert_sound

from resflow.errors import InvalidInputError
from resflow.plots.comparison import plot_curves
from resflow.workflow.cli import main
from resflow.workflow.goal import Goal
from resflow.workflow.reports import overview
from resflow.workflow.reports.comparison import load_comparison, read_histories
from resflow.workflow.reports.headline import headline, headline_lines

ROOT = Path(__file__).parents[1]
RESFLOW = Path(sys.executable).parent / "resflow"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def client(project):
    return fabricate(project)


@pytest.fixture(scope="module")
def skip(client):
    return load_comparison(client, "skip")


@pytest.fixture(scope="module")
def width(client):
    return load_comparison(client, "width")


def test_members_of_a_population_are_its_runs_with_the_parameters_of_both(skip):
    assert skip.kind == "sweep"
    assert skip.axes == ("architecture", "learning_rate", "seed")
    assert skip.statuses == {"FINISHED": 36}
    assert set(skip.runs["role"]) == {"member"}
    assert skip.points.groupby(["architecture", "learning_rate"]).size().to_dict() == {
        (kind, rate): 6 for kind in ("residual_unit", "no_skip") for rate in (0.001, 0.01, 0.1)
    }
    assert skip.runs["width"].tolist() == [16] * 36
    stuck = skip.points["verdict"] == "sopsp_above_linear"
    assert (skip.points[stuck]["linear_predictor_gap"] == 0.35).all()
    assert stuck.sum() == 6


def test_every_point_counts_once_and_the_rest_is_said(width):
    assert width.statuses == {"FINISHED": 8, "FAILED": 1, "RUNNING": 1, "superseded": 1}
    assert len(width.points) == len(width.points.drop_duplicates(["width", "seed"])) == 8
    said = overview.summary(width)
    assert "**8 finished runs** (not counted: 1 failed, 1 still running, 1 superseded by" in said


def test_runs_finished_for_another_sweep_are_counted(width):
    (row,) = width.points[(width.points["width"] == 4) & (width.points["seed"] == 0)].itertuples()
    np.testing.assert_allclose(row.linear_predictor_gap, -0.04)


def test_infinite_values_come_back_as_such(width):
    (row,) = width.points[(width.points["width"] == 4) & (width.points["seed"] == 1)].itertuples()
    assert row.linear_predictor_gap == np.inf


def test_experiment_is_compared_by_the_parameters_that_differ(client):
    comparison = load_comparison(client, "train_residual_unit")
    assert comparison.kind == "experiment"
    assert comparison.parent_id is None
    assert comparison.axes == ("width", "seed")


def test_parameters_may_be_called_as_what_is_computed_of_them(tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("named", artifact_location=str(tmp_path))
    for place in range(8):
        run = client.create_run(experiment, tags=Goal("linear_predictor_gap").tags).info.run_id
        for name, value in {"median": place // 4, "runs": place // 2 % 2, "status": place % 2}.items():
            client.log_param(run, name, value)
        for step in (0, 10):
            client.log_metric(run, "linear_predictor_gap", -place * step / 100, step=step)
            client.log_metric(run, "objective", 1.0 - place * step / 100, step=step)
        client.log_metric(run, "best_linear_objective", 1.0)
        client.set_terminated(run)
    comparison = load_comparison(client, "named")
    assert comparison.axes == ("median (parameter)", "runs (parameter)", "status (parameter)")
    assert comparison.statuses == {"FINISHED": 8}
    assert list(overview.spread_figures(comparison)) == list(comparison.axes)
    figures = (overview.curves_figure(client, comparison), overview.grid_figure(comparison))
    for figure in figures:
        figure.canvas.draw()
    assert "median (parameter) 0, runs (parameter) 1" in overview.best_table(comparison)


def foreign(root, tags=None, names=("accuracy",)):
    """A sweep of somebody else's notebook: accuracies along training, over two axes, one run without a finite value."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.create_experiment("foreign", artifact_location=(root / "artifacts").as_uri())
    parent = make(client, experiment, role="sweep", sweep="foreign", name="foreign", axes=["C", "kind"], tags=tags)
    for place, (strength, kind) in enumerate((c, kind) for c in (0.01, 1.0, 100.0) for kind in ("a", "b")):
        parameters = {"C": strength, "kind": kind}
        run = make(
            client,
            experiment,
            role="run",
            sweep="foreign",
            parent=parent,
            status="RUNNING",
            name=kind,
            parameters=parameters,
        )
        for name in names:
            for step in (0, 1, 2):
                client.log_metric(
                    run, name, float("nan") if place == 5 and step == 2 else 0.5 + place * step / 20, step=step
                )
        client.set_terminated(run)
    return client, parent


def test_best_is_the_largest_where_the_sweep_says_so(tmp_path):
    client, parent = foreign(tmp_path, Goal("accuracy", maximize=True).tags)
    comparison = load_comparison(client, "foreign")
    assert comparison.goal == Goal("accuracy", maximize=True)
    assert "The best of them has `accuracy` 0.9, the largest." in overview.summary(comparison)
    rows = BeautifulSoup(overview.best_table(comparison), "html.parser").select("tbody tr")
    assert [row.find_all("td")[0].get_text() for row in rows] == ["0.9", "0.8", "0.7", "0.6", "0.5", "none"]
    drawn = [*overview.spread_figures(comparison).values(), overview.curves_figure(client, comparison)]
    drawn.append(overview.grid_figure(comparison))
    for figure in drawn:
        figure.canvas.draw()
        texts = [text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))]
        assert "accuracy" in " ".join(texts)
        assert not [text for text in texts if "linear" in text or "gap" in text]
    assert "6 runs" in drawn[-2].get_suptitle()
    assert drawn[-1].axes[0].get_title(loc="left").startswith("Median accuracy highest at kind a, C 100 (0.9)")
    (axes,) = drawn[0].axes
    crosses = [dots for dots in axes.collections if dots.get_label() == "diverged: not finite"]
    assert crosses
    worst, _, best, run = overview.attach_overview(client, parent)
    assert worst == "worst   C 100, b: not a number"
    assert best == "best    C 100, a: 0.9"
    assert re.fullmatch(r" {8}run [0-9a-f]{32}", run)
    drawn = {artifact.path for artifact in client.list_artifacts(parent, "figures") if artifact.path.endswith("pdf")}
    names = ("accuracy_against_C", "accuracy_against_kind", "curves", "two_axes")
    assert drawn == {f"figures/{name}.pdf" for name in names}


def test_nothing_is_called_best_of_runs_of_which_nobody_says_what_is(tmp_path):
    client, parent = foreign(tmp_path)
    comparison = load_comparison(client, "foreign")
    assert comparison.goal is None
    assert overview.towards(comparison) is comparison
    assert "Which of them is best is not known" in overview.summary(comparison)
    assert overview.best_table(comparison) == ""
    assert overview.attach_overview(client, parent) == []


def test_direction_is_asked_for_unless_the_metric_tells(tmp_path, width):
    client, _ = foreign(tmp_path, names=("accuracy", "test_linear_predictor_gap"))
    comparison = load_comparison(client, "foreign")
    with pytest.raises(
        InvalidInputError, match=r"metric='accuracy': is more of it better\? Say direction: maximize or"
    ):
        overview.towards(comparison, "accuracy")
    assert overview.towards(comparison, "accuracy", "maximize").goal == Goal("accuracy", maximize=True)
    assert overview.towards(comparison, "test_linear_predictor_gap").goal == Goal("test_linear_predictor_gap")
    with pytest.raises(InvalidInputError, match="direction='most' must be minimize or maximize"):
        overview.towards(comparison, "accuracy", "most")
    with pytest.raises(InvalidInputError, match="direction='maximize' says what is better of a metric: name"):
        overview.towards(comparison, "", "maximize")
    assert overview.towards(width).goal == width.goal == Goal("linear_predictor_gap")


def test_metric_that_a_sweep_names_and_no_run_recorded_is_said(tmp_path):
    client, parent = foreign(tmp_path, Goal("acuracy", maximize=True).tags)
    with pytest.raises(InvalidInputError, match=r"metric='acuracy' was recorded by no .*nearest are accuracy"):
        overview.towards(load_comparison(client, "foreign"))
    assert overview.attach_overview(client, parent) == []


def test_without_a_name_the_latest_is_taken_and_a_comparing_run_is_not(client, project):
    experiment = client.create_experiment("compare_runs")
    client.create_run(experiment, tags={"mlflow.source.name": "notebooks/compare_runs.ipynb"})
    assert load_comparison(client).name == "width"


def test_unknown_names_and_metrics_are_answered_with_the_nearest(client, width):
    with pytest.raises(InvalidInputError, match="'wdth': nearest are width"):
        load_comparison(client, "wdth")
    with pytest.raises(InvalidInputError, match=r"metric='objektive'.*nearest are objective"):
        overview.towards(width, "objektive")


def test_histories_of_many_runs_are_one_frame(client, skip):
    frame = read_histories(client, skip.points["run_id"], "objective")
    assert frame["run_id"].drop_duplicates().tolist() == skip.points["run_id"].tolist()
    for run_id, curve in frame.groupby("run_id"):
        assert curve["step"].tolist() == list(STEPS)
        assert curve["value"].iloc[-1] == skip.points.set_index("run_id").loc[run_id, "objective"]
    assert read_histories(client, skip.points["run_id"], "absent").empty


def test_figures_show_every_run_with_the_linear_predictors_level(client, skip):
    figures = overview.spread_figures(skip)
    assert list(figures) == ["architecture", "learning_rate"]
    (axes,) = figures["learning_rate"].axes
    assert axes.get_title(loc="left").endswith("6 of 36 runs end above the best linear predictor")
    assert sum(len(dots.get_offsets()) for dots in axes.collections if hasattr(dots, "get_offsets")) >= 36
    assert axes.get_xscale() == "log"
    (axes,) = overview.curves_figure(client, skip).axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "best linear predictor"] == [LEVEL]
    assert "30 of 36 curves end below" in axes.figure.get_suptitle()
    (axes,) = overview.verdicts_figure(skip).axes
    assert sorted(bar.get_width() for bars in axes.containers for bar in bars) == [0, 4, 6, 6, 8, 12]
    axes = overview.grid_figure(skip).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "architecture")
    medians = skip.points.groupby(["architecture", "learning_rate"], sort=False)["linear_predictor_gap"].median()
    said = [float(text.get_text().removeprefix("≈ ").replace("−", "-")) for text in axes.texts]
    np.testing.assert_allclose(said, medians, rtol=5e-3)


def test_one_run_alone_is_drawn_as_well(skip):
    first = skip.points["run_id"].iloc[:1]
    alone = dataclasses.replace(skip, axes=(), runs=skip.runs.loc[first], metrics=skip.metrics.loc[first])
    (figure,) = overview.spread_figures(alone).values()
    figure.canvas.draw()
    assert figure.axes[0].get_title(loc="left").startswith("Median gap")


def test_diverged_runs_are_drawn_and_said(client, width):
    figure = overview.spread_figures(width)["width"]
    figure.canvas.draw()
    assert "diverged: not finite" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert overview.grid_figure(width) is None  # one axis beside seeds
    assert overview.verdicts_figure(width) is None
    overview.curves_figure(client, width).canvas.draw()


def test_legend_of_curves_names_what_any_panel_shows():
    frame = pd.DataFrame(
        {
            "run_id": ["a", "a", "b", "b", "c", "c"],
            "step": [0, 10] * 3,
            "value": [1.0, 0.5] * 3,
            "loss": ["logistic"] * 2 + ["squared"] * 4,
            "dataset": ["one", "one", "two", "two", "three", "three"],
        }
    )
    levels = dict.fromkeys(["one", "two", "three"], (0.7, 0.7))
    figure = plot_curves(frame, frame, levels, "objective", title="Curves", by="loss", panel="dataset")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["logistic", "squared", "best linear predictor"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "optimiser step", "optimiser step", ""]


def test_table_of_the_best_leads_to_their_pages(skip):
    soup = BeautifulSoup(overview.best_table(skip, count=3, address="http://127.0.0.1:5000"), "html.parser")
    links = [link["href"] for link in soup.find_all("a")]
    best = skip.points.nsmallest(3, "linear_predictor_gap")
    assert links == [
        f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}?workflowType=machine_learning"
        for run_id in best["run_id"]
    ]
    relative = BeautifulSoup(overview.best_table(skip, count=1), "html.parser").a["href"]
    assert relative.startswith("#/experiments/1/runs/")
    named = [link.get_text() for link in soup.find_all("a")]
    assert named[0] == "residual_unit, learning_rate 0.1, seed 5"  # as they are to be searched for


def test_runs_are_called_by_what_varies_and_nothing_else(skip):
    fixed = dataclasses.replace(skip, axes=("width", *skip.axes))
    assert fixed.run_names.tolist() == skip.run_names.tolist()
    assert skip.run_names[0] == "residual_unit, learning_rate 0.001, seed 0"
    one = skip.runs.index[skip.runs["seed"] == 0]
    alone = dataclasses.replace(skip, runs=skip.runs.loc[one], metrics=skip.metrics.loc[one])
    assert alone.run_names[0] == "residual_unit, learning_rate 0.001"
    single = dataclasses.replace(skip, runs=skip.runs.iloc[:1], metrics=skip.metrics.iloc[:1])
    assert single.run_names.tolist() == single.points["run_name"].tolist()


def test_table_escapes_what_runs_say_of_themselves(skip):
    hostile = skip.runs.assign(architecture=[f"<script>alert({place % 2})</script>" for place in range(36)])
    table = overview.best_table(dataclasses.replace(skip, runs=hostile))
    assert "&lt;script&gt;" in table
    assert "<script>" not in table


def test_headline_counts_runs_below_linear_and_names_those_above_the_worst_and_the_best(skip, width):
    shares, above, table, ends = headline(skip, address="http://127.0.0.1:5000").split("\n\n")
    assert shares == "**30 of 36 at or below the best linear predictor**: residual unit 18/18, no skip 12/18."
    assert above == "Above it, the worst first."
    head, _, *rows = table.splitlines()
    assert head == "| run | gap | verdict on its end |"  # nothing was held out
    assert len(rows) == 6
    stuck = skip.points[skip.points["verdict"] == "sopsp_above_linear"]
    assert {re.search(r"/runs/(\w+)\?workflowType=machine_learning\)", row)[1] for row in rows} == set(stuck["run_id"])
    assert all(
        re.match(r"\| \[no\\_skip, learning\\_rate 0\.\d+, seed [03]]\(http.*\) \| 0\.35 \| stationary, above", row)
        for row in rows
    )
    worst, best = (re.search(rf"The {which} by linear predictor gap: \[(.*?)]", ends)[1] for which in ("worst", "best"))
    assert worst.startswith("no\\_skip")
    assert best == "residual\\_unit, learning\\_rate 0.1, seed 5"
    assert headline(width).split("\n\n")[2].splitlines()[2].split(" | ")[1:] == ["∞ |"]  # the run that diverged


def test_headline_names_ten_of_many_and_leads_to_all_of_them(skip):
    runs, metrics = skip.runs.copy(), skip.metrics.copy()
    metrics["linear_predictor_gap"] = np.arange(36) - 3.0
    metrics["test_linear_predictor_gap"], metrics["test/linear_predictor_gap_error"] = 0.25, 0.02
    many = dataclasses.replace(skip, runs=runs, metrics=metrics)
    _, above, table, ends = headline(many, address="http://a").split("\n\n")
    assert above.startswith(
        "Above it, the worst first. The first 10 of 32; [MLflow lists all](http://a/#/experiments/1/"
    )
    condition = unquote(re.search(r"searchFilter=(.*)\)", above)[1])
    assert condition == "metrics.linear_predictor_gap > 0.000000001 and tags.`resflow.sweep` = 'skip'"
    rows = table.splitlines()[2:]
    assert [row.split(" | ")[1:3] for row in rows] == [[str(gap), "0.250 ± 0.020"] for gap in range(32, 22, -1)]
    assert "(32, held out 0.250 ± 0.020)" in ends
    lines = headline_lines(many)
    assert lines[0] == "4 of 36 at or below the best linear predictor: residual unit 4/18, no skip 0/18"
    assert lines[1].startswith(
        "above   no_skip, learning_rate 0.1, seed 5: 32, held out 0.250 ± 0.020, stationary, at or"
    )
    assert lines[21:22] == ["        and 22 more"]
    assert [line[:8] for line in lines[22:]] == ["worst   ", "        ", "best    ", "        "]


def test_runs_of_version_0_1_0_are_compared_by_the_names_that_metrics_have_now(client, skip, width):
    for comparison in (skip, width):  # the latter recorded by that version
        assert {"linear/best_objective", "norms/partial_grad_norm"} <= set(comparison.points)
        assert not {"best_linear_objective", "partial_grad_norm"} & set(comparison.metrics)
        by_now, by_then = (
            overview.towards(comparison, name) for name in ("norms/partial_grad_norm", "partial_grad_norm")
        )
        assert by_now.goal == by_then.goal == Goal("norms/partial_grad_norm")
        run_ids = list(comparison.points["run_id"])
        assert set(read_histories(client, run_ids, "norms/partial_grad_norm")["run_id"]) == set(run_ids)


def test_metrics_of_others_keep_their_names(tmp_path):
    client, _ = foreign(tmp_path, names=("members", "lambda_min"))
    comparison = load_comparison(client, "foreign")
    assert {"members", "lambda_min"} == set(comparison.metrics)
    assert overview.towards(comparison, "lambda_min", "minimize").goal == Goal("lambda_min")


def test_headline_escapes_what_runs_say_of_themselves(skip):
    hostile = skip.runs.assign(
        architecture=[f"](javascript:alert(1)) <b>*x*|\n# {'yz'[place % 2]}" for place in range(36)]
    )
    text = headline(dataclasses.replace(skip, runs=hostile), address="http://a")
    assert "\\]" in text
    assert re.search(r"\\<b>\\\*x\\\*\\\| # [yz]", text)


def test_overview_is_attached_to_the_sweeps_parent(client, skip):
    lines = overview.attach_overview(client, skip.parent_id)
    assert lines == headline_lines(skip)
    parent = client.get_run(skip.parent_id)
    assert parent.data.metrics["points_above_linear"] == 6
    assert parent.data.tags["mlflow.note.content"].startswith("**30 of 36 at or below")
    attached = {artifact.path for artifact in client.list_artifacts(skip.parent_id, "figures")}
    names = {path.rpartition(".")[0] for path in attached}
    assert attached == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert {"figures/curves", "figures/verdicts", "figures/two_axes"} < names


def test_report_is_one_file_with_every_figure_and_attached(client, project, skip, tmp_path):
    before = len(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
    done = subprocess.run(
        [RESFLOW, "report", "skip", "skip.html"], cwd=project, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert_sound((project / "skip.html").read_text())
    if chromium.PROGRAM is not None:
        assert chromium.heard([project / "skip.html"], tmp_path) == {"skip.html": []}
    soup = BeautifulSoup((project / "skip.html").read_text(), "html.parser")
    assert len(soup.select("figure svg")) == 5
    titles = [title.get_text() for title in soup.select("figure svg use title")]
    assert (
        "residual_unit, learning_rate 0.1, seed 5\nlearning rate: 0.1\nobjective minus best linear objective: −0.115"
        in (titles)
    )
    assert len(titles) == 2 * 36 + 2 * 6  # every run in two figures, and the medians in them
    assert len(soup.select(".html table a[href*='/runs/']")) == 10
    assert len(soup.select(".outcome table a[href*='/runs/']")) == 6
    assert len(soup.select(".outcome p a[href*='/runs/']")) == 2
    assert "30 of 36 at or below the best linear predictor" in soup.select_one(".outcome").get_text()
    assert not soup.select(".failure, .stderr, script")
    kept = Path(client.download_artifacts(skip.parent_id, "report.html")).read_text()
    assert kept == (project / "skip.html").read_text()
    after = len(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "skipp"], "no sweep or experiment is called 'skipp': nearest are skip"),
        (["report", "0" * 32], f"no run, sweep or experiment has the id or the name '{'0' * 32}': nearest are"),
        (["report", "skip", "nowhere/out.html"], "there is no folder nowhere"),
        (["report", "skip", "-p", "metrik", "objective"], "nearest is metric"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(client, project, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["resflow", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
