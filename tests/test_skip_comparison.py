"""Architectures compared over seeds: their ends against plain definitions, and the same θ for the same seed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import reference_loss
from rounding import EPS

from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.stationarity.report import analyze_point
from resflow.studies.skip_comparison import COMPARED, starting_models, train_from, training_ends

N, D, K, SEEDS, EPSILON = 40, 3, 2, 12, 0.02
ROUNDING = 10 * N * EPS  # of means of N products whose factors are up to 3
rng = np.random.default_rng(0)
X = np.column_stack([rng.standard_normal((N, D - 1)), np.ones(N)])
Y = X[:, 0] + np.abs(X[:, 1]) + 0.3 * rng.standard_normal(N) - 1.0
FIT = fit_linear_predictor(X, Y, loss="squared")
SETTING = {"loss": "squared", "linear_fit": FIT}
STARTS = {name: starting_models(name, D, range(SEEDS), width=K) for name in COMPARED}


@pytest.fixture(scope="module", params=COMPARED)
def trained(request):
    result = train_from(STARTS[request.param], X, Y, **SETTING, steps=300, log_every=100)
    return request.param, result, training_ends(result.models, X, Y, **SETTING, epsilon=EPSILON)


def outer(model):
    return (model.w, model.V) if hasattr(model, "V") else (model.w, model.v) if hasattr(model, "w") else (model.v,)


@eqx.filter_jit
@eqx.filter_vmap
def by_definition(model):
    def objective(weights):
        return jnp.mean(reference_loss("squared", eqx.tree_at(outer, model, weights)(X), Y))

    value, gradient = jax.value_and_grad(objective)(outer(model))
    certificate = jnp.mean((model(X) - Y) * (model(X) - X @ FIT.w))
    dead = jnp.sum(jnp.max(jnp.abs(model.features(X)), axis=0) == 0)
    return value, jnp.sqrt(sum(jnp.sum(part**2) for part in gradient)), certificate, dead


def test_ends_are_those_of_plain_definitions(trained):
    architecture, result, ends = trained
    objective, norm, certificate, dead = map(np.asarray, by_definition(result.models))
    np.testing.assert_allclose(ends["objective"], objective, rtol=1e-12)
    np.testing.assert_allclose(ends["linear_predictor_gap"], objective - FIT.objective, atol=ROUNDING)
    np.testing.assert_allclose(ends["partial_grad_norm"], norm, rtol=1e-8, atol=ROUNDING)
    np.testing.assert_allclose(ends["certificate"], certificate, rtol=1e-9, atol=ROUNDING)
    np.testing.assert_array_equal(ends["dead_units"], dead)
    assert (ends["linear_predictor_gap"] <= ends["certificate"] + ROUNDING).all()
    second_order = ends["verdict"].str.startswith("sopsp")
    assert second_order.any()
    if architecture != "no_skip":
        assert (ends["linear_predictor_gap"] <= ends["gap_allowed"])[second_order].all()
    if architecture != "residual_unit":  # convex in the weights around f
        np.testing.assert_array_equal(second_order, norm <= EPSILON)
        return
    unit = result.member(0).model
    report = analyze_point(*map(np.asarray, (unit.w, unit.V, unit.features(X), X, Y)), **SETTING, epsilon=EPSILON)
    assert report.verdict == ends["verdict"][0]
    np.testing.assert_allclose(ends.loc[0, "lambda_lower"], report.lambda_lower, atol=1e-12)
    np.testing.assert_allclose(ends.loc[0, "gap_allowed"], report.gap_allowed, rtol=1e-9)


def test_networks_get_stuck_above_the_linear_predictor_without_skip_connection_only(trained):
    architecture, result, ends = trained
    assert (result.diverged_at < 0).all()
    stuck = (ends["verdict"] == "sopsp_above_linear") & (ends["linear_predictor_gap"] > 0.01)
    assert stuck.any() == (architecture == "no_skip")


def test_seed_gives_every_architecture_the_same_initial_theta():
    first, *others = (eqx.filter(start.feature_map, eqx.is_array) for start in STARTS.values())
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)
    alone = starting_models("no_skip", D, [3], width=K).feature_map
    assert alone.layers[0].layers[0].weight.shape == (1, K, D)
    np.testing.assert_array_equal(alone.layers[0].layers[0].weight[0], first.layers[0].layers[0].weight[3])


def test_dead_network_is_stationary_and_stuck():
    bias = lambda models: models.feature_map.layers[0].layers[0].bias  # noqa: E731
    dead = eqx.tree_at(bias, STARTS["no_skip"], jnp.full((SEEDS, K), -1e3))
    ends = training_ends(dead, X, Y, **SETTING, epsilon=1e-12)
    assert (ends["dead_units"] == K).all()
    assert (ends["partial_grad_norm"] == 0).all()
    assert (ends["verdict"] == "sopsp_above_linear").all()
    np.testing.assert_allclose(ends["objective"], np.mean(0.5 * Y**2), rtol=len(Y) * EPS)


@pytest.mark.parametrize(
    ("architecture", "seeds", "width", "message"),
    [
        ("vector_output", [0], K, "architecture='vector_output' must be one of residual_unit, output_skip, no_skip"),
        ("no_skip", [], K, "seeds is empty"),
        ("no_skip", [0], 0, "width=0 must be at least 1"),
    ],
)
def test_start_that_cannot_be_made_gets_one_clear_line(architecture, seeds, width, message):
    with pytest.raises(InvalidInputError, match=message):
        starting_models(architecture, D, seeds, width=width)


def test_training_that_makes_no_sense_gets_one_clear_line():
    with pytest.raises(InvalidInputError, match=r"learning_rate=-1\.0 must be a positive finite number"):
        train_from(STARTS["no_skip"], X, Y, **SETTING, learning_rate=-1.0)
    with pytest.raises(InvalidInputError, match="the logistic loss takes −1 and"):
        train_from(STARTS["no_skip"], X, Y, loss="logistic", linear_fit=FIT)
    with pytest.raises(InvalidInputError, match=r"epsilon=0\.0 must be positive"):
        training_ends(STARTS["no_skip"], X, Y, **SETTING, epsilon=0.0)
