import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.certificates.theorems import theorem2_bound
from resflow.linear.predictor import fit_linear_predictor
from resflow.models.feature_maps import feature_map
from resflow.models.residual_unit import residual_unit
from resflow.spectrum.partial import partial_spectrum
from resflow.studies.measures import Checkpoints, GapMeasure, StationarityMeasure
from resflow.training.train import TrainingOptions, train

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 4))
Y = np.sign(X[:, 0] * X[:, 1] + X[:, 2] + 0.5 * rng.standard_normal(60))


@pytest.mark.parametrize("loss", ["logistic", "huber"])
def test_smallest_eigenvalue_along_training_is_that_of_the_spectrum_at_every_measurement(loss):
    keys = jax.random.split(jax.random.key(0), 3)
    f = feature_map("mlp", 4, width=5, depth=1, activation="tanh", key=keys[0])
    unit = residual_unit(4, f, key=keys[1])
    fit = fit_linear_predictor(X, Y, loss=loss)
    models = []

    class Recorder(StationarityMeasure):
        def __call__(self, model, X, y):
            jax.debug.callback(
                lambda w, V, features: models.append((w, V, features)), model.w, model.V, model.features(X)
            )
            return super().__call__(model, X, y)

    measure = Recorder.against(fit, loss)
    options = TrainingOptions(steps=60, log_every=20, learning_rate=0.05)
    history = train(unit, X, Y, loss=loss, options=options, key=keys[2], measure=measure).history
    jax.effects_barrier()
    assert len(models) == len(history["step"]) == 4
    for i, (w, V, features) in enumerate(models):
        eigenvalues = partial_spectrum(*map(np.asarray, (w, V, features)), X, Y, loss=loss).eigenvalues
        scale = np.abs(eigenvalues).max()
        np.testing.assert_allclose(history["lambda_min"][i], eigenvalues[0], atol=1e-12 * scale)
        assert history["lambda_min_lower"][i] <= history["lambda_min"][i] <= history["lambda_min_upper"][i]
        bound = theorem2_bound(V, features, X, Y, loss=loss, linear_fit=fit)
        np.testing.assert_allclose(history["theorem2_slack"][i], bound.slack, rtol=1e-10)
    assert np.all(history["lambda_min_converged"] == 1)
    assert np.all(history["theorem2_slack"] > 0)
    assert np.all(history["linear_predictor_gap"] < history["theorem3_bound"])
    assert set(GapMeasure.against(fit, loss)(unit, X, Y)) < set(history)


def test_checkpoints_are_the_points_that_were_measured():
    X = jax.random.normal(jax.random.key(0), (20, 4))
    y = jnp.sign(X[:, 0])
    fit = fit_linear_predictor(np.asarray(X), np.asarray(y), loss="squared")
    unit = residual_unit(4, feature_map("random_fourier", 4, width=3, key=jax.random.key(1)), key=jax.random.key(2))
    options = TrainingOptions(steps=30, log_every=10)
    measure = Checkpoints(GapMeasure.against(fit, "squared"))
    result = train(unit, X, y, loss="squared", options=options, key=jax.random.key(3), measure=measure)
    assert result.history["weights"].shape == (4, 4 + 4 * 3)
    for weights, objective in zip(result.history["weights"], result.history["objective"], strict=True):
        there = Checkpoints.restore(unit, weights)
        np.testing.assert_allclose(jnp.mean(0.5 * (there(X) - y) ** 2), objective, rtol=1e-12)
    np.testing.assert_array_equal(there.V, result.model.V)
