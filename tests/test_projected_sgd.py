import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow import InvalidInputError, feature_map, fit_linear_predictor
from resflow.losses import LOSSES
from resflow.studies.projected_sgd import projected_sgd_excess
from resflow.studies.sgd_excess import judge_iterates, loss_constants, theorem4_bound
from resflow.studies.sgd_sources import Bootstrap, TeacherStream

RADIUS, DELTA, SEEDS = 3.0, 0.05, 20


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4))
    return X, np.where(X[:, 0] + 0.8 * rng.standard_normal(80) > 0, 1.0, -1.0)


@pytest.fixture(scope="module")
def maps():
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return eqx.filter_vmap(lambda key: feature_map("mlp", 4, width=5, key=key))(keys)


def excess(data, maps, **changes):
    X, y = data
    fit = fit_linear_predictor(X, y, loss="logistic", max_norm=RADIUS)
    options = {
        "loss": "logistic",
        "radius": RADIUS,
        "linear_w": fit.W,
        "feature_norm": 5**0.5,
        "steps": np.array([100, 400, 2000]),
        "delta": DELTA,
        "theta_rates": np.array([0.1, 0.0, -0.1]),
        "keys": jax.random.split(jax.random.key(1), SEEDS),
        "parts": 20,
    }
    source = Bootstrap(jnp.asarray(X), jnp.asarray(changes.pop("y", y)))
    return projected_sgd_excess(source, maps, **(options | changes))


@pytest.fixture(scope="module")
def results(data, maps):
    return excess(data, maps)


def test_bound_of_theorem_4_holds_whatever_theta_does(results):
    for result in results:
        assert ((result.mean_excess <= result.bound.total[:, None]).mean(axis=1) >= 1 - DELTA).all()
        assert (result.best_excess <= result.mean_excess).all()
        assert (result.mean_excess[-1].mean() < result.mean_excess[0].mean()).all()


def test_adversarial_theta_hurts_and_helpful_theta_helps(results):
    helped, frozen, hurt = (result.mean_excess[-1].mean() for result in results)
    assert helped < frozen < hurt


def test_excess_is_computed_again_from_the_iterates_alone(data, maps, results):
    X, y = data
    fit = fit_linear_predictor(X, y, loss="logistic", max_norm=RADIUS)
    source, keys = Bootstrap(jnp.asarray(X), jnp.asarray(y)), jax.random.split(jax.random.key(1), SEEDS)
    how = {"loss": "logistic", "radius": RADIUS, "linear_w": fit.W, "feature_norm": 5**0.5, "delta": DELTA}
    how |= {"steps": np.array([100, 400, 2000]), "keys": keys, "parts": 20}
    kept = [
        jax.tree.map(lambda leaf: np.array(leaf) if eqx.is_array(leaf) else leaf, each.iterates) for each in results
    ]
    for again, result in zip(judge_iterates(kept, source, **how), results, strict=True):
        np.testing.assert_array_equal(again.mean_excess, result.mean_excess)
    kept[1].v[(2 * SEEDS + 3) * 20 + 5] += 1.0  # θ left alone, the largest T, the fourth seed, the sixth part
    changed = judge_iterates(kept, source, **how)
    assert [np.argwhere(a.mean_excess != b.mean_excess).tolist() for a, b in zip(changed, results, strict=True)] == [
        [], [[2, 3]], [],
    ]  # fmt: skip


def test_one_run_equals_a_plain_numpy_version(data, maps):
    X, y = data
    count, parts = 40, 40  # one step a part: the iterate looked at is the one before it
    (result,) = excess(data, maps, steps=np.array([count]), theta_rates=np.array([0.0]), parts=parts)
    maps_of_one = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, maps)
    features = np.asarray(jax.vmap(maps_of_one)(jnp.asarray(X)))
    inputs, weights, values = np.column_stack([X, features]), np.zeros(9), []
    for key in jax.random.split(jax.random.split(jax.random.key(1), SEEDS)[0], parts):
        sample_key = jax.random.split(key, 3)[0]
        row = int(jax.random.randint(jax.random.fold_in(sample_key, 0), (), 0, len(y)))
        values.append(np.mean(np.logaddexp(0.0, -y * (inputs @ weights))))
        slope = -y[row] / (1.0 + np.exp(y[row] * (inputs[row] @ weights)))
        weights = weights - result.step_size[0] * slope * inputs[row]
        weights *= min(1.0, RADIUS / max(np.linalg.norm(weights), 1e-300))
    fit = fit_linear_predictor(X, y, loss="logistic", max_norm=RADIUS)
    np.testing.assert_allclose(result.mean_excess[0, 0], np.mean(values) - fit.objective, rtol=1e-10)
    np.testing.assert_allclose(result.best_excess[0, 0], np.min(values) - fit.objective, rtol=1e-10)


def test_best_step_size_gives_bl_over_root_T_and_the_slope_is_recovered(results):
    steps = np.array([100.0, 10_000.0])
    bound = theorem4_bound(
        steps, distance=2.0, step_size=2.0 / (3.0 * np.sqrt(steps)), lipschitz=3.0, loss_range=7.0, delta=0.05
    )
    np.testing.assert_allclose(bound.distance + bound.gradients, 2.0 * 3.0 / np.sqrt(steps))
    np.testing.assert_allclose(bound.deviation, 7.0 * np.sqrt(2 * np.log(20.0) / steps))
    scatter = 1.0 + 0.1 * np.random.default_rng(0).standard_normal((2, 50))
    slope, low, high = results[0]._replace(steps=steps, mean_excess=scatter / np.sqrt(steps)[:, None]).slope()
    assert low < slope < high
    assert abs(slope + 0.5) < 0.02
    assert np.isnan(results[0].slope(from_steps=2000.0)).all()  # one T has no slope


@pytest.mark.parametrize("loss", ["squared", "logistic", "pseudo_huber"])
def test_constants_bound_loss_and_gradient_on_the_ball(loss):
    rng, loss = np.random.default_rng(0), LOSSES[loss]()
    y = np.where(rng.random(2000) < 0.5, -1.0, 1.0) if loss.labels == "binary" else rng.uniform(-2, 2, 2000)
    inputs, weights = rng.standard_normal((2, 2000, 6))
    inputs *= 2.5 / np.linalg.norm(inputs, axis=1, keepdims=True)
    weights *= 1.5 / np.linalg.norm(weights, axis=1, keepdims=True)
    weights[0] = -1.5 * inputs[0] / 2.5 * y[0]
    p = np.sum(inputs * weights, axis=1)
    lipschitz, largest = loss_constants(loss, 1.5, 2.5, y)
    assert (np.abs(loss.derivative(p, y)) * 2.5 <= lipschitz * (1 + 1e-12)).all()
    assert (loss.value(p, y) <= largest * (1 + 1e-12)).all()


def test_stream_stays_in_its_ball_and_follows_its_teacher():
    stream = TeacherStream(jnp.eye(3)[0], jnp.eye(3)[1], 0.0, 2.0)
    X, y = stream.sample(20_000, key=jax.random.key(0))
    assert stream.population(jax.random.key(1))[0].shape == (500, 3)
    assert jnp.linalg.norm(X, axis=1).max() <= 2.0 + 1e-12
    right = jax.nn.sigmoid(4.0 * X[:, 0])
    error = (y + 1) / 2 - right
    assert abs(float(error.mean())) < 4 * float(error.std()) / np.sqrt(len(y))
    assert abs(float((error * X[:, 0]).mean())) < 4 * float((error * X[:, 0]).std()) / np.sqrt(len(y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": np.array([30])}, r"steps=\[30\]"),
        ({"steps": np.array([20.7])}, r"steps=20\.7 must be whole numbers"),
        ({"radius": 0.01}, r"radius=0\.01"),
        ({"delta": 1.5}, r"delta=1\.5"),
    ],
)
def test_impossible_values_are_refused(data, maps, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        excess(data, maps, **({"steps": np.array([20])} | changes))


def test_labels_that_would_be_taken_for_another_loss_are_refused(data, maps):
    with pytest.raises(InvalidInputError, match=r"source has the labels \[0.0, 1.0\], but the logistic loss takes −1"):
        excess(data, maps, y=(data[1] + 1) / 2)
