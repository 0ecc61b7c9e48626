"""Many runs in few numbers, and the sentences made of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from resflow.workflow.reports.findings import (
    curves_finding,
    share_finding,
    spread_finding,
    verdicts_finding,
)
from resflow.workflow.reports.metrics import LEVEL
from resflow.workflow.reports.statistics import (
    SUMMARY_COLUMNS,
    above_linear,
    best_runs,
    level_axis,
    median_curves,
    representative_runs,
    second_axis,
    spread,
)

GAP = "linear_predictor_gap"


@pytest.fixture(scope="module")
def points():
    """Widths × architectures × 9 seeds; without the skip every third seed ends above, and one run has diverged."""
    rows = [
        (f"{kind}{width}-{seed}", kind, width, seed, 0.2 if kind == "bare" and seed % 3 == 0 else -width / 100 - seed)
        for kind in ("skip", "bare")
        for width in (4, 16, 64)
        for seed in range(9)
    ]
    frame = pd.DataFrame(rows, columns=["run_id", "kind", "width", "seed", GAP])
    frame.loc[(frame["kind"] == "bare") & (frame["width"] == 4) & (frame["seed"] == 1), GAP] = np.nan
    return frame


def test_spread_gives_median_and_range_over_everything_else(points):
    table = spread(points, "width", GAP, by="kind").set_index(["kind", "width"])
    for (kind, width), row in table.iterrows():
        values = points[(points["kind"] == kind) & (points["width"] == width)][GAP].fillna(np.inf)
        assert row["median"] == np.median(values)
        assert (row["low"], row["high"], row["runs"]) == (values.min(), values.max(), 9)
        assert (row["first_quartile"], row["third_quartile"]) == (
            values.sort_values().iloc[2],
            values.sort_values().iloc[6],
        )
    assert spread(points, "width", GAP)["width"].tolist() == [4, 16, 64]
    assert spread(points, "kind", GAP)["kind"].tolist() == ["skip", "bare"]


def test_spread_cuts_a_sampled_axis_into_bins_of_equal_count():
    rng = np.random.default_rng(0)
    rates = np.exp(rng.uniform(-7, 0, 160))
    table = spread(pd.DataFrame({"rate": rates, GAP: np.log(rates)}), "rate", GAP)
    assert table["runs"].tolist() == [20] * 8
    assert table["median"].is_monotonic_increasing


def test_share_above_counts_what_is_not_finite_and_has_an_exact_interval(points):
    table = above_linear(points, by="kind").set_index("kind")
    assert table["above"].to_dict() == {"skip": 0, "bare": 10}
    assert table["not_finite"].to_dict() == {"skip": 0, "bare": 1}
    # Clopper and Pearson by their definition: quantiles of beta distributions
    assert table.loc["skip", "low"] == 0
    np.testing.assert_allclose(table.loc["skip", "high"], 1 - 0.025 ** (1 / 27))
    np.testing.assert_allclose(
        table.loc["bare", ["low", "high"]].astype(float),
        [stats.beta.ppf(0.025, 10, 18), stats.beta.ppf(0.975, 11, 17)],
    )


def test_gap_at_rounding_level_is_not_above():
    assert above_linear(pd.DataFrame({GAP: [1e-12, -1.0, 1e-6]}))["above"].tolist() == [1]


def test_best_runs_never_prefer_what_is_not_finite(points):
    assert best_runs(points, GAP, 1)["run_id"].item() == "skip64-8"
    assert best_runs(points, GAP, len(points))["run_id"].iloc[-1] == "bare4-1"


def test_axes_for_colour_and_for_panels_are_found(points):
    assert second_axis(points, ["width", "kind", "seed"]) == "kind"
    assert second_axis(points, ["width", "kind", "seed"], besides=["kind"]) == "width"
    assert second_axis(points, ["seed"]) is None
    levels = points["kind"].map({"skip": 0.1, "bare": 0.7}) + 0.001 * points["seed"]
    with_levels = points.assign(**{LEVEL: levels})
    assert level_axis(with_levels, ["width", "kind", "seed"]) == "kind"
    assert level_axis(points.assign(**{LEVEL: 0.3}), ["width", "kind"]) is None


def test_few_runs_stand_for_many_with_best_and_worst_among_them(points):
    chosen = representative_runs(points, GAP, 10, by=["kind"])
    assert len(chosen) == 10
    assert chosen["kind"].value_counts().to_dict() == {"skip": 5, "bare": 5}
    assert {"skip64-8", "skip4-0", "bare64-8", "bare4-1"} < set(chosen["run_id"])
    assert len(representative_runs(points, GAP, 1000)) == len(points)


def test_median_curves_hold_only_where_half_of_the_runs_do():
    runs = {"a": [3, 2, 1], "b": [5, 4, np.inf], "c": [1, 1], "d": [7]}
    rows = [(run, step, value) for run, values in runs.items() for step, value in enumerate(values)]
    curves = median_curves(pd.DataFrame(rows, columns=["run_id", "step", "value"]))
    assert curves["step"].tolist() == [0, 1, 2]
    assert curves["value"].tolist() == [4.0, 2.0, np.inf]


def test_findings_say_what_the_numbers_are(points):
    assert spread_finding(spread(points, "width", GAP), "width", GAP) == (
        "median gap between −4.14 and −3.54 along width"
    )
    assert share_finding(points, by="kind") == (
        "above the best linear predictor at the end: 0 of 27 with skip, 10 of 27 with bare"
    )
    assert share_finding(points[points["kind"] == "skip"]) == "all 27 runs end at or below the best linear predictor"
    counts = pd.DataFrame({"verdict": ["sopsp_above_linear", "not_stationary"], "runs": [2, 5]})
    assert verdicts_finding(counts) == "of 7 runs 5 not stationary, 2 stationary above linear"


def test_curves_finding_counts_a_curve_from_the_step_it_stays_below():
    values = {"a": [1, -1, 1, -1], "b": [1, -1, -1, -1], "c": [1, 1, 1, 1], "d": [-1, -1, -1, -1]}
    rows = [(run, 10 * step, value) for run, curve in values.items() for step, value in enumerate(curve)]
    histories = pd.DataFrame(rows, columns=["run_id", "step", "value"])
    finding = curves_finding(histories, GAP, pd.Series(0.0, index=list(values)))
    assert finding == "3 of 4 curves end below the best linear predictor, half of all curves from step 10 on"


def test_columns_of_their_own_are_all_named(points):
    histories = pd.DataFrame({"run_id": ["a"], "step": [0], "value": [1.0]})
    tables = (spread(points, "width", GAP), above_linear(points, by="kind"), histories, median_curves(histories))
    own = {name for table in tables for name in table} - {"width", "kind"}
    assert own | {"all"} == SUMMARY_COLUMNS  # median_curves counts a group's runs in "all"
