"""Weights of samples and classes, probabilities for labels, classes without samples: against what they stand for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import resflow
from resflow.errors import InvalidInputError
from resflow.labels import one_hot
from resflow.linear.predictor import fit_linear_predictor
from tests.test_linear import features
from tests.test_linear_many_classes import classes

BINARY, SEVERAL = "logistic", "softmax"
OPTIONS = [{}, {"ridge": 1e-3}, {"max_norm": 0.5}]


def sample(loss, n=400, d=6, m=4, seed=0):
    """Samples that are not separable, with labels as the loss takes them."""
    rng = np.random.default_rng(seed)
    X = features(rng, n, d, 30.0)
    if loss in ("squared", "pseudo_huber"):
        return X, X @ rng.standard_normal(d) + rng.standard_t(3, size=n)
    y = classes(rng, X, 2 if loss == BINARY else m)
    return X, y


def probabilities(rng, n, m):
    return rng.dirichlet(np.ones(m), size=n)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("loss", ["squared", "logistic", "pseudo_huber", "softmax"])
def test_weights_equal_samples_that_occur_as_often(loss, options):
    X, y = sample(loss)
    counts = np.random.default_rng(1).integers(0, 4, size=len(y))
    weighted = fit_linear_predictor(X, y, loss=loss, sample_weight=0.7 * counts, **options)
    repeated = fit_linear_predictor(np.repeat(X, counts, axis=0), np.repeat(y, counts), loss=loss, **options)
    assert weighted.converged
    assert repeated.converged
    assert weighted.weighted
    assert not repeated.weighted
    np.testing.assert_allclose(weighted.W, repeated.W, atol=1e-9 * np.abs(repeated.W).max())
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-13)
    assert weighted.multiplier == pytest.approx(repeated.multiplier, rel=1e-9)
    assert weighted.rank == repeated.rank
    assert weighted.separable == repeated.separable


def test_weights_of_many_samples_and_of_many_classes_are_those_of_repeated_ones():
    """Where no Hessian is formed: by quasi-Newton steps, and in the metric of many classes."""
    rng = np.random.default_rng(2)
    for loss, n, d, m, ridge in ((BINARY, 4000, 10, 2, 0.0), (SEVERAL, 1500, 30, 10, 1e-4)):
        X, y = sample(loss, n, d, m)
        counts = rng.integers(0, 4, size=n)
        weighted = fit_linear_predictor(X, y, loss=loss, ridge=ridge, sample_weight=counts)
        again = fit_linear_predictor(np.repeat(X, counts, axis=0), np.repeat(y, counts), loss=loss, ridge=ridge)
        assert weighted.converged
        assert weighted.objective == pytest.approx(again.objective, abs=3e-12)
        np.testing.assert_allclose(weighted.W, again.W, atol=1e-5 * np.abs(again.W).max())


def test_equal_weights_are_no_weights():
    X, y = sample(BINARY)
    fit = fit_linear_predictor(X, y, sample_weight=np.full(len(y), 3.0))
    assert not fit.weighted
    np.testing.assert_array_equal(fit.W, fit_linear_predictor(X, y).W)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("loss", "d", "m"), [(BINARY, 6, 2), (SEVERAL, 6, 4), (SEVERAL, 30, 10)])
def test_probabilities_equal_one_weighted_sample_of_each_class(loss, d, m, options):
    rng = np.random.default_rng(3)
    X = features(rng, 300, d, 30.0)
    y = probabilities(rng, 300, m)
    soft = fit_linear_predictor(X, y[:, 1] if loss == BINARY else y, loss=loss, **options)
    each = fit_linear_predictor(
        np.repeat(X, m, axis=0), np.tile(np.arange(m), 300), loss=loss, sample_weight=y.ravel(), **options
    )
    assert soft.converged
    assert each.converged
    assert not soft.weighted
    assert soft.objective == pytest.approx(each.objective, abs=1e-11)
    np.testing.assert_allclose(soft.W, each.W, atol=1e-6)


@pytest.mark.parametrize("weight", ["balanced", {0: 2.5, 1: 0.5}])
@pytest.mark.parametrize("loss", [BINARY, SEVERAL])
def test_weights_of_classes_and_samples_are_those_of_scikit_learn(loss, weight):
    X, y = sample(loss)
    counts = np.random.default_rng(4).uniform(0.1, 3.0, size=len(y))
    ridge = 1e-2
    fit = fit_linear_predictor(X, y, loss=loss, ridge=ridge, sample_weight=counts, class_weight=weight)
    by_class = np.bincount(y, weights=counts)
    factors = by_class.sum() / (len(by_class) * by_class)
    if weight != "balanced":
        factors = np.array([2.5, 0.5, 1.0, 1.0])
    total = np.sum(counts * factors[y])
    reference = LogisticRegression(
        C=1.0 / (ridge * total), class_weight=weight, solver="newton-cholesky", fit_intercept=False, tol=1e-12
    )
    W = reference.fit(X, y, sample_weight=counts).coef_
    np.testing.assert_allclose(np.atleast_2d(fit.W), W, atol=1e-8)
    assert fit.converged


@pytest.mark.parametrize("coded", [lambda y: y, lambda y: 2 * y - 1, lambda y: y.astype(bool), lambda y: 2.0 * y - 1])
def test_the_two_classes_are_weighed_by_the_name_they_have(coded):
    X, y = sample(BINARY)
    y = coded(y)
    low, high = np.unique(y)
    fit = fit_linear_predictor(X, y, class_weight={low: 3.0, high: 0.5})
    same = fit_linear_predictor(X, y, sample_weight=np.where(y == high, 0.5, 3.0))
    np.testing.assert_array_equal(fit.W, same.W)


def test_probabilities_shift_to_classes_that_count_more():
    rng = np.random.default_rng(5)
    X, y, of_class = features(rng, 300, 5), probabilities(rng, 300, 3), np.array([1.0, 4.0, 0.25])
    fit = fit_linear_predictor(X, y, loss=SEVERAL, class_weight=dict(enumerate(of_class)))
    each = fit_linear_predictor(
        np.repeat(X, 3, axis=0), np.tile(np.arange(3), 300), loss=SEVERAL, sample_weight=(y * of_class).ravel()
    )
    np.testing.assert_allclose(fit.W, each.W, atol=1e-9)
    assert fit.objective == pytest.approx(each.objective, rel=1e-12)


@pytest.mark.parametrize("loss", [BINARY, SEVERAL])
def test_separable_classes_have_a_best_predictor_once_labels_are_smoothed(loss):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((80, 4))
    y = np.argmax(X[:, : 2 if loss == BINARY else 3], axis=1)
    with pytest.raises(InvalidInputError, match="linearly separable"):
        fit_linear_predictor(X, y, loss=loss)
    m = 2 if loss == BINARY else 3
    smooth = 0.9 * one_hot(y, m) + 0.1 / m
    targets = smooth[:, 1] if loss == BINARY else smooth
    fit = fit_linear_predictor(X, targets, loss=loss)
    assert fit.converged
    assert fit.separable is False
    p = X @ np.atleast_2d(fit.W).T
    sigma = np.exp(p if loss == SEVERAL else np.column_stack([0 * p, p]))
    residual = sigma / sigma.sum(axis=1, keepdims=True) - smooth
    np.testing.assert_allclose(residual.T @ X / len(X), 0.0, atol=1e-12)


@pytest.mark.parametrize("loss", [BINARY, SEVERAL])
def test_one_uncertain_label_leaves_separable_classes_separable_only_on_the_border(loss):
    rng = np.random.default_rng(7)
    X = np.column_stack([rng.standard_normal((60, 3)), np.ones(60)])
    y = one_hot((X[:, 0] > 0).astype(int), 2)
    X, y = np.vstack([X, [0.0, 0.0, 0.0, 1.0]]), np.vstack([y, [0.5, 0.5]])
    targets = (lambda y: y[:, 1]) if loss == BINARY else (lambda y: y)
    with pytest.raises(InvalidInputError, match=r"linearly separable.*, so the \w+ objective has no minimiser"):
        fit_linear_predictor(X, targets(y), loss=loss)
    X[-1] = X[0]  # now what separates the others is on its border
    X, y = np.vstack([X, X[1:40]]), np.vstack([y, y[40:1:-1]])
    fit = fit_linear_predictor(X, targets(y), loss=loss)
    assert fit.converged
    assert fit.separable is False


def test_a_class_that_does_not_occur_is_counted():
    rng = np.random.default_rng(8)
    for d, m in ((5, 4), (40, 10)):
        X = rng.standard_normal((200, d))
        y = classes(rng, X, m - 1)
        fit = fit_linear_predictor(X, y, loss=SEVERAL, classes=m, ridge=1e-2)
        assert fit.converged
        assert fit.W.shape == (m, d)
        np.testing.assert_array_equal(fit.W, fit_linear_predictor(X, one_hot(y, m), loss=SEVERAL, ridge=1e-2).W)
    X[:, 0] = 1.0
    with pytest.raises(InvalidInputError, match="class 9 has no samples"):
        fit_linear_predictor(X, y, loss=SEVERAL, classes=10)


def test_samples_of_weight_0_are_not_looked_at():
    X, y = sample(BINARY)
    weights = np.ones(len(y))
    weights[:3] = 0.0
    X[0], X[1, 2] = np.nan, 1e80
    fit = fit_linear_predictor(X, y, sample_weight=weights)
    np.testing.assert_array_equal(fit.W, fit_linear_predictor(X[3:], y[3:]).W)
    X[5, 1] = np.inf
    with pytest.raises(InvalidInputError, match="column 1, row 5"):
        fit_linear_predictor(X, y, sample_weight=weights)


def test_a_point_is_not_held_against_a_weighted_fit():
    X, y = sample(BINARY)
    fit = fit_linear_predictor(X, y, class_weight={0: 2.0})
    assert "samples" in repr(fit)
    rng = np.random.default_rng(9)
    point = resflow.Point(
        rng.standard_normal(6), rng.standard_normal((6, 2)), rng.standard_normal((400, 2)), X, y, loss=BINARY
    )
    with pytest.raises(InvalidInputError, match="fit is of weighted samples"):
        resflow.certify(point, fit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": np.ones(5)}, r"sample_weight has shape \(5,\), but X has 6 samples"),
        ({"sample_weight": [1, 1, 1, -1, 1, 1]}, "sample_weight has -1 in row 3, but must hold finite numbers"),
        ({"sample_weight": [1, 1, np.nan, 1, 1, 1]}, "sample_weight has nan in row 2"),
        ({"sample_weight": np.zeros(6)}, "the weights are 0 for every sample"),
        ({"class_weight": "even"}, "class_weight='even', but must be 'balanced' or a number for each class"),
        ({"class_weight": {3: 1.0}}, "class_weight has the class 3, but the classes are −1 or 0, and 1"),
        ({"class_weight": {"a": 1.0}}, "class_weight has the class 'a', but the classes are"),
        ({"class_weight": {7: 1.0}, "loss": "softmax"}, r"the class 7, but the classes are 0, \.\.\., 1"),
        ({"class_weight": {0: 1.0, -1: 2.0}}, "class_weight has 0 and -1, which are the same class"),
        ({"class_weight": {0.5: 2.0}}, "class_weight has the class 0.5, but the classes are"),
        ({"class_weight": {1: -2.0}}, r"class_weight\[1\]=-2.0 must be a finite number, at least 0"),
        ({"class_weight": {0: 1.0}, "loss": "squared"}, "the squared loss has no classes: pass sample_weight"),
        ({"classes": 3}, "classes=3, but the logistic loss has none to count"),
        ({"classes": 1, "loss": "softmax"}, "classes=1 must be the number of classes, at least 2"),
        ({"classes": 2, "loss": "softmax", "y": [0, 1, 2, 0, 1, 2]}, "y has the label 2, but the model has 2 outputs"),
        (
            {"classes": 3, "loss": "softmax", "y": np.full((6, 2), 0.5)},
            r"y has shape \(6, 2\), but the model has 3",
        ),
        ({"y": [0.5, 0.2, 1.0, 0.0, 1.5, 0.1]}, "y has the label 1.5 in row 4 and others between 0 and 1"),
        ({"y": np.full((6, 2), [0.7, -0.3]), "loss": "softmax"}, r"y has the row \[0.7, -0.3\] at 0"),
        ({"y": [0.5] * 5}, r"y has shape \(5,\), but X has 6 samples"),
    ],
)
def test_bad_input_gets_one_clear_line(options, message, unchecked_types):
    options = {"y": [0, 1, 0, 1, 0, 1], "ridge": 0.1} | options
    with pytest.raises(InvalidInputError, match=message) as raised:
        fit_linear_predictor(np.ones((6, 2)), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_probabilities_in_half_precision_miss_1_by_as_much(precision):
    rng = np.random.default_rng(6)
    X, y = features(rng, 200, 4), jnp.asarray(probabilities(rng, 200, 5), precision)
    exact = np.asarray(y, dtype=float)
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=0.1)
    same = fit_linear_predictor(X, exact / exact.sum(axis=1, keepdims=True), loss="softmax", ridge=0.1)
    np.testing.assert_allclose(fit.W, same.W, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "traced",
    [
        lambda X, y, a: fit_linear_predictor(a * X, y),
        lambda X, y, a: fit_linear_predictor(X, a * y),
        lambda X, y, a: fit_linear_predictor(X, y, ridge=a),
        lambda X, y, a: fit_linear_predictor(X, y, max_norm=a),
        lambda X, y, a: fit_linear_predictor(X, y, sample_weight=a * jnp.ones(40)),
        lambda X, y, a: fit_linear_predictor(X, y, class_weight={0: a}),
        lambda X, y, a: fit_linear_predictor(X, y, ridge=0.1, start=a * jnp.ones(6)),
    ],
)
def test_traced_arrays_are_refused_in_one_line(traced, unchecked_types):
    X, y = sample(BINARY, n=40)
    with pytest.raises(InvalidInputError, match="call it outside the traced function") as raised:
        jax.jit(lambda a: traced(X, y, a).W)(1.0)
    assert "\n" not in str(raised.value)
