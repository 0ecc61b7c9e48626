"""The verdict on a point of any model, where the theory promises nothing and where it does."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError, MeanLoss, Point
from resflow.losses import as_loss
from resflow.models.residual_unit import NoSkipNetwork
from resflow.point import ModelPoint
from resflow.stationarity.any_model import analyze_model
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
