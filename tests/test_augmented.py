"""The best predictor linear in samples and features: its bounds everywhere, its equality at stationary points."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point
from resflow.certificates.augmented import augmented_certificate
from resflow.losses import as_loss
from resflow.models.feature_maps import mlp
from resflow.status import Status
from tests.problems import OUTPUTS, ROUNDING, comparator_fit, flat, gradient, linear_fit, point, random_points

N, D, K = 12, 4, 5
COUNT = 20_000
of_every_kind = pytest.mark.parametrize(("loss", "m"), OUTPUTS)


def noisy(seed: int, loss: str, m: int | None = None, n: int = 300) -> Point:
    """A point on labels that no columns of its own explain, so that nothing is separable."""
    return point(seed, n, D, K, loss, m)


@jax.jit
@jax.vmap
def certified(at: Point, U, T):
    return augmented_certificate(at, U, T), gradient(at)


@of_every_kind
def test_certificate_bounds_the_slack_at_100000_random_points(loss, m):
    """20,000 of each kind, of widely varying scale, and any (U, T) will do; W of every rank."""
    ranks = None if m is None else np.arange(COUNT) % (min(m, D) + 1)
    at = random_points(1, COUNT, N, D, K, loss, m, ranks=ranks)
    rng = np.random.default_rng(2)
    shape = (COUNT,) if m is None else (COUNT, m)
    U, T = (10.0 ** rng.uniform(-2, 2, (COUNT, *[1] * len(shape))) * rng.standard_normal((*shape, k)) for k in (D, K))
    found, gradients = jax.tree.map(np.asarray, certified(at, U, T))
    W, V, features = (np.asarray(array).reshape(COUNT, -1, k) for array, k in ((at.W, D), (at.V, K), (at.features, K)))
    U, T = U.reshape(COUNT, -1, D), T.reshape(COUNT, -1, K)
    apart = T - U @ V
    reach = np.linalg.norm(gradients, axis=1) * (np.linalg.norm(W - U, axis=(1, 2)))
    in_R = np.linalg.norm(features, axis=(1, 2)) * np.linalg.norm(apart, axis=(1, 2)) * (1.0 + found.objective)
    scale = 1.0 + found.objective + np.abs(found.slack) + np.abs(found.certificate) + reach + in_R
    assert (found.slack <= found.certificate + ROUNDING * scale).all()
    assert (np.abs(found.gradient_term + found.rank_term - found.certificate) <= ROUNDING * scale).all()
    assert (found.certificate <= found.norm_bound + ROUNDING * scale + 1e-9 * np.abs(found.norm_bound)).all()
    # Its parts by the gradient of automatic differentiation, at points where W⁺ is well determined.
    singular = np.linalg.svd(W, compute_uv=False)
    clear = (singular[:, -1] > 1e-2 * singular[:, 0]) & (singular[:, -1] > 1e-2)
    assert clear.sum() > COUNT // 10
    over = np.linalg.pinv(W[clear]) @ apart[clear]
    G = np.concatenate([(W - U)[clear].reshape(len(over), -1), -over.reshape(len(over), -1)], axis=1)
    product = np.sum(G * gradients[clear], axis=1)
    sizes = np.linalg.norm(G, axis=1) * np.linalg.norm(gradients[clear], axis=1)
    assert (np.abs(found.gradient_term[clear] - product) <= 1e-10 * (scale[clear] + sizes)).all()
    assert (np.abs(found.rank_term[clear]) <= ROUNDING * scale[clear]).all()
    # The bound says something: it is not always far above what it bounds.
    assert (found.norm_bound[clear] < 10.0 * np.abs(found.certificate[clear])).any()


@of_every_kind
def test_stationary_points_with_full_rank_are_the_best_augmented_predictor(loss, m):
    """From five starts each: F = F_aug to 1e-10, without any bound on the norm."""
    found = 0
    for seed in range(5):
        at = noisy(seed, loss, m)
        fit = linear_fit(at)
        end = resflow.solve(at, epsilon=1e-11, fit=fit)
        assert end.status is Status.CONVERGED
        assert np.linalg.svd(np.atleast_2d(end.point.W))[1].max() > 1e-3
        best = resflow.fit_augmented(end.point, fit, max_norm=math.inf)
        assert best.converged
        assert abs(best.training_slack) <= 1e-10
        assert best.feature_gain >= -1e-12
        np.testing.assert_allclose(best.linear_predictor_gap, best.training_slack - best.feature_gain, atol=1e-12)
        found += best.feature_gain > 1e-3
    assert found  # not all of them are mere linear predictors


@of_every_kind
def test_split_of_the_gap_has_two_parts_that_are_not_negative(loss, m):
    for seed in range(10):
        at = noisy(seed, loss, m, n=30 if seed % 2 else 8)  # 8 samples are separable by 9 columns
        fit = linear_fit(at)
        best = resflow.fit_augmented(at, fit)
        assert best.converged
        assert best.training_slack >= 0
        assert best.feature_gain >= -1e-12 * (1.0 + fit.objective)
        gap = resflow.certify(at, fit).linear_predictor_gap
        np.testing.assert_allclose(best.linear_predictor_gap, gap, atol=1e-12)
        np.testing.assert_allclose(best.training_slack - best.feature_gain, gap, atol=1e-12)
        assert best.training_slack <= best.slack_certificate <= best.norm_bound * (1 + 1e-12)
        p = at.X @ best.U.T + at.features @ best.T[0].T
        np.testing.assert_allclose(best.objective, np.mean(at.loss.value(p, at.y)), rtol=1e-12, atol=1e-28)


def test_separable_columns_are_said_so_where_no_ball_is_asked_for():
    at = noisy(0, "logistic", n=8)
    fit = linear_fit(at)
    with pytest.raises(InvalidInputError, match="separable"):
        resflow.fit_augmented(at, fit, max_norm=math.inf)
    ridge = resflow.fit_augmented(at, fit, ridge=0.1)
    assert ridge.converged
    assert ridge.max_norm is None
    assert resflow.fit_augmented(at, fit, max_norm=3.0).max_norm == 3.0


def test_features_that_repeat_the_samples_gain_nothing():
    at = noisy(0, "squared")
    at = at.part(at.X[:, [0, 1, 2, 3, 0]], at.X, at.y)
    best = resflow.fit_augmented(at, linear_fit(at), max_norm=math.inf)
    np.testing.assert_allclose(best.feature_gain, 0, atol=1e-14)
    assert best.training_slack > 0


def deep(seed: int, blocks: int = 3, n: int = 200, inner: int = 2):
    keys = jax.random.split(jax.random.key(seed), blocks + 3)
    maps = [mlp(inner if b else D, width=3, depth=1, activation="tanh", key=keys[b]) for b in range(blocks)]
    model = resflow.build_model("deep_residual_network", D, maps, inner=inner, key=keys[-1])
    X = jax.random.normal(keys[-2], (n, D))
    return model, X, jnp.sign(jax.random.normal(keys[-3], (n,)) + X[:, 0])


@pytest.mark.parametrize("blocks", [1, 3])
def test_deep_network_is_split_by_the_features_of_all_blocks(blocks):
    model, X, y = deep(0, blocks)
    at = Point.of(model, X, y, "logistic")
    fit = resflow.fit_linear_predictor(X, y)
    best = resflow.fit_augmented(at, fit, max_norm=math.inf)
    _, features = model.forward(X)
    assert [t.shape for t in best.T] == [(3,)] * blocks
    columns = np.column_stack([X, *features])
    reference = resflow.fit_linear_predictor(columns, y)
    np.testing.assert_allclose(best.objective, reference.objective, rtol=1e-12)
    np.testing.assert_allclose(best.training_slack, at.objective - reference.objective, rtol=1e-10)
    assert 0 < best.training_slack <= best.slack_certificate <= best.norm_bound
    p, q = model(X), X @ best.U + sum(f @ t for f, t in zip(features, best.T, strict=True))
    certificate = jnp.mean(as_loss("logistic").derivative(p, y) * (p - q))
    np.testing.assert_allclose(best.slack_certificate, certificate, rtol=1e-10)


def test_blind_direction_bounds_what_training_left_in_a_deep_network():
    """With U_l v = 0 for all l the gradients of the network itself bound those with all features held fixed."""
    model, X, y = deep(1, inner=1)
    at, fit = Point.of(model, X, y, "logistic"), resflow.fit_linear_predictor(X, y)
    best = resflow.fit_augmented(at, fit, max_norm=math.inf)
    rows = np.concatenate(model.U)
    unseen = model.w - rows.T @ np.linalg.lstsq(rows.T, model.w, rcond=None)[0]
    v = unseen / np.linalg.norm(unseen)

    def objective(outer):
        moved = eqx.tree_at(lambda model: (model.w, model.V), model, outer)
        return jnp.mean(as_loss("logistic").value(moved(X), y))

    grad_w, grad_V = jax.grad(objective)((model.w, model.V))
    along = [best.T[block] - model.V[block].T @ best.U for block in range(3)]
    blocks = sum(a @ (g.T @ v) for a, g in zip(along, grad_V, strict=True)) / (model.w @ v)
    np.testing.assert_allclose((model.w - best.U) @ grad_w - blocks, best.slack_certificate, rtol=1e-9)


def test_points_that_are_not_finite_say_so_and_others_are_refused():
    at = noisy(0, "logistic")
    fit = linear_fit(at)
    for bad in (np.nan, np.inf, 1e200):
        lost = at.at(at.W, at.V * bad)
        found = resflow.fit_augmented(lost, fit)
        assert found.status is Status.DIVERGED
        assert not found.converged
        numbers = [found.objective, found.training_slack, found.feature_gain, found.slack_certificate]
        assert np.isnan(numbers).all()
    other = resflow.fit_linear_predictor(at.X[:50], at.y[:50])
    with pytest.raises(InvalidInputError, match="same samples"):
        resflow.fit_augmented(at, other)
    with pytest.raises(InvalidInputError, match="residual unit or a deep"):
        resflow.fit_augmented(Point.of(lambda X: X[:, 0], at.X, at.y, "logistic"), fit)
    squared = noisy(0, "squared")
    with pytest.raises(InvalidInputError, match="loss"):
        resflow.fit_augmented(squared, fit)


def test_classes_that_do_not_occur_keep_their_row():
    at = noisy(0, "softmax", 3)
    at = at.part(at.features, at.X, np.minimum(at.y, 1))
    with pytest.raises(InvalidInputError, match="one-hot"):
        resflow.fit_augmented(at, resflow.fit_linear_predictor(at.X, at.y, loss="softmax", ridge=0.1))
    fit = resflow.fit_linear_predictor(at.X, np.eye(3)[at.y.astype(int)], loss="softmax", ridge=0.1)
    best = resflow.fit_augmented(at, fit)
    assert best.U.shape == (3, D)
    assert best.training_slack >= 0


def test_certificate_agrees_with_that_of_the_linear_predictor_where_features_do_not_count():
    """At T = 0 it is Theorem 1's pointwise form."""
    at = noisy(0, "squared", 3)
    comparator = np.random.default_rng(0).standard_normal((3, D))
    found = augmented_certificate(jax.tree.map(jnp.asarray, at), comparator, np.zeros((3, K)))
    same = resflow.certify(at, comparator_fit(comparator, at))
    np.testing.assert_allclose(found.certificate, same.gap_certificate, rtol=1e-12)
    np.testing.assert_allclose(found.gradient_term, same.gradient_term, rtol=1e-9)
    assert found.slack == pytest.approx(same.linear_predictor_gap, rel=1e-12)
    assert flat(at.W, at.V).size == 3 * D + D * K
