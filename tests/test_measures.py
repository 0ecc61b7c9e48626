"""What training records on the way is what the functions of a point say of it, for any number of outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import Checkpoints, GapMeasure, InvalidInputError, StationarityMeasure, TrainingOptions
from resflow.certificates.theorems import theorem2_bound

D, K = 4, 5
rng = np.random.default_rng(0)
X = rng.standard_normal((60, D))
SIGNAL = X[:, 0] * X[:, 1] + X[:, 2]
NOISE = rng.standard_normal((60, 3))
Y = np.sign(SIGNAL + 0.5 * NOISE[:, 0])
ROWS = np.column_stack([SIGNAL, X[:, 3] ** 2, np.sin(X[:, 0])]) + 0.5 * NOISE
LABELS = {"logistic": Y, "huber": Y, "softmax": ROWS.argmax(axis=1), "squared": ROWS}
OUTPUTS = {"softmax": 3, "squared": 3}

GAP = {"objective", "linear_predictor_gap"}
ONE_OUTPUT = GAP | {"gap_certificate", "theorem1_bound", "partial_grad_norm", "w_norm", "V_norm"}
SEVERAL = ONE_OUTPUT | {"gradient_term", "rank_term", "norm_bound", "smallest_singular_value", "W_rank"}
CURVATURE = {f"lambda_min{part}" for part in ("", "_lower", "_upper", "_residual", "_converged")}
THEOREMS = {"theorem2_slack", "theorem3_bound"}


def unit(outputs=None, seed=0):
    keys = resflow.random_keys(seed)
    f = resflow.feature_map("mlp", D, width=K, depth=1, activation="tanh", key=keys.features)
    return resflow.build_model("residual_unit", D, f, key=keys.model, outputs=outputs)


@pytest.fixture(scope="module", params=LABELS)
def trained(request):
    """A run measured at four points, and the weights at each of them."""
    loss = request.param
    y, fit = LABELS[loss], resflow.fit_linear_predictor(X, LABELS[loss], loss=loss)
    options = TrainingOptions(steps=60, log_every=20, learning_rate=0.05)
    measure = Checkpoints(StationarityMeasure.against(fit, loss))
    start = unit(OUTPUTS.get(loss))
    history = resflow.train(
        start, X, y, loss=loss, options=options, key=resflow.random_keys(0).batches, measure=measure
    ).history
    points = [resflow.Point.of(Checkpoints.restore(start, row), X, y, loss) for row in history["weights"]]
    return loss, fit, history, points


def test_columns_are_those_of_the_outputs(trained):
    loss, _, history, points = trained
    assert len(points) == len(history["step"]) == 4
    expected = SEVERAL if loss in OUTPUTS else ONE_OUTPUT | THEOREMS
    assert set(history) == {"step", "weights"} | expected | CURVATURE


def test_smallest_eigenvalue_along_training_is_that_of_the_spectrum_at_every_measurement(trained):
    _, _, history, points = trained
    for i, point in enumerate(points):
        eigenvalues = np.asarray(resflow.spectrum(point).eigenvalues)
        scale = np.abs(eigenvalues).max()
        np.testing.assert_allclose(history["lambda_min"][i], eigenvalues[0], atol=1e-12 * scale)
        assert history["lambda_min_lower"][i] <= history["lambda_min"][i] <= history["lambda_min_upper"][i]
        width = history["lambda_min_upper"][i] - history["lambda_min_lower"][i]
        assert width <= 1e-10 * abs(history["lambda_min"][i])
        assert history["lambda_min_lower"][i] - 1e-12 * scale <= eigenvalues[0]
        assert eigenvalues[0] <= history["lambda_min_upper"][i] + 1e-12 * scale
    assert np.all(history["lambda_min_converged"] == 1)


def test_gap_along_training_is_that_of_the_certificate_at_every_measurement(trained):
    loss, fit, history, points = trained
    for i, point in enumerate(points):
        expected = resflow.certify(point, fit)
        for name in SEVERAL if loss in OUTPUTS else ONE_OUTPUT:
            np.testing.assert_allclose(history[name][i], getattr(expected, name), rtol=1e-9, atol=1e-13, err_msg=name)
    assert np.all(history["linear_predictor_gap"] <= history["gap_certificate"])
    if loss in OUTPUTS:
        np.testing.assert_array_equal(history["W_rank"], 3)
        assert np.all(history["gap_certificate"] <= history["norm_bound"])


def test_theorems_along_training_of_one_output_hold(trained):
    loss, fit, history, points = trained
    if loss in OUTPUTS:
        assert not THEOREMS & set(history)
        return
    for slack, point in zip(history["theorem2_slack"], points, strict=True):
        np.testing.assert_allclose(slack, theorem2_bound(point, fit).slack, rtol=1e-10)
    assert np.all(history["theorem2_slack"] > 0)
    assert np.all(history["linear_predictor_gap"] < history["theorem3_bound"])


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("architecture", ["residual_unit", "output_skip", "no_skip"])
def test_gap_without_bounds_is_recorded_of_every_model(architecture, outputs):
    loss = "logistic" if outputs is None else "softmax"
    y, keys = LABELS[loss], resflow.random_keys(1)
    f = resflow.feature_map("mlp", D, width=K, key=keys.features)
    model = resflow.build_model(architecture, D, f, key=keys.model, outputs=outputs)
    fit = resflow.fit_linear_predictor(X, y, loss=loss)
    measured = GapMeasure.against(fit, loss, bounds=False)(model, jnp.asarray(X), jnp.asarray(y))
    assert set(measured) == GAP
    expected = resflow.certify(resflow.Point.of(model, X, y, loss), fit)
    for name in GAP:
        np.testing.assert_allclose(measured[name], getattr(expected, name), rtol=1e-10, atol=1e-13)
    if architecture != "residual_unit":
        with_bounds = GapMeasure.against(fit, loss)(model, jnp.asarray(X), jnp.asarray(y))
        assert set(with_bounds) == GAP
        with pytest.raises(InvalidInputError, match="measured along the training of residual units only"):
            StationarityMeasure.against(fit, loss)(model, jnp.asarray(X), jnp.asarray(y))


def test_checkpoints_are_the_points_that_were_measured():
    X = jax.random.normal(jax.random.key(0), (20, 4))
    y = jnp.sign(X[:, 0])
    fit = resflow.fit_linear_predictor(np.asarray(X), np.asarray(y), loss="squared")
    f = resflow.feature_map("random_fourier", 4, width=3, key=jax.random.key(1))
    unit = resflow.build_model("residual_unit", 4, f, key=jax.random.key(2))
    options = TrainingOptions(steps=30, log_every=10)
    measure = Checkpoints(GapMeasure.against(fit, "squared"))
    result = resflow.train(unit, X, y, loss="squared", options=options, key=jax.random.key(3), measure=measure)
    assert result.history["weights"].shape == (4, 4 + 4 * 3)
    for weights, objective in zip(result.history["weights"], result.history["objective"], strict=True):
        there = Checkpoints.restore(unit, weights)
        np.testing.assert_allclose(jnp.mean(0.5 * (there(X) - y) ** 2), objective, rtol=1e-12)
    np.testing.assert_array_equal(there.V, result.model.V)


def fitted(loss, *, rows=slice(None), columns=slice(None), sign=1.0, **options):
    return resflow.fit_linear_predictor(X[rows, columns], sign * LABELS[loss][rows], loss=loss, **options)


@pytest.mark.parametrize(
    ("loss", "wrong", "message"),
    [
        ("logistic", {"rows": slice(30)}, "fit has a mean loss of .* by its own account"),
        ("huber", {"sign": -1.0}, "fit has a mean loss of .* by its own account"),
        ("squared", {"columns": slice(3)}, r"fit has 3 weights an output, but X has shape \(60, 4\)"),
        ("squared", {"ridge": 0.1}, "fit has ridge=0.1, but what it is compared with has no ridge term"),
        ("huber", {"ridge": 0.1}, "fit has ridge=0.1, but what it is compared with has no ridge term"),
    ],
)
@pytest.mark.parametrize(
    "measured",
    [GapMeasure.against, StationarityMeasure.against, lambda *fit: Checkpoints(GapMeasure.against(*fit))],
    ids=["gap", "stationarity", "checkpoints"],
)
def test_fit_to_other_samples_or_with_a_ridge_term_of_its_own_is_refused_before_training(
    loss, wrong, message, measured
):
    fit, start = fitted(loss, **wrong), unit(OUTPUTS.get(loss))
    how = {"loss": loss, "options": TrainingOptions(steps=2)}
    how |= {"key": jax.random.key(0)}
    with pytest.raises(InvalidInputError, match=message):
        resflow.train(start, X, LABELS[loss], measure=measured(fit, loss), **how)


def test_each_member_of_a_population_has_its_fit_checked_with_its_own_samples():
    sets, labels = np.stack([X, 2.0 * X]), np.stack([Y, Y])
    right = [GapMeasure.against(resflow.fit_linear_predictor(rows, Y, loss="logistic"), "logistic") for rows in sets]
    keys = jax.random.split(jax.random.key(0), 2)
    models = eqx.filter_vmap(lambda key: resflow.build_model("residual_unit", D, jnp.tanh, key=key))(keys)
    how = {"keys": keys, "loss": "logistic", "options": TrainingOptions(steps=2)}
    how |= {"data_sets": np.array([0, 1])}
    resflow.train_population(models, sets, labels, measure=right, **how)
    with pytest.raises(InvalidInputError, match="by its own account"):
        resflow.train_population(models, sets, labels, measure=right[::-1], **how)


def test_fit_with_a_ridge_term_stands_where_the_objective_has_the_same_one():
    point = resflow.Point.of(unit(3), X, ROWS, "squared")
    fit = fitted("squared", ridge=0.1)
    assert resflow.certify(point, fit, ridge_W=0.1).linear_predictor_gap
    for ridge in (0.0, 0.2):
        with pytest.raises(InvalidInputError, match=r"fit has ridge=0\.1, but what it is compared with has"):
            resflow.certify(point, fit, ridge_W=ridge)
    with pytest.raises(InvalidInputError, match="with the squared loss that fakes a gain"):
        resflow.analyze(point, fit, epsilon=0.1)
    assert resflow.certify(resflow.Point.of(unit(), X, Y, "logistic"), fitted("logistic", ridge=0.1))
