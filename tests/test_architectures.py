"""The zoo: every architecture by its name, over any feature map, the user's own modules included."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from resflow import (
    InvalidInputError,
    ParametricFeatureMap,
    TrainingOptions,
    build_model,
    feature_map,
    flax_feature_map,
    train,
)
from resflow.models.architectures import ARCHITECTURES
from resflow.models.residual_unit import trainable
from tests.rounding import EPS

D, K, N, Q, M = 4, 6, 30, 2, 3
X = jax.random.normal(jax.random.key(0), (N, D))
Y = jnp.sin(X[:, 0]) + X[:, 1]
CLASSES = jnp.where(Y > 0.5, 2, jnp.where(Y < -0.5, 0, 1))


def f(d=D, seed=1):
    return feature_map("mlp", d, width=K, key=jax.random.key(seed))


def built(name, outputs=None):
    return build_model(name, D, f(), key=jax.random.key(2), outputs=outputs)


BUILT = {
    "residual_unit": partial(built, "residual_unit"),
    "output_skip": partial(built, "output_skip"),
    "no_skip": partial(built, "no_skip"),
    "deep_residual_network": lambda: build_model(
        "deep_residual_network", D, [f(), f(Q, 3), f(Q, 4)], key=jax.random.key(2), inner=Q
    ),
}

EQUATIONS = {
    "residual_unit": lambda model, x: model.W @ (x + model.V @ model.feature_map(x)),
    "output_skip": lambda model, x: model.W @ x + model.v @ model.feature_map(x),
    "no_skip": lambda model, x: model.v @ model.feature_map(x),
    "deep_residual_network": lambda model, x: model.w @ deep_representations(model, x)[-1],
}


def deep_representations(model, x):
    h = [x, x + model.V[0] @ model.feature_maps[0](x)]
    for V, U, phi in zip(model.V[1:], model.U, model.feature_maps[1:], strict=True):
        h.append(h[-1] + V @ phi(U @ h[-1]))
    return h


def test_every_architecture_is_tested():
    assert BUILT.keys() == EQUATIONS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("name", "outputs"),
    [*((name, None) for name in ARCHITECTURES), ("residual_unit", M), ("output_skip", M), ("no_skip", M)],
)
def test_prediction_is_that_of_the_equation(name, outputs):
    model = BUILT[name]() if outputs is None else BUILT[name](outputs)
    assert model(X).shape == ((N,) if outputs is None else (N, outputs))
    np.testing.assert_allclose(model(X)[:4], [EQUATIONS[name](model, x) for x in X[:4]], rtol=1e-11, atol=100 * EPS)


def test_representations_are_those_of_every_block():
    model = BUILT["deep_residual_network"]()
    assert [U.shape for U in model.U] == [(Q, D)] * 2
    expected = np.stack([deep_representations(model, x) for x in X[:4]], axis=1)
    np.testing.assert_allclose(model.representations(X[:4]), expected, rtol=1e-11, atol=100 * EPS)


@pytest.mark.parametrize("outputs", [1, M])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("residual_unit", {"W": D, "V": None}), ("output_skip", {"W": D, "v": K}), ("no_skip", {"v": K})],
)
def test_every_output_has_weights_of_its_own_drawn_with_the_same_variance(name, sizes, outputs):
    model = BUILT[name](outputs)
    assert {part: getattr(model, part).shape for part in sizes} == {
        part: (D, K) if size is None else (outputs, size) for part, size in sizes.items()
    }
    many = eqx.filter_vmap(lambda key: build_model(name, D, f(), key=key, outputs=outputs, scale=3.0))(
        jax.random.split(jax.random.key(5), 4000)
    )
    for part, size in sizes.items():
        np.testing.assert_allclose(getattr(many, part).std(axis=0), 3.0 / np.sqrt(size or K), rtol=0.1)


@pytest.mark.parametrize("name", ["residual_unit", "output_skip", "no_skip"])
def test_one_output_with_an_axis_is_the_one_without(name):
    without, with_axis = BUILT[name](), BUILT[name](1)
    np.testing.assert_allclose(with_axis(X)[:, 0], without(X), rtol=1e-12, atol=100 * EPS)


@pytest.mark.parametrize(
    ("name", "outputs", "loss"),
    [
        *((name, None, "squared") for name in ("output_skip", "no_skip", "deep_residual_network")),
        *((name, M, loss) for name in ("residual_unit", "output_skip", "no_skip") for loss in ("squared", "softmax")),
    ],
)
def test_training_lowers_the_objective_by_moving_every_weight(name, outputs, loss):
    model = BUILT[name]() if outputs is None else BUILT[name](outputs)
    y = CLASSES if loss == "softmax" else Y if outputs is None else jnp.stack([Y, X[:, 2], -Y], axis=1)
    result = train(model, X, y, loss=loss, options=TrainingOptions(steps=60, log_every=60), key=jax.random.key(0))
    assert result.history["objective"][-1] < 0.8 * result.history["objective"][0]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), *weights(model, result.model))))


def weights(*models):
    return [eqx.filter(model, trainable(model)) for model in models]


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(D, K, rngs=rngs, param_dtype=jnp.float64)
        self.shift = nnx.BatchStat(jnp.ones(K))  # carried along, but no parameter

    def __call__(self, x):
        return jnp.tanh(self.layer(x) + self.shift[...])


def linen_map():
    module = linen.Sequential([linen.Dense(K, param_dtype=jnp.float64), jnp.tanh])
    return flax_feature_map(module, module.init(jax.random.key(0), X[0]))


OWN = {
    "equinox": lambda: eqx.nn.MLP(D, K, 8, 1, key=jax.random.key(0)),
    "flax nnx": lambda: flax_feature_map(Perceptron(nnx.Rngs(0))),
    "flax linen": linen_map,
    "function and parameters": lambda: ParametricFeatureMap(
        lambda theta, x: jnp.tanh(theta["A"] @ x), {"A": jax.random.normal(jax.random.key(0), (K, D))}
    ),
}


@pytest.mark.parametrize("library", OWN)
def test_own_module_is_a_feature_map_whose_parameters_are_trained(library):
    model = build_model("residual_unit", D, OWN[library](), key=jax.random.key(1))
    # One step of gradient descent through the library, and one written out.
    rate = 0.1
    options = TrainingOptions(steps=1, optimizer=optax.sgd(rate))
    trained = train(model, X, Y, loss="squared", options=options, key=jax.random.key(0)).model
    moving, still = eqx.partition(model, trainable(model))
    gradient = jax.grad(lambda moving: jnp.mean(0.5 * (eqx.combine(moving, still)(X) - Y) ** 2))(moving)
    before, after = weights(model, trained)
    theta = [jax.tree.leaves(tree.feature_map) for tree in (before, gradient, after)]
    assert len(theta[0]) >= 1
    for start, slope, end in zip(*theta, strict=True):
        assert jnp.linalg.norm(slope) > 1e-6
        np.testing.assert_allclose(end, start - rate * slope, rtol=1e-10, atol=100 * EPS)


def test_what_a_flax_module_carries_besides_parameters_stays():
    f = OWN["flax nnx"]()
    assert sorted(leaf.shape for leaf in jax.tree.leaves(f.parameters)) == [(D, K), (K,)]
    np.testing.assert_allclose(f(jnp.zeros(D)), np.tanh(np.ones(K)), rtol=1e-12)


def test_population_is_one_program_over_keys():
    def objective(key):
        return jnp.mean((build_model("output_skip", D, f(), key=key)(X) - Y) ** 2)

    keys = jax.random.split(jax.random.key(0), 5)
    np.testing.assert_allclose(jax.vmap(objective)(keys), [objective(key) for key in keys], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "feature_maps", "options", "message"),
    [
        ("output_skp", f, {}, "nearest is 'output_skip'; choose one of residual_unit"),
        ("residual_unit", f, {"outputs": 0}, "outputs=0 must be at least 1"),
        ("deep_residual_network", lambda: [], {"inner": 2}, "feature_maps is empty"),
        ("deep_residual_network", lambda: [f()], {"inner": 0}, "inner=0 must be at least 1"),
        ("output_skip", lambda: jnp.sum, {}, r"to \(\), but must return one vector"),
        ("residual_unit", lambda: "mlp", {}, "feature_map is a str, but must take a sample"),
        (
            "residual_unit",
            lambda: lambda x: x @ jnp.ones(D + 1),
            {},
            "feature_map cannot be applied to an array of shape",
        ),
        ("residual_unit", f, {"output": 2}, "option of residual_unit='output' is unknown: nearest is 'outputs'"),
        ("residual_unit", f, {"dtype": int}, "dtype=int.* must be one of floating-point numbers"),
        (
            "residual_unit",
            f,
            {"scale": 1e39, "dtype": jnp.float32},
            "and at most 3.4e[+]38, the largest number of float32",
        ),
        ("deep_residual_network", f, {"inner": 2}, "feature_maps is a .*, but a deep residual network needs a list"),
        ("deep_residual_network", lambda: [f()], {}, "inner is missing"),
        (
            "deep_residual_network",
            lambda: [f()],
            {"inner": 2, "outputs": 3},
            "option of deep_residual_network='outputs'",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_choice_gets_one_clear_line(name, feature_maps, options, message):
    with pytest.raises(InvalidInputError, match=message):
        build_model(name, D, feature_maps(), key=jax.random.key(0), **options)


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(D, K, rngs=rngs, param_dtype=jnp.float64)
        self.norm = nnx.BatchNorm(K, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return self.dropout(self.norm(self.layer(x)))


def test_a_flax_module_with_normalization_and_dropout_is_evaluated_as_it_was_given():
    module = Normalized(nnx.Rngs(0))
    phi = flax_feature_map(module)
    expected = module.layer(jnp.asarray(X)) / jnp.sqrt(1 + 1e-5)  # the running averages are at mean 0, variance 1
    module.layer.kernel[...] = jnp.zeros((D, K))  # what is trained on afterwards is another's
    np.testing.assert_allclose(jax.jit(lambda X: jax.vmap(phi)(X))(X), expected, rtol=1e-6)
    assert module.calls[...] == 0
    model = build_model("residual_unit", D, phi, key=jax.random.key(1))
    options = TrainingOptions(steps=20, optimizer=optax.sgd(0.05))
    trained = train(model, X, Y, loss="squared", options=options, key=jax.random.key(0)).model
    assert jnp.mean((trained(X) - Y) ** 2) < jnp.mean((model(X) - Y) ** 2)


def test_flax_modules_are_told_from_what_is_none():
    with pytest.raises(InvalidInputError, match="variables=None"):
        flax_feature_map(linen.Dense(3))
    with pytest.raises(InvalidInputError, match="module is of type int"):
        flax_feature_map(3)


@pytest.mark.parametrize("kind", [np.uint8, bool, np.float16, float])
@pytest.mark.usefixtures("unchecked_types")
def test_images_of_any_type_have_the_same_features(kind):
    image = (np.arange(16) % 2).astype(kind)
    phi = feature_map("convolutional", 16, width=3, key=jax.random.key(0))
    np.testing.assert_array_equal(phi(image), phi(image.astype(float)))


@pytest.mark.parametrize("key", [0, None, jax.random.split(jax.random.key(0))])
@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_key_gets_one_clear_line(key):
    for make in (
        lambda: feature_map("mlp", D, width=2, key=key),
        lambda: build_model("residual_unit", D, f(), key=key),
    ):
        with pytest.raises(InvalidInputError, match=r"must be a random key, as jax\.random\.key"):
            make()
