"""Theorems 2 and 3 at random points, at saddles and along training; their constants against autodiff."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.certificates.theorems import (
    LipschitzConstants,
    implied_epsilon,
    lipschitz_constants,
    lipschitz_constants_terms,
    theorem2_bound,
    theorem2_terms,
    theorem3_bound,
    theorem3_terms,
)
from resflow.errors import InvalidInputError
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses.scalar import Logistic, Loss, PseudoHuber, Squared, as_loss
from resflow.models.feature_maps import feature_map
from resflow.models.residual_unit import residual_unit
from resflow.training.train import TrainingOptions, train
from tests.problems import LOSSES, ROUNDING, SHAPES, dense_hessians, objective, point

INSTANCES = [Squared(), Logistic(), PseudoHuber(0.5)]
RANDOM = [(loss, shape) for loss in INSTANCES for shape in [(4, 8, 6), (40, 5, 8)]] + [(Squared(), (5, 1, 1))]
"""Losses and shapes (n, d, k)."""
CASES = [("wide", loss) for loss in LOSSES] + [(shape, "squared") for shape in SHAPES if shape != "wide"]
POINTS = 1500


def random_points(loss, n, d, k):
    """POINTS random points of widely varying scale, each with any w* in the place of the best linear predictor."""
    rng = np.random.default_rng(n + d + k)
    shapes = [(d,), (d, k), (n, k), (n, d), (n,), (d,)]
    scales = [10.0 ** rng.uniform(-3, 2, POINTS).reshape(-1, *[1] * len(shape)) for shape in shapes]
    scales[3] = scales[4] = 1.0
    w, V, features, X, y, comparator = (
        scale * rng.standard_normal((POINTS, *shape)) for scale, shape in zip(scales, shapes, strict=True)
    )
    y = np.sign(y) if loss.binary_labels else y
    linear_objective = loss.value(np.einsum("mnd,md->mn", X, comparator), y).mean(axis=1)
    return (w, V, features, X, y), comparator, linear_objective


def derivatives(arrays, loss):
    """Predictions, gradients and dense Hessians in (w, V) of a batch of points, written out with NumPy."""
    w, V, features, X, y = arrays
    m, n, d = X.shape
    k = features.shape[2]
    a = X + features @ V.swapaxes(1, 2)
    p = np.einsum("mnd,md->mn", a, w)
    slope, curvature = loss.derivative(p, y) / n, loss.second_derivative(p, y) / n
    j = np.concatenate([a, np.einsum("md,mnk->mndk", w, features).reshape(m, n, d * k)], axis=2)
    g = np.einsum("mn,mnk->mk", slope, features)
    coupling = np.einsum("de,mk->mdek", np.eye(d), g).reshape(m, d, d * k)
    hessian = (j * curvature[:, :, None]).swapaxes(1, 2) @ j
    hessian[:, :d, d:] += coupling
    hessian[:, d:, :d] += coupling.swapaxes(1, 2)
    return p, np.einsum("mn,mni->mi", slope, j), hessian


def second_order_evidence(arrays, comparator, linear_objective, loss):
    """The gaps of some points, and Theorem 3's bounds: at the ε that a point implies, and by ‖∇F‖ and λ_min."""
    w, V, features, X, y = arrays
    p, gradient, hessian = derivatives(arrays, loss)
    eigenvalues = np.linalg.eigvalsh(hessian)
    tolerance = np.maximum(-eigenvalues[:, 0], 0.0) + ROUNDING * np.abs(eigenvalues).max(axis=1)
    grad_norm = np.linalg.norm(gradient, axis=1)
    radius = np.maximum(np.linalg.norm(w, axis=1), np.linalg.norm(V, 2, axis=(1, 2)))
    constants = jax.vmap(partial(lipschitz_constants_terms, loss=loss))(features, X, y, radius)
    options = {"linear_norm": np.linalg.norm(comparator, axis=1), "constants": LipschitzConstants(*constants)}
    by_definition = theorem3_bound(epsilon=implied_epsilon(grad_norm, -tolerance, constants.mu2), **options)
    by_evidence = theorem3_bound(epsilon=grad_norm, curvature_tolerance=tolerance, **options)
    gap = loss.value(p, y).mean(axis=1) - linear_objective
    return gap, np.asarray(by_definition.bound), np.asarray(by_evidence.bound)


def saddle(seed, n, d, k, loss):
    """A stationary point at w = 0, written down: V = −(mean ℓ'(0; y)x) gᵀ/‖g‖², plus what g does not see."""
    arrays = point(seed, n, d, k, loss)
    slope = as_loss(loss).derivative(np.zeros(n), arrays.y) / n
    g = slope @ arrays.features
    V = arrays.V - np.outer(arrays.V @ g + slope @ arrays.X, g) / (g @ g)
    return arrays._replace(w=np.zeros(d), V=V)


@pytest.mark.parametrize(("loss", "shape"), RANDOM, ids=repr)
def test_theorem2_holds_at_random_points(loss, shape):
    """10,500 points, each against a w* of its own."""
    arrays, comparator, linear_objective = random_points(loss, *shape)
    evaluate = jax.jit(partial(jax.lax.map, lambda point: theorem2_terms(*point, loss=loss)))
    terms = evaluate((*arrays[1:], comparator, linear_objective))
    scale = 1e-10 * np.maximum(np.abs(terms.gap), terms.bound)
    assert np.all(terms.gap <= terms.certificate + scale)
    assert np.all(terms.certificate <= terms.bound + scale)
    assert np.all(terms.slack >= -1e-10 * np.maximum(terms.left, np.abs(terms.right)))
    assert np.all(terms.lambda_min <= 0)
    assert np.all(np.isfinite(terms.left))


@pytest.mark.parametrize(("shape", "loss"), CASES)
def test_theorem2_is_carried_by_curvature_alone_at_saddles(shape, loss):
    """Where ∇F = 0 the left side is ‖V‖ sqrt(|λ_min|‖∂²_ww F‖ + λ_min²): it must exceed the gap without help."""
    n, d, k = SHAPES[shape]
    for seed in range(5):
        arrays = saddle(seed, n, d, k, loss)
        try:
            fit = fit_linear_predictor(arrays.X, arrays.y, loss=loss)
        except InvalidInputError:  # separable
            fit = fit_linear_predictor(arrays.X, arrays.y, loss=loss, max_norm=3.0)
        terms = theorem2_bound(*arrays[1:], loss=loss, linear_fit=fit)
        assert terms.grad_norm <= 1e-13 * terms.V_norm
        assert terms.gap > 0
        assert terms.lambda_min < 0
        assert terms.left >= terms.right


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_of_this_file_match_automatic_differentiation(loss):
    arrays = point(0, *SHAPES["wide"], loss)
    _, gradient, hessian = derivatives([array[None] for array in arrays], as_loss(loss))
    W = jnp.concatenate([arrays.w, arrays.V.ravel()])
    np.testing.assert_allclose(gradient[0], jax.jit(jax.grad(objective), static_argnums=4)(W, *arrays[2:], loss))
    np.testing.assert_allclose(hessian[0], dense_hessians([arrays], loss)[0], atol=ROUNDING)


@pytest.mark.parametrize(("shape", "loss"), CASES)
def test_theorem2_terms_match_dense_derivatives(shape, loss):
    n, d, k = SHAPES[shape]
    for seed in range(3):
        arrays = point(seed, n, d, k, loss, w_norm=0.0)
        fit = comparator_fit(np.ones(d), arrays.X, arrays.y, loss)
        terms = theorem2_bound(*arrays[1:], loss=loss, linear_fit=fit)
        _, gradient, hessian = derivatives([array[None] for array in arrays], as_loss(loss))
        np.testing.assert_allclose(terms.grad_norm, np.linalg.norm(gradient), rtol=1e-12)
        np.testing.assert_allclose(terms.lambda_min, np.linalg.eigvalsh(hessian[0])[0], atol=1e-13)
        np.testing.assert_allclose(terms.curvature_ww, np.linalg.norm(hessian[0, :d, :d], 2), rtol=1e-12)
        np.testing.assert_allclose(terms.V_norm, np.linalg.norm(arrays.V, 2), rtol=1e-12)
        np.testing.assert_allclose(terms.slack, terms.left - terms.gap / np.linalg.norm(fit.w), rtol=1e-12)


def test_theorem2_keeps_its_digits_where_g_is_tiny():
    """One sample, all scalar: λ_min = (h − sqrt(h² + 4g²))/2 with h = (1 + v f)², g = −f, which is −f² to 1e-40."""
    one = np.ones(1)
    fit = comparator_fit(one, one[:, None], one, "squared")
    terms = theorem2_bound(np.zeros((1, 1)), np.full((1, 1), 1e-20), one[:, None], one, loss="squared", linear_fit=fit)
    np.testing.assert_allclose(terms.lambda_min, -1e-40, rtol=1e-14)


def test_theorem2_with_zero_linear_predictor_asks_for_nothing():
    arrays = point(0, 20, 3, 4, "squared", w_norm=0.0)
    fit = comparator_fit(np.zeros(3), arrays.X, arrays.y, "squared")
    terms = theorem2_bound(*arrays[1:], loss="squared", linear_fit=fit)
    assert terms.right == 0.0
    assert terms.bound == 0.0
    assert terms.slack == terms.left


@pytest.mark.parametrize("loss", INSTANCES, ids=repr)
@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0])
def test_constants_bound_derivatives_up_to_the_third_everywhere_in_the_ball(loss, radius):
    """At 500 pairs of points, half of them close together: there the Hessian's change shows its derivative."""
    m, n, d, k = 500, 12, 3, 4
    samples = point(0, n, d, k, loss.name)[2:]
    constants = lipschitz_constants(*samples, loss=loss, radius=radius)
    samples = [np.broadcast_to(array, (m, *array.shape)) for array in samples]
    rng = np.random.default_rng(0)

    def within(w, V):
        w_norm, V_norm = np.linalg.norm(w, axis=1)[:, None], np.linalg.norm(V, 2, axis=(1, 2))[:, None, None]
        reach = radius * rng.uniform(0.5, 1.0, (2, m, 1))
        return w * (reach[0] / w_norm), V * (reach[1][:, :, None] / V_norm)

    w, V = rng.standard_normal((m, d)), rng.standard_normal((m, d, k))
    step = np.where(np.arange(m) % 2, 1.0, 1e-2)[:, None]
    here = within(w, V)
    there = within(w + step * rng.standard_normal(w.shape), V + step[:, :, None] * rng.standard_normal(V.shape))
    _, gradient, hessian = derivatives((*here, *samples), loss)
    change = hessian - derivatives((*there, *samples), loss)[2]
    distance = np.hypot(*(np.linalg.norm((a - b).reshape(m, -1), axis=1) for a, b in zip(here, there, strict=True)))
    measured = [
        np.linalg.norm(gradient, axis=1).max(),
        np.linalg.norm(hessian, 2, axis=(1, 2)).max(),
        (np.linalg.norm(change, 2, axis=(1, 2)) / distance).max(),
    ]
    for largest, constant in zip(measured, constants, strict=False):
        assert largest <= constant
        # far out the losses saturate while the suprema of their derivatives stay
        assert radius > 1 or largest > constant / 100


def test_constants_are_attained_by_one_sample():
    """x = 1, f = φ, y = −1: ∇F attains μ₀ at w = v = b; where b = 0, ξ = 1 and the formulas can be read off."""
    phi, b = 0.7, 1.3
    one = np.ones(1)
    arrays = (np.array([[phi]]), one[:, None], -one)
    constants = lipschitz_constants(*arrays, loss="squared", radius=b)
    _, gradient, _ = derivatives([array[None] for array in (b * one, b * one[:, None], *arrays)], Squared())
    np.testing.assert_allclose(constants.mu0, np.linalg.norm(gradient), rtol=1e-14)

    at_zero = lipschitz_constants(*arrays, loss="squared", radius=0.0)
    assert (at_zero.mu0, at_zero.mu1, at_zero.mu2) == pytest.approx((1.0, 1.0 + phi, 3.0 * phi))


@pytest.mark.parametrize(("loss", "shape"), RANDOM, ids=repr)
def test_theorem3_holds_at_random_points(loss, shape):
    """10,500 points, each taken as the ε-SOPSP that it is, within the ball of its own radius."""
    gap, by_definition, by_evidence = second_order_evidence(*random_points(loss, *shape), loss)
    assert np.all(gap <= by_evidence * (1 + 1e-10))
    assert np.all(by_evidence <= by_definition * (1 + 1e-10))
    assert np.all(np.isfinite(by_definition))
    assert np.count_nonzero(gap > 0) > POINTS / 4


@pytest.mark.parametrize("loss", LOSSES)
def test_theorem3_holds_near_saddles_above_the_linear_predictor(loss):
    """Where it is hardest: ∇F vanishes, the gap does not, and only λ_min pays for it."""
    n, d, k = SHAPES["wide"]
    for seed in range(3):
        arrays = saddle(seed, n, d, k, loss)
        fit = fit_linear_predictor(arrays.X, arrays.y, loss=loss)
        lengths = np.concatenate([[0.0], np.geomspace(1e-12, 1e-1, 40)])
        w = lengths[:, None] * np.random.default_rng(seed).standard_normal((41, d))
        moved = (w, *(np.broadcast_to(array, (41, *array.shape)) for array in arrays[1:]))
        comparator = np.broadcast_to(fit.w, w.shape)
        gap, by_definition, by_evidence = second_order_evidence(moved, comparator, fit.objective, as_loss(loss))
        assert np.all(gap[:30] > 0)
        assert np.all(gap <= by_evidence)
        assert np.all(by_evidence <= by_definition * (1 + 1e-10))


@pytest.mark.parametrize("loss", INSTANCES, ids=repr)
def test_theorems_hold_at_every_checkpoint_of_training(loss):
    d, n = 4, 60
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, d))
    y = np.tanh(X[:, 0] * X[:, 1]) + X[:, 2] + 0.1 * rng.standard_normal(n)
    y = np.sign(y) if loss.binary_labels else y
    fit = fit_linear_predictor(X, y, loss=loss)
    assert fit.converged

    def measure(model, X, y):
        features = model.features(X)
        slack = theorem2_terms(model.V, features, X, y, jnp.asarray(fit.w), fit.objective, loss=loss).slack
        return {"w": model.w, "V": model.V, "features": features, "slack": slack}

    key = jax.random.key(0)
    for scale in (0.0, 0.01, 1.0):
        model = residual_unit(d, feature_map("mlp", d, width=6, key=key), key=key, scale=scale)
        options = TrainingOptions(steps=300, learning_rate=0.03, log_every=10)
        history = train(model, X, y, loss=loss, options=options, key=key, measure=measure).history
        assert history["w"].shape == (31, d)
        assert np.all(history["slack"] >= 0)
        samples = (np.broadcast_to(X, (31, n, d)), np.broadcast_to(y, (31, n)))
        arrays = (history["w"], history["V"], history["features"], *samples)
        comparator = np.broadcast_to(fit.w, (31, d))
        gap, by_definition, by_evidence = second_order_evidence(arrays, comparator, fit.objective, loss)
        assert gap[-1] < 0
        assert np.all(gap <= by_evidence)
        assert np.all(by_evidence <= by_definition * (1 + 1e-10))


def test_split_radius_is_the_best_on_a_grid():
    """400 problems of all sizes, against the least maximum over 4,000 radii; interior radii balance the branches."""
    rng = np.random.default_rng(0)
    epsilon, linear_norm, mu0, mu1, mu2, b, tolerance = 10.0 ** rng.uniform([-12] + [-3] * 6, [0] + [3] * 6, (400, 7)).T
    found = theorem3_bound(
        epsilon=epsilon,
        linear_norm=linear_norm,
        constants=LipschitzConstants(mu0, mu1, mu2, b),
        curvature_tolerance=tolerance,
    )
    delta = b[:, None] * np.geomspace(1e-20, 1.0, 4000)
    epsilon, r, mu0, mu1, mu2, radius = (column[:, None] for column in (epsilon, linear_norm, mu0, mu1, mu2, b))
    s = tolerance[:, None] + mu2 * delta
    far = epsilon * np.sqrt(2 * radius**2 + r**2 * (2 + radius**2 / delta**2))
    near = mu0 * delta + r * (epsilon + mu1 * delta + radius * np.sqrt(mu1 * s + s**2))
    # beyond the radius there is no far point
    best = np.minimum(np.maximum(far, near).min(axis=1), near[:, -1])
    assert np.all(found.bound <= best * (1 + 1e-12))
    assert np.all(found.bound >= best * (1 - 0.02))
    interior = found.delta < b
    assert 100 < np.count_nonzero(interior) < 400
    np.testing.assert_allclose(found.far_branch[interior], found.near_branch[interior], rtol=1e-12)
    np.testing.assert_array_equal(found.far_branch[~interior], 0.0)


def test_bound_falls_as_the_fourth_root_of_epsilon_and_reaches_zero():
    """Theorem 3's rate, and Corollary 1 as its limit."""
    epsilon = np.geomspace(1e-24, 1e-16, 9)
    constants = LipschitzConstants(*np.array([2.0, 5.0, 3.0, 4.0]))
    bounds = theorem3_bound(epsilon=epsilon, linear_norm=1.5, constants=constants).bound
    slopes = np.diff(np.log(bounds)) / np.diff(np.log(epsilon))
    np.testing.assert_allclose(slopes, 0.25, atol=0.01)
    at_zero = theorem3_bound(epsilon=0.0, linear_norm=1.5, constants=constants)
    assert (at_zero.bound, at_zero.delta) == (0.0, 0.0)


def test_optimised_radius_beats_the_square_root_of_epsilon():
    constants = LipschitzConstants(*np.array([2.0, 5.0, 3.0, 4.0]))
    for epsilon in np.geomspace(1e-12, 1e-2, 6):
        delta, r, b = np.sqrt(epsilon), 1.5, 4.0
        s = np.sqrt(3.0 * epsilon) + 3.0 * delta
        far = epsilon * np.sqrt(2 * b**2 + r**2 * (2 + b**2 / delta**2))
        near = 2.0 * delta + r * (epsilon + 5.0 * delta + b * np.sqrt(5.0 * s + s**2))
        assert theorem3_bound(epsilon=epsilon, linear_norm=r, constants=constants).bound < max(far, near)


@pytest.mark.parametrize(
    ("epsilon", "linear_norm", "radius", "expected"),
    [
        (0.1, 2.0, 0.0, 0.2),  # the ball is the origin: F_lin(0) − F_lin(w*) ≤ r‖∇F‖
        (0.1, 0.0, 0.1, 0.1 * 0.1 * np.sqrt(2.0)),  # w* = 0: sqrt(2) ε b, by Theorem 1
        (1e6, 1.0, 1e-3, None),  # the branches meet beyond the ball
        (1e-300, 1.0, 1e100, None),
        (1e-150, 1e-150, 1e-150, None),
    ],
)
def test_extreme_balls_have_finite_bounds(epsilon, linear_norm, radius, expected):
    constants = LipschitzConstants(*np.array([1.0, 1.0, 1.0, radius]))
    found = theorem3_bound(epsilon=epsilon, linear_norm=linear_norm, constants=constants)
    assert np.isfinite(found.bound)
    assert 0 <= found.delta <= radius
    if expected is not None:
        np.testing.assert_allclose(found.bound, expected, rtol=1e-12)


def test_float32_agrees_with_float64():
    arguments = np.array([1e-4, 1.5, 2.0, 5.0, 3.0, 4.0])
    double, single = theorem3_terms(*arguments), theorem3_terms(*arguments.astype(np.float32))
    assert single.bound.dtype == np.float32
    np.testing.assert_allclose(single.bound, double.bound, rtol=1e-4)


def test_implied_epsilon_inverts_the_definition():
    assert implied_epsilon(0.1, 3.0, 2.0) == 0.1
    assert implied_epsilon(0.1, -4.0, 2.0) == 8.0
    assert implied_epsilon(0.1, -4.0, 0.0) == np.inf
    assert implied_epsilon(0.1, 0.0, 0.0) == 0.1


def test_bad_input_is_named():
    class Hinged(Loss):
        name = "hinged"

    arrays = point(0, 10, 2, 3, "squared")
    constants = LipschitzConstants(*np.ones(4))
    with pytest.raises(InvalidInputError, match="hinged loss has no curvature"):
        lipschitz_constants(*arrays[2:], loss=Hinged(), radius=1.0)
    with pytest.raises(InvalidInputError, match="radius=-1 must be at least 0"):
        lipschitz_constants(*arrays[2:], loss="squared", radius=-1.0)
    with pytest.raises(InvalidInputError, match="epsilon=nan must be at least 0"):
        theorem3_bound(epsilon=np.nan, linear_norm=1.0, constants=constants)
    with pytest.raises(InvalidInputError, match="curvature_tolerance=-2 must be at least 0"):
        theorem3_bound(epsilon=np.ones(1), linear_norm=1.0, constants=constants, curvature_tolerance=-2.0)


def test_mismatched_shapes_are_named(unchecked_types):
    arrays = point(0, 10, 2, 3, "squared")
    with pytest.raises(InvalidInputError, match=r"V has shape \(2, 2\), but must be \(2, 3\)"):
        theorem2_bound(arrays.V[:, :2], *arrays[2:], loss="squared", linear_fit=None)


def comparator_fit(w, X, y, loss):
    """Any linear predictor in the place of the best one."""
    value = float(np.mean(as_loss(loss).value(X @ w, y)))
    return LinearFit(w, value, 0.0, True, 0.0, 0.0, None, len(w), 0, None, 0.0, as_loss(loss).name)


@pytest.mark.parametrize("size", [1e-100, 1e-160, 1e-200, 1e-300])
def test_theorem2_holds_where_the_curvature_underflows(size):
    """λ_min = −‖g‖²/h is 0 in floating point, and sqrt(|λ_min| h) = ‖g‖ is not."""
    _, V, features, X, y = point(0, 30, 4, 5, "squared")
    fit = comparator_fit(np.ones(4), X, y, "squared")
    found = theorem2_bound(V, size * features, X, y, loss="squared", linear_fit=fit)
    assert found.g_norm > 0
    assert found.left > 0
    assert found.certificate <= found.bound * (1 + 1e-12)


def test_implied_epsilon_is_never_too_small_for_its_curvature():
    for curvature in (-1e-3, -1e-160, -1e-300):
        epsilon = implied_epsilon(0.0, curvature, 2.0)
        assert np.sqrt(2.0) * np.sqrt(epsilon) >= -curvature * (1 - 1e-15)
