"""The gap's bounds at points of any number of outputs and any rank, at random and along training."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import Point
from resflow.certificates.gap import gap_certificate
from resflow.losses import Logistic, PseudoHuber, Squared, as_loss
from tests.problems import ROUNDING, comparator_fit, flat, gradient, objective, point, random_points
from tests.test_linear_several_outputs import table

LOSSES = [Squared(), Logistic(), PseudoHuber(0.5)]
SHAPES = [(5, 1, 1), (4, 8, 3), (40, 5, 12)]
"""Shapes (n, d, k)."""
POINTS = 1500


def draw(seed: int, n: int, d: int, k: int, loss, m: int | None = None) -> Point:
    """One random point, of widely varying scale."""
    return jax.tree.map(lambda array: np.asarray(array[0]), random_points(seed, 1, n, d, k, loss, m))


@jax.jit
@jax.vmap
def evaluate(at: Point, linear_W):
    """The certificate against any W*, its mean loss, and the gradient by automatic differentiation."""
    linear_objective = jnp.mean(at.loss.value(at.X @ linear_W.T, at.y))
    return (
        gap_certificate(at, linear_W, linear_objective),
        linear_objective,
        gradient(at),
        objective(flat(at.W, at.V), at),
    )


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
def test_gap_and_bounds_are_ordered_at_random_points(loss, shape):
    """Theorem 1 and its pointwise form: 13,500 points, and any comparator w* will do."""
    rng = np.random.default_rng(shape[2])
    comparators = rng.standard_normal((POINTS, shape[1])) * 10.0 ** rng.uniform(-2, 2, (POINTS, 1))
    terms, linear_objective, *_ = evaluate(random_points(shape[1], POINTS, *shape, loss), comparators)
    gap, certificate, frobenius = terms.linear_predictor_gap, terms.gap_certificate, terms.frobenius_bound
    scale = np.maximum.reduce([np.abs(terms.objective), np.abs(linear_objective), np.abs(certificate)])
    assert np.all(gap <= certificate + 1e-10 * scale)
    assert np.all(certificate <= frobenius + 1e-10 * np.maximum(scale, frobenius))
    assert np.all(frobenius <= terms.norm_bound * (1 + 1e-10))
    assert np.all(terms.norm_bound <= terms.theorem1_bound * (1 + 1e-10))
    # Neither inequality is empty: the certificate is finite, and not always the same number as the bound above it.
    assert np.all(np.isfinite(terms.theorem1_bound))
    assert np.any(terms.theorem1_bound > 1.5 * certificate)


@pytest.mark.parametrize(("loss", "m", "count"), [("softmax", 3, 10_000), ("squared", 7, 10_000)])
def test_certificate_bounds_the_gap_at_random_points_of_every_rank(loss, m, count):
    """m > d among them: then no W has full row rank."""
    n, d, k = 12, 5, 6
    ranks = np.arange(count) % (min(m, d) + 1)
    at = random_points(m, count, n, d, k, loss, m, ranks=ranks)
    linear_W = np.random.default_rng(0).standard_normal((count, m, d))
    found, linear_objective, gradients, objectives = jax.tree.map(np.asarray, evaluate(at, linear_W))
    W, V, certificate = np.asarray(at.W), np.asarray(at.V), found.gap_certificate
    over = np.linalg.pinv(W, rcond=1e-12) @ linear_W @ V
    G = np.concatenate([(part).reshape(count, -1) for part in (W - linear_W, over)], axis=1)
    pulled = np.linalg.norm(W @ over, axis=(1, 2))
    size = 1.0 + np.abs(certificate) + np.abs(found.rank_term) + pulled + objectives
    rounding = 1e-12 * (size + np.linalg.norm(G, axis=1) * np.linalg.norm(gradients, axis=1))
    assert (found.W_rank == ranks).all()
    np.testing.assert_allclose(found.linear_predictor_gap, objectives - linear_objective, rtol=1e-11, atol=1e-11)
    assert (found.linear_predictor_gap <= certificate + rounding).all()
    assert (np.abs(found.gradient_term + found.rank_term - certificate) <= rounding).all()
    some = ranks > 0
    product = np.sum(G * gradients, axis=1)
    assert (np.abs(found.gradient_term - product)[some] <= 1e-9 + 1e-6 * np.abs(product)[some] + rounding[some]).all()
    bounds = [certificate, found.frobenius_bound, found.norm_bound, found.theorem1_bound]
    for lower, upper in itertools.pairwise(bounds):
        assert (lower <= upper + 1e-12 * np.abs(upper) + rounding).all()
    np.testing.assert_allclose(found.partial_grad_norm, np.linalg.norm(gradients, axis=1), rtol=1e-9)
    full = ranks == m
    assert (np.abs(found.rank_term[full]) <= rounding[full]).all()
    assert (found.smallest_singular_value[full] > 0).all()
    assert (np.isfinite(found.theorem1_bound) == full).all()
    assert (np.abs(found.rank_term[~full]) > 1e-6).mean() > 0.9  # so that it is needed


@pytest.mark.parametrize(("loss", "m"), [*((loss, None) for loss in LOSSES), (Squared(), 2), (as_loss("softmax"), 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_certificate_is_the_inner_product_with_the_gradient(loss, m, shape):
    """At full row rank; where m > d there is none."""
    at, d = draw(3, *shape, loss, m), shape[1]
    if m is not None and m > d:
        return
    comparator = np.ones(at.W.shape)
    if m is not None:
        comparator = comparator * np.arange(1, m + 1)[:, None]
    result = resflow.certify(at, comparator_fit(comparator, at))
    slope, spectral = np.asarray(gradient(at)), np.linalg.norm(at.V, 2)
    G = np.asarray(flat(at.W - comparator, np.linalg.pinv(at.rows) @ (np.atleast_2d(comparator) @ at.V)))
    grad_norm, size, singular = np.linalg.norm(slope), np.linalg.norm(G), np.linalg.svd(at.rows)[1]
    np.testing.assert_allclose(result.objective, objective(flat(at.W, at.V), at), rtol=1e-12)
    np.testing.assert_allclose(result.partial_grad_norm, grad_norm, rtol=1e-10)
    np.testing.assert_allclose(result.gap_certificate, G @ slope, rtol=1e-9, atol=1e-12 * size * grad_norm)
    np.testing.assert_allclose(result.frobenius_bound, size * grad_norm, rtol=1e-10)
    squares = np.sum(at.W**2), np.sum(comparator**2)
    theorem1 = grad_norm * np.sqrt(2 * squares[0] + squares[1] * (2 + spectral**2 / singular[-1] ** 2))
    np.testing.assert_allclose(result.theorem1_bound, theorem1, rtol=1e-10)
    found = [result.w_norm, result.V_norm, result.smallest_singular_value]
    np.testing.assert_allclose(found, [singular[0], spectral, singular[-1]], rtol=1e-12)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_at_zero_weights_the_certificate_stays_and_theorem_1_is_infinite(loss, m):
    at = draw(0, 30, 3, 4, loss, m)
    fit = resflow.fit_linear_predictor(at.X, at.y, loss=loss)
    result = resflow.certify(at.at(0 * at.W, at.V), fit)
    np.testing.assert_allclose(result.objective, np.log(m or 2))
    assert 0 < result.linear_predictor_gap <= result.gap_certificate <= result.frobenius_bound <= result.norm_bound
    assert result.norm_bound < result.theorem1_bound == np.inf


@pytest.mark.parametrize("m", [None, 3])
def test_best_linear_predictor_itself_has_gap_and_certificate_zero(m):
    at = draw(0, 30, 3, 4, "squared", m)
    fit = resflow.fit_linear_predictor(at.X, at.y, loss="squared")
    result = resflow.certify(at.at(fit.W, 0 * at.V), fit)
    level = ROUNDING * np.mean(at.y**2) * (m or 1)
    np.testing.assert_allclose([result.linear_predictor_gap, result.gap_certificate], 0, atol=level)


def test_softmax_needs_one_rank_less():
    """ℓ' sums to 0: a W whose columns sum to 0 and of rank m − 1 leaves no rank term."""
    at = point(0, 12, 5, 6, "softmax", 3)
    at = at.at(at.W - at.W.mean(axis=0), at.V)
    found = resflow.certify(at, comparator_fit(np.random.default_rng(0).standard_normal((3, 5)), at))
    assert found.W_rank == 2
    assert abs(found.rank_term) <= ROUNDING * (1.0 + abs(found.gap_certificate))


def test_numpy_arrays_are_analysed_in_float64_whatever_their_type():
    at = draw(1, 50, 4, 3, Logistic())
    fit = resflow.fit_linear_predictor(at.X, at.y)
    double, lower = resflow.certify(at, fit), jax.tree.map(lambda array: array.astype(np.float32), at)
    with jax.enable_x64(False):
        off = resflow.certify(at, fit)
        single = resflow.certify(lower, fit)
    assert all(isinstance(value, np.float64 | np.int64) for value in double)
    assert double == off
    assert single == resflow.certify(jax.tree.map(lambda array: array.astype(float), lower), fit)


@pytest.mark.parametrize("m", [None, 2])
def test_works_under_jit_and_vmap(m):
    points = random_points(2, 5, 20, 3, 2, Squared(), m)
    one = jax.tree.map(lambda array: np.asarray(array[0]), points)
    fit = comparator_fit(np.ones(one.W.shape), one)
    together = jax.jit(jax.vmap(lambda at: resflow.certify(at, fit)))(points)
    for i in range(5):
        at = jax.tree.map(lambda array: array[i], points)  # noqa: B023
        np.testing.assert_allclose(
            [value[i] for value in together], gap_certificate(at, jnp.asarray(fit.W), fit.objective), rtol=1e-12
        )


@pytest.mark.parametrize("loss", ["logistic", "squared", "huber", "softmax"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bounds_are_ordered_along_training(loss, optimizer):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 5))
    y = np.sign(X[:, 0] * X[:, 1] + X[:, 2] + 0.5 * rng.standard_normal(80))
    keys, outputs = resflow.random_keys(0), None
    if loss == "softmax":
        y, outputs = np.digitize(X[:, 0] * X[:, 1] + X[:, 2] + 0.5 * rng.standard_normal(80), [-0.5, 0.5]), 3
    fit = resflow.fit_linear_predictor(X, y, loss=loss)
    f = resflow.feature_map("mlp", 5, width=8, depth=1, activation="tanh", key=keys.features)
    options = resflow.TrainingOptions(steps=200, log_every=5, learning_rate=0.02, optimizer=optimizer)
    unit = resflow.build_model("residual_unit", 5, f, key=keys.model, outputs=outputs)
    measure = resflow.GapMeasure.against(fit, loss)
    history = resflow.train(unit, X, y, loss=loss, options=options, key=keys.batches, measure=measure).history
    np.testing.assert_allclose(history["linear_predictor_gap"], history["objective"] - fit.objective, atol=ROUNDING)
    assert np.all(history["linear_predictor_gap"] <= history["gap_certificate"] + 1e-10)
    assert np.all(history["gap_certificate"] <= history["theorem1_bound"] + 1e-10)
    assert np.all(np.isfinite(history["theorem1_bound"]))


def test_training_records_the_certificate_of_what_it_trains():
    X, y = table("iris")
    fit = resflow.fit_linear_predictor(X, y, loss="softmax", ridge=1e-2)
    keys = resflow.random_keys(0)
    f = resflow.feature_map("mlp", 5, width=4, depth=1, activation="tanh", key=keys.features)
    model = resflow.build_model("residual_unit", 5, f, key=keys.model, outputs=3)
    options = resflow.TrainingOptions(steps=200, learning_rate=0.02, log_every=50)
    measure = resflow.GapMeasure.against(fit, "softmax")
    result = resflow.train(model, X, y, loss="softmax", options=options, key=keys.batches, measure=measure)
    history = result.history
    assert history["linear_predictor_gap"][-1] < 0 < history["linear_predictor_gap"][0]
    assert (history["linear_predictor_gap"] <= history["gap_certificate"] + 1e-12).all()
    end = resflow.certify(Point.of(result.model, X, y, "softmax"), fit)
    for name in ("linear_predictor_gap", "gap_certificate", "rank_term", "norm_bound", "W_rank"):
        np.testing.assert_allclose(history[name][-1], getattr(end, name), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_held_out_gap_is_the_mean_difference_with_its_standard_error(loss):
    at = draw(5, 40, 3, 4, loss, 3 if loss == "softmax" else None)
    X, y = at.X, at.y
    fit = resflow.fit_linear_predictor(X[:20], y[:20], loss=loss, ridge=0.1)
    p = np.linspace(-1, 1, 20)
    if loss == "softmax":
        p = np.column_stack([p, p**2, -p])
    result = resflow.held_out_gap(p, X[20:], y[20:], loss=loss, fit=fit)

    def losses(p):
        if loss == "logistic":
            return np.logaddexp(0, -y[20:] * p)
        return np.logaddexp.reduce(p, axis=1) - p[np.arange(20), y[20:]]

    differences = losses(p) - losses(X[20:] @ fit.W.T)
    np.testing.assert_allclose(result.gap, differences.mean())
    np.testing.assert_allclose(result.standard_error, differences.std(ddof=1) / np.sqrt(20))
    np.testing.assert_allclose(result.gap, result.objective - result.linear_objective)


@pytest.mark.parametrize(
    "scales", [(1e-200, 1.0, 1.0), (1e-170, 1.0, 1e-170), (1.0, 1e-59, 1e-165), (1e160, 1e-3, 1.0)]
)
@pytest.mark.parametrize("loss", [Squared(), Logistic()], ids=repr)
def test_bounds_do_not_fall_below_the_gap_where_squares_leave_the_range_of_floating_point(loss, scales):
    """w, X and features in units of which the square is no number, or 0."""
    for seed in range(10):
        at = draw(seed, 30, 3, 4, Logistic())
        point = Point(scales[0] * at.W, at.V, scales[2] * at.features, scales[1] * at.X, at.y, loss)
        fit = comparator_fit(np.random.default_rng(seed).standard_normal(3), point)
        with np.errstate(over="ignore", invalid="ignore"):
            found = resflow.certify(point, fit)
        if np.isnan(found.linear_predictor_gap):
            assert np.isnan(found.theorem1_bound)
            continue
        assert found.w_norm == pytest.approx(np.linalg.norm(at.W) * scales[0], rel=1e-12)
        scale = 1e-12 * abs(found.gap_certificate)
        assert found.gap_certificate <= found.frobenius_bound + scale
        assert found.frobenius_bound <= found.theorem1_bound * (1 + 1e-12)
        assert found.gap_certificate <= 0 or found.frobenius_bound > 0
