"""The search knows nothing of the theory; what it finds must be what the theory says."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Loss, MeanLoss, PseudoHuber, find_stationary_points, fit_linear_predictor
from resflow.losses import Logistic, Squared
from resflow.models.residual_unit import NoSkipNetwork, ResidualUnit
from resflow.stationarity.find import STATUSES, SearchOptions
from resflow.stationarity.starts import descent_starts, random_starts
from tests.problems import ROUNDING

LOSSES = (Squared(), Logistic(), PseudoHuber())


def output_weights(model):
    return model.W, model.V


def problem(seed: int, n: int = 40, d: int = 2, loss: Loss = LOSSES[0]):
    """Data on which a linear predictor is neither useless nor perfect."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, -1] + 0.5 + 0.3 * rng.standard_normal(n)
    return X, np.where(y + rng.standard_normal(n) > 0, 1.0, -1.0) if loss.labels == "binary" else y


def unit(seed: int, d: int = 2, k: int = 2, activation: str = "tanh") -> ResidualUnit:
    map_key, key = jax.random.split(jax.random.key(seed))
    f = resflow.feature_map("mlp", d, width=k, depth=1, activation=activation, key=map_key)
    return resflow.build_model("residual_unit", d, f, key=key)


def joined(*starts):
    return jax.tree.map(lambda *leaf: jnp.concatenate(leaf) if eqx.is_array(leaf[0]) else leaf[0], *starts)


@pytest.mark.parametrize(
    ("loss", "d", "k"), [(LOSSES[0], 2, 3), (LOSSES[0], 1, 2), (LOSSES[1], 4, 2), (LOSSES[1], 3, 1), (LOSSES[2], 3, 3)]
)
def test_points_of_the_formula_are_stationary_in_every_parameter_with_the_predicted_value_and_curvature(loss, d, k):
    X, y = map(jnp.asarray, problem(d + k, d=d, loss=loss))
    slope = loss.derivative(jnp.zeros(len(y)), y)

    def written_down(key):
        map_key, V_key = jax.random.split(key)
        feature_map = resflow.feature_map("mlp", d, width=k, depth=2, activation="tanh", key=map_key)
        features = jax.vmap(feature_map)(X)
        g = slope @ features / len(y)
        free = jax.random.normal(V_key, (d, k))
        free -= jnp.outer(free @ g, g) / (g @ g)
        return ResidualUnit(jnp.zeros(d), free - jnp.outer(slope @ X / len(y), g) / (g @ g), feature_map)

    @eqx.filter_jit
    def check(key):
        model = written_down(key)
        value, gradient = eqx.filter_value_and_grad(MeanLoss(loss))(model, X, y)
        features = model.features(X)
        a, g = X + features @ model.V.T, slope @ features / len(y)
        h = jnp.linalg.eigvalsh(a.T @ (a * loss.second_derivative(jnp.zeros(len(y)), y)[:, None]) / len(y))
        predicted = jnp.min(-2 * g @ g / (h + jnp.sqrt(h**2 + 4 * g @ g)))
        F = lambda w, V: MeanLoss(loss)(eqx.tree_at(output_weights, model, (w, V)), X, y)  # noqa: E731
        (ww, wV), (_, VV) = jax.hessian(F, argnums=(0, 1))(model.W, model.V)
        wV = wV.reshape(d, d * k)
        dense = jnp.block([[ww, wV], [wV.T, VV.reshape(d * k, d * k)]])
        size = jnp.linalg.norm(model.V) * jnp.linalg.norm(features) / len(y) + 1.0
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        eigenvalues = jnp.linalg.eigvalsh(dense)
        return value, norm / size, predicted, eigenvalues[0], eigenvalues[-1]

    keys = jax.random.split(jax.random.key(0), 100)
    value, relative_gradient, predicted, actual, largest = map(np.asarray, jax.lax.map(check, keys))
    np.testing.assert_allclose(value, np.mean(loss.value(jnp.zeros(len(y)), y)), rtol=ROUNDING)
    assert relative_gradient.max() < 1e-13
    assert (predicted < 0).all()
    np.testing.assert_array_less(np.abs(predicted - actual), 1e-13 * largest)


@pytest.mark.parametrize(
    ("loss", "activation", "d"), [(Squared(), "tanh", 2), (Logistic(), "relu", 2), (PseudoHuber(), "tanh", 1)]
)
def test_every_stationary_point_above_the_linear_predictor_is_a_strict_saddle_at_w_zero(loss, activation, d):
    X, y = problem(0, d=d, loss=loss)
    objective, model = MeanLoss(loss), unit(1, d=d, activation=activation)
    starts = joined(
        random_starts(model, 160, key=jax.random.key(2)),
        descent_starts(objective, random_starts(model, 40, key=jax.random.key(3)), X, y, key=jax.random.key(4)),
    )
    found = find_stationary_points(objective, starts, X, y, block=output_weights, max_steps=100)
    linear = fit_linear_predictor(X, y, loss=loss)
    above = found.above(linear.objective)
    assert above.sum() >= 20
    assert (~above).any()
    assert found.counts.converged >= 100
    np.testing.assert_array_less(np.linalg.norm(found.points.W[above], axis=1), 1e-8)
    np.testing.assert_allclose(found.objective[above], np.mean(loss.value(np.zeros(len(y)), y)), rtol=1e-8)
    assert not found.spurious(linear.objective).any()
    assert (found.block_lambda_min[above] < -1e-8).all()


def test_partial_search_reports_the_exact_partial_spectrum():
    X, y = problem(5)
    features = np.abs(X @ np.random.default_rng(0).standard_normal((2, 3)) + 0.5)
    starts = random_starts(Weights(jnp.zeros(2), jnp.zeros((2, 3))), 60, key=jax.random.key(0))
    data, key = (jnp.asarray(features), jnp.asarray(X), jnp.asarray(y)), jax.random.key(1)
    starts = joined(starts, descent_starts(partial_objective, starts, *data, key=key, max_steps=1000))
    found = find_stationary_points(partial_objective, starts, features, X, y)
    # Most others creep along the valley w → 0, V → ∞ with Vᵀw fixed, where ‖∇F‖ → 0 too: no stationary points.
    assert found.counts.converged >= 20
    assert found.counts.converged + found.counts.diverged >= 110
    for row in range(0, len(found.objective), 10):
        point = resflow.Point(found.points.W[row], found.points.V[row], features, X, y, "squared")
        exact = resflow.spectrum(point).eigenvalues
        np.testing.assert_allclose(found.eigenvalues[row], exact, atol=1e-12 * np.abs(exact).max())
    # Convexity in (w, Vᵀw): away from w = 0 there is one value only.
    levels = np.unique(np.round(found.objective, 8))
    assert len(levels) == 2
    np.testing.assert_allclose(levels[1], np.mean(0.5 * y**2), atol=1e-8)


class Weights(eqx.Module):
    W: Any
    V: Any


def partial_objective(point, features, X, y):
    return jnp.mean(0.5 * (X @ point.W + features @ (point.V.T @ point.W) - y) ** 2)


def test_without_skip_connection_dead_relus_are_spurious_with_zero_gradient_and_hessian():
    X, y = problem(0)
    model = NoSkipNetwork(jnp.zeros(2), unit(0, activation="relu").feature_map)
    found = find_stationary_points(MeanLoss(Squared()), random_starts(model, 200, key=jax.random.key(0)), X, y)
    spurious = found.spurious(fit_linear_predictor(X, y, loss="squared").objective)
    dead = np.abs(found.eigenvalues).max(axis=1) == 0
    assert (spurious & dead).any()
    np.testing.assert_array_equal(found.grad_norm[dead], 0.0)
    np.testing.assert_allclose(found.objective[dead], np.mean(0.5 * y**2), rtol=ROUNDING)


def ridged_objective(model, X, y):
    return MeanLoss(Squared())(model, X, y) + 0.125 * (jnp.sum(model.W**2) + jnp.sum(model.V**2))


def test_ridge_makes_the_spurious_local_minimum_of_shamirs_figure():
    model = ResidualUnit(jnp.zeros(1), jnp.zeros((1, 1)), lambda x: x)
    one = np.ones((1, 1)), np.ones(1)
    starts = random_starts(model, 300, key=jax.random.key(1), scales=(0.3, 3.0))
    plain = find_stationary_points(MeanLoss(Squared()), starts, *one)
    assert not plain.spurious(0.0).any()
    saddle = plain.above(0.0)
    np.testing.assert_allclose(plain.points.V[saddle].ravel(), -1.0, atol=1e-10)
    np.testing.assert_allclose(plain.lambda_min[saddle], -1.0, atol=1e-10)

    ridged = find_stationary_points(ridged_objective, starts, *one)
    minima = np.flatnonzero(ridged.index == 0)
    assert len(minima) == 2
    points = np.column_stack([ridged.points.W[minima].ravel(), ridged.points.V[minima].ravel()])
    np.testing.assert_allclose(points, [[0.6596277, 0.32771295], [-0.98280626, -1.60268226]], atol=1e-7)
    np.testing.assert_allclose(ridged.objective[minima], [0.07552635, 0.52491385], atol=1e-8)
    np.testing.assert_array_equal(ridged.spurious(0.1), np.arange(len(ridged.objective)) == minima[1])


def kernel_trap(x):
    return x[0] ** 3 / 3 + x[0] + 0.5 * jnp.sum(x[1:] ** 2)


def runaway(x):
    return jnp.log1p(jnp.exp(-x[0]))


def four_wells(x):
    return jnp.sum((x**2 - 1) ** 2)


def test_points_where_the_gradient_is_in_the_hessians_kernel_are_counted_apart():
    starts = jax.random.normal(jax.random.key(0), (50, 3))
    found = find_stationary_points(kernel_trap, starts)  # ∇F = (x₀² + 1, ...) is nowhere zero
    assert found.counts.converged == 0
    assert found.counts.kernel_stuck == 50
    assert len(found.objective) == 0
    np.testing.assert_allclose(found.start_grad_norm, 1.0, rtol=1e-4)
    assert found.start_kernel_ratio.max() <= 1e-6


def test_points_that_run_away_are_not_reported_as_stationary():
    starts = jnp.linspace(-2.0, 2.0, 20)[:, None]
    found = find_stationary_points(runaway, starts, tolerance=1e-300, max_norm=100.0, max_steps=2000)
    assert found.counts.converged == 0
    assert found.counts.diverged == 20


def test_index_multiplicity_and_merging_on_a_function_whose_stationary_points_are_known():
    starts = 2 * jax.random.normal(jax.random.key(0), (400, 2))
    by_point = find_stationary_points(four_wells, starts)
    assert by_point.counts.distinct == 9
    order = np.lexsort(np.round(by_point.points, 6).T)
    np.testing.assert_allclose(by_point.points[order], [[i, j] for j in (-1, 0, 1) for i in (-1, 0, 1)], atol=1e-8)
    np.testing.assert_array_equal(by_point.index, [0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert by_point.multiplicity.sum() == by_point.counts.converged

    by_spectrum = find_stationary_points(four_wells, starts, merge="spectrum")
    np.testing.assert_array_equal(by_spectrum.index, [0, 1, 2])
    assert by_spectrum.multiplicity.sum() == by_spectrum.counts.converged
    unmerged = find_stationary_points(four_wells, starts, merge="none")
    assert len(unmerged.objective) == unmerged.counts.converged


def test_starts_that_are_stationary_already_converge_where_they_are():
    starts = 2 * jax.random.normal(jax.random.key(0), (60, 2))
    first = find_stationary_points(four_wells, starts)
    again = find_stationary_points(four_wells, jnp.asarray(first.points + 1e-16))
    assert again.counts.converged == first.counts.distinct
    np.testing.assert_allclose(again.points, first.points, atol=1e-12)


def test_chunks_find_what_single_starts_find():
    starts = jax.random.normal(jax.random.key(0), (30, 2))
    single, chunks = (find_stationary_points(four_wells, starts, chunk_size=size, merge="none") for size in (1, 8))
    np.testing.assert_allclose(single.points, chunks.points, atol=1e-12)
    np.testing.assert_array_equal(single.status, chunks.status)


def test_every_start_has_one_outcome_and_float32_starts_are_searched_in_float64():
    starts = jax.random.normal(jax.random.key(0), (30, 2), dtype=jnp.float32)
    found = find_stationary_points(four_wells, starts)
    assert sum(getattr(found.counts, status) for status in STATUSES) == found.counts.starts == 30
    assert found.points.dtype == np.float64
    assert found.grad_norm.max() <= found.grad_tolerance


@pytest.mark.parametrize(
    ("change", "message"),
    [({"merge": "near"}, "merge='near'"), ({"max_steps": 0}, "max_steps=0"), ({"tolerance": -1.0}, "tolerance=-1.0")],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        SearchOptions(**change)


@pytest.mark.parametrize("coded", [lambda y: (y > 0).astype(int), lambda y: y > 0, lambda y: y.tolist()])
def test_labels_of_a_mean_loss_are_coded_as_those_of_a_point(coded, unchecked_types):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 2))
    y = np.sign(X[:, 0] + 0.5 * rng.standard_normal(20))
    objective, starts = MeanLoss("logistic"), random_starts(unit(0), 6, key=jax.random.key(0))
    found, expected = (find_stationary_points(objective, starts, X, each, max_steps=60) for each in (coded(y), y))
    np.testing.assert_array_equal(found.start_grad_norm, expected.start_grad_norm)
    np.testing.assert_array_equal(found.objective, expected.objective)
    moved = (descent_starts(objective, starts, X, each, key=jax.random.key(1), max_steps=5) for each in (coded(y), y))
    assert eqx.tree_equal(*moved)


@pytest.mark.parametrize(
    ("objective", "labels", "message"),
    [
        (MeanLoss("squared"), lambda y: y[:-1], r"y has shape \(19,\), but X has 20 samples"),
        (MeanLoss("squared"), lambda y: y[:, None], r"predictions have shape \(20,\), but .* must have \(20, 1\)"),
        (MeanLoss("logistic"), lambda y: y + 2, "the logistic loss takes two classes"),
        ("squared", lambda y: y, "objective='squared' must be a function of a point and the data"),
    ],
)
def test_labels_that_do_not_suit_a_mean_loss_are_refused(objective, labels, message, unchecked_types):
    X = np.random.default_rng(0).standard_normal((20, 2))
    with pytest.raises(InvalidInputError, match=message):
        find_stationary_points(objective, random_starts(unit(0), 3, key=jax.random.key(0)), X, labels(np.sign(X[:, 0])))


def test_starts_that_do_not_fit_together_are_refused():
    with pytest.raises(InvalidInputError, match="leading axis"):
        find_stationary_points(four_wells, (jnp.zeros((3, 2)), jnp.zeros((4, 2))))
    with pytest.raises(InvalidInputError, match="count=0"):
        random_starts(unit(0), 0, key=jax.random.key(0))
    with pytest.raises(InvalidInputError, match="scales"):
        random_starts(unit(0), 3, key=jax.random.key(0), scales=(0.0, 1.0))
