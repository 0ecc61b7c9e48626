"""The second-order solver reaches what it says it reaches, and by Corollary 1 that is never above linear."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, Point
from resflow.losses import as_loss
from resflow.stationarity._trust_region import ReducedModel, mean_decrease, trust_region_step
from resflow.stationarity.solve import STEPS, solve_unit
from tests.problems import LOSSES, ROUNDING, flat, gradient, linear_fit, objective, point, saddle

WIDE = (60, 5, 8)
CASES = {
    ("squared", None): WIDE,  # k > d
    ("logistic", None): (60, 7, 3),  # k < d, labels that nothing separates
    ("pseudo_huber", None): (40, 1, 4),  # d = 1
    ("squared", 3): (60, 5, 4),
    ("softmax", 3): (60, 4, 3),
}


def starts(loss: str, m: int | None = None) -> dict[str, Point]:
    """A random point, W = 0, next to W = 0, a saddle and next to it, all on the same data; of rank one too."""
    at = point(0, *CASES[loss, m], loss, m)
    zero, V = 0 * at.W, saddle(at).V
    pairs = {
        "random": (at.W, at.V),
        "large": (30 * at.W, 30 * at.V),
        "w = 0": (zero, at.V),
        "saddle": (zero, V),
        "next to the saddle": (1e-9 * at.W, V + 1e-9 * at.V),
        "origin": (zero, 0 * at.V),
    }
    found = {name: at.at(*pair) for name, pair in pairs.items()}
    return found if m is None else found | {"saddle of rank 1": saddle(at, 1)}


@pytest.mark.parametrize(("loss", "m"), CASES)
def test_solver_reaches_second_order_stationarity_at_1e_10_below_linear_from_everywhere(loss, m):
    ended_well = 0
    for name, at in starts(loss, m).items():
        fit = resflow.fit_linear_predictor(at.X, at.y, loss=loss)
        found = resflow.solve(at, fit=fit)
        end = found.point
        if loss == "pseudo_huber" and not found.converged:
            # At d = 1 the minimum is on one side of w = 0 only; on the other F falls towards w → 0, V → ∞ for ever.
            assert found.norm_running_away
            assert np.linalg.norm(end.V) > 1e6
            continue
        ended_well += 1
        assert found.converged, name
        assert not found.norm_running_away
        # Beside a λ_max of ‖V‖² rounding may be all that is left of a small λ_min: then the bracket is no wider.
        bracket = found.smallest
        assert bracket.converged or bracket.lambda_min_upper - bracket.lambda_min_lower <= bracket.rounding
        size = 1.0 + np.linalg.norm(end.V)
        assert np.linalg.norm(gradient(end)) <= 1e-10 + 1e-14 * size
        np.testing.assert_allclose(found.objective, objective(flat(end.W, end.V), end), rtol=4 * ROUNDING)
        assert resflow.spectrum(end).eigenvalues[0] >= found.curvature_threshold == -1e-5
        assert found.linear_predictor_gap <= 0.0
        np.testing.assert_allclose(found.linear_predictor_gap, found.objective - fit.objective, atol=1e-14)
    assert ended_well >= 4


@pytest.mark.parametrize(("loss", "m"), [("squared", None), ("pseudo_huber", None), ("softmax", 3)])
def test_path_descends_and_leaves_a_saddle_by_negative_curvature(loss, m):
    path = resflow.solve(starts(loss, m)["saddle"]).path
    accepted = path.step[path.step != STEPS.index("rejected")]
    assert STEPS[accepted[0]] == "negative_curvature"
    assert path.grad_norm[0] < 1e-12
    assert path.lambda_min_upper[0] < -1e-3
    # the decrease of a step may be less than what F, a mean of as many losses, is known to
    assert (np.diff(path.objective) <= ROUNDING * path.objective[:-1]).all()
    assert (path.lambda_min_lower <= path.lambda_min_upper).all()
    assert STEPS[path.step[-1]] == "end"
    np.testing.assert_array_equal(np.isnan(path.linear_predictor_gap), True)
    moved = (path.step == STEPS.index("newton")) | (path.step == STEPS.index("negative_curvature"))
    np.testing.assert_array_equal(path.step_norm > 0, moved)


def best_of_both(at: Point) -> float:
    """The least mean squared loss of inputs and features together."""
    columns = np.hstack([at.X, at.features])
    residual = (columns @ np.linalg.lstsq(columns, at.y, rcond=None)[0] - at.y).reshape(len(at.X), -1)
    return np.mean(np.sum(residual**2, axis=1)) / 2


@pytest.mark.parametrize("m", [None, 3])
def test_all_starts_end_at_the_one_value_that_convexity_allows(m):
    """Of three outputs and four features in five inputs W V may be anything: all is one convex problem."""
    of_one_problem = {name: at for name, at in starts("squared", m).items() if name != "saddle of rank 1"}
    ends = [resflow.solve(at).objective for at in of_one_problem.values()]
    np.testing.assert_allclose(ends, best_of_both(of_one_problem["random"]), rtol=1e-12)


def test_solver_reaches_rounding_level_on_ill_conditioned_features():
    at = starts("squared")["random"]
    at = at.part(at.features * np.geomspace(1.0, 1e-3, at.features.shape[1]), at.X, at.y)
    found = resflow.solve(at)
    assert found.converged
    np.testing.assert_allclose(found.objective, best_of_both(at), rtol=1e-12)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_separable_features_are_reported_as_a_norm_that_runs_away(loss, m):
    at = point(0, 12, 3, 14, loss, m)
    found = resflow.solve(at, fit=linear_fit(at, ridge=0.1))
    assert found.norm_running_away
    assert found.grad_norm <= 1e-10 or not found.converged
    assert found.newton_step_norm > 1e-3


def test_a_run_that_was_too_short_says_so():
    found = resflow.solve(starts("squared")["random"], max_steps=3)
    assert not found.converged
    assert found.status.value == "iteration_limit"
    assert len(found.path.step) == 4
    assert found.grad_norm > 1e-10


@pytest.mark.parametrize("m", [None, 2])
def test_theta_moves_by_the_optimiser_and_then_the_run_converges_in_w_and_V(m):
    n, d, k = WIDE
    X = np.random.default_rng(0).standard_normal((n, d))
    y = np.sin(2 * X[:, 0]) + X[:, 1]
    y = y if m is None else np.column_stack([y, np.cos(2 * X[:, 2])])
    f = resflow.feature_map("mlp", d, width=k, depth=1, activation="tanh", key=jax.random.key(0))
    model = resflow.build_model("residual_unit", d, f, key=jax.random.key(1), outputs=m)
    fit = resflow.fit_linear_predictor(X, y, loss="squared")
    start = Point.of(model, X, y, "squared")
    still = resflow.solve(start, fit=fit)
    moved = solve_unit(model, X, y, "squared", fit=fit, theta_steps=40, max_steps=300)
    assert still.converged
    assert moved.converged
    assert np.sum(moved.path.step == STEPS.index("theta")) == 40
    assert moved.linear_predictor_gap < still.linear_predictor_gap < 0
    errors = ((moved.model(jnp.asarray(X)) - y) ** 2).reshape(n, -1).sum(axis=1)
    np.testing.assert_allclose(moved.objective, np.mean(errors) / 2, rtol=1e-12)
    assert not np.allclose(moved.model.features(jnp.asarray(X)), start.features, atol=1e-3)


@jax.jit
@jax.vmap
def many_steps(gradient, h, Q, radius):
    model = ReducedModel(gradient, h, Q, jnp.ones_like(h), None, jnp.zeros((3, 2)))
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


@pytest.mark.parametrize("loss", LOSSES)
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


@pytest.mark.parametrize("m", [3, 10])
def test_decrease_of_several_outputs_is_accurate_far_below_the_rounding_of_the_objective(m):
    rng, loss = np.random.default_rng(0), as_loss("softmax")
    y = rng.integers(m, size=50)
    p, direction = rng.standard_normal((50, m)), rng.standard_normal((50, m))
    for length in (1e-12, 1e-9, 1e-6):
        delta = length * direction
        found = mean_decrease(loss, jnp.asarray(p), jnp.asarray(delta), jnp.asarray(y))
        curved = np.einsum("ni,nij,nj->n", delta, loss.second_derivative(p, y), delta)
        expected = -np.mean(np.sum(loss.derivative(p, y) * delta, axis=1) + 0.5 * curved)
        np.testing.assert_allclose(found, expected, rtol=1e-12 + 10 * length**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epsilon": 0.0}, "epsilon=0.0"), ({"max_steps": 0}, "max_steps=0"), ({"radius": -1.0}, "radius=-1.0")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        resflow.solve(starts("squared")["random"], **options)


@pytest.mark.usefixtures("unchecked_types")
def test_theta_steps_need_a_feature_map():
    at, f = starts("squared")["random"], resflow.feature_map("mlp", 5, width=8, key=jax.random.key(0))
    model = resflow.build_model("output_skip", 5, f, key=jax.random.key(0))
    with pytest.raises(InvalidInputError, match="must be a residual unit"):
        solve_unit(model, at.X, at.y, "squared", theta_steps=1)
    with pytest.raises(InvalidInputError, match="theta_steps=-1"):
        solve_unit(model, at.X, at.y, "squared", theta_steps=-1)
