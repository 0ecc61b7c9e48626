"""The verdict on a point of any model, where the theory promises nothing and where it does."""

from __future__ import annotations

from decimal import Decimal, localcontext

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import resflow
from resflow import InvalidInputError, MeanLoss, Point
from resflow.hessian.lanczos import smallest_operator_eigenvalue
from resflow.losses import as_loss
from resflow.models.residual_unit import NoSkipNetwork
from resflow.point import ModelPoint
from resflow.stationarity.any_model import analyze_model
from resflow.stationarity.terms import VERDICTS, verdict_codes
from tests.problems import saddle
from tests.test_lanczos import data, unit

SQUARED = MeanLoss(as_loss("squared"))
X, Y = data(30, 3)
FIT = resflow.fit_linear_predictor(np.asarray(X), np.asarray(Y), loss="squared")


def judged(model, X=X, Y=Y, **options):
    """The verdict in all parameters, on a residual unit too."""
    return resflow.analyze(ModelPoint(model, X, Y, "squared"), FIT, **options)


def unit_at_saddle():
    """w = 0 and a V that makes it stationary above the linear predictor."""
    model = unit(0, 3, 5)
    at = saddle(jax.tree.map(np.asarray, Point.of(model, X, Y, "squared")))
    return eqx.tree_at(lambda model: (model.W, model.V), model, (jnp.asarray(at.W), jnp.asarray(at.V)))


def test_saddle_of_a_residual_unit_gets_the_verdict_of_the_exact_analysis():
    model = unit_at_saddle()
    exact = resflow.analyze(Point.of(model, X, Y, "squared"), FIT, epsilon=1e-9)
    found = judged(model, epsilon=1e-9, mu2=exact.mu2, block=lambda model: (model.W, model.V))
    assert found.verdict == exact.verdict == "strict_saddle"
    assert found.grad_norm == pytest.approx(exact.grad_norm, abs=found.grad_error + exact.grad_error)
    assert found.linear_predictor_gap == pytest.approx(exact.linear_predictor_gap, rel=1e-12)
    assert found.lambda_min_lower <= found.lambda_min <= found.lambda_min_upper
    assert found.lambda_min == pytest.approx(exact.lambda_min, rel=1e-9)
    whole = judged(model, epsilon=1e-9)
    assert whole.verdict == "strict_saddle"
    assert whole.lambda_min <= found.lambda_min + whole.lambda_min_error + found.lambda_min_error
    assert "strict saddle" in str(whole)


def test_dead_units_without_a_skip_connection_are_a_bad_local_minimum():
    network = eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)])
    network = eqx.tree_at(lambda net: net.layers[0].bias, network, jnp.full(4, -100.0))
    found = judged(NoSkipNetwork(jnp.ones(4), network), epsilon=0.0)
    assert found.verdict == "sopsp_above_linear"
    assert found.allowed_by_theory
    assert (found.grad_norm, found.lambda_min) == (0.0, 0.0)
    assert found.linear_predictor_gap == pytest.approx(0.5 - FIT.objective, rel=1e-12)


def test_a_point_on_the_way_is_not_stationary():
    assert judged(unit(0, 3, 5), epsilon=1e-3).verdict == "not_stationary"


def test_an_iteration_that_is_too_short_proves_no_minimum_but_may_prove_a_saddle():
    options = {"fit": FIT, "steps": 2, "max_restarts": 0}
    quadratic = jnp.linspace(1.0, 2.0, 50)
    bowl = analyze_model(lambda x: 0.5 * x @ (quadratic * x), jnp.zeros(50), epsilon=1e-4, **options)
    assert bowl.verdict == "inconclusive"
    assert bowl.lambda_min_lower < -1e-2
    assert "probability 1 − 1e-6" in str(bowl)
    assert 1.0 <= bowl.lambda_min <= 2.0
    dome = analyze_model(lambda x: -0.5 * x @ (quadratic * x), jnp.zeros(50), epsilon=1e-4, **options)
    assert dome.verdict == "strict_saddle"
    whole = analyze_model(lambda x: 0.5 * x @ (quadratic * x), jnp.zeros(50), epsilon=1e-4, fit=FIT)
    assert whole.verdict == "sopsp_at_or_below_linear"
    assert "probability" not in str(whole)


def quadratic_form(x, H):
    return 0.5 * x @ (H @ x)


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_down_far_flatter_than_the_steepest_up_is_a_saddle(seed):
    """λ_min = −1e-4 beyond the threshold −5e-5, beside a largest eigenvalue of 1e4."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((150, 150)))[0]
    H = (Q * np.r_[-1e-4, np.geomspace(1e-6, 1e4, 149)]) @ Q.T
    point, H = jnp.zeros(150), jnp.asarray(0.5 * (H + H.T))
    found = analyze_model(quadratic_form, point, H, fit=FIT, epsilon=2.5e-9, key=jax.random.key(seed))
    assert found.verdict == "strict_saddle"
    assert found.lambda_min_lower - found.lambda_min_error <= -1e-4 <= found.lambda_min_upper + found.lambda_min_error
    short = analyze_model(quadratic_form, point, H, fit=FIT, epsilon=2.5e-9, steps=96, key=jax.random.key(seed))
    assert short.verdict in ("inconclusive", "strict_saddle")


def has_an_eigenvalue_below(H, threshold: float) -> bool:
    """By the signs of the pivots of H − threshold, in 50 digits."""
    with localcontext() as context:
        context.prec = 50
        rows = [[Decimal(x) for x in row] for row in H.tolist()]
        for i, row in enumerate(rows):
            row[i] -= Decimal(threshold)
        for i, pivot in enumerate(rows):
            if pivot[i] < 0:
                return True
            for row in rows[i + 1 :]:
                share = row[i] / pivot[i]
                row[i + 1 :] = [x - share * p for x, p in zip(row[i + 1 :], pivot[i + 1 :], strict=True)]
    return False


@pytest.mark.parametrize("steps", [None, 8])
def test_curvature_that_rounding_hides_makes_no_minimum(steps):
    """200 matrices by four random starts: λ_min and threshold from a thousandth of the rounding to a thousand times."""
    rng, size = np.random.default_rng(0), 12
    rounding = 10.0 ** rng.uniform(-16, -9, 200)
    hidden, tolerance = rounding * 10.0 ** rng.uniform(-3, 3, (2, 200))
    tolerance[::10] = 0.0
    matrices = []
    for largest, least in zip(rounding / np.finfo(float).eps, hidden, strict=True):
        Q = np.linalg.qr(rng.standard_normal((size, size)))[0]
        eigenvalues = np.r_[-least, least * 10.0 ** rng.uniform(0, 3, 4), largest * 10.0 ** rng.uniform(-6, 0, 7)]
        H = (Q * eigenvalues) @ Q.T
        matrices.append(0.5 * (H + H.T))

    @jax.jit
    @jax.vmap
    def bracket(H, seed):
        key = jax.random.key(seed)
        return smallest_operator_eigenvalue(lambda x: H @ x, H[0], key=key, steps=steps, max_restarts=4)

    verdicts = []
    for seed in range(4):
        found = bracket(jnp.asarray(np.array(matrices)), jnp.full(200, seed))
        ends = found.lambda_min_lower, found.lambda_min_upper, found.rounding
        verdicts.append(verdict_codes(-1.0, 0.0, 0.0, 0.0, *ends, tolerance**2, tolerance, True))
    verdicts = np.array(VERDICTS)[np.array(verdicts)]
    saddle = np.array([has_an_eigenvalue_below(H, -least) for H, least in zip(matrices, tolerance, strict=True)])
    assert 40 < saddle.sum() < 160
    assert set(verdicts[:, saddle].ravel()) == {"strict_saddle", "inconclusive"}
    assert set(verdicts[:, ~saddle].ravel()) <= {"sopsp_at_or_below_linear", "inconclusive"}
    assert (verdicts == "sopsp_at_or_below_linear").any() == (steps is None)
    for i in range(4):  # and as models
        report = analyze_model(
            quadratic_form, jnp.zeros(size), jnp.asarray(matrices[i]), fit=FIT, epsilon=tolerance[i] ** 2, steps=steps
        )
        assert report.verdict in (("strict_saddle" if saddle[i] else "sopsp_at_or_below_linear"), "inconclusive")


def test_a_gradient_that_exceeds_epsilon_settles_it_without_the_hessian(monkeypatch):
    def never(*_, **__):
        raise AssertionError("products with the Hessian")

    monkeypatch.setattr("resflow.stationarity.any_model.smallest_hessian_eigenvalue", never)
    found = judged(unit(0, 3, 5), epsilon=1e-3)
    assert found.verdict == "not_stationary"
    assert (found.lambda_min_lower, found.lambda_min_upper) == (-np.inf, np.inf)
    assert np.isnan(found.lambda_min)
    assert "λ_min not computed" in str(found)
    with pytest.raises(AssertionError):
        judged(unit(0, 3, 5), epsilon=found.grad_norm)
    with pytest.raises(InvalidInputError, match="max_restart is no option"):
        judged(unit(0, 3, 5), epsilon=1e-3, max_restart=3)
    with pytest.raises(InvalidInputError, match="steps=0 must be at least 1"):
        judged(unit(0, 3, 5), epsilon=1e-3, steps=0)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_rounding_of_a_gradient_is_no_slope_even_where_all_parameters_are_zero(scale):
    """Labels that no input explains: at 0 the gradient is a sum that cancels, and what rounding leaves of it."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        y = scale * rng.standard_normal(30)
        y = y - np.asarray(X) @ np.linalg.lstsq(np.asarray(X), y)[0]
        y = jnp.asarray(y - np.asarray(X) @ np.linalg.lstsq(np.asarray(X), y)[0])
        fit = resflow.fit_linear_predictor(np.asarray(X), np.asarray(y), loss="squared")
        found = analyze_model(half_mean_square, jnp.zeros(3), X, y, fit=fit, epsilon=0.0)
        assert 0.0 < found.grad_norm <= found.grad_error <= 1e-12 * scale, seed
        assert found.verdict != "not_stationary"


def half_mean_square(w, X, y):
    return 0.5 * jnp.mean((X @ w - y) ** 2)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_rounding_of_large_predictions_puts_no_point_above_the_linear_predictor(offset):
    """The linear predictor itself, as a sum of two: the gap is rounding, of predictions that cancel against labels."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = np.column_stack([rng.standard_normal((60, 2)), np.ones(60)])
        y = X @ np.ones(3) + rng.standard_normal(60) + offset
        fit = resflow.fit_linear_predictor(X, y, loss="squared")
        model = Partial(lambda w, X: X @ w[0] + X @ w[1], [jnp.asarray(0.3 * fit.W), jnp.asarray(fit.W - 0.3 * fit.W)])
        report = resflow.analyze(resflow.Point.of(model, X, y, "squared"), fit, epsilon=1e-3)
        assert report.verdict == "sopsp_at_or_below_linear"
        assert abs(report.linear_predictor_gap) <= report.gap_error
        unit = resflow.Point(fit.W, np.zeros((3, 1)), np.ones((60, 1)), X, y, "squared")
        assert report.gap_error <= 10 * resflow.analyze(unit, fit, epsilon=1e-3).gap_error


def test_progress_counts_products_and_changes_no_bit():
    told = []
    options = {"fit": FIT, "epsilon": 1e-4, "steps": 5, "max_restarts": 3}
    quadratic = jnp.diag(jnp.linspace(1.0, 2.0, 50))
    silent = analyze_model(quadratic_form, jnp.zeros(50), quadratic, **options)
    heard = analyze_model(quadratic_form, jnp.zeros(50), quadratic, progress=lambda *done: told.append(done), **options)
    assert str(heard) == str(silent)
    assert told[-1] == (24, 24)
    assert len(told) >= 2
    assert told == sorted(told)


def test_single_precision_models_are_judged_in_double_precision():
    model = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, unit_at_saddle()
    )
    found = judged(model, X.astype(jnp.float32), Y.astype(jnp.float32), epsilon=1e-9)
    assert found.grad_error < 1e-12
    assert found.verdict == "not_stationary"  # as rounded to float32, the gradient is some 1e-8 and ε is 1e-9
    assert 1e-9 < found.grad_norm < 1e-5


def test_bad_input_is_named():
    with pytest.raises(InvalidInputError, match=r"epsilon=-1\.0"):
        judged(unit(0, 3, 5), epsilon=-1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda at, _, fit: resflow.analyze(at, fit, epsilon=1e-3, block=None),
            "block is no option .* a residual unit",
        ),
        (lambda _, at, fit: resflow.analyze(at, fit, epsilon=1e-3, ridge_W=1.0), "ridge_W is no option .* takes key"),
        (lambda at, *_: resflow.smallest_eigenvalue(at, steps=3), "steps is no option .* takes ridge_W, ridge_V, rtol"),
        (lambda _, at, __: resflow.smallest_eigenvalue(at, rtol=0.1), "rtol is no option .* no residual unit"),
        (lambda at, *_: resflow.spectrum(at, block=None), "block is no option .* takes ridge_W, ridge_V"),
        (lambda _, at, __: resflow.spectrum(at, ridge_V=1.0), "ridge_V is no option .* takes block"),
        (lambda at, *_: resflow.escape(at, saddle=3), "saddle is 3, but must be what smallest_eigenvalue gives"),
        (
            lambda at, model, _: resflow.escape(at, saddle=resflow.smallest_eigenvalue(model)),
            r"shapes of W and V, \(3,\)",
        ),
    ],
)
def test_options_and_directions_of_another_kind_of_point_are_refused_in_one_line(call, message, unchecked_types):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 3))
    y = X @ rng.standard_normal(3)
    at = Point(rng.standard_normal(3), rng.standard_normal((3, 2)), rng.standard_normal((12, 2)), X, y, "squared")
    model = Point.of(Partial(lambda w, X: jnp.tanh(X @ w), jnp.ones(3)), X, y, "squared")
    fit = resflow.fit_linear_predictor(X, y, loss="squared")
    with pytest.raises(InvalidInputError, match=message) as raised:
        call(at, model, fit)
    assert "\n" not in str(raised.value)
