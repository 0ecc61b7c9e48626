import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow import InvalidInputError, build_model, feature_map
from resflow.losses import LOSSES
from resflow.studies.example_order import ORDERS, balanced_order, ordered_sgd

SEEDS, EPOCHS, RATE = 3, 4, 0.05


def numpy_grab(gradients, order, mean):
    """GraB's order as the paper writes it: comparing norms, with a list for each sign."""
    signed, front, back = np.zeros(gradients.shape[1]), [], []
    for example in order:
        centred = gradients[example] - mean
        if np.linalg.norm(signed + centred) <= np.linalg.norm(signed - centred):
            signed = signed + centred
            front.append(example)
        else:
            signed = signed - centred
            back.append(example)
    return np.array(front + back[::-1])


def largest_prefix(gradients, order):
    return np.linalg.norm(np.cumsum((gradients - gradients.mean(axis=0))[order], axis=0), axis=1).max()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (57, 4), (200, 30)])
def test_balanced_order_equals_a_plain_numpy_version_epoch_after_epoch(shape):
    rng = np.random.default_rng(shape[0])
    gradients, mean = rng.standard_normal(shape) + 1.0, np.zeros(shape[1])
    order = expected = rng.permutation(shape[0])
    for _ in range(3):
        order, expected = balanced_order(gradients, order, mean), numpy_grab(gradients, expected, mean)
        np.testing.assert_array_equal(order, expected)
        assert sorted(expected) == list(range(shape[0]))
        mean = gradients.mean(axis=0)


def test_balancing_keeps_prefix_sums_of_fixed_gradients_small():
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((400, 5))
    random = [largest_prefix(gradients, rng.permutation(400)) for _ in range(20)]
    order = rng.permutation(400)
    for _ in range(8):
        order = balanced_order(gradients, order, gradients.mean(axis=0))
    assert largest_prefix(gradients, np.asarray(order)) < 0.5 * min(random)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    return X, np.where(X[:, 0] + 0.8 * rng.standard_normal(40) > 0, 1.0, -1.0)


@pytest.fixture(scope="module")
def models():
    def build(key):
        return build_model("output_skip", 3, feature_map("mlp", 3, width=2, key=key), key=key)

    return eqx.filter_vmap(build)(jax.random.split(jax.random.key(0), SEEDS))


@pytest.fixture(scope="module")
def results(data, models):
    options = {"loss": "logistic", "learning_rate": RATE, "epochs": EPOCHS}
    keys = jax.random.split(jax.random.key(1), SEEDS)
    return {order: ordered_sgd(models, *data, order=order, keys=keys, **options) for order in ORDERS}


def test_sgd_in_grabs_order_equals_a_plain_version(data, models, results):
    X, y = data
    model = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, models)

    @eqx.filter_jit
    def objective(model, X, y):
        return jnp.mean(LOSSES["logistic"]().value(model(X), y))

    slope = eqx.filter_jit(eqx.filter_grad(objective))
    first_key = jax.random.split(jax.random.split(jax.random.key(1), SEEDS)[0])[0]
    order, mean, values, prefixes = np.asarray(jax.random.permutation(first_key, len(y))), 0.0, [], []
    for _ in range(EPOCHS):
        values.append(objective(model, X, y))
        gradients = np.zeros((len(y), len(jax.flatten_util.ravel_pytree(eqx.filter(model, eqx.is_array))[0])))
        for example in order:
            change = slope(model, X[[example]], y[[example]])
            gradients[example] = jax.flatten_util.ravel_pytree(eqx.filter(change, eqx.is_array))[0]
            model = eqx.apply_updates(model, jax.tree.map(lambda leaf: -RATE * leaf, change))
        prefixes.append(np.linalg.norm(np.cumsum((gradients - mean)[order], axis=0), axis=1).max())
        last, order, mean = order, numpy_grab(gradients, order, mean), gradients.mean(axis=0)
    values.append(objective(model, X, y))
    np.testing.assert_allclose(results["grab"].objective[0], values, rtol=1e-9)
    np.testing.assert_allclose(results["grab"].prefix_norm[0], prefixes, rtol=1e-9)
    np.testing.assert_array_equal(results["grab"].last_order[0], last)
    np.testing.assert_allclose(results["grab"].models.W[0], model.W, rtol=1e-9)


def test_orders_start_alike_and_visit_what_their_names_say(results):
    starts = np.array([result.objective[:, 0] for result in results.values()])
    np.testing.assert_array_equal(starts, np.broadcast_to(starts[0], starts.shape))
    for order, result in results.items():
        assert result.objective.shape == (SEEDS, EPOCHS + 1)
        distinct = [len(set(visits)) for visits in result.last_order]
        assert all(count < 40 for count in distinct) if order == "with_replacement" else distinct == [40] * SEEDS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "grap"}, "nearest is 'grab'"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"loss": "logistic", "y": np.arange(40.0)}, "y"),
    ],
)
def test_impossible_values_are_refused(data, models, changes, message):
    options = {"loss": "squared", "order": "grab", "learning_rate": 0.1, "epochs": 1, "X": data[0], "y": data[1]}
    with pytest.raises(InvalidInputError, match=message):
        ordered_sgd(models, keys=jax.random.split(jax.random.key(0), SEEDS), **(options | changes))
