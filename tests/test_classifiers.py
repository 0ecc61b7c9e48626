"""Classifiers of wines and digits: verdict, bracket, escape and solver, for three classes and for ten."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine

import resflow
from resflow import Point
from tests.problems import dense_hessians, saddle, stacked

SMALL = {"wine": (3, 178, 5, 3), "digits": (10, 200, 10, 2)}
"""Classes m and sizes n, d, k of which a dense Hessian is soon had; d ≥ m, so that W may have every rank."""


def classifier(name: str, n: int | None = None, d: int | None = None, k: int = 4, noise: float = 0.2) -> Point:
    """Standardised samples, or d random projections of them, with some labels changed: nothing separates them."""
    rng = np.random.default_rng(0)
    X, y = {"wine": load_wine, "digits": load_digits}[name](return_X_y=True)
    X, y = X[:, X.std(axis=0) > 0], y.astype(int)
    m = y.max() + 1
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = np.where(rng.random(len(y)) < noise, rng.integers(m, size=len(y)), y)
    kept = rng.permutation(len(y))[:n]
    X, y = X[kept], y[kept]
    if d is not None:
        X = X @ rng.standard_normal((X.shape[1], d)) / np.sqrt(X.shape[1])
    features = np.tanh(X @ rng.standard_normal((X.shape[1], k)) / np.sqrt(X.shape[1]))
    W, V = rng.standard_normal((m, X.shape[1])), rng.standard_normal((X.shape[1], k))
    return Point(W / np.sqrt(X.shape[1]), V / np.sqrt(V.size), features, X, y, "softmax")


@pytest.mark.parametrize("name", SMALL)
def test_bracket_is_narrow_and_equal_to_dense_autodiff_at_200_points_of_every_rank_with_margins_up_to_1000(name):
    m, n, d, k = SMALL[name]
    at, rng, points = classifier(name, n, d, k), np.random.default_rng(1), []
    for i in range(200):
        left, right = rng.standard_normal((m, i % (m + 1))), rng.standard_normal((i % (m + 1), d))
        there = at.at(left @ right, 10.0 ** rng.uniform(-2, 1) * rng.standard_normal((d, k)))
        largest = np.abs(there.predictions).max() or 1.0
        points.append(there.at(there.W * 10.0 ** rng.uniform(-1, 3) / largest, there.V))
    found = jax.jit(lambda points: jax.lax.map(resflow.smallest_eigenvalue, points))(stacked(points))
    spectra = jax.jit(lambda points: jax.lax.map(lambda at: resflow.spectrum(at).eigenvalues, points))(stacked(points))
    eigenvalues = np.stack([np.linalg.eigvalsh(dense) for dense in dense_hessians(points)])
    scale = np.abs(eigenvalues).max(axis=1)
    lower, upper = np.asarray(found.lambda_min_lower), np.asarray(found.lambda_min_upper)
    assert (np.asarray(spectra)[:, 0] <= upper + 1e-10 * scale).all()
    np.testing.assert_array_less(np.abs(spectra - eigenvalues).max(axis=1), 1e-10 * scale)
    np.testing.assert_array_less(np.abs(found.lambda_min - eigenvalues[:, 0]), 1e-10 * scale)
    assert found.converged.all()
    assert (upper - lower <= 1e-10 * np.abs(lower)).all()
    coupling = [np.linalg.norm(there.slopes.T @ there.features / n, 2) for there in points]
    assert (-np.array(coupling) <= lower + np.asarray(found.rounding)).all()  # −‖R‖ ≤ λ_min
    ranks = [np.linalg.matrix_rank(there.W) for there in points]
    assert set(ranks) == set(range(m + 1))


@pytest.mark.parametrize("name", SMALL)
def test_strict_saddles_of_every_rank_are_called_so_and_left_for_the_solver_to_end_at_or_below_linear(name):
    m, n, *_ = SMALL[name]
    start = classifier(name, n, d=4, k=m)  # features enough for saddles of every rank
    for rank in range(min(m, 4) - 1):
        at = saddle(start, rank)
        fit = resflow.fit_linear_predictor(at.X, at.y, loss="softmax")
        assert fit.converged
        report = resflow.analyze(at, fit, epsilon=1e-10)
        assert report.verdict == "strict_saddle", report
        assert report.linear_predictor_gap > report.gap_error
        found = resflow.escape(at)
        assert found.escaped
        assert found.decrease > 0
        if rank == 0:
            end = resflow.solve(found.point, fit=fit)
            assert end.converged or end.norm_running_away
            assert end.linear_predictor_gap <= 0.0
            if end.converged:
                settled = resflow.analyze(end.point, fit, epsilon=1e-9)
                assert settled.verdict == "sopsp_at_or_below_linear", settled


@pytest.mark.parametrize(("name", "m"), [("wine", 3), ("digits", 10)])
def test_whole_data_sets_get_verdicts(name, m):
    at = classifier(name, k=m + 2)
    fit = resflow.fit_linear_predictor(at.X, at.y, loss="softmax", ridge=1e-3)
    assert resflow.analyze(at, fit, epsilon=1e-6).verdict == "not_stationary"
    lying = saddle(at)
    report = resflow.analyze(lying, fit, epsilon=1e-8)
    assert report.verdict == "strict_saddle", report
    assert report.lambda_min_upper - report.lambda_min_lower <= 1e-10 * abs(report.lambda_min_lower)
    assert report.linear_predictor_gap <= report.gap_certificate
    assert resflow.escape(lying).escaped
