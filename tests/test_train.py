import re
import textwrap
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import resflow
from resflow import InvalidInputError
from resflow.losses import Logistic
from resflow.models.residual_unit import trainable
from resflow.training.train import OPTIMIZERS, measured
from tests.new_process import python

N, D = 60, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N, D))
Y = np.sign(X[:, 0] + X[:, 1] ** 2 - 1 + 0.3 * rng.standard_normal(N))
KEY = jax.random.key(0)


def unit(name="mlp"):
    f = resflow.feature_map(name, D, width=6, depth=1, activation="tanh", key=jax.random.key(1))
    return resflow.build_model("residual_unit", D, f, key=jax.random.key(2))


def run(model=None, X=X, y=Y, loss="logistic", measure=None, progress=False, key=KEY, **options):
    model = unit() if model is None else model
    options = resflow.TrainingOptions(**({"steps": 30, "log_every": 10} | options))
    return resflow.train(model, X, y, loss=loss, options=options, key=key, measure=measure, progress=progress)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_full_batch_training_equals_a_plain_loop(optimizer):
    loss, transformation = Logistic(), OPTIMIZERS[optimizer](0.05)
    model = unit()
    params, static = eqx.partition(model, trainable(model))
    state = transformation.init(params)

    @jax.jit
    def step(params, state):
        def objective(params):
            return jnp.mean(loss.value(eqx.combine(params, static)(X), Y))

        value, gradient = jax.value_and_grad(objective)(params)
        change, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    values = []
    for _ in range(30):
        params, state, value = step(params, state)
        values.append(value)
    result = run(optimizer=optimizer, learning_rate=0.05, log_every=1)
    np.testing.assert_allclose(result.history["objective"][:-1], values, rtol=1e-10)
    trained = jax.tree.leaves(eqx.filter(result.model, eqx.is_array))
    for leaf, expected in zip(trained, jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "log_every", "expected"),
    [(30, 10, [0, 10, 20, 30]), (25, 10, [0, 10, 20, 25]), (3, 10, [0, 3]), (0, 5, [0]), (2, 1, [0, 1, 2])],
)
def test_first_and_last_point_are_always_measured(steps, log_every, expected):
    result = run(steps=steps, log_every=log_every)
    np.testing.assert_array_equal(result.history["step"], expected)
    final = Logistic().value(result.model(jnp.asarray(X)), jnp.asarray(Y)).mean()
    np.testing.assert_allclose(result.history["objective"][-1], final, rtol=1e-12)


def test_an_epoch_visits_every_sample_once():
    # A model that only counts: the gradient of its mean prediction adds 1/batch for each sample visited.
    class Counter(eqx.Module):
        visits: jax.Array

        def __call__(self, X):
            return X @ self.visits

    n, size = 13, 4
    counter = Counter(jnp.zeros(n))
    for epochs in (1, 2):
        result = resflow.train(
            counter,
            np.eye(n),
            np.ones(n),
            loss=_Linear(),
            options=resflow.TrainingOptions(
                optimizer="sgd", learning_rate=float(size), batch_size=size, steps=3 * epochs
            ),
            key=KEY,
        )
        visits = -np.asarray(result.model.visits)
        assert visits.sum() == 12 * epochs
        assert visits.max() <= epochs


class _Linear(Logistic):
    def value(self, p, y):
        return p


def test_same_key_gives_the_same_bits_and_another_key_other_batches():
    first, second, third = run(batch_size=8), run(batch_size=8), run(batch_size=8, key=jax.random.key(9))
    for a, b in zip(jax.tree.leaves(first.history), jax.tree.leaves(second.history), strict=True):
        assert a.tobytes() == b.tobytes()
    assert first.history["objective"][-1] != third.history["objective"][-1]


def test_fixed_features_stay_and_the_rest_moves():
    before = unit("random_fourier")
    after = run(before, optimizer="adamw").model
    np.testing.assert_array_equal(after.feature_map.frequencies, before.feature_map.frequencies)
    assert jnp.linalg.norm(after.V - before.V) > 1e-3


def test_measurements_are_those_of_the_caller():
    def measure(model, X, y):
        return {"first": model.W[0], "mean": jnp.mean(X)}

    history = run(measure=measure).history
    assert set(history) == {"step", "first", "mean"}
    np.testing.assert_allclose(history["first"][0], unit().W[0])
    np.testing.assert_allclose(history["mean"], X.mean())


def test_divergence_stops_the_run_and_says_where():
    result = run(loss="squared", optimizer="sgd", learning_rate=50.0, steps=5000, log_every=7)
    assert result.diverged_at is not None
    assert result.outcome == f"Training diverged after {result.diverged_at} steps. What follows describes that point."
    assert 0 < result.diverged_at < 5000
    assert result.history["step"][-1] == result.diverged_at
    assert np.all(np.diff(result.history["step"]) > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(eqx.filter(result.model, eqx.is_array)))
    shorter = run(loss="squared", optimizer="sgd", learning_rate=50.0, steps=result.diverged_at, log_every=7)
    assert shorter.diverged_at is None
    assert shorter.outcome == ""
    # Elsewhere a block of steps and steps one by one are rounded otherwise.
    np.testing.assert_allclose(shorter.model.W, result.model.W, rtol=0 if jax.default_backend() == "cpu" else 1e-9)


def test_precision_of_the_model_and_data_is_kept():
    f = resflow.feature_map("random_fourier", D, width=3, key=KEY)
    f = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), f)
    single = resflow.build_model("residual_unit", D, f, key=KEY, dtype=jnp.float32)
    result = run(single, X=X.astype(np.float32), y=Y.astype(np.float32))
    assert result.model.W.dtype == result.model.V.dtype == jnp.float32


def test_progress_bar_reaches_the_end_and_leaves_results_alone(capsys):
    with_bar, without = run(progress=True), run()
    assert re.search(r"30/30", capsys.readouterr().err)
    np.testing.assert_array_equal(with_bar.history["objective"], without.history["objective"])


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("log_every", [1, 7, 1000])
def test_steps_are_told_of_on_the_way_whatever_is_measured(log_every, batch_size, monkeypatch):
    monkeypatch.setattr("resflow.progress.SECONDS", 0.0)  # every block, and every report is passed on
    monkeypatch.setattr("resflow.training._blocks.MOST_STEPS", 5)
    told = []
    options = {"steps": 1000, "log_every": log_every, "batch_size": batch_size}
    watched, plain = run(progress=lambda *steps: told.append(steps), **options), run(**options)
    for one, other in zip(*(jax.tree.leaves(eqx.filter(r, eqx.is_array)) for r in (watched, plain)), strict=True):
        np.testing.assert_array_equal(one, other)
    done = [steps for steps, total in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1000)
    assert len(done) > 100
    assert {total for _, total in told} == {1000}


@pytest.mark.parametrize("progress", [False, lambda *steps: None])
def test_a_program_that_tells_of_its_steps_is_found_in_the_cache_too(progress, tmp_path):
    program = """
        import jax, numpy as np, resflow
        jax.config.update("jax_enable_x64", True)
        found = []
        jax.monitoring.register_event_listener(lambda name, **_: found.append(name.rpartition("/")[2]))
        X = np.random.default_rng(0).standard_normal((60, 4))
        f = resflow.feature_map("mlp", 4, width=6, key=jax.random.key(1))
        unit = resflow.build_model("residual_unit", 4, f, key=jax.random.key(2))
        options = resflow.TrainingOptions(steps=40)
        key = jax.random.key(0)
        resflow.train(unit, X, np.sign(X[:, 0]), loss="logistic", options=options, key=key, progress=PROGRESS)
        print(found.count("cache_misses"))
    """.replace("PROGRESS", "print" if progress else "False")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first, second = (int(python("-c", textwrap.dedent(program), **cache).splitlines()[-1]) for _ in range(2))
    assert first > second == 0


@pytest.mark.parametrize("options", [{}, {"batch_size": 16, "optimizer": "momentum"}])
def test_last_point_is_measured_again_by_the_program_that_trained_it(options, caplog):
    fit = resflow.fit_linear_predictor(X, Y, loss="logistic")
    options = resflow.TrainingOptions(**{"steps": 300, "learning_rate": 0.03, "log_every": 70} | options)
    how = {"loss": "logistic", "options": options, "measure": resflow.StationarityMeasure.against(fit, "logistic")}
    result = resflow.train(unit(), X, Y, key=KEY, **how)
    with jax.log_compiles():
        again = measured(result.model, X, Y, **how)
    assert "_advance" not in caplog.text
    assert again.keys() == result.history.keys() - {"step"}
    assert {name: column[-1] for name, column in result.history.items() if name != "step"} == again


def test_what_is_told_of_steps_is_told_a_few_times_a_second():
    told = []
    run(progress=lambda *steps: told.append(time.monotonic()), steps=20_000)
    assert len(told) <= 3 + (told[-1] - told[0]) / 0.1


def test_training_that_diverges_is_told_to_be_over():
    told = []
    assert run(progress=lambda *steps: told.append(steps), optimizer="sgd", learning_rate=1e200).diverged_at is not None
    assert told[-1] == (30, 30)


def test_an_error_of_who_is_told_ends_training_and_no_later_one():
    def fail(done, total):
        raise ValueError("the bar is broken")

    with pytest.raises(ValueError, match="the bar is broken"):
        run(progress=fail)
    assert run(progress=lambda done, total: None).history["step"][-1] == 30


@pytest.mark.parametrize(
    "written", [lambda y: (y + 1) / 2, lambda y: y > 0, lambda y: y.astype(int)], ids=["0 and 1", "truths", "whole"]
)
def test_two_classes_as_people_have_them_train_the_same_bits(written):
    np.testing.assert_array_equal(run(y=written(Y)).history["objective"], run().history["objective"])


@pytest.mark.parametrize(
    "written", [lambda y: np.eye(3)[y], lambda y: np.eye(3, dtype=bool)[y], lambda y: y.astype(float)]
)
def test_several_classes_as_people_have_them_train_the_same_bits(written):
    classes = np.digitize(X[:, 0] + X[:, 1] ** 2, [0.0, 1.5])
    f = resflow.feature_map("mlp", D, width=6, key=jax.random.key(1))
    model = resflow.build_model("residual_unit", D, f, key=jax.random.key(2), outputs=3)
    found, expected = (run(model, y=y, loss="softmax").history["objective"] for y in (written(classes), classes))
    np.testing.assert_array_equal(found, expected)
    assert found[-1] < found[0]


@pytest.mark.parametrize(("outputs", "loss"), [(1, "logistic"), (1, "squared"), (3, "logistic"), (None, "softmax")])
def test_predictions_that_would_be_broadcast_against_the_labels_get_one_clear_line(outputs, loss):
    f = resflow.feature_map("mlp", D, width=6, key=jax.random.key(1))
    model = resflow.build_model("output_skip", D, f, key=jax.random.key(2), outputs=outputs)
    y = np.arange(N) % 3 if loss == "softmax" else Y
    with pytest.raises(InvalidInputError, match=r"the model's predictions have shape \(60,.*, but for the"):
        run(model, y=y, loss=loss)


def of_weights(w):
    """A linear model of these weights."""
    return jax.tree_util.Partial(lambda w, X: X @ w, jnp.asarray(w))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -0.1}, r"learning_rate=-0.1 must be a positive finite number"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"steps": -1}, "steps=-1 must be at least 0"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 61}, "batch_size=61 must be at most the number of training samples, 60"),
        ({"optimizer": "adem"}, "optimizer='adem' is unknown: nearest is 'adam'"),
        ({"optimizer": {}}, "optimizer={} must be one of adam, .*, or an Optax transformation"),
        ({"batch_size": 6, "key": 0}, "key=0 must be a random key"),
        ({"batch_size": 6, "key": jax.random.split(KEY)}, "one of them is needed"),
        ({"model": jax.tree_util.Partial(lambda w, X: X @ jnp.asarray(w), [1.0] * D)}, "model has nothing to train"),
        ({"model": lambda X: X[:, 0]}, "model has nothing to train"),
        ({"model": of_weights(np.ones(D, int))}, "the model's predictions are of type|model has nothing to train"),
        ({"model": of_weights(np.ones(D, complex))}, "of type complex128"),
        ({"model": of_weights(np.ones(D + 1))}, r"model cannot be applied to an array of shape \(60, 4\)"),
        (
            {"measure": lambda model, X, y: {"step": jnp.float64(1)}},
            "measure records 'step', a name of the history's own",
        ),
        ({"measure": lambda model, X, y: None}, "measure gives None, but must give numbers by their names"),
        ({"measure": lambda model, X, y: jnp.mean(y)}, "measure gives .*, but must give numbers by their names"),
        ({"measure": lambda model, X, y: {1: 1.0}}, "measure gives {1: 1.0}, but must"),
        ({"measure": lambda model, X, y: {"norm": "x"}}, "measure records norm='x', but must record a number"),
        ({"measure": 3}, "measure=3 must be a function"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_options_get_one_clear_line(options, message):
    with pytest.raises(InvalidInputError, match=message):
        run(**options)


def test_an_optax_transformation_can_be_given_as_it_is():
    named, given = run(optimizer="sgd", learning_rate=0.1), run(optimizer=optax.sgd(0.1))
    np.testing.assert_array_equal(named.history["objective"], given.history["objective"])


def test_an_optimiser_that_asks_for_the_objective_is_given_it():
    for optimizer in (optax.lbfgs(), optax.polyak_sgd()):
        objective = run(optimizer=optimizer).history["objective"]
        assert objective[-1] < 0.7 * objective[0]


@pytest.mark.usefixtures("unchecked_types")
def test_numbers_of_options_may_come_in_any_type():
    numbers = {"steps": np.float64(30), "log_every": jnp.asarray(10), "batch_size": 16.0}
    found, expected = run(**numbers), run(batch_size=16)
    np.testing.assert_array_equal(found.history["objective"], expected.history["objective"])


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", ">f8"])
def test_samples_of_any_type_are_the_numbers_that_they_are(kind):
    """Also where JAX has whole numbers of 32 bits only, and a feature map squares what it is given."""
    program = f"""
        import jax, jax.numpy as jnp, numpy as np, resflow
        X = (np.arange(60).reshape(20, 3) % 17 * 15).astype("{kind}")
        if X.dtype == np.int64:
            X = X * 2**24
        model = resflow.build_model("residual_unit", 3, lambda x: x * x * 1e-6, key=jax.random.key(0))
        options = resflow.TrainingOptions(steps=0)
        for y in (X[:, 0], X.astype(float)[:, 0]):
            for each in (X, X.astype(float)):
                made = resflow.train(model, each, y, loss="squared", options=options, key=jax.random.key(0))
                print(made.history["objective"][0], float(resflow.Point.of(model, each, y, "squared").objective))
    """
    lines = python("-c", textwrap.dedent(program), JAX_ENABLE_X64="0").splitlines()
    trained, points = zip(*(map(float, line.split()) for line in lines), strict=True)
    assert len(trained) == 4
    assert len(set(trained)) == 1
    np.testing.assert_allclose(points, trained, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("X *= 1e50", "X is of a size that float32, in which JAX computes here, does not have"),
        ("X *= 1e-50", "X is of a size that float32"),
        ("y *= 1e50", "y is of a size that float32"),
        ("rate = 1e-50", "learning_rate=1e-50 is 0 in float32"),
        ("rate = 1e300", r"learning_rate=1e\+300 is inf in float32"),
    ],
)
def test_what_float32_does_not_have_is_said(change, message):
    program = f"""
        import jax, numpy as np, resflow
        X, rate = np.random.default_rng(0).standard_normal((20, 3)), 0.1
        y = X[:, 0].copy()
        {change}
        model = resflow.build_model("residual_unit", 3, lambda x: x**2, key=jax.random.key(0))
        options = resflow.TrainingOptions(steps=1, learning_rate=rate)
        try:
            resflow.train(model, X, y, loss="squared", options=options, key=jax.random.key(0))
        except resflow.InvalidInputError as error:
            print(error)
    """
    assert re.match(message, python("-c", textwrap.dedent(program), JAX_ENABLE_X64="0"))
