"""The verdict on a point: each reached where it must be, and never another."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import resflow
from resflow import InvalidInputError, Loss, Point
from resflow.certificates.gap import Ridge, gap_certificate
from resflow.certificates.theorems import lipschitz_constants
from resflow.stationarity.report import VERDICTS, stationarity_verdict
from resflow.stationarity.terms import FitEvidence, stationarity_terms, verdict_codes
from resflow.status import Status
from tests.problems import (
    LOSSES,
    OUTPUTS,
    ROUNDING,
    SHAPES,
    dense_hessians,
    flat,
    gradient,
    linear_fit,
    objective,
    point,
    saddle,
    stacked,
)

ONE = np.ones(1)
SCALAR_FIT = resflow.fit_linear_predictor(ONE[:, None], ONE, loss="squared")
SHAPE = (60, 3, 4)
"""Of most points here, so that little is compiled."""
SCALAR_SHAPE = (40, 1, 1)
RIDGE = 0.25
"""Of Figure (b): ⅛(w² + v²)."""


def scalar_point(w, v, epsilon=1.0, loss="squared"):
    """Example 1's F(w, v) = ½ (w (1 + εv) − 1)²."""
    return Point(w * ONE, v * ONE[:, None], epsilon * ONE[:, None], ONE[:, None], ONE, loss)


def scalar_analysis(w, v, *, f=1.0, fit=SCALAR_FIT, **options):
    return resflow.analyze(scalar_point(w, v, f), fit, **options)


def scalar_objective(W, ridge=0.0):
    """The library's own F + R at (w, v), as SciPy wants it, with its first and second derivatives."""

    def value(W):
        at = scalar_point(1.0, 1.0).at(W[:1], W[1:, None])
        return gap_certificate(at, jnp.ones(1), 0.0, Ridge(RIDGE * ridge, RIDGE * ridge)).regularized_objective

    return value(W), jax.grad(value)(W), jax.hessian(value)(W)


scalar_objective = jax.jit(scalar_objective)


def minima(ridge):
    """Where SciPy's trust-region Newton method ends from a grid of starts over the figure's square, then polished."""
    found = []
    for start in np.stack(np.meshgrid(*2 * [np.linspace(-2.9, 2.9, 7)]), axis=-1).reshape(-1, 2):
        W = minimize(
            lambda W: float(scalar_objective(W, ridge)[0]),
            start,
            jac=lambda W: np.asarray(scalar_objective(W, ridge)[1]),
            hess=lambda W: np.asarray(scalar_objective(W, ridge)[2]),
            method="trust-exact",
        ).x
        for _ in range(4):
            W = W - np.linalg.lstsq(*reversed(scalar_objective(W, ridge)[1:]), rcond=1e-6)[0]
        value, gradient, hessian = scalar_objective(W, ridge)
        assert np.linalg.norm(gradient) <= ROUNDING
        assert np.linalg.eigvalsh(hessian)[0] >= -ROUNDING
        found.append(np.append(W, value))
    return np.array(found)


@jax.jit
def newton_step(W, at):
    """A step of saddle-free Newton, and the gradient's norm before it."""
    slope, hessian = jax.grad(objective)(W, at), jax.hessian(objective)(W, at)
    values, vectors = jnp.linalg.eigh(hessian)
    sizes = jnp.where(jnp.abs(values) > 1e-12 * jnp.abs(values).max(), jnp.abs(values), jnp.inf)
    step = vectors @ ((vectors.T @ slope) / sizes)
    return W - step * jnp.minimum(1.0, 1.0 / jnp.linalg.norm(step)), jnp.linalg.norm(slope)


def newton_refined(at):
    """A second-order stationary point, found from a given one."""
    W = flat(at.W, at.V)
    for _ in range(1000):
        W_next, grad_norm = newton_step(W, at)
        if grad_norm <= ROUNDING / 16:
            break
        W = W_next
    W = np.asarray(W)
    return at.at(W[: at.W.size].reshape(at.W.shape), W[at.W.size :].reshape(at.V.shape))


@pytest.mark.parametrize(
    ("loss", "m", "shape", "rank"),
    [
        *((loss, m, SHAPE, 0) for loss, m in OUTPUTS),
        ("squared", None, SCALAR_SHAPE, 0),
        ("logistic", None, SHAPES["few_samples"], 0),
        ("softmax", 3, SHAPE, 1),
        ("squared", 3, SHAPE, 2),
    ],
)
def test_points_written_down_are_strict_saddles_above_the_linear_predictor(loss, m, shape, rank):
    n = shape[0]
    for seed in range(3):
        at = saddle(point(seed, *shape, loss, m), rank)
        fit = linear_fit(at)
        for epsilon in (0.0, 1e-14, 1e-12):
            report = resflow.analyze(at, fit, epsilon=epsilon)
            assert report.verdict == "strict_saddle", report
            assert report.linear_predictor_gap > report.gap_error
            assert report.grad_norm <= report.grad_error
        if rank == 0:
            np.testing.assert_allclose(report.objective, at.loss.value(0 * at.predictions, at.y).mean(), rtol=ROUNDING)
        if m is None:
            h = np.linalg.eigvalsh((at.inner.T * at.curvatures) @ at.inner / n)[0]
            g = np.linalg.norm(at.slopes @ at.features / n)
            np.testing.assert_allclose(report.lambda_min, -2 * g**2 / (h + np.hypot(h, 2 * g)), rtol=1e-8)


@pytest.mark.parametrize(("loss", "m"), [*((loss, None) for loss in LOSSES), ("softmax", 3)])
def test_stationary_points_found_by_newton_are_at_or_below_the_linear_predictor_at_epsilon_zero(loss, m):
    for seed in range(3):
        at = newton_refined(point(seed, *SHAPE, loss, m))
        report = resflow.analyze(at, linear_fit(at), epsilon=0.0)
        assert report.verdict == "sopsp_at_or_below_linear", report
        assert report.linear_predictor_gap < 0
        assert report.grad_norm <= 1e-13 + report.grad_error


@pytest.mark.parametrize("m", [None, 2])
def test_best_linear_predictor_itself_is_at_or_below_linear(m):
    """V = 0, features orthogonal to the residuals: the gap is zero but for rounding."""
    at = point(0, *SHAPE, "squared", m)
    fit = linear_fit(at)
    residual = (at.X @ fit.W.T - at.y).reshape(SHAPE[0], -1)
    features = at.features - residual @ (np.linalg.pinv(residual) @ at.features)
    at = at.at(fit.W, 0 * at.V).part(features, at.X, at.y)
    report = resflow.analyze(at, fit, epsilon=1e-14)
    assert report.verdict == "sopsp_at_or_below_linear", report
    assert abs(report.linear_predictor_gap) <= report.gap_error


def test_single_input_can_have_positive_smallest_eigenvalue():
    """d = 1 has no direction that F does not see: λ_min > 0 at ε = 0 needs no rounding."""
    at = newton_refined(point(3, *SCALAR_SHAPE, "squared"))
    report = resflow.analyze(at, linear_fit(at), epsilon=0.0)
    assert report.verdict == "sopsp_at_or_below_linear"
    assert report.lambda_min_lower > 1e-3


def test_random_points_are_not_stationary():
    for loss, m in OUTPUTS:
        at = point(0, *SHAPE, loss, m)
        assert resflow.analyze(at, linear_fit(at), epsilon=1e-6).verdict == "not_stationary"


@pytest.mark.parametrize("e", 10.0 ** np.arange(-6, 1))
def test_example_1_comes_out_with_its_exact_numbers(e):
    """At (0, −1/ε): gradient 0, Hessian [[0, −ε], [−ε, 0]], F = ½, F_lin(1) = 0; flat saddles exist far out."""
    report = scalar_analysis(0.0, -1.0 / e, f=e, epsilon=0.0)
    assert (report.objective, report.linear_predictor_gap) == (0.5, 0.5)
    assert report.grad_norm <= np.finfo(float).eps  # of 1 + ε · (−1/ε)
    np.testing.assert_allclose([report.lambda_min, report.lambda_min_lower], -e, rtol=1e-10)
    assert report.verdict == "strict_saddle"
    # with an ε that does not shrink with the saddle's curvature it is an SOPSP above the linear predictor
    level = scalar_analysis(0.0, -1.0 / e, f=e, epsilon=1.01 * e**2 / report.mu2)
    assert level.verdict == "sopsp_above_linear"
    assert level.allowed_by_theory
    assert level.gap_allowed > level.linear_predictor_gap
    steep = scalar_analysis(0.0, -1.0 / e, f=e, epsilon=0.99 * e**2 / report.mu2)
    assert steep.verdict == "strict_saddle"


def test_figure_a_has_no_minimum_above_the_linear_predictor():
    found = minima(ridge=False)
    np.testing.assert_allclose(found[:, 2], 0.0, atol=1e-15)
    for w, v, _ in found:
        report = scalar_analysis(w, v, epsilon=0.0)
        assert report.verdict == "sopsp_at_or_below_linear", report


def test_figure_b_ridge_makes_a_local_minimum_above_the_linear_predictor():
    found = minima(ridge=True)
    expected = [[0.6596277, 0.32771295, 0.07552635], [-0.98280626, -1.60268226, 0.52491385]]
    nearest = np.abs(found[:, None, :2] - np.array(expected)[None, :, :2]).max(axis=2).argmin(axis=1)
    assert set(nearest) == {0, 1}
    np.testing.assert_allclose(found, np.array(expected)[nearest], atol=1e-7)

    fit = resflow.fit_linear_predictor(ONE[:, None], ONE, loss="squared", ridge=RIDGE)
    np.testing.assert_allclose([fit.W[0], fit.objective + RIDGE / 2 * fit.W[0] ** 2], [0.8, 0.1], rtol=1e-12)
    ridge = {"ridge_W": RIDGE, "ridge_V": RIDGE}
    verdicts = ("sopsp_at_or_below_linear", "sopsp_above_linear")
    for (w, v, value), verdict in zip((found[nearest == 0][0], found[nearest == 1][0]), verdicts, strict=True):
        report = scalar_analysis(w, v, epsilon=1e-8, fit=fit, **ridge)
        assert report.verdict == verdict, report
        assert report.lambda_min_lower > 0
        assert report.allowed_by_theory
        np.testing.assert_allclose(report.linear_predictor_gap, value - 0.1, atol=1e-12)
        assert report.linear_predictor_gap <= report.gap_certificate

        certificate = resflow.certify(scalar_point(w, v), fit, **ridge)
        np.testing.assert_allclose(certificate.gradient_term, 0.0, atol=1e-9)
        np.testing.assert_allclose(certificate.gap_certificate, certificate.ridge_term, atol=1e-9)
        assert certificate.linear_predictor_gap <= certificate.gap_certificate
    assert certificate.ridge_term > 0, "the spurious minimum's gap is paid for by the ridge term alone"


def test_figure_c_norm_constraint_makes_a_local_minimum_on_the_circle():
    def around(angle):
        W = 2.0 * np.array([np.cos(angle), np.sin(angle)])
        value, gradient, hessian = scalar_objective(W)
        tangent = np.array([-W[1], W[0]])
        return float(value), float(tangent @ gradient), float(tangent @ hessian @ tangent - W @ gradient), W

    angle = np.arctan2(-1.7, -1.0)
    for _ in range(20):
        _, slope, curvature, _ = around(angle)
        angle -= slope / curvature
    value, slope, curvature, W = around(angle)
    assert abs(slope) <= ROUNDING
    assert curvature > 0
    np.testing.assert_allclose([*W, value], [-1.07560665, -1.68614066, 0.03431743], atol=1e-7)
    # the disc holds it: −∇F points outwards, and the linear predictor w = 1 inside the disc is better
    multiplier = -(W @ np.asarray(scalar_objective(W)[1])) / 4.0
    assert multiplier > 0
    certificate = resflow.certify(scalar_point(*W), SCALAR_FIT, ridge_W=multiplier, ridge_V=multiplier)
    assert 0 < certificate.linear_predictor_gap <= certificate.ridge_term


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
def test_ridge_certificate_is_split_exactly_and_bounds_the_gap_at_random_points(loss, m):
    """⟨G, ∇(F+R)⟩ − ⟨G, ∇R⟩ is the same number as mean ℓ'(p − uᵀx), whatever R is; at every rank of W."""
    rng, at = np.random.default_rng(0), point(0, *SHAPE, loss, m)
    points = [
        point(seed, *SHAPE, loss, m, w_norm=10.0 ** rng.uniform(-3, 2), rank=None if m is None else 1 + seed % m)
        for seed in range(500)
    ]
    u = rng.standard_normal((500, *at.W.shape))
    ridge = 10.0 ** rng.uniform(-3, 1, (2, 500))

    @jax.jit
    @jax.vmap
    def evaluate(at, u, *ridge):
        return gap_certificate(at, u, at.loss.value(at.X @ u.T, at.y).mean(), Ridge(*ridge))

    terms = evaluate(stacked(points), u, *ridge)
    size = 1 + np.abs(terms.gradient_term) + np.abs(terms.rank_term) + np.abs(terms.ridge_term)
    split = terms.gradient_term + terms.rank_term + terms.ridge_term
    np.testing.assert_array_less(np.abs(split - terms.gap_certificate), 1e-12 * size)
    assert np.all(terms.linear_predictor_gap <= terms.gap_certificate + 1e-12 * size)
    assert np.all(terms.gap_certificate <= terms.frobenius_bound + 1e-12 * size)
    assert np.all(terms.regularized_gap <= terms.regularized_certificate + 1e-12 * size)
    difference = terms.regularized_certificate - terms.gap_certificate
    difference = difference - (terms.regularized_gap - terms.linear_predictor_gap)
    np.testing.assert_allclose(difference, 0.0, atol=1e-10 * np.max(size - 1))


def test_ridge_certificate_at_zero_weights_holds_with_a_rank_term():
    certificate = resflow.certify(scalar_point(0.0, -1.0), SCALAR_FIT, ridge_W=0.1, ridge_V=0.1)
    split = certificate.gradient_term + certificate.rank_term + certificate.ridge_term
    assert certificate.linear_predictor_gap <= split == certificate.gap_certificate == 1.0
    assert certificate.gap_certificate <= certificate.frobenius_bound
    assert certificate.theorem1_bound == np.inf


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_ridge_verdict_rests_on_the_regularised_gradient_and_hessian(loss, m):
    at = point(0, *SHAPE, loss, m)
    fit = resflow.fit_linear_predictor(at.X, at.y, loss=loss, ridge=0.3)
    report = resflow.analyze(at, fit, epsilon=1e-3, ridge_W=0.3, ridge_V=0.2)
    value, linear = (objective(flat(*pair), at, 0.3, 0.2) for pair in ((at.W, at.V), (fit.W, 0 * at.V)))
    (hessian,) = dense_hessians([at], 0.3, 0.2)
    np.testing.assert_allclose(report.grad_norm, np.linalg.norm(gradient(at, 0.3, 0.2)), rtol=1e-12)
    np.testing.assert_allclose(report.lambda_min, np.linalg.eigvalsh(hessian)[0], rtol=1e-10)
    np.testing.assert_allclose([report.objective, report.linear_predictor_gap], [value, value - linear], rtol=1e-12)
    assert report.gap_allowed == np.inf


def test_verdicts_are_exhaustive_and_mutually_exclusive():
    """Over 200,000 tuples of evidence, NaN and infinities among them, against the definitions one by one."""
    rng = np.random.default_rng(0)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-300, 1e-8, 1.0, -1e-8, -1.0])
    draws = np.where(
        rng.random((9, 200_000)) < 0.5, rng.choice(special, (9, 200_000)), rng.standard_normal((9, 200_000))
    )
    gap, gap_error, grad, grad_error, lower, upper, error, epsilon, tolerance = draws
    gap_error, grad, grad_error, error, epsilon, tolerance = map(
        np.abs, (gap_error, grad, grad_error, error, epsilon, tolerance)
    )
    lower, upper = np.where(lower > upper, upper, lower), np.where(lower > upper, lower, upper)
    converged = rng.random(200_000) < 0.7
    finite = np.isfinite(gap) & np.isfinite(grad) & ~np.isnan(lower) & ~np.isnan(upper)
    with np.errstate(invalid="ignore"):
        stationary = grad <= epsilon + grad_error
        below = upper + error < -tolerance
        beyond_rounding = lower - error >= -tolerance
        at_zero = beyond_rounding | ((epsilon == 0) & (lower + error >= 0))
        holds = np.stack(
            [
                grad > epsilon + grad_error,
                stationary & below,
                stationary & ~below & beyond_rounding & converged & (gap <= gap_error),
                stationary & beyond_rounding & converged & (gap > gap_error),
            ]
        )
        by_theory = holds.copy()
        by_theory[2] = stationary & ~below & at_zero & converged & (gap <= gap_error)
        surely = grad + grad_error <= epsilon
        strictly = np.stack(
            [
                grad > epsilon + grad_error,
                surely & below,
                surely & ~below & beyond_rounding & converged & (gap <= -gap_error),
                surely & beyond_rounding & converged & (gap > gap_error),
            ]
        )
    assert np.all(holds.sum(axis=0) <= 1)
    assert np.all(by_theory.sum(axis=0) <= 1)
    evidence = (gap, gap_error, grad, grad_error, lower, upper, error, epsilon, tolerance, converged)
    cases = [(holds, {}), (by_theory, {"semidefinite": True})]
    cases += [(strictly, {"strict": True}), (strictly, {"strict": True, "semidefinite": True})]
    for true, options in cases:
        expected = np.where(true.any(axis=0), true.argmax(axis=0), VERDICTS.index("inconclusive"))
        expected = np.where(finite, expected, VERDICTS.index("not_finite"))
        np.testing.assert_array_equal(verdict_codes(*evidence, **options), expected)
        assert np.all(np.bincount(expected, minlength=6) > 1000)


@pytest.mark.parametrize("loss", LOSSES)
def test_residual_units_are_never_above_linear_at_vanishing_epsilon_within_a_bounded_radius(loss):
    """5,400 stationary points in all, with ‖V‖ up to 100: as ε falls every one is a strict saddle, not one an SOPSP."""
    n, d, k = SHAPE
    at = saddle(point(0, n, d, k, loss))
    fit = FitEvidence.of(linear_fit(at))
    rng, g = np.random.default_rng(0), at.slopes @ at.features
    unseen = np.eye(k) - np.outer(g, g) / (g @ g)
    V = at.V + 10.0 ** rng.uniform(-3, 1.5, (1800, 1, 1)) * rng.standard_normal((1800, d, k)) @ unseen
    epsilon = np.tile([0.0, 1e-20, 1e-18, 1e-16, 1e-15, 1e-14], 300)

    @jax.jit
    def analyse(V, epsilon, at):
        return jax.lax.map(lambda share: stationarity_terms(at.at(at.W, share[0]), fit, share[1]), (V, epsilon))

    terms = analyse(V, epsilon, at)
    assert 60 < terms.V_norm.max() < 200
    assert np.all(terms.grad_norm <= terms.grad_error)
    assert np.all(terms.linear_predictor_gap > terms.gap_error)
    assert np.all(terms.verdict == VERDICTS.index("strict_saddle"))


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_batched_terms_agree_with_single_reports(loss, m):
    points = [point(seed, *SHAPE, loss, m) for seed in range(6)]
    points += [saddle(point(seed, *SHAPE, loss, m), rank=0 if m is None else seed % 2) for seed in range(6)]
    fits = [linear_fit(at) for at in points]
    linear = jax.tree.map(lambda *leaves: np.array(leaves), *map(FitEvidence.of, fits))
    batched = jax.jit(jax.vmap(partial(stationarity_terms, epsilon=1e-10)))(stacked(points), linear)
    for row, (at, fit) in enumerate(zip(points, fits, strict=True)):
        report = resflow.analyze(at, fit, epsilon=1e-10)
        assert VERDICTS[batched.verdict[row]] == report.verdict
        names = "objective", "linear_predictor_gap", "lambda_min", "curvature_tolerance", "gap_certificate"
        for name in (*names, "gap_allowed"):
            np.testing.assert_allclose(getattr(batched, name)[row], getattr(report, name), rtol=1e-9)
    assert set(np.asarray(batched.verdict)) == {0, 1}


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
def test_float32_arrays_get_the_verdict_that_they_get_as_float64(loss, m):
    """Points around stationary ones, where float32 knows the gradient to no more than ε."""
    fits = {}
    for seed in range(12):
        at = point(seed % 3, *SHAPE, loss, m, gamma=None if seed % 2 else 1e-6)
        single = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), saddle(at) if seed % 2 else at)
        double = jax.tree.map(lambda array: np.asarray(array, np.float64), single)
        fit = fits.setdefault(seed % 6, linear_fit(double))
        epsilon = 10.0 ** -(5 + seed // 2)
        ours, theirs = (resflow.analyze(each, fit, epsilon=epsilon) for each in (single, double))
        assert str(ours) == str(theirs)
        assert ours.grad_error < 1e-12


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
def test_without_float64_no_verdict_rests_on_what_float32_cannot_tell(loss, m):
    """Where JAX has float64 switched off: inconclusive, or the verdict that float64 comes to."""
    points = [saddle(point(seed, *SHAPE, loss, m)) for seed in range(3)]
    points += [point(seed, *SHAPE, loss, m, gamma=10.0**-seed) for seed in range(3, 8)]
    fit = linear_fit(points[0])
    linear = FitEvidence(fit.W, fit.objective, 0.0, True)
    judge, told = jax.jit(partial(stationarity_terms, mu2=1.0)), 0
    for at in points:
        single = jax.tree.map(lambda array: np.asarray(array, np.float32), at)
        for epsilon in (1e-8, 1e-6, 1e-4, 10.0):
            truth = judge(jax.tree.map(lambda array: jnp.asarray(array, float), single), linear, epsilon).verdict
            with jax.enable_x64(False):
                here = FitEvidence(*(jnp.asarray(value, jnp.float32) for value in linear[:3]), True)
                terms = judge(jax.tree.map(jnp.asarray, single), here, jnp.asarray(epsilon, jnp.float32))
            assert terms.linear_predictor_gap.dtype == jnp.float32
            if VERDICTS[terms.verdict] != "inconclusive":
                told += 1
                assert terms.verdict == truth, (VERDICTS[terms.verdict], VERDICTS[truth], epsilon)
    assert told > 10


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_threshold_uses_the_given_constant_or_that_of_the_points_own_ball(loss, m):
    at = saddle(point(0, *SHAPE, loss, m))
    fit = linear_fit(at)
    report = resflow.analyze(at, fit, epsilon=1e-6)
    expected = lipschitz_constants(at, max(np.linalg.norm(at.rows, 2), np.linalg.norm(at.V, 2))).mu2
    np.testing.assert_allclose([report.mu2, report.curvature_tolerance], [expected, np.sqrt(expected * 1e-6)])
    given = resflow.analyze(at, fit, epsilon=1e-6, mu2=4.0)
    assert (given.mu2, given.curvature_tolerance) == (4.0, 2e-3)
    above = resflow.analyze(at, fit, epsilon=1.0, mu2=1.0)
    assert above.verdict == "sopsp_above_linear"
    assert above.allowed_by_theory


def test_theorem_3_does_not_speak_of_several_outputs():
    at = saddle(point(0, *SHAPE, "softmax", 3))
    report = resflow.analyze(at, linear_fit(at), epsilon=1e-6)
    assert np.isnan(report.gap_allowed)
    assert "no bound applies: Theorem 3 is about residual units of one output" in str(report)


def test_linear_fit_that_did_not_converge_leaves_above_and_below_open():
    unfinished = SCALAR_FIT._replace(status=Status.ITERATION_LIMIT)
    above = scalar_analysis(0.0, -1e3, f=1e-3, epsilon=1.0, fit=unfinished)
    below = scalar_analysis(1.0, 0.0, epsilon=1e-6, fit=unfinished)
    assert (above.verdict, below.verdict) == ("inconclusive", "inconclusive")
    assert "the linear fit" in str(above)
    assert scalar_analysis(0.0, -1.0, epsilon=0.0, fit=unfinished).verdict == "strict_saddle"
    assert scalar_analysis(1.0, 0.0, epsilon=1e-6).verdict == "sopsp_at_or_below_linear"


def test_gap_within_the_linear_fits_suboptimality_counts_as_zero():
    rough = SCALAR_FIT._replace(suboptimality=0.6)
    report = scalar_analysis(0.0, -1e3, f=1e-3, epsilon=1.0, fit=rough)
    assert report.verdict == "sopsp_at_or_below_linear"
    assert report.gap_error >= 0.6


def test_general_verdict_serves_models_without_exact_spectrum():
    evidence = {"objective": 0.7, "linear_predictor_gap": 0.1, "grad_norm": 0.0, "epsilon": 1e-8}
    dead = stationarity_verdict(**evidence, lambda_interval=(0.0, 0.0))
    assert dead.verdict == "sopsp_above_linear"
    assert dead.allowed_by_theory
    assert np.isnan(dead.gap_allowed)
    straddling = stationarity_verdict(**evidence, lambda_interval=(-1e-3, 1e-3))
    assert straddling.verdict == "inconclusive"
    assert "straddles" in str(straddling)
    assert stationarity_verdict(**evidence, lambda_interval=(-1e-2, -1e-3)).verdict == "strict_saddle"
    below = evidence | {"linear_predictor_gap": -0.1}
    assert stationarity_verdict(**below, lambda_interval=(-5e-5, 1.0)).verdict == "sopsp_at_or_below_linear"
    assert stationarity_verdict(**below | {"grad_norm": 1.0}, lambda_interval=(0.0, 1.0)).verdict == "not_stationary"
    nowhere = [
        stationarity_verdict(**below | {"grad_norm": np.nan}, lambda_interval=(0.0, 1.0)),
        stationarity_verdict(**below | {"linear_predictor_gap": np.inf}, lambda_interval=(0.0, 1.0)),
        stationarity_verdict(**evidence, lambda_interval=(np.nan, np.nan)),
    ]
    assert [report.verdict for report in nowhere] == ["not_finite"] * 3
    unknown = stationarity_verdict(**evidence, lambda_interval=(-np.inf, 1.0))
    assert unknown.verdict == "inconclusive"
    assert "nothing is known of how far below" in str(unknown)
    assert "is not a number" in str(stationarity_verdict(**evidence, lambda_interval=(0.0, 0.0), gap_error=np.nan))


def test_rounding_alone_never_makes_a_counterexample():
    """λ_min between −rounding and +rounding of the threshold: open, on either side of the linear predictor."""
    evidence = {"objective": 1.0, "grad_norm": 0.0, "epsilon": 0.0, "lambda_min_error": 1e-12}
    interval = {"lambda_interval": (-1e-13, -1e-14)}
    above = stationarity_verdict(**evidence, **interval, linear_predictor_gap=0.1)
    assert above.verdict == "inconclusive"
    assert "within rounding" in str(above)
    assert stationarity_verdict(**evidence, **interval, linear_predictor_gap=-0.1).verdict == "inconclusive"


def test_curvature_that_rounding_hides_makes_no_minimum_of_residual_units():
    """w = 0 is the best linear predictor, V = 0, and g of any size: λ_min = −2g²/(h + sqrt(h² + 4g²)), gap = 0."""
    n, d, k = SHAPE
    at = point(0, n, d, k, "squared", w_norm=0.0)
    y = at.y - at.X @ np.linalg.lstsq(at.X, at.y)[0]
    y = y - at.X @ np.linalg.lstsq(at.X, y)[0]
    h = np.linalg.eigvalsh(at.X.T @ at.X / n)[0]
    rng = np.random.default_rng(0)
    g, epsilon = 10.0 ** rng.uniform(-10, -4, 200), 10.0 ** rng.uniform(-36, -10, 200)
    epsilon[::10] = 0.0
    features = -np.outer(y, np.eye(k)[0]) * n / (y @ y)  # of which g = mean −y f is the first unit vector
    fit = FitEvidence(np.zeros(d), 0.5 * np.mean(y**2), 0.0, True)

    @jax.jit
    @jax.vmap
    def judge(g, epsilon):
        here = at.at(at.W, 0 * at.V).part(g * features, at.X, y)
        return stationarity_terms(here, fit, epsilon, mu2=1.0)

    terms = judge(g, epsilon)
    saddles = -2 * g**2 / (h + np.hypot(h, 2 * g)) < -np.sqrt(epsilon)
    found = np.array(VERDICTS)[terms.verdict]
    assert set(found[saddles]) <= {"strict_saddle", "inconclusive"}
    assert set(found[~saddles]) <= {"sopsp_at_or_below_linear", "inconclusive"}
    assert 40 < saddles.sum() < 160
    assert np.all(np.unique(found, return_counts=True)[1] > 20)


def test_impossible_verdict_is_said_to_be_impossible(monkeypatch):
    """What Theorem 3 forbids: a linear fit of other data, were it not refused."""
    monkeypatch.setattr("resflow.stationarity.report.check_baseline", lambda *_, **__: None)
    report = scalar_analysis(1.0, 0.0, epsilon=1e-8, fit=SCALAR_FIT._replace(objective=-1.0))
    assert report.verdict == "sopsp_above_linear"
    assert not report.allowed_by_theory
    assert "impossible" in str(report)


def test_report_explains_itself_with_its_numbers():
    report = scalar_analysis(0.0, -1.0, epsilon=1e-6)
    text = str(report)
    assert text == report.explanation
    assert text.startswith("strict saddle: ")
    assert "_saddle" not in text
    assert not re.search(r"-[\d.]", text)
    for number in ("ε = 1e−6", "[−1, −1]", "0.5 ± ", "μ₂ = 6.7082", "‖∇F‖ = 0 ± "):
        assert number in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "epsilon=-1.0 must be a finite number, at least 0"),
        ({"epsilon": np.inf}, "epsilon=inf"),
        ({"epsilon": 0.1, "mu2": -1.0}, "mu2=-1.0"),
        ({"epsilon": 0.1, "ridge_V": -1.0}, "ridge_V=-1.0"),
        ({"epsilon": 0.1, "ridge_W": 0.5}, "the linear fit has ridge=0.0, but ridge_W=0.5"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        scalar_analysis(0.0, -1.0, **options)


def test_loss_without_constants_needs_a_given_one():
    class Quartic(Loss):
        name = "quartic"

        def value(self, p, y):
            return (p - y) ** 4

        def derivative(self, p, y):
            return 4 * (p - y) ** 3

        def second_derivative(self, p, y):
            return 12 * (p - y) ** 2

    at = scalar_point(0.0, -1.0, loss=Quartic())
    fit = resflow.fit_linear_predictor(at.X, at.y, loss=Quartic())
    with pytest.raises(InvalidInputError, match="quartic loss has no curvature"):
        resflow.analyze(at, fit, epsilon=1e-6)
    report = resflow.analyze(at, fit, epsilon=1e-6, mu2=1.0)
    assert report.verdict == "strict_saddle"
    assert np.isnan(report.gap_allowed)
