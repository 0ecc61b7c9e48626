"""The picture of the theorem: no counterexample with the skip connection; some without it, and some with ridge."""

import equinox as eqx
import jax
import numpy as np
import pytest

from resflow import InvalidInputError, MeanLoss, build_model, feature_map, fit_linear_predictor
from resflow.stationarity.find import STATUSES
from resflow.studies.atlas import RIDGES, chart_networks, chart_shamirs_example, chart_stationary_points

rng = np.random.default_rng(0)
X = rng.standard_normal((50, 1))
Y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 0] + 0.5 + 0.3 * rng.standard_normal(50)
FIT = fit_linear_predictor(X, Y, loss="squared")
OPTIONS = {"max_steps": 60}


def networks(seed):
    key = jax.random.key(seed)
    return chart_networks(X, Y, loss="squared", fit=FIT, width=3, starts=400, key=key, **OPTIONS)


@pytest.fixture(scope="module")
def charted():
    return networks(0)


def test_every_start_is_accounted_for(charted):
    for atlas in charted:
        summary = atlas.summary()
        assert sum(summary[status] for status in STATUSES) == summary["starts"] == 400
        assert summary["distinct"] == len(atlas.gap) > 100
        assert summary["above_linear"] == (atlas.gap > 1e-8).sum()
        assert {len(column) for column in atlas.columns().values()} == {summary["distinct"]}


def test_residual_unit_has_no_point_above_the_linear_predictor_without_a_way_down(charted):
    unit, _ = charted
    above = unit.gap > 1e-8
    assert unit.summary()["stuck_above"] == 0
    assert above.sum() >= 50
    assert (~above).any()
    np.testing.assert_allclose(unit.gap[above], np.mean(0.5 * Y**2) - FIT.objective, rtol=1e-8)
    assert unit.found.lambda_min[above].max() < -1e-6
    np.testing.assert_array_less(np.linalg.norm(unit.found.points.W[above], axis=1), 1e-8)


def test_same_network_without_its_skip_connection_is_stuck_above_with_dead_relus(charted):
    _, control = charted
    assert control.summary()["stuck_above"] >= 10
    stuck = jax.tree.map(lambda leaf: leaf[control.stuck] if hasattr(leaf, "shape") else leaf, control.found.points)
    layer = stuck.feature_map.layers[0].layers[0]
    inputs = np.einsum("mkd,nd->mnk", layer.weight, X) + layer.bias[:, None, :]
    assert (inputs <= 0).all(axis=(1, 2)).any()


def test_shamirs_example_has_its_spurious_minimum_and_loses_it_under_a_strong_ridge():
    charts = chart_shamirs_example(starts=400, ridges=(0.25, 0.5), key=jax.random.key(1))
    (stuck,) = np.flatnonzero(charts[0.25].stuck)
    points = charts[0.25].found.points
    np.testing.assert_allclose([points.W[stuck, 0], points.V[stuck, 0, 0]], [-0.98280626, -1.60268226], atol=1e-8)
    np.testing.assert_allclose(charts[0.25].gap[stuck], 0.52491385 - 0.1, atol=1e-8)
    assert charts[0.25].found.lambda_min[stuck] > 0.5
    minimum = np.argmin(charts[0.25].gap)
    np.testing.assert_allclose(charts[0.25].gap[minimum], 0.07552635 - 0.1, atol=1e-8)
    assert not charts[0.5].stuck.any()
    assert [atlas.found.counts.starts for atlas in charts.values()] == [200, 200]
    assert 0.25 in RIDGES


def test_feature_map_that_is_not_trained_is_left_as_it_is():
    f = feature_map("random_fourier", 1, width=3, key=jax.random.key(0))
    unit = build_model("residual_unit", 1, f, key=jax.random.key(1))
    atlas = chart_stationary_points(
        MeanLoss("squared"), unit, X, Y, linear_objective=FIT.objective, starts=4, key=jax.random.key(2)
    )
    assert atlas.found.counts.starts == 4
    jax.tree.map(np.testing.assert_array_equal, eqx.filter(atlas.found.points.feature_map, eqx.is_array), f)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chart_shamirs_example(starts=9, ridges=(0.1, -0.2), key=jax.random.key(0)), "ridge=-0.2"),
        (lambda: chart_shamirs_example(starts=3, key=jax.random.key(0)), "starts=0 must be at least 2"),
    ],
)
def test_impossible_atlases_are_refused(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
