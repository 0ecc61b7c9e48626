"""From every strict saddle there is a way down, and `escape` finds it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point
from tests.problems import ROUNDING, SHAPES, flat, objective, point, saddle, stacked, unstacked

SADDLES = [
    ("wide", "logistic", None, 0),
    ("one_input", "squared", None, 0),
    ("few_samples", "pseudo_huber", None, 0),
    ("wide", "squared", None, 0),
    *(("wide", loss, 3, rank) for loss, full in (("softmax", 2), ("squared", 3)) for rank in range(full)),
    ("narrow", "softmax", 3, 0),
]
"""Shape, loss, outputs, and the rank of W: of several outputs every one below that of the linear predictor."""


@pytest.mark.parametrize(("shape", "loss", "m", "rank"), SADDLES)
def test_escape_leaves_every_saddle_above_linear_with_the_decrease_it_reports(shape, loss, m, rank):
    for seed in range(5):
        at = saddle(point(seed, *SHAPES[shape], loss, m), rank)
        assert np.linalg.matrix_rank(at.W) == rank
        assert np.hypot(*map(np.linalg.norm, at.gradient)) <= 1e-13 * (1 + np.linalg.norm(at.V))
        found = resflow.escape(at)
        assert found.escaped
        before = objective(flat(at.W, at.V), at)
        after = objective(flat(found.point.W, found.point.V), at)
        assert after < before
        np.testing.assert_allclose(found.decrease, before - after, rtol=1e-8, atol=ROUNDING * before)
        np.testing.assert_allclose(found.objective, after, rtol=ROUNDING, atol=ROUNDING * before)
        promised = abs(found.slope) * found.step + 0.5 * abs(found.curvature) * found.step**2
        assert found.decrease >= 0.25 * promised
        moved = np.hypot(np.linalg.norm(found.point.W - at.W), np.linalg.norm(found.point.V - at.V))
        np.testing.assert_allclose(moved, found.step, rtol=1e-10)


@pytest.mark.parametrize(("loss", "m"), [("squared", None), ("logistic", None), ("softmax", 3)])
def test_slope_and_curvature_are_those_of_the_objective_along_the_direction(loss, m):
    at = point(3, *SHAPES["wide"], loss, m)
    found = resflow.escape(at)

    def along(t):
        return objective(flat(at.W, at.V) + t * flat(*found.direction), at)

    np.testing.assert_allclose(found.slope, jax.grad(along)(0.0), rtol=1e-9)
    np.testing.assert_allclose(found.curvature, jax.grad(jax.grad(along))(0.0), rtol=1e-9)
    np.testing.assert_allclose(found.curvature, resflow.smallest_eigenvalue(at).lambda_min, rtol=1e-8)


@pytest.mark.parametrize("epsilon", [1.0, 1e-6])
def test_escape_leaves_the_flat_saddles_far_out_of_shamirs_example_1(epsilon):
    one = np.ones((1, 1))
    found = resflow.escape(Point(np.zeros(1), -one / epsilon, epsilon * one, one, np.ones(1), "squared"))
    assert found.escaped
    np.testing.assert_allclose(found.curvature, -epsilon, rtol=1e-9)
    assert found.objective < 0.5


def test_nothing_to_escape_from_at_a_minimum_leaves_the_point_where_it_is():
    # F(w, v) = ½ (w(1 + v) − 1)² at (1, 0): ∇²F = [[1, 1], [1, 1]]
    one = np.ones((1, 1))
    found = resflow.escape(Point(np.ones(1), 0 * one, one, one, np.ones(1), "squared"))
    assert not found.escaped
    assert found.step == 0.0
    np.testing.assert_array_equal(found.point.W, [1.0])


@pytest.mark.parametrize(("loss", "m"), [("squared", None), ("softmax", 3)])
def test_the_direction_may_be_given_and_both_signs_are_tried(loss, m):
    at = point(3, *SHAPES["wide"], loss, m)
    there = resflow.smallest_eigenvalue(at)
    back = there._replace(direction=tuple(-3 * part for part in there.direction))
    ahead, turned = (resflow.escape(at, saddle=smallest) for smallest in (there, back))
    np.testing.assert_allclose(ahead.point.W, turned.point.W, rtol=1e-12)
    np.testing.assert_allclose(ahead.decrease, turned.decrease, rtol=1e-12)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_escape_works_under_vmap(loss, m):
    points = [saddle(point(seed, *SHAPES["wide"], loss, m)) for seed in range(3)]
    saddles = [resflow.smallest_eigenvalue(at) for at in points]
    together = jax.vmap(lambda smallest, at: resflow.escape(at, saddle=smallest))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *saddles), stacked(points)
    )
    alone = [resflow.escape(at).decrease for at in points]
    np.testing.assert_allclose(together.decrease, alone, rtol=1e-8)
    assert all(found.escaped for found in unstacked(together))


@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_point_of_a_residual_unit_is_refused():
    with pytest.raises(InvalidInputError, match="point is a list, but must be the Point of a residual unit"):
        resflow.escape([1.0])
