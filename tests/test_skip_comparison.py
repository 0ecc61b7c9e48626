"""Architectures compared over seeds: their ends against plain definitions, and the same θ for the same seed."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import EPS

import resflow
from resflow import InvalidInputError
from resflow.studies.skip_comparison import COMPARED, starting_models, train_from, training_ends

N, D, K, SEEDS, EPSILON = 40, 3, 2, 12, 0.02
ROUNDING = 10 * N * EPS  # of means of N products whose factors are up to 3
rng = np.random.default_rng(0)
X = np.column_stack([rng.standard_normal((N, D - 1)), np.ones(N)])
Y = X[:, 0] + np.abs(X[:, 1]) + 0.3 * rng.standard_normal(N) - 1.0
CLASSES = np.digitize(Y, [-0.5, 0.5])
LABELS = {"squared": Y, "softmax": CLASSES}
OUTPUTS = {"squared": None, "softmax": 3}
SETTINGS = {loss: {"loss": loss, "fit": resflow.fit_linear_predictor(X, LABELS[loss], loss=loss)} for loss in LABELS}
SETTING = SETTINGS["squared"]
STARTS = {name: starting_models(name, D, range(SEEDS), width=K) for name in COMPARED}


class Trained(NamedTuple):
    architecture: str
    loss: str
    result: object
    ends: object


@pytest.fixture(
    scope="module", params=[(name, loss) for loss in LABELS for name in COMPARED], ids=lambda chosen: "-".join(chosen)
)
def trained(request):
    name, loss = request.param
    starts = starting_models(name, D, range(SEEDS), width=K, outputs=OUTPUTS[loss])
    result = train_from(starts, X, LABELS[loss], **SETTINGS[loss], steps=300, log_every=100)
    ends = training_ends(result.models, X, LABELS[loss], **SETTINGS[loss], epsilon=EPSILON)
    return Trained(name, loss, result, ends)


def outer(model):
    return (model.W, model.V) if hasattr(model, "V") else (model.W, model.v) if hasattr(model, "W") else (model.v,)


def losses(loss, p):
    """The loss of every sample once more."""
    if loss == "squared":
        return 0.5 * (p - Y) ** 2
    return jax.nn.logsumexp(p, axis=1) - jnp.sum(jax.nn.one_hot(CLASSES, 3) * p, axis=1)


@eqx.filter_jit
def by_definition(models, loss):
    def of_one(model):
        def objective(weights):
            return jnp.mean(losses(loss, eqx.tree_at(outer, model, weights)(X)))

        value, gradient = jax.value_and_grad(objective)(outer(model))
        p = model(X)
        slope = jax.grad(lambda p: jnp.sum(losses(loss, p)))(p)
        certificate = jnp.sum(slope * (p - X @ SETTINGS[loss]["fit"].W.T)) / N
        dead = jnp.sum(jnp.max(jnp.abs(model.features(X)), axis=0) == 0)
        return value, jnp.sqrt(sum(jnp.sum(part**2) for part in gradient)), certificate, dead

    return eqx.filter_vmap(of_one)(models)


def test_ends_are_those_of_plain_definitions(trained):
    architecture, loss, result, ends = trained
    fit = SETTINGS[loss]["fit"]
    objective, norm, certificate, dead = map(np.asarray, by_definition(result.models, loss))
    np.testing.assert_allclose(ends["objective"], objective, rtol=1e-12)
    np.testing.assert_allclose(ends["linear_predictor_gap"], objective - fit.objective, atol=ROUNDING)
    np.testing.assert_allclose(ends["partial_grad_norm"], norm, rtol=1e-8, atol=ROUNDING)
    np.testing.assert_allclose(ends["certificate"], certificate, rtol=1e-9, atol=ROUNDING)
    np.testing.assert_array_equal(ends["dead_units"], dead)
    assert (ends["linear_predictor_gap"] <= ends["certificate"] + ROUNDING).all()
    second_order = ends["verdict"].str.startswith("sopsp")
    assert second_order.any()
    if architecture == "output_skip" or (architecture == "residual_unit" and loss == "squared"):
        assert (ends["linear_predictor_gap"] <= ends["gap_allowed"])[second_order].all()
    else:
        assert ends["gap_allowed"].isna().all()
    if architecture != "residual_unit":  # convex in the weights around f
        np.testing.assert_array_equal(second_order, norm <= EPSILON)
        return
    unit = jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, result.member(0).model)
    report = resflow.analyze(resflow.Point.of(unit, X, LABELS[loss], loss), fit, epsilon=EPSILON)
    assert report.verdict == ends["verdict"][0]
    np.testing.assert_allclose(ends.loc[0, "lambda_lower"], report.lambda_min_lower, atol=1e-12)
    np.testing.assert_allclose(ends.loc[0, "gap_allowed"], report.gap_allowed, rtol=1e-9)


def test_networks_get_stuck_above_the_linear_predictor_without_skip_connection_only(trained):
    architecture, _, result, ends = trained
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
        ("deep", [0], K, "architecture='deep' must be one of residual_unit, output_skip, no_skip"),
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
    with pytest.raises(InvalidInputError, match="the logistic loss takes two classes, as −1 and"):
        train_from(STARTS["no_skip"], X, Y, loss="logistic", fit=SETTING["fit"])
    with pytest.raises(InvalidInputError, match=r"epsilon=0\.0 must be positive"):
        training_ends(STARTS["no_skip"], X, Y, **SETTING, epsilon=0.0)
