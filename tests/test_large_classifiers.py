"""λ_min of classifiers too large to factorise: between −‖R‖ and a Ritz value, against dense eigenvalues."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point


def classifier(seed: int, m: int, d: int, k: int, n: int = 150, *, slope_free: bool = False) -> Point:
    """Random samples, labels and weights of any size; features that are all 0 if R shall be."""
    rng = np.random.default_rng(seed)
    X, labels = rng.standard_normal((n, d)), np.r_[np.arange(m), rng.integers(m, size=n)][:n]
    W = rng.standard_normal((m, d)) * 10.0 ** rng.uniform(-2, 1) / np.sqrt(d)
    V = rng.standard_normal((d, k)) * 10.0 ** rng.uniform(-2, 1) / np.sqrt(d * k)
    features = np.zeros((n, k)) if slope_free else rng.standard_normal((n, k))
    return Point(W, V, features, X, labels, "softmax")


SHAPES = [(3, 40, 7), (12, 90, 5), (40, 30, 8)]
"""m, d, k, of which the first has few enough parameters for a whole matrix and the last d < m."""


@pytest.mark.parametrize(("m", "d", "k"), SHAPES)
def test_interval_without_factorisations_holds_the_smallest_eigenvalue(m, d, k):
    for seed in range(2):
        at = classifier(seed, m, d, k)
        found = resflow.smallest_eigenvalue(at, max_order=0)
        eigenvalues = resflow.spectrum(at).eigenvalues
        assert found.factorizations == 0
        assert found.lambda_min_lower - found.rounding <= eigenvalues[0] <= found.lambda_min_upper + found.rounding
        coupling = np.linalg.norm(at.slopes.T @ at.features / len(at.X), 2)
        assert found.lambda_min_lower == pytest.approx(-coupling, rel=1e-12)
        assert found.rounding <= 1e-10 * eigenvalues[-1]
        assert found.lambda_min_upper - eigenvalues[0] <= 1e-8 * eigenvalues[-1]  # the iteration's upper end is close
        assert found.lambda_min_residual <= 2e-5 * eigenvalues[-1]


@pytest.mark.parametrize(("m", "d", "k"), SHAPES)
def test_both_ends_meet_where_every_mean_of_features_weighted_by_slopes_vanishes(m, d, k):
    found = resflow.smallest_eigenvalue(classifier(0, m, d, k, slope_free=True), max_order=0)
    assert abs(found.lambda_min_lower) < 1e-30
    assert abs(found.lambda_min_upper) <= found.rounding


def test_large_classifiers_are_not_factorised_unless_asked_for_and_ridge_moves_both_ends():
    at = classifier(1, 30, 70, 4)  # of order 2,220
    found = resflow.smallest_eigenvalue(at)
    assert found.factorizations == 0
    assert found.lambda_min_lower < found.lambda_min_upper < 0.0
    moved = resflow.smallest_eigenvalue(at, ridge_W=0.3, ridge_V=0.3)
    assert moved.lambda_min_lower == pytest.approx(found.lambda_min_lower + 0.3, rel=1e-12)
    assert moved.lambda_min_upper == pytest.approx(found.lambda_min_upper + 0.3, rel=1e-6)
    small = classifier(0, 3, 5, 4)
    assert resflow.smallest_eigenvalue(small).factorizations > 0
    ridged = resflow.smallest_eigenvalue(small, ridge_W=0.5, ridge_V=0.1, max_order=0)
    exact = resflow.spectrum(small, ridge_W=0.5, ridge_V=0.1).eigenvalues[0]
    assert ridged.lambda_min_lower - ridged.rounding <= exact <= ridged.lambda_min_upper + ridged.rounding


def test_what_is_not_finite_has_no_interval_and_orders_out_of_range_are_named():
    at = classifier(0, 3, 5, 4)
    found = resflow.smallest_eigenvalue(at.at(np.full_like(at.W, np.nan), at.V), max_order=0)
    assert np.isnan([found.lambda_min_lower, found.lambda_min_upper, found.rounding]).all()
    assert not found.converged
    with pytest.raises(InvalidInputError, match="max_order=-1 must be at least 0"):
        resflow.smallest_eigenvalue(at, max_order=-1)


def test_matrices_too_large_to_decompose_are_refused_before_anything_is_computed():
    at = classifier(0, 90, 100, 4)
    with pytest.raises(InvalidInputError, match=r"m=90 outputs, d=100 inputs and k=4 .* order 9400, .* at most 8192"):
        resflow.spectrum(at)
    with pytest.raises(InvalidInputError, match="at most 8192 can be decomposed: train the model"):
        resflow.solve(at)


def test_under_vmap_as_alone():
    points = [classifier(seed, 3, 5, 4) for seed in range(3)]
    together = jax.vmap(lambda at: resflow.smallest_eigenvalue(at, max_order=0))(
        jax.tree.map(lambda *leaves: jax.numpy.stack([jax.numpy.asarray(leaf) for leaf in leaves]), *points)
    )
    for i, at in enumerate(points):
        alone = resflow.smallest_eigenvalue(at, max_order=0)
        assert together.lambda_min_upper[i] == pytest.approx(alone.lambda_min_upper, rel=1e-8)
