import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow import InvalidInputError, MeanLoss
from resflow.losses import Squared
from resflow.models.residual_unit import ResidualUnit
from resflow.studies.scalar_example import ScalarExample, disc_minima, flat_saddles, landscape
from tests.rounding import EPS


@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_example_is_a_residual_unit_under_the_squared_loss(epsilon):
    def residual_unit(point):
        unit = ResidualUnit(point[:1], point[1:, None], lambda x: epsilon * x)
        return MeanLoss(Squared())(unit, jnp.ones((1, 1)), jnp.ones(1))

    points = jax.random.normal(jax.random.key(0), (50, 2))
    # Half a square of w(1 + εv) − 1, a difference of terms up to 20 in size whose rounding the square doubles.
    np.testing.assert_allclose(
        jax.vmap(ScalarExample(epsilon))(points), jax.vmap(residual_unit)(points), rtol=1000 * EPS, atol=100 * EPS
    )


def test_saddles_far_out_keep_their_gap_while_their_curvature_vanishes():
    epsilons = np.geomspace(1e-8, 1.0, 5)
    saddles = flat_saddles(epsilons)
    np.testing.assert_allclose(saddles.gap, 0.5, rtol=40 * EPS)
    np.testing.assert_array_less(
        saddles.grad_norm, 10 * EPS
    )  # 1 − ε · (1/ε), which is 0 but for the division's rounding
    np.testing.assert_allclose(saddles.lambda_min, -epsilons, rtol=1e-10)
    np.testing.assert_allclose(saddles.theorem2_left, 1.0, rtol=1e-9)


def test_minima_on_disc_and_under_ridge_are_those_of_an_independent_solution():
    # To 45 digits by mpmath: sphere-constrained stationarity of F on the circle of radius 2.
    bounded = disc_minima(ScalarExample(), 2.0)
    np.testing.assert_allclose(bounded[["w", "v"]], [[-1.0756066517, -1.6861406616]], atol=2e-10)
    np.testing.assert_allclose(bounded.value, [0.0343174257], atol=1e-10)
    assert bounded.on_circle.all()
    assert (bounded.multiplier > 0.1).all()
    assert bounded.residual.max() < 100 * EPS  # terms of the gradient reach 4, at an angle known to 4 EPS
    ridged = disc_minima(ScalarExample(ridge=0.25), 10.0)
    np.testing.assert_allclose(ridged[["w", "v"]], [[0.6596277, 0.32771295], [-0.98280626, -1.60268226]], atol=1e-7)
    np.testing.assert_allclose(ridged.value, [0.07552635, 0.52491385], atol=1e-8)
    assert not ridged.on_circle.any()


def test_no_point_of_the_disc_near_a_minimum_is_lower():
    objective, bounded = ScalarExample(), disc_minima(ScalarExample(), 2.0)
    around = bounded[["w", "v"]].to_numpy()[0] + 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
    around = around[np.linalg.norm(around, axis=1) <= 2.0]
    assert len(around) > 200
    assert (jax.vmap(objective)(jnp.asarray(around)) >= bounded.value[0]).all()


def test_landscape_has_the_second_coordinate_by_rows():
    values = landscape(ScalarExample(ridge=0.5), 3.0, count=7)
    np.testing.assert_allclose(values[5, 1], ScalarExample(ridge=0.5)(jnp.array([-2.0, 2.0])))


def test_impossible_values_are_refused():
    with pytest.raises(InvalidInputError, match=r"epsilon=-1\.0"):
        flat_saddles(np.array([-1.0]))
    with pytest.raises(InvalidInputError, match=r"radius=0\.0"):
        disc_minima(ScalarExample(), 0.0)
