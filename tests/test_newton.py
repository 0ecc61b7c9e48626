"""The second-order solver reaches what it says it reaches, and by Corollary 1 that is never above linear."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses.scalar import as_loss
from resflow.models.feature_maps import mlp
from resflow.models.residual_unit import residual_unit
from resflow.spectrum.partial import partial_spectrum
from resflow.stationarity._newton_step import ReducedModel, mean_decrease, trust_region_step
from resflow.stationarity.newton import STEPS, NewtonOptions, solve_partial, solve_residual_unit

WIDE = (60, 5, 8)
CASES = {
    "squared": WIDE,  # k > d
    "logistic": (60, 7, 3),  # k < d, labels that nothing separates
    "pseudo_huber": (40, 1, 4),  # d = 1
}


def starts(loss):
    """A random point, w = 0, next to w = 0, a saddle and next to it, all on the same data."""
    n, d, k = CASES[loss]
    w, V, features, X, y = problems.point(0, n, d, k, loss)
    slope = as_loss(loss).derivative(np.zeros(n), y) / n
    g = slope @ features
    saddle = -np.outer(slope @ X, g) / (g @ g)
    zero = np.zeros(d)
    pairs = {
        "random": (w, V),
        "large": (30 * w, 30 * V),
        "w = 0": (zero, V),
        "saddle": (zero, saddle),
        "next to the saddle": (1e-9 * w, saddle + 1e-9 * V),
        "origin": (zero, 0 * V),
    }
    return {name: problems.Point(*pair, features, X, y) for name, pair in pairs.items()}


@pytest.mark.parametrize("loss", CASES)
def test_solver_reaches_second_order_stationarity_at_1e_10_below_linear_from_everywhere(loss):
    ended_well = 0
    for name, point in starts(loss).items():
        fit = fit_linear_predictor(point.X, point.y, loss=loss)
        found = solve_partial(*point, loss=loss, linear_fit=fit)
        if loss == "pseudo_huber" and not found.converged:
            # At d = 1 the minimum is on one side of w = 0 only; on the other F falls towards w → 0, V → ∞ for ever.
            assert found.norm_running_away
            assert np.linalg.norm(found.V) > 1e6
            continue
        ended_well += 1
        assert found.converged, name
        assert not found.norm_running_away
        # Beside a λ_max of ‖V‖² rounding may be all that is left of a small λ_min: then the bracket is no wider.
        bracket = found.lambda_min
        assert bracket.converged or bracket.upper - bracket.lower <= bracket.rounding

        def objective(w, V, point=point):
            return jnp.mean(as_loss(loss).value((point.X + point.features @ V.T) @ w, jnp.asarray(point.y)))

        gradient = jax.grad(objective, argnums=(0, 1))(jnp.asarray(found.w), jnp.asarray(found.V))
        size = 1.0 + np.linalg.norm(found.V)
        assert np.hypot(*map(np.linalg.norm, gradient)) <= 1e-10 + 1e-14 * size
        np.testing.assert_allclose(found.objective, objective(found.w, found.V), rtol=4 * problems.ROUNDING)
        eigenvalues = partial_spectrum(found.w, found.V, *point[2:], loss=loss).eigenvalues
        assert eigenvalues[0] >= found.curvature_threshold == -1e-5
        assert found.gap <= 0.0
        np.testing.assert_allclose(found.gap, found.objective - fit.objective, atol=1e-14)
    assert ended_well >= 4


@pytest.mark.parametrize("loss", ["squared", "pseudo_huber"])
def test_path_descends_and_leaves_a_saddle_by_negative_curvature(loss):
    point = starts(loss)["saddle"]
    path = solve_partial(*point, loss=loss).path
    accepted = path.step[path.step != STEPS.index("rejected")]
    assert STEPS[accepted[0]] == "negative_curvature"
    assert path.grad_norm[0] < 1e-12
    assert path.lambda_min_upper[0] < -1e-3
    # the decrease of a step may be less than what F, a mean of as many losses, is known to
    assert (np.diff(path.objective) <= problems.ROUNDING * path.objective[:-1]).all()
    assert (path.lambda_min_lower <= path.lambda_min_upper).all()
    assert STEPS[path.step[-1]] == "end"
    np.testing.assert_array_equal(np.isnan(path.gap), True)
    moved = (path.step == STEPS.index("newton")) | (path.step == STEPS.index("negative_curvature"))
    np.testing.assert_array_equal(path.step_norm > 0, moved)


def test_all_starts_end_at_the_one_value_that_convexity_allows():
    ends = [solve_partial(*point, loss="squared").objective for point in starts("squared").values()]
    X, features, y = (getattr(starts("squared")["random"], name) for name in ("X", "features", "y"))
    columns = np.hstack([X, features])
    best = np.mean((columns @ np.linalg.lstsq(columns, y, rcond=None)[0] - y) ** 2) / 2
    np.testing.assert_allclose(ends, best, rtol=1e-12)


def test_solver_reaches_rounding_level_on_ill_conditioned_features():
    w, V, features, X, y = starts("squared")["random"]
    features = features * np.geomspace(1.0, 1e-3, features.shape[1])
    found = solve_partial(w, V, features, X, y, loss="squared")
    columns = np.hstack([X, features])
    best = np.mean((columns @ np.linalg.lstsq(columns, y, rcond=None)[0] - y) ** 2) / 2
    assert found.converged
    np.testing.assert_allclose(found.objective, best, rtol=1e-12)


def test_separable_logistic_features_are_reported_as_a_norm_that_runs_away():
    point = problems.point(0, 12, 3, 14, "logistic")
    fit = fit_linear_predictor(point.X, point.y, loss="logistic", ridge=0.1)
    found = solve_partial(*point, loss="logistic", linear_fit=fit)
    assert found.norm_running_away
    assert found.grad_norm <= 1e-10 or not found.converged
    assert found.newton_step_norm > 1e-3


def test_a_run_that_was_too_short_says_so():
    point = starts("squared")["random"]
    found = solve_partial(*point, loss="squared", options=NewtonOptions(max_steps=3))
    assert not found.converged
    assert len(found.path.step) == 4
    assert found.grad_norm > 1e-10


def test_theta_moves_by_the_optimiser_and_then_the_run_converges_in_w_and_V():
    n, d, k = WIDE
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    y = np.sin(2 * X[:, 0]) + X[:, 1]
    model = residual_unit(d, mlp(d, width=k, depth=1, activation="tanh", key=jax.random.key(0)), key=jax.random.key(1))
    fit = fit_linear_predictor(X, y, loss="squared")
    features = model.features(jnp.asarray(X))
    still = solve_partial(*map(np.asarray, (model.w, model.V, features)), X, y, loss="squared", linear_fit=fit)
    moved = solve_residual_unit(
        model, X, y, loss="squared", linear_fit=fit, options=NewtonOptions(theta_steps=40, max_steps=300)
    )
    assert still.converged
    assert moved.converged
    assert np.sum(moved.path.step == STEPS.index("theta")) == 40
    assert moved.gap < still.gap < 0
    predictions = moved.model(jnp.asarray(X))
    np.testing.assert_allclose(moved.objective, np.mean((predictions - y) ** 2) / 2, rtol=1e-12)
    assert not np.allclose(moved.model.features(jnp.asarray(X)), features, atol=1e-3)


@jax.jit
@jax.vmap
def many_steps(gradient, h, Q, radius):
    model = ReducedModel(gradient, h, Q, jnp.ones_like(h), jnp.zeros(3), jnp.zeros(2), jnp.zeros((3, 2)))
    return trust_region_step(model, radius)


@pytest.mark.parametrize("case", ["general", "hard", "definite", "flat"])
def test_trust_region_step_satisfies_the_conditions_for_a_global_minimiser(case):
    order, count = 7, 300
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((count, order, order)))[0]
    h = np.sort(rng.standard_normal((count, order)) * 10.0 ** rng.uniform(-4, 2, (count, order)), axis=1)
    q = rng.standard_normal((count, order)) * 10.0 ** rng.uniform(-6, 2, (count, 1))
    if case == "definite":
        h = np.sort(np.abs(h), axis=1)
    if case == "hard":
        h[:, 0] = -1.0 - np.abs(h[:, 0])
        h, q[:, 0] = np.sort(h, axis=1), 0.0
    if case == "flat":
        h[:, 0] = 0.0
        h, q = np.abs(h), np.where(h == 0, 0.0, q)
        rank = np.argsort(h, axis=1)
        h, q = np.take_along_axis(h, rank, axis=1), np.take_along_axis(q, rank, axis=1)
    radius = 10.0 ** rng.uniform(-3, 3, count)
    gradient = np.einsum("nij,nj->ni", Q, q)

    s, predicted, interior = map(np.asarray, many_steps(gradient, h, Q, radius))
    M = np.einsum("nij,nj,nkj->nik", Q, h, Q)
    Ms = np.einsum("nij,nj->ni", M, s)
    length = np.linalg.norm(s, axis=1)
    assert (length <= radius * (1 + 1e-8)).all()
    size = np.linalg.norm(gradient, axis=1) + np.abs(h).max(axis=1) * length
    mu = -np.sum((Ms + gradient) * s, axis=1) / length**2
    residual = np.linalg.norm(Ms + mu[:, None] * s + gradient, axis=1)
    assert (residual <= 1e-7 * size).all()
    assert (mu + h[:, 0] >= -1e-7 * (np.abs(h).max(axis=1) + size / length)).all()
    np.testing.assert_allclose(length[~interior], radius[~interior], rtol=1e-6)
    np.testing.assert_allclose(
        predicted, -np.sum(gradient * s, axis=1) - 0.5 * np.sum(Ms * s, axis=1), atol=1e-12 * (size * length).max()
    )
    assert (predicted > 0).all()


@pytest.mark.parametrize("loss", problems.LOSSES)
def test_decreases_far_below_the_rounding_of_the_objective_are_accurate(loss):
    rng = np.random.default_rng(0)
    y = np.sign(rng.standard_normal(50)) if loss == "logistic" else rng.standard_normal(50)
    p, direction = rng.standard_normal(50), rng.standard_normal(50)
    for length in (1e-12, 1e-9, 1e-6, 1e-3, 1.0):
        delta = length * direction
        found = mean_decrease(as_loss(loss), jnp.asarray(p), jnp.asarray(delta), jnp.asarray(y))
        if length < 1e-3:
            derivative, second = as_loss(loss).derivative(p, y), as_loss(loss).second_derivative(p, y)
            expected = -np.mean(derivative * delta + 0.5 * second * delta**2)
            np.testing.assert_allclose(found, expected, rtol=1e-12 + 10 * length**2)
        else:
            expected = np.mean(as_loss(loss).value(p, y)) - np.mean(as_loss(loss).value(p + delta, y))
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epsilon": 0.0}, "epsilon=0.0"), ({"max_steps": 0}, "max_steps=0"), ({"theta_steps": -1}, "theta_steps=-1")],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        NewtonOptions(**change)


def test_theta_steps_need_a_feature_map():
    with pytest.raises(InvalidInputError, match="features are fixed"):
        solve_partial(*starts("squared")["random"], loss="squared", options=NewtonOptions(theta_steps=1))
