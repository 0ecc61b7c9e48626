"""From every strict saddle there is a way down, and `escape` finds it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from problems import ROUNDING

from resflow.errors import InvalidInputError
from resflow.losses.scalar import as_loss
from resflow.spectrum.smallest_eigenvalue import smallest_partial_eigenvalue
from resflow.stationarity.escape import escape


def objective(w, V, features, X, y, loss):
    return np.mean(as_loss(loss).value((X + features @ V.T) @ w, y))


def saddle(seed, n, d, k, loss):
    """A stationary point with w = 0 that is not the best linear predictor: V = −(mean ℓ'x) gᵀ/‖g‖²."""
    w, _, features, X, y = problems.point(seed, n, d, k, loss, w_norm=0.0)
    slope = as_loss(loss).derivative(np.zeros(n), y) / n
    g = slope @ features
    return problems.Point(w, -np.outer(slope @ X, g) / (g @ g), features, X, y)


@pytest.mark.parametrize(
    ("shape", "loss"),
    [("wide", "logistic"), ("one_input", "squared"), ("few_samples", "pseudo_huber"), ("wide", "squared")],
)
def test_escape_leaves_every_saddle_at_w_zero_with_the_decrease_it_reports(loss, shape):
    for seed in range(5):
        point = saddle(seed, *problems.SHAPES[shape], loss)
        found = escape(*point, loss=loss)
        assert found.escaped
        before = objective(*point, loss)
        after = objective(found.w, found.V, *point[2:], loss)
        assert after < before
        np.testing.assert_allclose(found.decrease, before - after, rtol=1e-8, atol=ROUNDING * before)
        np.testing.assert_allclose(found.objective, after, rtol=ROUNDING, atol=ROUNDING * before)
        promised = abs(found.slope) * found.step + 0.5 * abs(found.curvature) * found.step**2
        assert found.decrease >= 0.25 * promised
        moved = np.hypot(np.linalg.norm(found.w - point.w), np.linalg.norm(found.V - point.V))
        np.testing.assert_allclose(moved, found.step, rtol=1e-10)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_slope_and_curvature_are_those_of_the_objective_along_the_direction(loss):
    point = problems.point(3, *problems.SHAPES["wide"], loss)
    found = escape(*point, loss=loss)

    def along(t):
        w, V = point.w + t * found.direction_w, point.V + t * found.direction_V
        return jnp.mean(as_loss(loss).value((point.X + point.features @ V.T) @ w, jnp.asarray(point.y)))

    np.testing.assert_allclose(found.slope, jax.grad(along)(0.0), rtol=1e-9)
    np.testing.assert_allclose(found.curvature, jax.grad(jax.grad(along))(0.0), rtol=1e-9)
    np.testing.assert_allclose(found.curvature, smallest_partial_eigenvalue(*point, loss=loss).value, rtol=1e-8)


@pytest.mark.parametrize("epsilon", [1.0, 1e-6])
def test_escape_leaves_the_flat_saddles_far_out_of_shamirs_example_1(epsilon):
    one = np.ones((1, 1))
    found = escape(np.zeros(1), -one / epsilon, epsilon * one, one, np.ones(1), loss="squared")
    assert found.escaped
    np.testing.assert_allclose(found.curvature, -epsilon, rtol=1e-9)
    assert found.objective < 0.5


def test_nothing_to_escape_from_at_a_minimum_leaves_the_point_where_it_is():
    # F(w, v) = ½ (w(1 + v) − 1)² at (1, 0): ∇²F = [[1, 1], [1, 1]]
    one = np.ones((1, 1))
    found = escape(np.ones(1), 0 * one, one, one, np.ones(1), loss="squared")
    assert not found.escaped
    assert found.step == 0.0
    np.testing.assert_array_equal(found.w, [1.0])


def test_the_direction_may_be_given_and_both_signs_are_tried():
    point = problems.point(3, *problems.SHAPES["wide"], "squared")
    there = smallest_partial_eigenvalue(*point, loss="squared")
    back = there._replace(direction_w=-3 * there.direction_w, direction_V=-3 * there.direction_V)
    ahead, turned = (escape(*point, loss="squared", saddle=saddle) for saddle in (there, back))
    np.testing.assert_allclose(ahead.w, turned.w, rtol=1e-12)
    np.testing.assert_allclose(ahead.decrease, turned.decrease, rtol=1e-12)


def test_escape_works_under_vmap():
    points = [saddle(seed, *problems.SHAPES["wide"], "logistic") for seed in range(3)]
    stacked = [jnp.stack([jnp.asarray(point[part]) for point in points]) for part in range(5)]
    saddles = [smallest_partial_eigenvalue(*point, loss="logistic") for point in points]
    saddles = jax.tree.map(lambda *leaves: jnp.stack(leaves), *saddles)
    leave = lambda saddle, *arrays: escape(*arrays, loss="logistic", saddle=saddle)  # noqa: E731
    together = jax.vmap(leave)(saddles, *stacked)
    alone = [escape(*point, loss="logistic").decrease for point in points]
    np.testing.assert_allclose(together.decrease, alone, rtol=1e-8)


@pytest.mark.usefixtures("unchecked_types")
def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match="V has shape"):
        escape(np.zeros(2), np.zeros((3, 1)), np.zeros((4, 1)), np.zeros((4, 2)), np.zeros(4), loss="squared")
