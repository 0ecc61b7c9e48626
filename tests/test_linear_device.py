"""The passes of a fit on an accelerator against NumPy's: programs of JAX, made to run wherever JAX computes."""

import jax
import numpy as np
import pytest

import resflow
from resflow.errors import InvalidInputError
from resflow.linear import _device

RNG = np.random.default_rng(0)
N, D, M = 2003, 24, 12
X = RNG.standard_normal((N, D)).astype(np.float32)
DEPENDENT = np.column_stack([X[:, :-1], X[:, 0]])
SCORES = X @ RNG.standard_normal((D, M)) / 3
SIDES = np.where(SCORES[:, 0] + RNG.logistic(size=N) > 0, 1.0, -1.0)
CLASSES = np.argmax(SCORES + RNG.gumbel(size=(N, M)), axis=1)
SOFT = 0.9 * np.eye(M)[CLASSES] + 0.1 / M
WEIGHTS = np.where(np.arange(N) % 7 == 0, 0.0, RNG.random(N))

FITS = {
    "logistic": (SIDES, {}),
    "logistic, ridge": (SIDES, {"ridge": 1e-3}),
    "logistic, ball": (SIDES, {"max_norm": 0.3}),
    "logistic, weights": (SIDES, {"sample_weight": WEIGHTS}),
    "logistic, probabilities": (0.5 + 0.4 * SIDES, {}),
    "squared": (SCORES[:, 0], {"loss": "squared", "max_norm": 0.5}),
    "pseudo-Huber": (10.0 * SCORES[:, 0] + RNG.standard_cauchy(N), {"loss": "pseudo_huber"}),
    "softmax": (CLASSES, {"loss": "softmax"}),
    "softmax, ridge": (CLASSES, {"loss": "softmax", "ridge": 1e-5}),
    "softmax, ball": (CLASSES, {"loss": "softmax", "max_norm": 1.0}),
    "softmax, weights": (CLASSES, {"loss": "softmax", "ridge": 1e-3, "sample_weight": WEIGHTS}),
    "softmax, classes that count": (CLASSES, {"loss": "softmax", "ridge": 1e-3, "class_weight": "balanced"}),
    "softmax, probabilities": (SOFT, {"loss": "softmax"}),
}


@pytest.fixture
def anywhere(monkeypatch):
    """Whatever JAX computes on counts as an accelerator, and chunks are small."""
    monkeypatch.setattr(_device, "_accelerator", lambda X: jax.devices()[0])
    monkeypatch.setattr(_device, "_WORTH_IT", 0)
    monkeypatch.setattr(_device, "_LARGEST_CHUNK", 1 << 17)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("samples", [X, DEPENDENT], ids=["independent", "dependent"])
def test_fits_are_those_of_numpy(monkeypatch, request, name, samples):
    y, options = FITS[name]
    expected = resflow.fit_linear_predictor(samples, y, **options)
    request.getfixturevalue("anywhere")
    passes = []
    run = _device.DeviceSamples._run
    monkeypatch.setattr(
        _device.DeviceSamples,
        "_run",
        lambda self, program, *a, **o: passes.append(program) or run(self, program, *a, **o),
    )
    found = resflow.fit_linear_predictor(samples, y, **options)
    assert len(passes) > 2
    assert found.status == expected.status
    assert (found.rank, found.separable) == (expected.rank, expected.separable)
    slack = found.suboptimality + expected.suboptimality + 1e-12
    total = [fit.objective + 0.5 * fit.ridge * np.sum(fit.W**2) for fit in (found, expected)]
    assert abs(total[0] - total[1]) <= slack
    np.testing.assert_allclose(found.W, expected.W, atol=1e-5)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("y", "loss"), [(np.sign(SCORES[:, 0]), "logistic"), (np.argmax(SCORES, axis=1), "softmax")])
def test_separable_classes_are_refused(y, loss):
    with pytest.raises(InvalidInputError, match="is linearly separable"):
        resflow.fit_linear_predictor(X, y, loss=loss)


@pytest.mark.usefixtures("anywhere")
def test_what_is_not_finite_is_named():
    bad = X.copy()
    bad[7, 3] = np.nan
    with pytest.raises(InvalidInputError, match="column 3, row 7"):
        resflow.fit_linear_predictor(bad, SIDES)


def test_a_cpu_is_no_accelerator():
    assert _device.samples_on_device(np.zeros((1 << 12, 1 << 11)), np.zeros(1 << 12), None, None, 1) is None or (
        jax.default_backend() != "cpu"
    )


@pytest.mark.usefixtures("anywhere")
def test_samples_that_do_not_fit_the_memory_stay(monkeypatch):
    monkeypatch.setattr(_device, "free_memory", lambda device: X.nbytes)
    assert _device.samples_on_device(X, SIDES, None, None, 1) is None
    assert resflow.fit_linear_predictor(X, SIDES).converged
