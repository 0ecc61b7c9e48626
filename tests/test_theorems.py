"""Theorems 2 and 3 at random points, at saddles and along training; their constants against autodiff."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import Loss, Point, PseudoHuber
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
from resflow.losses import Logistic, Squared, as_loss
from tests.problems import (
    LOSSES,
    ROUNDING,
    SHAPES,
    comparator_fit,
    dense_hessians,
    flat,
    gradient,
    linear_fit,
    objective,
    point,
    random_points,
    saddle,
    stacked,
)

INSTANCES = [Squared(), Logistic(), PseudoHuber(0.5)]
RANDOM = [(loss, shape) for loss in INSTANCES for shape in [(4, 8, 6), (40, 5, 8)]] + [(Squared(), (5, 1, 1))]
"""Losses and shapes (n, d, k)."""
CASES = [("wide", loss) for loss in LOSSES] + [(shape, "squared") for shape in SHAPES if shape != "wide"]
POINTS = 1500


def with_comparators(loss, n, d, k):
    """POINTS random points of widely varying scale, each with any w* in the place of the best linear predictor."""
    rng, points = np.random.default_rng(n + d + k), random_points(n + d + k, POINTS, n, d, k, loss)
    comparator = 10.0 ** rng.uniform(-3, 2, (POINTS, 1)) * rng.standard_normal((POINTS, d))
    X, y = np.asarray(points.X), np.asarray(points.y)
    return points, comparator, each(loss.value, np.einsum("mnd,md->mn", X, comparator), y).mean(axis=1)


def each(function, p, y):
    """A loss or its derivative at each of some points, which are no outputs."""
    return np.asarray(jax.vmap(function)(jnp.asarray(p), jnp.asarray(y)))


def derivatives(points):
    """Predictions, gradients and dense Hessians in (w, V) of a batch of points, written out with NumPy."""
    w, V, features, X, y = map(np.asarray, (points.W, points.V, points.features, points.X, points.y))
    m, n, d = X.shape
    k, loss = features.shape[2], points.loss
    a = X + features @ V.swapaxes(1, 2)
    p = np.einsum("mnd,md->mn", a, w)
    slope, curvature = each(loss.derivative, p, y) / n, each(loss.second_derivative, p, y) / n
    j = np.concatenate([a, np.einsum("md,mnk->mndk", w, features).reshape(m, n, d * k)], axis=2)
    g = np.einsum("mn,mnk->mk", slope, features)
    coupling = np.einsum("de,mk->mdek", np.eye(d), g).reshape(m, d, d * k)
    hessian = (j * curvature[:, :, None]).swapaxes(1, 2) @ j
    hessian[:, :d, d:] += coupling
    hessian[:, d:, :d] += coupling.swapaxes(1, 2)
    return p, np.einsum("mn,mni->mi", slope, j), hessian


def second_order_evidence(points, comparator, linear_objective):
    """The gaps of some points, and Theorem 3's bounds: at the ε that a point implies, and by ‖∇F‖ and λ_min."""
    p, slope, hessian = derivatives(points)
    eigenvalues = np.linalg.eigvalsh(hessian)
    tolerance = np.maximum(-eigenvalues[:, 0], 0.0) + ROUNDING * np.abs(eigenvalues).max(axis=1)
    grad_norm = np.linalg.norm(slope, axis=1)
    radius = np.maximum(np.linalg.norm(points.W, axis=1), np.linalg.norm(points.V, 2, axis=(1, 2)))
    constants = jax.vmap(lipschitz_constants_terms)(points, radius)
    options = {"linear_norm": np.linalg.norm(comparator, axis=1), "constants": LipschitzConstants(*constants)}
    by_definition = theorem3_bound(epsilon=implied_epsilon(grad_norm, -tolerance, constants.mu2), **options)
    by_evidence = theorem3_bound(epsilon=grad_norm, curvature_tolerance=tolerance, **options)
    gap = each(points.loss.value, p, points.y).mean(axis=1) - linear_objective
    return gap, np.asarray(by_definition.bound), np.asarray(by_evidence.bound)


@pytest.mark.parametrize(("loss", "shape"), RANDOM, ids=repr)
def test_theorem2_holds_at_random_points(loss, shape):
    """10,500 points, each against a w* of its own."""
    evaluate = jax.jit(partial(jax.lax.map, lambda arguments: theorem2_terms(*arguments)))
    terms = evaluate(with_comparators(loss, *shape))
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
        at = saddle(point(seed, n, d, k, loss))
        terms = theorem2_bound(at, linear_fit(at))
        assert terms.grad_norm <= 1e-13 * terms.V_norm
        assert terms.gap > 0
        assert terms.lambda_min < 0
        assert terms.left >= terms.right


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_of_this_file_match_automatic_differentiation(loss):
    at = point(0, *SHAPES["wide"], loss)
    _, slope, hessian = derivatives(stacked([at]))
    np.testing.assert_allclose(slope[0], gradient(at))
    np.testing.assert_allclose(hessian[0], dense_hessians([at])[0], atol=ROUNDING)


@pytest.mark.parametrize(("shape", "loss"), CASES)
def test_theorem2_terms_match_dense_derivatives(shape, loss):
    n, d, k = SHAPES[shape]
    for seed in range(3):
        at = point(seed, n, d, k, loss, w_norm=0.0)
        fit = comparator_fit(np.ones(d), at)
        terms = theorem2_bound(at, fit)
        _, slope, hessian = derivatives(stacked([at]))
        np.testing.assert_allclose(terms.grad_norm, np.linalg.norm(slope), rtol=1e-12)
        np.testing.assert_allclose(terms.lambda_min, np.linalg.eigvalsh(hessian[0])[0], atol=1e-13)
        np.testing.assert_allclose(terms.curvature_ww, np.linalg.norm(hessian[0, :d, :d], 2), rtol=1e-12)
        np.testing.assert_allclose(terms.V_norm, np.linalg.norm(at.V, 2), rtol=1e-12)
        np.testing.assert_allclose(terms.slack, terms.left - terms.gap / np.linalg.norm(fit.W), rtol=1e-12)


def test_theorem2_keeps_its_digits_where_g_is_tiny():
    """One sample, all scalar: λ_min = (h − sqrt(h² + 4g²))/2 with h = (1 + v f)², g = −f, which is −f² to 1e-40."""
    one = np.ones((1, 1))
    at = Point(one[0], 0 * one, 1e-20 * one, one, one[0], "squared")
    terms = theorem2_bound(at, comparator_fit(one[0], at))
    np.testing.assert_allclose(terms.lambda_min, -1e-40, rtol=1e-14)


def test_theorem2_with_zero_linear_predictor_asks_for_nothing():
    at = point(0, 20, 3, 4, "squared", w_norm=0.0)
    terms = theorem2_bound(at, comparator_fit(np.zeros(3), at))
    assert terms.right == 0.0
    assert terms.bound == 0.0
    assert terms.slack == terms.left


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0))
def derivative_norms(at, W, V, direction):
    """‖∇F‖, ‖∇²F‖ and, as a symmetric form attains its norm on the diagonal, D³F along a direction climbed to."""
    here, weights = at.at(W, V), flat(W, V)
    hessian = jax.hessian(objective)(weights, here)

    def second(s, u):
        product = jax.jvp(jax.grad(lambda weights: objective(weights, here)), (weights + s * u,), (u,))[1]
        return u @ product

    third = jax.grad(second)
    climb = lambda _, u: jax.grad(lambda u: third(0.0, u))(u / jnp.maximum(jnp.linalg.norm(u), 1e-300))  # noqa: E731
    u = jax.lax.fori_loop(0, 20, climb, direction)
    steepest = jnp.abs(third(0.0, u / jnp.maximum(jnp.linalg.norm(u), 1e-300)))
    return jnp.linalg.norm(gradient(here)), jnp.max(jnp.abs(jnp.linalg.eigvalsh(hessian))), steepest


@pytest.mark.parametrize(
    ("loss", "m"), [*((loss, None) for loss in INSTANCES), (as_loss("softmax"), 3), (Squared(), 2)], ids=repr
)
@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0])
def test_constants_bound_derivatives_up_to_the_third_everywhere_in_the_ball(loss, m, radius):
    """At 300 points, by automatic differentiation."""
    count, n, d, k = 300, 12, 3, 4
    at = point(0, n, d, k, loss, m)
    constants = lipschitz_constants(at, radius)
    rng = np.random.default_rng(0)

    def within(matrix):
        norms = np.linalg.norm(matrix.reshape(count, -1, matrix.shape[-1]), 2, axis=(1, 2))
        reach = radius * rng.uniform(0.5, 1.0, count) / norms
        return jnp.asarray(matrix * reach.reshape(-1, *[1] * (matrix.ndim - 1)))

    W, V = within(rng.standard_normal((count, *at.W.shape))), within(rng.standard_normal((count, d, k)))

    measured = derivative_norms(at, W, V, rng.standard_normal((count, at.W.size + at.V.size)))
    for largest, constant in zip((norms.max() for norms in measured), constants, strict=False):
        assert largest <= constant
        # far out the losses saturate while the suprema of their derivatives stay
        assert radius > 1 or largest > constant / 100


def test_constants_are_attained_by_one_sample():
    """x = 1, f = φ, y = −1: ∇F attains μ₀ at w = v = b; where b = 0, ξ = 1 and the formulas can be read off."""
    phi, b = 0.7, 1.3
    one = np.ones((1, 1))
    at = Point(b * one[0], b * one, phi * one, one, -one[0], "squared")
    np.testing.assert_allclose(lipschitz_constants(at, b).mu0, np.linalg.norm(gradient(at)), rtol=1e-14)

    at_zero = lipschitz_constants(at, 0.0)
    assert (at_zero.mu0, at_zero.mu1, at_zero.mu2) == pytest.approx((1.0, 1.0 + phi, 3.0 * phi))


@pytest.mark.parametrize("m", [2, 3, 10])
def test_constants_of_softmax_are_attained_between_two_classes_and_never_exceeded(m):
    """The second derivative where two classes share all weight evenly, the third where one has (1 + 1/√3)/2 of it."""
    loss, u = as_loss("softmax"), np.r_[1.0, -1.0, np.zeros(m - 2)] / np.sqrt(2.0)
    far = np.r_[0.0, 0.0, np.full(m - 2, -200.0)]

    @jax.jit
    def norms(p, u):
        curvature = loss.second_derivative(p[None], jnp.zeros(1))[0]
        along = lambda s: u @ loss.second_derivative((p + s * u)[None], jnp.zeros(1))[0] @ u  # noqa: E731
        return jnp.linalg.norm(curvature, 2), jnp.abs(jax.grad(along)(0.0))

    steepest = np.log((1 + 1 / np.sqrt(3)) / (1 - 1 / np.sqrt(3)))
    np.testing.assert_allclose(norms(far, u)[0], loss.curvature, rtol=1e-14)
    np.testing.assert_allclose(norms(far + steepest * (np.arange(m) == 0), u)[1], loss.curvature_lipschitz, rtol=1e-14)
    rng = np.random.default_rng(m)
    p = rng.standard_normal((20_000, m)) * 10.0 ** rng.uniform(-1, 1, (20_000, 1))
    directions = rng.standard_normal((20_000, m))
    directions[::2] = u + 0.1 * directions[::2]
    found = jax.vmap(norms)(p, directions / np.linalg.norm(directions, axis=1, keepdims=True))
    assert found[0].max() <= loss.curvature * (1 + ROUNDING)
    assert found[1].max() <= loss.curvature_lipschitz * (1 + ROUNDING)


@pytest.mark.parametrize(("loss", "shape"), RANDOM, ids=repr)
def test_theorem3_holds_at_random_points(loss, shape):
    """10,500 points, each taken as the ε-SOPSP that it is, within the ball of its own radius."""
    gap, by_definition, by_evidence = second_order_evidence(*with_comparators(loss, *shape))
    assert np.all(gap <= by_evidence * (1 + 1e-10))
    assert np.all(by_evidence <= by_definition * (1 + 1e-10))
    assert np.all(np.isfinite(by_definition))
    assert np.count_nonzero(gap > 0) > POINTS / 4


@pytest.mark.parametrize("loss", LOSSES)
def test_theorem3_holds_near_saddles_above_the_linear_predictor(loss):
    """Where it is hardest: ∇F vanishes, the gap does not, and only λ_min pays for it."""
    n, d, k = SHAPES["wide"]
    for seed in range(3):
        at = saddle(point(seed, n, d, k, loss))
        fit = resflow.fit_linear_predictor(at.X, at.y, loss=loss)
        lengths = np.concatenate([[0.0], np.geomspace(1e-12, 1e-1, 40)])
        w = lengths[:, None] * np.random.default_rng(seed).standard_normal((41, d))
        moved = stacked([at.at(away, at.V) for away in w])
        gap, by_definition, by_evidence = second_order_evidence(moved, np.broadcast_to(fit.W, w.shape), fit.objective)
        assert np.all(gap[:30] > 0)
        assert np.all(gap <= by_evidence)
        assert np.all(by_evidence <= by_definition * (1 + 1e-10))


@pytest.mark.parametrize("loss", INSTANCES, ids=repr)
def test_theorems_hold_at_every_checkpoint_of_training(loss):
    d, n = 4, 60
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, d))
    y = np.tanh(X[:, 0] * X[:, 1]) + X[:, 2] + 0.1 * rng.standard_normal(n)
    y = np.sign(y) if loss.labels == "binary" else y
    fit = resflow.fit_linear_predictor(X, y, loss=loss)
    assert fit.converged

    def measure(model, X, y):
        at = Point.of(model, X, y, loss)
        slack = theorem2_terms(at, jnp.asarray(fit.W), fit.objective).slack
        return {"W": at.W, "V": at.V, "features": at.features, "slack": slack}

    key = jax.random.key(0)
    for scale in (0.0, 0.01, 1.0):
        f = resflow.feature_map("mlp", d, width=6, key=key)
        model = resflow.build_model("residual_unit", d, f, key=key, scale=scale)
        options = resflow.TrainingOptions(steps=300, learning_rate=0.03, log_every=10)
        history = resflow.train(model, X, y, loss=loss, options=options, key=key, measure=measure).history
        assert history["W"].shape == (31, d)
        assert np.all(history["slack"] >= 0)
        points = [
            Point(*row, X, y, loss) for row in zip(*(history[name] for name in ("W", "V", "features")), strict=True)
        ]
        comparator = np.broadcast_to(fit.W, (31, d))
        gap, by_definition, by_evidence = second_order_evidence(stacked(points), comparator, fit.objective)
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

    at = point(0, 10, 2, 3, "squared")
    constants = LipschitzConstants(*np.ones(4))
    with pytest.raises(resflow.InvalidInputError, match="hinged loss has no curvature"):
        lipschitz_constants(Point(at.W, at.V, at.features, at.X, at.y, Hinged()), radius=1.0)
    with pytest.raises(resflow.InvalidInputError, match="radius=-1 must be at least 0"):
        lipschitz_constants(at, radius=-1.0)
    with pytest.raises(resflow.InvalidInputError, match=r"Theorem 2 is about one output: W must have shape \(d,\)"):
        theorem2_bound(point(0, 10, 2, 3, "softmax", 3), comparator_fit(np.ones(2), at))
    with pytest.raises(resflow.InvalidInputError, match="epsilon=nan must be at least 0"):
        theorem3_bound(epsilon=np.nan, linear_norm=1.0, constants=constants)
    with pytest.raises(resflow.InvalidInputError, match="curvature_tolerance=-2 must be at least 0"):
        theorem3_bound(epsilon=np.ones(1), linear_norm=1.0, constants=constants, curvature_tolerance=-2.0)


@pytest.mark.parametrize("size", [1e-100, 1e-160, 1e-200, 1e-300])
def test_theorem2_holds_where_the_curvature_underflows(size):
    """λ_min = −‖g‖²/h is 0 in floating point, and sqrt(|λ_min| h) = ‖g‖ is not."""
    at = point(0, 30, 4, 5, "squared")
    found = theorem2_bound(at.part(size * at.features, at.X, at.y), comparator_fit(np.ones(4), at))
    assert found.g_norm > 0
    assert found.left > 0
    assert found.certificate <= found.bound * (1 + 1e-12)


def test_implied_epsilon_is_never_too_small_for_its_curvature():
    for curvature in (-1e-3, -1e-160, -1e-300):
        epsilon = implied_epsilon(0.0, curvature, 2.0)
        assert np.sqrt(2.0) * np.sqrt(epsilon) >= -curvature * (1 - 1e-15)
