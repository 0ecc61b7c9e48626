from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

import resflow
from resflow import InvalidInputError, feature_map
from resflow.models.feature_maps import ACTIVATIONS, FEATURE_MAPS, RandomFourierFeatures, mlp
from resflow.models.residual_unit import ResidualUnit, trainable

D, K, N = 9, 7, 11
residual_unit = partial(resflow.build_model, "residual_unit")
X = jax.random.normal(jax.random.key(0), (N, D))


def make(name="mlp", **options):
    f = feature_map(name, D, **({"width": K, "depth": 2, "activation": "tanh", "key": jax.random.key(1)} | options))
    return residual_unit(D, f, key=jax.random.key(2))


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_prediction_is_that_of_the_equation(name):
    unit = make(name)
    expected = [unit.W @ (x + unit.V @ unit.feature_map(x)) for x in X]
    np.testing.assert_allclose(unit(X), expected, rtol=1e-12)
    assert unit.features(X).shape == (N, K)


def test_without_V_it_is_a_linear_predictor():
    unit = eqx.tree_at(lambda unit: unit.V, make(), jnp.zeros((D, K)))
    np.testing.assert_allclose(unit(X), X @ unit.W, rtol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_layer_of_the_mlp_is_followed_by_its_activation(depth, activation):
    f = mlp(D, width=K, depth=depth, activation=activation, key=jax.random.key(0))
    hidden = X[0]
    for layer in f.layers[0].layers:
        hidden = ACTIVATIONS[activation](layer.weight @ hidden + layer.bias)
    assert len(f.layers[0].layers) == depth
    np.testing.assert_allclose(f(X[0]), hidden, rtol=1e-12)


def test_random_fourier_features_approximate_the_gaussian_kernel():
    f = RandomFourierFeatures(D, 200_000, key=jax.random.key(0))
    features = jax.vmap(f)(X[:4])
    squared_distances = jnp.sum((X[:4, None] - X[None, :4]) ** 2, axis=-1)
    np.testing.assert_allclose(features @ features.T, jnp.exp(-squared_distances / (2 * D)), atol=0.01)


def test_training_may_change_the_mlp_but_not_random_features():
    trained = trainable(make("mlp"))
    assert trained.W
    assert trained.V
    assert all(layer.weight and layer.bias for layer in trained.feature_map.layers[0].layers)
    kept, _ = eqx.partition(make("random_fourier"), trainable(make("random_fourier")))
    assert [leaf.shape for leaf in jax.tree.leaves(kept)] == [(D,), (D, K)]


def test_a_model_is_drawn_at_once_with_the_bits_of_one_step_at_a_time():
    map_key, key = jax.random.split(jax.random.key(3))
    unit = residual_unit(D, mlp(D, width=K, depth=2, activation="tanh", key=map_key), key=key, scale=0.37)
    layers = eqx.nn.MLP(D, K, K, 1, activation=jnp.tanh, key=map_key)
    w_key, V_key = jax.random.split(key)
    alone = [jnp.asarray(0.37) * (1 / D**0.5) * jax.random.normal(w_key, (D,))]
    alone += [jnp.asarray(0.37) * (1 / K**0.5) * jax.random.normal(V_key, (D, K))]
    alone += jax.tree.leaves(eqx.filter(layers, eqx.is_array))
    drawn = [unit.W, unit.V, *jax.tree.leaves(eqx.filter(unit.feature_map, eqx.is_array))]
    for ours, theirs in zip(drawn, alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_any_function_is_a_feature_map():
    unit = residual_unit(D, lambda x: jnp.concatenate([x[:2] ** 2, jnp.sin(x)]), key=jax.random.key(0))
    assert isinstance(unit, ResidualUnit)
    assert unit.V.shape == (D, D + 2)
    assert unit(X).shape == (N,)


def test_start_has_the_variance_that_is_promised():
    f = RandomFourierFeatures(400, 300, key=jax.random.key(0))
    unit = residual_unit(400, f, key=jax.random.key(1), scale=3.0)
    np.testing.assert_allclose([unit.W.std(), unit.V.std()], [3 / np.sqrt(400), 3 / np.sqrt(300)], rtol=0.1)
    assert residual_unit(400, f, key=jax.random.key(1), dtype=jnp.float32).V.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"depth": 0}, "depth=0 must be at least 1"),
        ({"activation": "tahn"}, "activation='tahn' is unknown: nearest is 'tanh'"),
        ({"name": "mpl"}, "feature_map='mpl' is unknown: nearest is 'mlp'"),
    ],
)
def test_bad_options_get_one_clear_line(options, message):
    with pytest.raises(InvalidInputError, match=message):
        make(**options)


def test_a_feature_map_that_is_no_vector_is_refused():
    with pytest.raises(InvalidInputError, match=r"to \(\), but must return one vector"):
        residual_unit(D, jnp.sum, key=jax.random.key(0))
    with pytest.raises(InvalidInputError, match="init_scale=-1"):
        residual_unit(D, jnp.sin, key=jax.random.key(0), scale=-1.0)


def test_convolutions_are_those_of_an_independent_library():
    f = feature_map("convolutional", 65, width=K, depth=2, activation="relu", key=jax.random.key(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (65,)))
    image = x[None, :64].reshape(1, 8, 8)
    for convolution in f.convolutions:
        kernels, biases = np.asarray(convolution.weight), np.asarray(convolution.bias).ravel()
        image = np.stack([
            np.maximum(sum(correlate2d(np.pad(channel, 1), kernel, "valid")[::2, ::2]
                           for channel, kernel in zip(image, own, strict=True)) + bias, 0.0)
            for own, bias in zip(kernels, biases, strict=True)
        ])  # fmt: skip
    assert image.shape == (16, 2, 2)
    expected = np.maximum(np.asarray(f.output.weight) @ image.ravel() + np.asarray(f.output.bias), 0.0)
    np.testing.assert_allclose(f(jnp.asarray(x)), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(f(jnp.asarray(x).at[64].set(5.0)), f(jnp.asarray(x)))  # the intercept is no pixel


@pytest.mark.parametrize(
    ("d", "depth", "message"),
    [(30, 1, "d=30 inputs are no square image"), (3, 1, "d=3 inputs"), (64, 4, "depth=4 must be from 1 to 3")],
)
def test_convolutions_need_a_square_image_that_they_can_halve(d, depth, message):
    with pytest.raises(InvalidInputError, match=message):
        feature_map("convolutional", d, width=2, depth=depth, key=jax.random.key(0))
