"""Softmax regression without its Hessian, against other solvers, the dense Newton method and what is proven of it."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from resflow import parallel
from resflow.errors import InvalidInputError
from resflow.labels import one_hot
from resflow.linear import _first_pass, _hessian_free
from resflow.linear import _passes as _linear_passes
from resflow.linear import _separation as _linear_separation
from resflow.linear import _sums as _linear_sums
from resflow.linear import predictor as _linear_predictor
from resflow.linear._hessian_free import hessian_free
from resflow.linear._passes import look
from resflow.linear._terms import softmax_columns
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Softmax
from resflow.status import Status
from tests.test_linear import features

RIDGE = 1e-4


def classes(rng, X, m):
    Q, _ = np.linalg.qr(X)
    scores = 1.5 * np.sqrt(len(X) / X.shape[1]) * Q @ rng.standard_normal((X.shape[1], m))
    return np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)


def digits():
    X, y = load_digits(return_X_y=True)
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
    return np.column_stack([X, np.ones(len(y))]), y


def objective(W, X, y, ridge):
    """In extended precision."""
    W = np.asarray(W, dtype=np.longdouble)
    p = X.astype(np.longdouble) @ W.T
    return -np.mean(log_softmax(p, axis=1)[np.arange(len(y)), y]) + ridge / 2 * np.sum(W**2)


def gradient(fit, X, y):
    return Softmax().derivative(X @ fit.W.T, y).T @ X / len(X) + fit.ridge * fit.W


def dense(X, y, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(_linear_predictor, "_LARGE", np.inf)
        patch.setattr(_linear_predictor, "_MUCH", np.inf)
        return fit_linear_predictor(X, y, loss="softmax", **options)


def sample(condition, n=1500, d=30, m=10):
    rng = np.random.default_rng(0)
    X = features(rng, n, d, condition)
    return X, classes(rng, X, m)


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_suboptimality_is_proven_and_the_weights_are_those_of_the_dense_method(condition, monkeypatch):
    X, y = sample(condition)
    fit, reference = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE), dense(X, y, monkeypatch, ridge=RIDGE)
    assert fit.converged
    assert reference.grad_norm < 1e-12
    above = objective(fit.W, X, y, RIDGE) - objective(reference.W, X, y, RIDGE)
    assert -1e-15 <= above <= fit.suboptimality <= 1e-12 * np.log(10.0)
    assert np.linalg.norm(gradient(fit, X, y)) == pytest.approx(fit.grad_norm, rel=1e-6)
    assert fit.grad_norm**2 / (2 * RIDGE) <= fit.suboptimality
    assert np.linalg.norm(fit.W - reference.W) <= 2.0 * fit.grad_norm / RIDGE
    np.testing.assert_allclose(fit.W.sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize("keep", [True, False])
def test_nearly_separable_digits_are_fitted_as_by_scikit_learn(keep, monkeypatch):
    """Whether the probabilities are kept or computed again for every product."""
    if not keep:
        monkeypatch.setattr(_linear_passes, "KEEP_VALUES", 0)
    X, y = digits()
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)
    peer = LogisticRegression(
        C=1.0 / (len(y) * RIDGE), solver="newton-cholesky", fit_intercept=False, tol=1e-9, max_iter=100
    ).fit(X, y)
    assert fit.converged
    assert abs(objective(fit.W, X, y, RIDGE) - objective(peer.coef_, X, y, RIDGE)) <= fit.suboptimality + 1e-13


def test_no_hessian_of_all_weights_is_formed(monkeypatch):
    monkeypatch.setattr(_linear_predictor, "newton", None)
    X, y = sample(1e4)
    assert fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE).converged


@pytest.mark.parametrize("ridge", [1e2, 1e-2, 1e-6])
def test_any_ridge_is_met(ridge, monkeypatch):
    X, y = sample(100.0)
    fit, reference = fit_linear_predictor(X, y, loss="softmax", ridge=ridge), dense(X, y, monkeypatch, ridge=ridge)
    assert fit.converged
    assert abs(objective(fit.W, X, y, ridge) - objective(reference.W, X, y, ridge)) <= fit.suboptimality + 1e-15


def test_columns_that_depend_on_each_other_or_are_zero_share_their_weight():
    X, y = sample(1.0)
    plain = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)
    X = X.copy()
    X[:, 0] = 1.0
    twice = fit_linear_predictor(np.column_stack([X, X[:, 1], 0 * X[:, 0]]), y, loss="softmax", ridge=RIDGE)
    assert twice.converged
    assert twice.rank == 30
    np.testing.assert_allclose(twice.W[:, 1], twice.W[:, 30], atol=1e-9)
    np.testing.assert_allclose(twice.W[:, 31], 0.0, atol=1e-15)
    assert plain.rank == 30


def test_a_class_without_samples_is_fitted_with_a_ridge(monkeypatch):
    X, y = sample(1.0)
    y = one_hot(np.where(y == 3, 4, y), 10)
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)
    assert fit.converged
    assert fit.W.shape == (10, 30)
    reference = dense(X, y, monkeypatch, ridge=RIDGE)
    np.testing.assert_allclose(fit.W, reference.W, atol=2.0 * fit.grad_norm / RIDGE)


def test_a_limit_of_steps_is_said_and_what_is_left_is_still_proven(monkeypatch):
    X, y = sample(1e4)
    monkeypatch.setattr(_linear_predictor, "_DENSE", 0)  # too large for Newton's method to go on
    fit, reference = (
        fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE, max_iterations=2),
        dense(X, y, monkeypatch, ridge=RIDGE),
    )
    assert fit.status is Status.ITERATION_LIMIT
    assert fit.iterations == 2
    above = objective(fit.W, X, y, RIDGE) - objective(reference.W, X, y, RIDGE)
    assert 1e-12 < above <= fit.suboptimality


@pytest.mark.parametrize(("tolerance", "status"), [(4e-11, Status.CONVERGED), (1e-5, Status.WIDE_TOLERANCE)])
@pytest.mark.parametrize("options", [{"ridge": RIDGE}, {"max_norm": 2.0}, {}], ids=["ridge", "ball", "unbounded"])
def test_a_wider_tolerance_takes_fewer_steps_and_what_is_left_is_still_proven(tolerance, status, options):
    X, y = sample(1.0)
    best = fit_linear_predictor(X, y, loss="softmax", **options)
    fit = fit_linear_predictor(X, y, loss="softmax", tolerance=tolerance, **options)
    ridge = options.get("ridge", 0.0)
    above = objective(fit.W, X, y, ridge) - objective(best.W, X, y, ridge)
    assert -best.suboptimality <= above <= fit.suboptimality <= tolerance * np.log(10.0)
    assert fit.status is status
    assert fit.iterations < best.iterations or (fit.converged and fit.iterations == best.iterations)


def test_separable_classes_are_still_refused_without_a_ridge():
    X, y = np.tile(np.eye(18), (2, 1)), np.tile(np.arange(18), 2)
    with pytest.raises(InvalidInputError, match="has no minimiser"):
        fit_linear_predictor(X, y, loss="softmax")
    assert fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE).converged


@pytest.mark.parametrize("loss", ["logistic", "squared", "softmax"])
def test_rank_of_float32_features_is_that_before_they_were_rounded(loss):
    rng = np.random.default_rng(2)
    low = rng.standard_normal((600, 5))
    X = np.maximum(low, 0) @ rng.standard_normal((5, 20)) + 2.0
    y = (low[:, 0] + rng.standard_normal(600) > 0).astype(int)
    exact, single = (fit_linear_predictor(A, y, loss=loss, ridge=0.0) for A in (X, X.astype(np.float32)))
    assert exact.rank == single.rank == 6
    assert exact.converged
    assert single.objective == pytest.approx(exact.objective, abs=1e-6)
    assert np.linalg.norm(single.W) <= 1.001 * np.linalg.norm(exact.W)


def test_float32_features_of_condition_1e4_keep_all_their_directions():
    X, y = sample(1e4)
    fits = [fit_linear_predictor(A, y, loss="softmax", ridge=RIDGE) for A in (X, X.astype(np.float32))]
    assert [fit.rank for fit in fits] == [30, 30]
    assert fits[1].converged
    assert fits[1].objective == pytest.approx(fits[0].objective, abs=1e-5)


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0, 1e3])
def test_in_a_ball_the_weights_are_those_of_the_dense_method(condition, ridge, radius, monkeypatch):
    """The bound binds or not; where its proof fails for rounding, the dense method is what is asked."""
    X, y = sample(condition)
    options = {"ridge": ridge, "max_norm": radius}
    fit, reference = fit_linear_predictor(X, y, loss="softmax", **options), dense(X, y, monkeypatch, **options)
    assert fit.converged
    assert np.linalg.norm(fit.W) <= radius * (1.0 + 4e-16)
    above = objective(fit.W, X, y, ridge) - objective(reference.W, X, y, ridge)
    assert -1e-15 <= above <= fit.suboptimality + 1e-15
    assert fit.multiplier == pytest.approx(reference.multiplier, rel=1e-5)
    slope = gradient(fit, X, y)
    assert np.linalg.norm(slope + fit.multiplier * fit.W) == pytest.approx(fit.grad_norm, rel=1e-6, abs=1e-15)
    assert np.vdot(slope, fit.W) + radius * np.linalg.norm(slope) <= 1e-12 * np.log(10.0) or ridge or not fit.multiplier


@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_under_a_bound_that_binds_no_hessian_is_formed_whatever_the_size(radius, monkeypatch):
    monkeypatch.setattr(_linear_predictor, "newton", None)
    rng = np.random.default_rng(3)
    X = features(rng, 1200, 160, 100.0)
    y = classes(rng, X, 40)
    fit = fit_linear_predictor(X, y, loss="softmax", max_norm=radius)
    assert fit.converged
    slope = gradient(fit, X, y)
    assert np.linalg.norm(fit.W) == pytest.approx(radius, rel=1e-14)
    assert np.vdot(slope, fit.W) + radius * np.linalg.norm(slope) <= fit.suboptimality
    assert fit.suboptimality <= 1e-12 * np.log(40.0)


def test_in_a_ball_a_limit_of_steps_is_said(monkeypatch):
    X, y = sample(1e4)
    monkeypatch.setattr(_linear_predictor, "_DENSE", 0)  # too large for Newton's method to go on
    fit = fit_linear_predictor(X, y, loss="softmax", max_norm=3.0, max_iterations=3)
    assert fit.status is Status.ITERATION_LIMIT
    least = dense(X, y, monkeypatch, max_norm=3.0).objective
    assert 1e-12 < fit.objective - least <= fit.suboptimality


@pytest.mark.parametrize("condition", [1.0, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_metric_from_some_of_many_rows_gives_the_same_weights_and_evidence(weighted, condition, monkeypatch):
    rng = np.random.default_rng(5)
    X = features(rng, 4500, 70, condition)
    y = classes(rng, X, 4)
    options = {"ridge": RIDGE, "sample_weight": rng.uniform(0.5, 2.0, len(X)) if weighted else None}
    seen = []

    def watched(problem, gram, gradient, **how):
        seen.append(gram)
        return hessian_free(problem, gram, gradient, **how)

    monkeypatch.setattr(_linear_predictor, "hessian_free", watched)
    fit = fit_linear_predictor(X, y, loss="softmax", **options)
    monkeypatch.setattr(_first_pass, "some_rows", lambda *_: None)
    reference = fit_linear_predictor(X, y, loss="softmax", **options)
    some, every = seen
    assert not np.array_equal(some, every)
    assert (np.count_nonzero(some) == 70) == (condition == 1.0)  # orthogonal columns need no products
    assert np.linalg.norm(some - every) < 0.5 * np.linalg.norm(every)
    assert np.trace(some) == pytest.approx(np.trace(every), rel=1e-12)
    assert fit.converged
    assert fit.rank == reference.rank == 70
    assert np.linalg.norm(fit.W - reference.W) <= (fit.grad_norm + reference.grad_norm) / RIDGE


def test_rows_that_some_do_not_stand_for_are_all_looked_at():
    """Every other row lacks a feature, and a column depends on others: the rank is that of all rows."""
    rng = np.random.default_rng(6)
    X = features(rng, 4500, 70)
    y = classes(rng, X, 4)
    X[::2, 3] = 0.0
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)
    assert fit.converged
    assert fit.rank == 70
    X[:, 5] = X[:, 3] + X[:, 4]
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)
    assert fit.converged
    assert fit.rank == 69


@pytest.mark.parametrize("radius", [5.0, 20.0])
def test_separable_digits_in_a_ball_are_fitted_where_no_hessian_can_be_formed(radius, monkeypatch):
    X, y = (part[::3] for part in digits())
    least = dense(X, y, monkeypatch, max_norm=radius)
    monkeypatch.setattr(_linear_predictor, "_DENSE", 0)
    fit = fit_linear_predictor(X, y, loss="softmax", max_norm=radius)
    assert fit.converged
    assert fit.suboptimality <= 1e-11
    assert -least.suboptimality <= fit.objective - least.objective <= fit.suboptimality + 1e-14


@pytest.mark.parametrize("radius", [5.0, 50.0])
def test_separable_digits_in_a_ball_are_fitted_however_long_the_way_to_its_sphere(radius, monkeypatch):
    X, y = (part[::3] for part in digits())
    fit = fit_linear_predictor(X, y, loss="softmax", max_norm=radius)
    assert fit.converged
    assert np.linalg.norm(fit.W) == pytest.approx(radius)
    least = dense(X, y, monkeypatch, max_norm=radius)
    assert fit.objective == pytest.approx(least.objective, abs=fit.suboptimality + least.suboptimality + 1e-14)


FREE = {
    "plain": lambda X: X,
    "in other units": lambda X: X * np.geomspace(1e-6, 1e6, X.shape[1]),
    "with a column that depends on others": lambda X: np.column_stack([X, X[:, 0] - X[:, 1], 0.0 * X[:, 0]]),
}


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize("columns", FREE)
def test_without_ridge_and_bound_a_minimum_and_its_suboptimality_are_proven(columns, condition, monkeypatch):
    X, y = sample(condition, n=700)
    X = FREE[columns](X)
    with monkeypatch.context() as patch:
        patch.setattr(_linear_predictor, "newton", None)
        fit = fit_linear_predictor(X, y, loss="softmax")
    reference = dense(X, y, monkeypatch)
    assert fit.converged
    assert fit.separable is False
    assert fit.rank == reference.rank == 30
    assert fit.suboptimality <= 1e-12 * np.log(10.0)
    assert -1e-14 <= objective(fit.W, X, y, 0.0) - objective(reference.W, X, y, 0.0) <= fit.suboptimality
    sizes = np.maximum(np.sqrt(np.mean(X**2, axis=0)), 1e-300)
    np.testing.assert_allclose(fit.W * sizes, reference.W * sizes, atol=1e-6 * np.abs(reference.W * sizes).max())
    np.testing.assert_allclose((fit.W * sizes).sum(axis=0), 0.0, atol=1e-9 * np.abs(reference.W * sizes).max())


def test_without_ridge_and_bound_weights_and_probabilities_count_as_in_the_dense_method(monkeypatch):
    X, y = sample(10.0, n=700)
    rng = np.random.default_rng(7)
    weights, soft = rng.uniform(0.0, 2.0, len(X)), 0.9 * one_hot(y, 10) + 0.01
    for labels, options in ((y, {"sample_weight": weights}), (soft, {}), (soft, {"sample_weight": weights})):
        fit, reference = (
            fit_linear_predictor(X, labels, loss="softmax", **options),
            dense(X, labels, monkeypatch, **options),
        )
        assert fit.converged
        assert fit.separable is reference.separable is False
        assert abs(fit.objective - reference.objective) <= fit.suboptimality + 1e-15
        np.testing.assert_allclose(fit.W, reference.W, atol=1e-6)


def test_separable_classes_are_found_so_without_newton_steps_and_a_linear_programme(monkeypatch):
    monkeypatch.setattr(_linear_predictor, "newton", None)
    monkeypatch.setattr("resflow.linear._separation.linprog", None)
    rng = np.random.default_rng(8)
    X = rng.standard_normal((400, 40))
    y = np.argmax(X @ rng.standard_normal((40, 12)), axis=1)
    with pytest.raises(InvalidInputError, match=r"\(n=400, 12 classes, d=40\) is linearly separable, so"):
        fit_linear_predictor(X, y, loss="softmax")


def test_classes_that_are_separable_up_to_the_border_are_refused_at_size_too():
    """Two samples of different classes at one place: no weights have all margins above 0."""
    rng = np.random.default_rng(9)
    X = rng.standard_normal((60, 26))
    y = np.argmax(X @ rng.standard_normal((26, 10)), axis=1)
    X, y = np.vstack([X, np.zeros((2, 26))]), np.append(y, [0, 1])
    X = np.column_stack([X, np.r_[np.zeros(60), 1.0, 1.0]])
    with pytest.raises(InvalidInputError, match="is linearly separable"):
        fit_linear_predictor(X, y, loss="softmax")
    assert fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE).converged


def test_where_a_minimum_is_not_proven_and_the_hessian_is_too_large_the_fit_says_so(monkeypatch):
    monkeypatch.setattr(_linear_predictor, "_DENSE", 0)
    monkeypatch.setattr(_linear_separation, "_MOST_ENTRIES", 0)
    X, y = sample(1e4)
    fit = fit_linear_predictor(X, y, loss="softmax", max_iterations=3)
    assert fit.status is Status.NO_MINIMIZER_KNOWN
    assert fit.separable is None
    assert fit.suboptimality == fit.objective


@pytest.mark.parametrize(
    "options",
    [{"ridge": RIDGE}, {"max_norm": 2.0}, {}, {"ridge": RIDGE, "class_weight": "balanced"}],
    ids=["ridge", "bound", "free", "weighted"],
)
def test_groups_of_rows_on_any_number_of_threads_give_the_same_bits(options, monkeypatch):
    X, y = sample(10.0)
    whole = fit_linear_predictor(X, y, loss="softmax", **options)
    monkeypatch.setattr(_linear_sums, "_WORK", 3e4)
    fits = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(parallel, "cores", lambda workers=workers: workers)
        fits.append(fit_linear_predictor(X, y, loss="softmax", **options))
    assert all(fit.converged and np.array_equal(fit.W, fits[0].W) for fit in fits)
    assert {(fit.objective, fit.suboptimality, fit.grad_norm) for fit in fits} == {
        (fits[0].objective, fits[0].suboptimality, fits[0].grad_norm)
    }
    assert abs(whole.objective - fits[0].objective) <= 2.0 * (whole.suboptimality + fits[0].suboptimality) + 1e-14


@pytest.mark.parametrize("far", [1.0, 500.0, 700.0, 1e5])
def test_losses_of_samples_far_on_either_side_keep_their_digits(far):
    p = far * np.array([[1.0, 0.0, -0.5], [0.2, 0.9, 1.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 0.3]])
    y = np.array([0, 0, 2, 0])
    value, slope = softmax_columns(p.T.copy(), y)
    with localcontext(prec=400, Emin=-999999, Emax=999999):
        for i, row in enumerate(p):
            gaps = [(Decimal(float(other)) - Decimal(float(row[y[i]]))).exp() for other in row]
            whole = sum(gaps)
            np.testing.assert_allclose(value[i], float(whole.ln()), rtol=1e-12, atol=1e-300)
            expected = [float(gap / whole) for gap in gaps]
            expected[y[i]] = float((1 - whole) / whole)
            np.testing.assert_allclose(slope[:, i], expected, rtol=1e-12, atol=1e-300)


def test_small_ridge_where_classes_are_nearly_separable_needs_no_hessian(monkeypatch):
    """Few samples are active there: rounding hides less than the sizes of samples and weights would allow for."""
    rng = np.random.default_rng(1)
    X = features(rng, 10_000, 64, 100.0)
    scores = 50.0 * np.sqrt(len(X) / 64) * np.linalg.qr(X)[0] @ rng.standard_normal((64, 20))
    y, ridge, passes = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1), 1e-9, []
    monkeypatch.setattr(_linear_predictor, "newton", None)
    monkeypatch.setattr(_hessian_free, "look", lambda *given: passes.append(look(*given)) or passes[-1])
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=ridge)
    assert fit.converged
    W, samples = fit.W.astype(np.longdouble), X.astype(np.longdouble)
    sigma = softmax(samples @ W.T, axis=1)
    sigma[np.arange(len(y)), y] -= 1.0
    slope = sigma.T @ samples / len(y) + ridge * W
    assert np.sum(slope**2) / (2.0 * ridge) <= fit.suboptimality <= 1e-12 * np.log(20.0)
    assert len(passes) < 30  # what rounding leaves is not pursued
