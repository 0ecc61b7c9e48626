"""What single notebooks are about: points that lose rank, deep networks along training, architectures side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import resflow
from resflow.studies.deep_networks import block_fits, bounds_at_best_w, curvature_along
from resflow.studies.example_order import over_seeds
from resflow.studies.rank_loss import spectrum_deviation, truncated_ranks
from resflow.studies.sgd_excess import SGDExcess, excess_table, slope_table, theorem4_bound
from resflow.studies.sgd_sources import TeacherStream
from resflow.studies.skip_comparison import COMPARED, compare_architectures, table_of_ends, train_over

N, D, K, M = 24, 4, 5, 3
RNG = np.random.default_rng(0)
X, F = RNG.standard_normal((N, D)), RNG.standard_normal((N, K))
Y = np.eye(M)[np.arange(N) % M]
REAL = X @ RNG.standard_normal(D) + 0.1 * RNG.standard_normal(N)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("loss", "least"), [("softmax", M - 1), ("squared", M)])
def test_rank_term_vanishes_from_the_rank_on_that_the_loss_needs(loss, least):
    point = resflow.Point(RNG.standard_normal((M, D)), RNG.standard_normal((D, K)), F, X, Y, loss)
    fit = resflow.fit_linear_predictor(X, Y, loss=loss, max_norm=2.0)
    ranks = truncated_ranks(point, fit).set_index("rank")
    assert list(ranks.index) == list(range(least + 1))
    assert (ranks["rank_term"].abs() > 1e-6)[1:].tolist() == [True] * (least - 1) + [False]
    last = resflow.certify(point, fit)
    np.testing.assert_allclose(ranks["gap_certificate"].iloc[-1], last.gap_certificate, rtol=1e-10)
    assert (ranks["linear_predictor_gap"] <= ranks["gap_certificate"] + 1e-12).all()
    few, deviation = spectrum_deviation(point, largest_order=M * D + 2 * D)
    assert few == 2
    assert deviation < 1e-13
    none, unknown = spectrum_deviation(point, largest_order=M * D)
    assert none == 0
    assert np.isnan(unknown)


def test_deep_network_is_examined_block_by_block():
    maps = [resflow.feature_map("mlp", d, width=2, activation="tanh", key=jax.random.key(d)) for d in (D, 2)]
    models = [
        resflow.build_model("deep_residual_network", D, maps, inner=2, key=jax.random.key(seed), scale=0.5)
        for seed in range(2)
    ]
    fit = resflow.fit_linear_predictor(X, REAL, loss="squared")
    points = [resflow.Point.of(model, X, REAL, "squared") for model in models]
    curvature, expected = curvature_along(points), resflow.spectrum(points[1]).eigenvalues
    np.testing.assert_allclose(curvature["lambda_min"][1], expected[0], atol=1e-12)
    fits = block_fits(points, max_norm=100.0)
    np.testing.assert_allclose([row[0].objective for row in fits], fit.objective, rtol=1e-10)
    found = bounds_at_best_w(points, [row[-1] for row in fits], fit)
    np.testing.assert_allclose(found["linear_predictor_gap"], [r[-1].objective - r[0].objective for r in fits])
    np.testing.assert_allclose(found[["block_1", "block_2"]].sum(axis=1), found["gap_certificate"], atol=1e-12)
    assert (found["gap_certificate"] <= found["near_identity_bound"] + 1e-12).all()


def test_architectures_are_compared_run_by_run():
    fit = resflow.fit_linear_predictor(X, REAL, loss="squared")
    ends, along, models = compare_architectures(
        X, REAL, loss="squared", fit=fit, seeds=range(3), widths=[3, 2], epsilon=0.1,
        training={"steps": 40, "log_every": 20}, activation="relu",
    )  # fmt: skip
    assert len(ends) == 2 * len(COMPARED) * 3
    assert along.groupby("architecture")["step"].unique().map(list).to_dict() == {
        name: [0, 20, 40] for name in COMPARED
    }
    assert (ends["slack"] >= -1e-12).all()
    assert (ends["above"] == (ends["linear_predictor_gap"] > 1e-9)).all()
    assert not ends["one_signed"][ends["architecture"] != "no_skip"].any()
    last = along[along["step"] == 40].set_index(["architecture", "member"])["linear_predictor_gap"]
    narrow = ends[ends["width"] == 2]
    np.testing.assert_allclose(narrow["linear_predictor_gap"], last.loc[list(COMPARED)], atol=1e-12)
    table = table_of_ends(ends)
    assert table["runs"].tolist() == [3] * 6
    assert list(models) == [f"{name} {width}" for width in (2, 3) for name in COMPARED]
    assert models["no_skip 3"].v.shape == (3, 3)
    assert table["above_linear"].sum() == ends["above"].sum()


def test_units_over_any_feature_map_are_bounded_by_their_certificates():
    fit = resflow.fit_linear_predictor(X, REAL, loss="squared")
    options = resflow.TrainingOptions(steps=10, log_every=5)
    table = train_over(
        {"sine": jnp.sin, "square": lambda x: x**2}, X, REAL, loss="squared", fit=fit, options=options,
        key=jax.random.key(0),
    )  # fmt: skip
    assert list(table.index) == ["sine", "square"]
    assert (table["least slack"] >= -1e-12).all()


def test_excess_and_slopes_are_tabulated_by_source_and_way():
    steps = np.array([100.0, 400.0, 1600.0])
    bound = theorem4_bound(steps, distance=1.0, step_size=1 / np.sqrt(steps), lipschitz=1.0, loss_range=1.0, delta=0.1)
    excess = np.outer(2.0 / np.sqrt(steps), [1.0, 1.5])
    result = SGDExcess(steps, 1 / np.sqrt(steps), excess, excess - 0.01, bound, 1.0, 1.0)
    table, slopes = excess_table({("here", "fixed"): result}), slope_table({("here", "fixed"): result})
    np.testing.assert_allclose(table["mean"], excess.mean(axis=1))
    np.testing.assert_allclose(table["share_within"], (excess <= bound.total[:, None]).mean(axis=1))
    assert table["steps"].tolist() == [100, 400, 1600]
    np.testing.assert_allclose(slopes[["slope", "low", "high"]], -0.5)
    assert slopes["fit"].tolist() == ["all T", "T ≥ 400"]
    stream = TeacherStream.random(3, 0.5, seed=1)
    np.testing.assert_allclose([np.linalg.norm(stream.u), np.linalg.norm(stream.v)], 1.0)


def test_orders_are_summarised_over_seeds():
    measured = RNG.standard_normal((400, 2))
    nine_in_ten, of_mean = (over_seeds({(0.1, "grab"): measured}, of_mean=of_mean) for of_mean in (False, True))
    expected = pd.DataFrame({"learning_rate": 0.1, "order": "grab", "epoch": [1, 2], "mean": measured.mean(axis=0)})
    pd.testing.assert_frame_equal(nine_in_ten[list(expected)], expected)
    inside = (measured >= nine_in_ten["low"].to_numpy()) & (measured <= nine_in_ten["high"].to_numpy())
    np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=0.01)
    np.testing.assert_allclose(of_mean["high"] - of_mean["low"], 2 * 1.96 * measured.std(axis=0, ddof=1) / 20.0)
    assert np.isinf(over_seeds({(0.1, "grab"): measured[:1]}, of_mean=True)["high"]).all()
