import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.certificates.gap import gap_certificate, gap_certificate_terms, held_out_gap
from resflow.errors import InvalidInputError
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses.scalar import Logistic, PseudoHuber, Squared
from resflow.models.feature_maps import feature_map
from resflow.models.residual_unit import residual_unit
from resflow.studies.measures import GapMeasure
from resflow.training.train import TrainingOptions, train
from tests.problems import ROUNDING

LOSSES = [Squared(), Logistic(), PseudoHuber(0.5)]
SHAPES = [(1, 1, 5), (8, 3, 4), (5, 12, 40)]  # d, k, n
POINTS = 1500


def draw_many(seed, count, d, k, n, loss):
    """Random points (w, V, f(X), X, y) of widely varying scale, one in each row of the arrays."""
    rng = np.random.default_rng(seed)
    w, V, features = (
        rng.standard_normal((count, d)),
        rng.standard_normal((count, d, k)),
        rng.standard_normal((count, n, k)),
    )
    scales = 10.0 ** rng.uniform(-3, 2, (3, count))
    y = rng.standard_normal((count, n))
    return (
        scales[0][:, None] * w,
        scales[1][:, None, None] * V,
        scales[2][:, None, None] * features,
        rng.standard_normal((count, n, d)),
        np.where(y >= 0, 1.0, -1.0) if loss.binary_labels else y,
    )


def draw(seed, d, k, n, loss):
    """One random point."""
    return tuple(array[0] for array in draw_many(seed, 1, d, k, n, loss))


def comparator_fit(w, objective, loss):
    """Any linear predictor in the place of the best one: the bounds hold against every w*."""
    return LinearFit(w, objective, 0.0, True, 0.0, 0.0, None, len(w), 0, None, 0.0, loss)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize(("d", "k", "n"), SHAPES)
def test_gap_and_bounds_are_ordered_at_random_points(loss, d, k, n):
    """Theorem 1 and its pointwise form: 13,500 points, and any comparator w* will do."""
    points = draw_many(d, POINTS, d, k, n, loss)
    rng = np.random.default_rng(k)
    comparators = rng.standard_normal((POINTS, d)) * 10.0 ** rng.uniform(-2, 2, (POINTS, 1))

    @jax.jit
    @jax.vmap
    def evaluate(w, V, features, X, y, comparator):
        linear_objective = jnp.mean(loss.value(X @ comparator, y))
        return gap_certificate_terms(w, V, features, X, y, comparator, linear_objective, loss=loss), linear_objective

    terms, linear_objective = evaluate(*points, comparators)
    scale = np.maximum.reduce([np.abs(terms.objective), np.abs(linear_objective), np.abs(terms.certificate)])
    assert np.all(terms.gap <= terms.certificate + 1e-10 * scale)
    assert np.all(terms.certificate <= terms.frobenius_bound + 1e-10 * np.maximum(scale, terms.frobenius_bound))
    assert np.all(terms.frobenius_bound <= terms.theorem1_bound * (1 + 1e-10))
    # Neither inequality is empty: the certificate is finite, and not always the same number as the bound above it.
    assert np.all(np.isfinite(terms.theorem1_bound))
    assert np.any(terms.theorem1_bound > 1.5 * terms.certificate)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize(("d", "k", "n"), SHAPES)
def test_certificate_is_the_inner_product_with_the_gradient(loss, d, k, n):
    w, V, features, X, y = draw(3, d, k, n, loss)
    comparator = np.ones(d)

    def objective(w, V):
        return jnp.mean(loss.value((X + features @ V.T) @ w, y))

    grad_w, grad_V = jax.grad(objective, argnums=(0, 1))(w, V)
    G_w, G_V = w - comparator, jnp.outer(w, comparator @ V) / (w @ w)
    fit = comparator_fit(comparator, jnp.mean(loss.value(X @ comparator, y)), loss.name)
    result = gap_certificate(w, V, features, X, y, loss=loss, linear_fit=fit)
    grad_norm = np.sqrt(jnp.sum(grad_w**2) + jnp.sum(grad_V**2))
    size = np.sqrt(jnp.sum(G_w**2) + jnp.sum(G_V**2))
    np.testing.assert_allclose(result.objective, objective(w, V), rtol=1e-12)
    np.testing.assert_allclose(result.partial_grad_norm, grad_norm, rtol=1e-10)
    expected = jnp.sum(G_w * grad_w) + jnp.sum(G_V * grad_V)
    np.testing.assert_allclose(result.certificate, expected, rtol=1e-9, atol=1e-12 * size * grad_norm)
    np.testing.assert_allclose(result.frobenius_bound, size * grad_norm, rtol=1e-10)
    spectral = np.linalg.norm(V, 2)
    theorem1 = grad_norm * np.sqrt(2 * w @ w + comparator @ comparator * (2 + spectral**2 / (w @ w)))
    np.testing.assert_allclose(result.theorem1_bound, theorem1, rtol=1e-10)
    np.testing.assert_allclose([result.w_norm, result.V_norm], [np.linalg.norm(w), spectral], rtol=1e-12)


def test_at_zero_weights_the_certificate_stays_and_theorem_1_is_infinite():
    w, V, features, X, y = draw(0, 3, 4, 30, Logistic())
    fit = fit_linear_predictor(X, y)
    result = gap_certificate(0 * w, V, features, X, y, loss="logistic", linear_fit=fit)
    np.testing.assert_allclose(result.objective, np.log(2))
    assert 0 < result.gap <= result.certificate < np.inf
    assert result.frobenius_bound == result.theorem1_bound == np.inf


def test_best_linear_predictor_itself_has_gap_and_certificate_zero():
    _, V, features, X, y = draw(0, 3, 4, 30, Squared())
    fit = fit_linear_predictor(X, y, loss="squared")
    result = gap_certificate(fit.w, 0 * V, features, X, y, loss="squared", linear_fit=fit)
    np.testing.assert_allclose([result.gap, result.certificate], 0, atol=ROUNDING * np.mean(y**2))


def test_numpy_arrays_are_analysed_in_float64_whatever_their_type():
    arrays = draw(1, 4, 3, 50, Logistic())
    fit = fit_linear_predictor(arrays[3], arrays[4])
    double = gap_certificate(*arrays, loss="logistic", linear_fit=fit)
    lower = [array.astype(np.float32).astype(float) for array in arrays]
    with jax.enable_x64(False):
        off = gap_certificate(*arrays, loss="logistic", linear_fit=fit)
        single = gap_certificate(*(array.astype(np.float32) for array in arrays), loss="logistic", linear_fit=fit)
    assert all(isinstance(value, np.float64) for value in double)
    assert double == off
    assert single == gap_certificate(*lower, loss="logistic", linear_fit=fit)


def test_works_under_jit_and_vmap():
    arrays = [jnp.asarray(array) for array in draw_many(2, 5, 3, 2, 20, Squared())]
    fit = comparator_fit(jnp.ones(3), 1.0, "squared")
    together = jax.jit(jax.vmap(lambda *point: gap_certificate(*point, loss="squared", linear_fit=fit)))(*arrays)
    for i in range(5):
        point = [array[i] for array in arrays]
        alone = gap_certificate_terms(*point, fit.w, fit.objective, loss=Squared())
        np.testing.assert_allclose([value[i] for value in together], alone, rtol=1e-12)


@pytest.mark.parametrize("loss", ["logistic", "squared", "huber"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_bounds_are_ordered_along_training(loss, optimizer):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 5))
    y = np.sign(X[:, 0] * X[:, 1] + X[:, 2] + 0.5 * rng.standard_normal(80))
    keys = jax.random.split(jax.random.key(0), 3)
    fit = fit_linear_predictor(X, y, loss=loss)
    f = feature_map("mlp", 5, width=8, depth=1, activation="tanh", key=keys[0])
    options = TrainingOptions(steps=200, log_every=5, learning_rate=0.02, optimizer=optimizer)
    unit = residual_unit(5, f, key=keys[1])
    history = train(unit, X, y, loss=loss, options=options, key=keys[2], measure=GapMeasure.against(fit, loss)).history
    np.testing.assert_allclose(history["linear_predictor_gap"], history["objective"] - fit.objective, atol=ROUNDING)
    assert np.all(history["linear_predictor_gap"] <= history["gap_certificate"] + 1e-10)
    assert np.all(history["gap_certificate"] <= history["theorem1_bound"] + 1e-10)
    assert np.all(np.isfinite(history["theorem1_bound"]))


def test_held_out_gap_is_the_mean_difference_with_its_standard_error():
    _, _, _, X, y = draw(5, 3, 4, 40, Logistic())
    fit = fit_linear_predictor(X[:20], y[:20], ridge=0.1)
    p = np.linspace(-1, 1, 20)
    result = held_out_gap(p, X[20:], y[20:], loss="logistic", linear_fit=fit)
    differences = np.logaddexp(0, -y[20:] * p) - np.logaddexp(0, -y[20:] * (X[20:] @ fit.w))
    np.testing.assert_allclose(result.gap, differences.mean())
    np.testing.assert_allclose(result.standard_error, differences.std(ddof=1) / np.sqrt(20))
    np.testing.assert_allclose(result.gap, result.objective - result.linear_objective)


def test_shapes_and_labels_that_do_not_fit_get_one_clear_line(unchecked_types):
    w, V, features, X, y = draw(0, 3, 4, 30, Logistic())
    fit = fit_linear_predictor(X, y)
    for arrays, message in [
        ((w, V.T, features, X, y), r"V has shape \(4, 3\), but must be \(3, 4\)"),
        ((w[:2], V, features, X, y), r"w has shape \(2,\), but must be \(3,\)"),
        ((w, V, features[:-1], X, y), r"features has shape \(29, 4\), but must be \(30, 4\)"),
        ((w, V, features, X, y[:, None]), r"y has shape \(30, 1\), but must have 1 axes"),
        ((w, V, features[:0], X[:0], y[:0]), r"at least one sample"),
        ((w, V, features, X, (y + 1) / 2), r"y has the labels \{0, 1\}, but the logistic loss takes −1 and \+1"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            gap_certificate(*arrays, loss="logistic", linear_fit=fit)


@pytest.mark.parametrize(
    "scales", [(1e-200, 1.0, 1.0), (1e-170, 1.0, 1e-170), (1.0, 1e-59, 1e-165), (1e160, 1e-3, 1.0)]
)
@pytest.mark.parametrize("loss", [Squared(), Logistic()], ids=repr)
def test_bounds_do_not_fall_below_the_gap_where_squares_leave_the_range_of_floating_point(loss, scales):
    """w, X and features in units of which the square is no number, or 0."""
    for seed in range(10):
        w, V, features, X, y = draw(seed, 3, 4, 30, Logistic())
        point = (scales[0] * w, V, scales[2] * features, scales[1] * X, y)
        comparator = np.random.default_rng(seed).standard_normal(3)
        fit = comparator_fit(comparator, np.mean(loss.value(point[3] @ comparator, y)), loss.name)
        with np.errstate(over="ignore", invalid="ignore"):
            found = gap_certificate(*point, loss=loss, linear_fit=fit)
        if np.isnan(found.gap):
            assert np.isnan(found.theorem1_bound)
            continue
        assert found.w_norm == pytest.approx(np.linalg.norm(w) * scales[0], rel=1e-12)
        scale = 1e-12 * abs(found.certificate)
        assert found.certificate <= found.frobenius_bound + scale
        assert found.frobenius_bound <= found.theorem1_bound * (1 + 1e-12)
        assert found.certificate <= 0 or found.frobenius_bound > 0
