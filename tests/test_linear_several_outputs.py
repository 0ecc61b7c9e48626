"""The best linear predictor of several outputs, softmax regression and least squares, against other solvers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression

from resflow.errors import InvalidInputError
from resflow.labels import one_hot
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Loss, PseudoHuber, Softmax, Squared, as_loss

LOSSES = ("softmax", "squared")


def table(name, noise=0.0):
    X, y = {"wine": load_wine, "iris": load_iris}[name](return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    if noise:
        y = np.where(np.random.default_rng(0).random(len(y)) < noise, (y + 1) % 3, y)
    return np.column_stack([X, np.ones(len(y))]), y


def labels_for(loss, y):
    return y if loss == "softmax" else one_hot(y, 3)


@pytest.mark.parametrize("name", ["wine", "iris"])
@pytest.mark.parametrize(("ridge", "noise"), [(1e-2, 0.0), (1e-4, 0.0), (0.0, 0.2)])
def test_softmax_regression_equals_that_of_scikit_learn(name, ridge, noise):
    X, y = table(name, noise)
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=ridge)
    C = 1.0 / (ridge * len(y)) if ridge else np.inf
    reference = LogisticRegression(C=C, solver="newton-cholesky", fit_intercept=False, tol=1e-13, max_iter=300)
    W = reference.fit(X, y).coef_
    W = W - W.mean(axis=0)
    np.testing.assert_allclose(fit.W, W, atol=2e-7 * np.abs(W).max())
    assert fit.converged
    assert fit.grad_norm < 1e-13
    if not ridge:
        assert fit.separable is False


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_in_a_ball_meets_the_optimality_conditions(loss):
    X, y = table("iris")
    y = labels_for(loss, y)
    fit = fit_linear_predictor(X, y, loss=loss, max_norm=0.3)
    assert fit.converged
    np.testing.assert_allclose(np.linalg.norm(fit.W), 0.3, rtol=1e-12)
    gradient = as_loss(loss).derivative(X @ fit.W.T, y).T @ X / len(X)
    np.testing.assert_allclose(gradient, -fit.multiplier * fit.W, atol=1e-12)
    assert fit.multiplier > 0
    # Lagrange: it is the minimiser with the multiplier as ridge, too
    np.testing.assert_allclose(fit.W, fit_linear_predictor(X, y, loss=loss, ridge=fit.multiplier).W, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"ridge": 0.3}])
def test_squared_loss_of_several_outputs_is_that_of_each(options):
    """Also where columns depend on each other, or are zero."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((30, 4)), np.zeros(30)])
    X[:, 3] = X[:, 0] - 2 * X[:, 1]
    y = rng.standard_normal((30, 3))
    fit = fit_linear_predictor(X, y, loss="squared", **options)
    assert fit.converged
    assert fit.rank == 3
    each = [fit_linear_predictor(X, column, loss="squared", **options) for column in y.T]
    np.testing.assert_allclose(fit.W, [one.W for one in each], atol=1e-13)
    assert fit.objective == pytest.approx(sum(one.objective for one in each), rel=1e-14)
    if not options:
        np.testing.assert_allclose(fit.W, np.linalg.lstsq(X, y, rcond=None)[0].T, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_norm_bound_of_zero_leaves_one_point(loss):
    X, y = table("iris")
    fit = fit_linear_predictor(X, labels_for(loss, y), loss=loss, max_norm=0.0)
    np.testing.assert_array_equal(fit.W, np.zeros((3, 5)))
    assert fit.converged
    assert fit.multiplier == np.inf
    assert fit.max_norm == 0.0
    assert fit.objective == pytest.approx({"softmax": np.log(3.0), "squared": 0.5}[loss])


@pytest.mark.parametrize("radius", [1.0, 1e2, 1e4])
def test_margins_beyond_all_digits_of_the_softmax_are_fitted_like_the_logistic_ones(radius):
    """W = (−w/2, w/2) is half of w's squared length, and so is the ball; margins grow to thousands."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((80, 4))
    y = X @ np.ones(4) > 0
    one = fit_linear_predictor(X, y, max_norm=radius)
    two = fit_linear_predictor(X, y, loss="softmax", max_norm=radius / np.sqrt(2.0))
    assert one.converged
    assert two.converged
    assert two.objective == pytest.approx(one.objective, rel=1e-9, abs=1e-15)
    np.testing.assert_allclose(two.W, [-one.W / 2, one.W / 2], rtol=1e-6, atol=1e-8 * radius)


@pytest.mark.parametrize("scales", [[1e-9, 1e-4, 1.0, 1e4, 1e9], [1.0, 1.0, 1.0, 1.0, 1e-30]])
def test_units_of_the_features_do_not_matter(scales):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((300, 5))
    y = np.argmax(X[:, :3] + 2 * rng.standard_normal((300, 3)), axis=1)
    fit, scaled = fit_linear_predictor(X, y, loss="softmax"), fit_linear_predictor(X * scales, y, loss="softmax")
    assert scaled.converged
    assert scaled.separable is fit.separable is False
    assert scaled.objective == pytest.approx(fit.objective, rel=1e-14)
    np.testing.assert_allclose(scaled.W * scales, fit.W, rtol=1e-8)


def test_many_samples_of_classes_are_started_from_every_tenth():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((4000, 3))
    y = np.sort(np.argmax(X + 2 * rng.standard_normal((4000, 3)), axis=1))
    fit, near = (fit_linear_predictor(X, y, loss="softmax", ridge=ridge) for ridge in (0.0, 1e-13))
    assert fit.converged
    np.testing.assert_allclose(fit.W.sum(axis=0), 0.0, atol=1e-14)
    np.testing.assert_allclose(near.W, fit.W, atol=1e-10)


class _EachPseudoHuber(Loss):
    """A loss of the user's own: the pseudo-Huber losses of all outputs, added up."""

    name = "each_pseudo_huber"
    outputs = "several"

    def value(self, p, y):
        return PseudoHuber().value(p, y).sum(axis=1)

    def derivative(self, p, y):
        return PseudoHuber().derivative(p, y)

    def second_derivative(self, p, y):
        return PseudoHuber().second_derivative(p, y)[:, :, None] * np.eye(p.shape[1])


@pytest.mark.parametrize("options", [{}, {"ridge": 1e-2}])
def test_a_loss_of_ones_own_is_minimised(options):
    rng = np.random.default_rng(6)
    X, y = rng.standard_normal((50, 3)), 3 * rng.standard_normal((50, 2))
    fit = fit_linear_predictor(X, y, loss=_EachPseudoHuber(), **options)
    assert fit.converged
    each = [fit_linear_predictor(X, column, loss="pseudo_huber", **options).W for column in y.T]
    np.testing.assert_allclose(fit.W, each, atol=1e-12)
    with pytest.raises(
        InvalidInputError, match=r"shape \(50,\), but the each_pseudo_huber loss takes one row a sample"
    ):
        fit_linear_predictor(X, y[:, 0], loss=_EachPseudoHuber())


def test_baseline_of_several_outputs_is_checked_against_its_samples_and_labels():
    X, y = table("iris", noise=0.2)
    fit = fit_linear_predictor(X, y, loss="softmax")
    for labels in (y, one_hot(y, 3), y.astype(np.float32)):
        check_baseline(fit, X, labels, Softmax())
    check_baseline(fit, X.astype(np.float32), y, Softmax())
    for given, message in (
        ((fit, X + 0.1, y, Softmax()), "fit has a mean loss of .* on this X and y"),
        ((fit, X, (y + 1) % 3, Softmax()), "fit has a mean loss of .* on this X and y"),
        ((fit, X, y + 1, Softmax()), "y has the label 3, but the model has 3 outputs"),
        ((fit, X[:, :4], y, Softmax()), "fit has 5 weights an output, but X has shape"),
        ((fit, X, one_hot(y, 3), Squared()), "fit is of the loss 'softmax', but loss='squared'"),
        ((fit.W, X, y, Softmax()), "fit is a ndarray, but must be what fit_linear_predictor returns"),
        ((fit._replace(objective=np.nan), X, y, Softmax()), "not finite"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            check_baseline(*given)
    squared = fit_linear_predictor(X, y, loss="squared")
    with pytest.raises(InvalidInputError, match=r"fit has weights of shape \(5,\), but y has shape \(150, 3\)"):
        check_baseline(squared, X, one_hot(y, 3), Squared())
    unfinished = fit_linear_predictor(X, y, loss="softmax", max_iterations=1)
    check_baseline(unfinished, X, y, Softmax(), finished=False)
    with pytest.raises(InvalidInputError, match="fit did not converge: its mean loss"):
        check_baseline(unfinished, X, y, Softmax())


def separable(kind):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3))
    y = np.argmax(X @ rng.standard_normal((3, 4)), axis=1)
    if kind == "quasi":  # samples of two classes at one place: no W ranks them apart
        X, y = np.vstack([X, [[1.0, 0.0, 0.0]] * 2]), np.append(y, [0, 1])
        X = np.column_stack([X, np.r_[np.zeros(60), 1.0, 1.0]])
    return X, y


@pytest.mark.parametrize("kind", ["complete", "quasi"])
def test_separable_classes_are_refused_unless_bounded(kind):
    X, y = separable(kind)
    with pytest.raises(InvalidInputError, match=r"linearly separable.*, so the softmax objective has no minimiser"):
        fit_linear_predictor(X, y, loss="softmax")
    assert fit_linear_predictor(X, y, loss="softmax", max_norm=10.0).converged
    assert fit_linear_predictor(X, y, loss="softmax", ridge=1e-6).converged


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (np.zeros(4), {}, r"y has shape \(4,\), but X has 6 samples"),
        (np.full(6, 0.5), {}, "y has the label 0.5 in row 0"),
        (np.zeros(6), {"ridge": -1.0}, "ridge=-1.0"),
        (np.zeros(6), {"max_norm": -1.0}, "max_norm=-1.0"),
        (np.zeros(6), {}, r"y has one class alone: all 6 labels are 0"),
        (
            np.full((6, 2), 0.6),
            {},
            r"y has the row \[0.6, 0.6\] at 0, but for the softmax loss a row must hold",
        ),
        (np.zeros((6, 2)), {"loss": "logistic"}, r"y has shape \(6, 2\), but the logistic loss takes one label"),
        (np.zeros(6), {"loss": "softmin"}, "nearest is 'softmax'"),
        (np.full(6, np.nan), {}, "6 labels that are not finite"),
    ],
)
def test_bad_input_gets_one_clear_line(y, options, message, unchecked_types):
    with pytest.raises(InvalidInputError, match=message) as raised:
        fit_linear_predictor(np.ones((6, 2)), y, **{"loss": "softmax"} | options)
    assert "\n" not in str(raised.value)
