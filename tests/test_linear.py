"""The best linear predictor against independent references: it is what every gap is measured from."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint, linprog, minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from resflow.data.catalog import load_dataset
from resflow.data.dataset import Standardization
from resflow.errors import InvalidInputError
from resflow.linear import _algebra as _linear_algebra
from resflow.linear import _problem as _linear_problem
from resflow.linear import predictor as _linear_predictor
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Logistic, Loss, PseudoHuber, as_loss
from resflow.status import Status

LOSSES = ["squared", "logistic", "pseudo_huber"]
EPS = float(np.finfo(np.float64).eps)
PROMISED = 1e-12
"""What `converged` promises of the residual and of the objective, for samples and labels of size 1 as most are here."""
SAME_SUM = 64 * EPS
"""Means of some hundred or thousand losses of about 1, added up in another order or by another BLAS: sqrt(n) units."""
SAME_LENGTH = 8 * EPS
"""Norms of a few numbers, one of them after a division."""
SEPARABLE = ["breast_cancer", *(f"wine:{label}" for label in range(3)), *(f"digits:{label}" for label in range(8))]
NOT_SEPARABLE = ["breast_cancer:mean", "breast_cancer:error", "breast_cancer:worst"]
WEAKLY_SEPARABLE = ["digits:8", "digits:9"]
"""Digits 8 and 9: no plane has every sample strictly on its side, but some have none on its wrong side."""


def features(rng, n, d, condition=1.0):
    """Rows of X of that condition number, with singular values between sqrt(n) and sqrt(n)/condition."""
    U, _ = np.linalg.qr(rng.standard_normal((n, d)))
    V, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return np.sqrt(n) * (U * np.geomspace(1.0, 1.0 / condition, d)) @ V.T


def labels(rng, X, loss):
    """Labels that the features explain in every direction, also those in which they hardly vary, and noise."""
    Q, _ = np.linalg.qr(X)
    signal = Q @ rng.standard_normal(X.shape[1]) * np.sqrt(len(X) / X.shape[1])
    if as_loss(loss).labels == "binary":
        return np.where(rng.random(len(X)) < 1.0 / (1.0 + np.exp(-signal)), 1.0, -1.0)
    return signal + rng.standard_t(3, size=len(X))


def gradient(fit, X, y, loss):
    return X.T @ as_loss(loss).derivative(X @ fit.W, y) / len(y)


def kkt_residual(fit, X, y, loss):
    return np.linalg.norm(gradient(fit, X, y, loss) + (fit.ridge + fit.multiplier) * fit.W)


def penalised(w, X, y, loss, ridge=0.0):
    return float(np.mean(as_loss(loss).value(X @ w, y)) + 0.5 * ridge * w @ w)


def least_objective(X, y, loss):
    """min_w F_lin(w) by Newton's method on an orthonormal basis of X's columns, its value in extended precision."""
    loss, n = as_loss(loss), len(y)
    Q = np.linalg.qr(X)[0] * np.sqrt(n)
    z, value = np.zeros(X.shape[1]), np.inf
    for _ in range(100):
        p = Q @ z
        slope = Q.T @ loss.derivative(p, y) / n
        step = -np.linalg.solve((Q * loss.second_derivative(p, y)[:, None]).T @ Q / n, slope)
        t = 1.0
        while np.mean(loss.value(p + t * (Q @ step), y)) > np.mean(loss.value(p, y)) + SAME_SUM and t > 1e-10:
            t /= 2
        z = z + t * step
        value = min(value, np.mean(loss.value((Q @ z).astype(np.longdouble), y.astype(np.longdouble))))
        if -slope @ step < 1e-28:
            return value
    raise AssertionError("the reference did not converge")


def standardised(name, intercept=True):
    dataset = load_dataset(name)
    dataset = Standardization.fit(dataset).apply(dataset)
    return dataset.with_intercept() if intercept else dataset


def has_separation(X, y):
    """True unless Σ β_i y_i x_i = 0 has a solution with all β_i ≥ 1: Stiemke's alternative, as a linear programme."""
    signed = X * y[:, None]
    signed = signed[:, np.abs(signed).max(axis=0) > 0]
    if signed.shape[1] == 0:
        return False
    signed = signed / np.abs(signed).max(axis=0)
    outcome = linprog(np.ones(len(y)), A_eq=signed.T, b_eq=np.zeros(signed.shape[1]), bounds=(1, None), method="highs")
    assert outcome.status in (0, 2), outcome.message
    return outcome.status == 2


def has_strict_separation(X, y):
    signed = -X * y[:, None]
    return linprog(np.zeros(X.shape[1]), A_ub=signed, b_ub=-np.ones(len(y)), bounds=(None, None)).status == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize(("n", "d", "seed"), [(300, 10, 0), (2000, 8, 1), (150, 30, 2)])
def test_objective_is_least_to_1e12_whatever_the_condition(loss, condition, n, d, seed):
    rng = np.random.default_rng(seed)
    X = features(rng, n, d, condition)
    y = labels(rng, X, loss)
    fit = fit_linear_predictor(X, y, loss=loss)
    assert fit.converged
    assert fit.rank == d
    assert abs(penalised(fit.W, X, y, loss) - least_objective(X, y, loss)) <= PROMISED
    assert fit.objective == pytest.approx(penalised(fit.W, X, y, loss), rel=0, abs=SAME_SUM)
    assert fit.suboptimality <= PROMISED
    assert kkt_residual(fit, X, y, loss) <= PROMISED


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize("loss", ["logistic", "pseudo_huber"])
def test_many_samples_need_no_hessian_to_be_as_exact(loss, condition, monkeypatch):
    rng = np.random.default_rng(11)
    X = features(rng, 4000, 10, condition)
    y = labels(rng, X, loss)
    monkeypatch.setattr(_linear_predictor, "quasi_newton", lambda *_, **__: None)
    with_hessian = fit_linear_predictor(X, y, loss=loss)
    monkeypatch.undo()
    monkeypatch.setattr(_linear_predictor, "newton", None)
    fit = fit_linear_predictor(X, y, loss=loss)
    assert fit.converged
    assert fit.separable == with_hessian.separable == (False if loss == "logistic" else None)
    assert abs(penalised(fit.W, X, y, loss) - least_objective(X, y, loss)) <= 8 * SAME_SUM
    assert kkt_residual(fit, X, y, loss) <= PROMISED
    assert fit.suboptimality <= 8 * SAME_SUM


def test_many_samples_of_very_different_curvature_are_left_to_newton():
    """A few samples far out have nearly all of XᵀX, and hardly any of the Hessian."""
    rng = np.random.default_rng(12)
    X = rng.standard_normal((4000, 10)) * np.where(np.arange(4000) % 100 == 0, 300.0, 1.0)[:, None]
    y = np.where(rng.random(4000) < expit(X @ rng.standard_normal(10)), 1.0, -1.0)
    fit = fit_linear_predictor(X, y)
    assert fit.converged
    assert fit.separable is False
    assert abs(penalised(fit.W, X, y, "logistic") - least_objective(X, y, "logistic")) <= 8 * SAME_SUM


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.5, 0.999])
def test_norm_bound_is_met_by_its_multiplier(loss, condition, fraction):
    rng = np.random.default_rng(3)
    X = features(rng, 400, 9, condition)
    y = labels(rng, X, loss)
    free = fit_linear_predictor(X, y, loss=loss)
    radius = fraction * np.linalg.norm(free.W)
    fit = fit_linear_predictor(X, y, loss=loss, max_norm=radius)
    assert fit.converged
    assert fit.max_norm == radius
    assert fit.multiplier > 0
    assert np.linalg.norm(fit.W) == pytest.approx(radius, rel=SAME_LENGTH)
    assert kkt_residual(fit, X, y, loss) <= PROMISED
    assert fit.grad_norm == pytest.approx(kkt_residual(fit, X, y, loss), abs=0.1 * PROMISED)
    assert free.objective < fit.objective < penalised(0 * fit.W, X, y, loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_inactive_norm_bound_changes_nothing(loss):
    rng = np.random.default_rng(4)
    X = features(rng, 200, 6)
    y = labels(rng, X, loss)
    free = fit_linear_predictor(X, y, loss=loss)
    fit = fit_linear_predictor(X, y, loss=loss, max_norm=1.001 * np.linalg.norm(free.W))
    assert fit.multiplier == 0
    np.testing.assert_allclose(fit.W, free.W, rtol=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", [{"ridge": 1e-3}, {"ridge": 1e-3, "max_norm": 0.5}, {"ridge": 1e6}])
def test_ridge_term_is_solved_and_left_out_of_the_objective(loss, options):
    rng = np.random.default_rng(5)
    X = features(rng, 200, 6, 100.0)
    y = labels(rng, X, loss)
    fit = fit_linear_predictor(X, y, loss=loss, **options)
    assert fit.converged
    assert kkt_residual(fit, X, y, loss) <= PROMISED
    assert fit.objective == pytest.approx(penalised(fit.W, X, y, loss), abs=SAME_SUM, rel=SAME_SUM)
    if loss == "squared" and "max_norm" not in options:
        closed_form = np.linalg.solve(X.T @ X / len(y) + fit.ridge * np.eye(6), X.T @ y / len(y))
        np.testing.assert_allclose(fit.W, closed_form, rtol=1e-11)


def test_mean_group_of_breast_cancer_has_the_known_objective():
    data = standardised("breast_cancer:mean")
    assert fit_linear_predictor(data.X, data.y).objective == pytest.approx(0.12840986, abs=5e-9)


@pytest.mark.parametrize("name", [*NOT_SEPARABLE, *SEPARABLE, *WEAKLY_SEPARABLE])
def test_never_worse_than_scikit_learn_on_bundled_classes(name):
    data = standardised(name)
    n, ridge = len(data.y), 0.0 if name in NOT_SEPARABLE else 1e-4
    fit = fit_linear_predictor(data.X, data.y, ridge=ridge)
    assert fit.converged
    assert kkt_residual(fit, data.X, data.y, "logistic") <= PROMISED
    for solver in ("newton-cholesky", "lbfgs"):
        model = LogisticRegression(
            C=1.0 / (n * ridge) if ridge else np.inf, fit_intercept=False, solver=solver, tol=1e-10, max_iter=10_000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = model.fit(data.X, data.y).coef_[0]
        ours, theirs = (penalised(w, data.X, data.y, "logistic", ridge) for w in (fit.W, peer))
        assert ours <= theirs + SAME_SUM


@pytest.mark.parametrize("loss", ["squared", "pseudo_huber"])
@pytest.mark.parametrize("standardise", [True, False])
def test_never_worse_than_scipy_on_diabetes(loss, standardise):
    data = standardised("diabetes") if standardise else load_dataset("diabetes").with_intercept()
    fit = fit_linear_predictor(data.X, data.y, loss=loss)
    assert fit.converged
    start, *_ = np.linalg.lstsq(data.X, data.y)
    terms = as_loss(loss)
    peer = minimize(
        lambda w: penalised(w, data.X, data.y, loss),
        start,
        jac=lambda w: data.X.T @ terms.derivative(data.X @ w, data.y) / len(data.y),
        hess=lambda w: (data.X * terms.second_derivative(data.X @ w, data.y)[:, None]).T @ data.X / len(data.y),
        method="trust-exact",
        options={"gtol": 1e-12},
    )
    best = min(peer.fun, penalised(start, data.X, data.y, loss))
    assert fit.objective <= best * (1 + SAME_SUM)
    assert fit.objective >= peer.fun * (1 - 1e-9)


@pytest.mark.parametrize(("name", "loss"), [("breast_cancer", "logistic"), ("diabetes", "pseudo_huber")])
def test_never_worse_than_scipy_under_a_norm_bound(name, loss):
    data = standardised(name)
    fit = fit_linear_predictor(data.X, data.y, loss=loss, max_norm=0.5)
    peer = minimize(
        lambda w: penalised(w, data.X, data.y, loss),
        np.zeros(data.X.shape[1]),
        jac=lambda w: data.X.T @ as_loss(loss).derivative(data.X @ w, data.y) / len(data.y),
        constraints=NonlinearConstraint(lambda w: w @ w, 0, 0.25, jac=lambda w: 2 * w),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    shortened = peer.x * min(1.0, 0.5 / np.linalg.norm(peer.x))
    assert fit.converged
    assert np.linalg.norm(fit.W) <= 0.5 * (1 + SAME_LENGTH)
    assert fit.objective <= penalised(shortened, data.X, data.y, loss) + SAME_SUM
    assert fit.objective == pytest.approx(peer.fun, abs=1e-7)


@pytest.mark.parametrize("name", [*SEPARABLE, *WEAKLY_SEPARABLE])
def test_separable_bundled_data_is_refused_unless_bounded(name):
    data = standardised(name)
    assert has_separation(data.X, data.y)
    assert has_strict_separation(data.X, data.y) == (name in SEPARABLE)
    n, d = data.X.shape
    what = "separable, so" if name in SEPARABLE else r"separable up to samples on the plane itself \(\d+ are off it\)"
    with pytest.raises(InvalidInputError, match=rf"\(n={n}, d={d}\) is linearly {what}.*max_norm=.*ridge="):
        fit_linear_predictor(data.X, data.y)
    assert fit_linear_predictor(data.X, data.y, max_norm=5.0).converged
    assert fit_linear_predictor(data.X, data.y, ridge=1e-3).converged


@pytest.mark.parametrize("name", NOT_SEPARABLE)
def test_bundled_data_that_is_not_separable_is_proved_so(name):
    data = standardised(name)
    assert not has_separation(data.X, data.y)
    assert fit_linear_predictor(data.X, data.y).separable is False


def test_digits_8_and_9_are_separable_only_through_their_intercept():
    for name in WEAKLY_SEPARABLE:
        data = standardised(name, intercept=False)
        assert not has_separation(data.X, data.y)
        fit = fit_linear_predictor(data.X, data.y)
        assert fit.converged
        assert fit.separable is False


def test_verdict_agrees_with_linear_programme_on_small_integer_data():
    """Small integers make all three cases frequent: strictly separable, separable with ties, and not separable."""
    rng = np.random.default_rng(6)
    counts = {"strict": 0, "weak": 0, "none": 0}
    for _ in range(150):
        n, d = rng.integers(2, 14), rng.integers(1, 4)
        X = rng.integers(-2, 3, size=(n, d)).astype(float)
        y = rng.choice([-1.0, 1.0], size=n)
        if has_separation(X, y):
            expected = "one class alone" if np.ptp(y) == 0 else "linearly separable"
            with pytest.raises(InvalidInputError, match=expected):
                fit_linear_predictor(X, y)
            counts["strict" if has_strict_separation(X, y) else "weak"] += 1
        else:
            fit = fit_linear_predictor(X, y)
            assert fit.separable is False
            assert fit.converged
            counts["none"] += 1
    assert min(counts.values()) >= 15, counts


def test_feature_of_one_class_only_is_found_separable_without_a_linear_programme(monkeypatch):
    monkeypatch.setattr("resflow.linear._separation.linprog", None)
    rng = np.random.default_rng(7)
    X = np.column_stack([rng.standard_normal((3000, 4)), np.ones(3000), np.zeros(3000)])
    y = labels(rng, X[:, :5], "logistic")
    X[np.flatnonzero(y > 0)[:7], -1] = 1.0
    with pytest.raises(InvalidInputError, match=r"\(7 are off it\)"):
        fit_linear_predictor(X, y)


@pytest.mark.parametrize("max_norm", [1.0, 1e3, 1e8])
def test_separable_data_is_fitted_within_the_norm_bound(max_norm):
    rng = np.random.default_rng(8)
    X = rng.standard_normal((100, 4))
    y = np.sign(X @ np.ones(4))
    fit = fit_linear_predictor(X, y, max_norm=max_norm)
    assert fit.converged
    assert np.linalg.norm(fit.W) <= max_norm * (1 + SAME_LENGTH)
    assert kkt_residual(fit, X, y, "logistic") <= PROMISED
    assert fit.objective <= penalised(np.ones(4) * max_norm / 2, X, y, "logistic") + PROMISED


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_are_of_least_norm_where_samples_leave_them_open(loss):
    rng = np.random.default_rng(9)
    base = features(rng, 60, 4)
    y = labels(rng, base, loss)
    mixed = base @ rng.standard_normal((4, 3))
    X = np.column_stack([base, base[:, :2], mixed, np.zeros(60)])
    fit, plain = fit_linear_predictor(X, y, loss=loss), fit_linear_predictor(base, y, loss=loss)
    assert fit.rank == 4
    assert fit.converged
    assert fit.objective == pytest.approx(plain.objective, abs=SAME_SUM)
    np.testing.assert_allclose(fit.W, np.linalg.pinv(X) @ (X @ fit.W), atol=1e-12)
    bounded = fit_linear_predictor(X, y, loss=loss, max_norm=0.1)
    assert kkt_residual(bounded, X, y, loss) <= PROMISED


@pytest.mark.parametrize("loss", LOSSES)
def test_units_of_the_features_do_not_matter(loss):
    rng = np.random.default_rng(10)
    X = features(rng, 200, 5)
    y = labels(rng, X, loss)
    scales = np.array([1e-9, 1e-4, 1.0, 1e4, 1e9])
    fit, scaled = fit_linear_predictor(X, y, loss=loss), fit_linear_predictor(X * scales, y, loss=loss)
    assert scaled.converged
    assert scaled.rank == 5
    assert scaled.objective == pytest.approx(fit.objective, abs=SAME_SUM)
    np.testing.assert_allclose(scaled.W * scales, fit.W, rtol=1e-8)


@pytest.mark.parametrize("loss", ["squared", "pseudo_huber"])
@pytest.mark.parametrize(("n", "d"), [(10, 30), (5, 5), (1, 1), (1, 4), (40, 1)])
def test_few_samples_are_interpolated(loss, n, d):
    rng = np.random.default_rng(11)
    X, y = rng.standard_normal((n, d)), rng.standard_normal(n)
    fit = fit_linear_predictor(X, y, loss=loss)
    assert fit.converged
    assert fit.rank == min(n, d)
    if n <= d:
        assert fit.objective <= 1e-24
        np.testing.assert_allclose(fit.W, np.linalg.pinv(X) @ y, rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_features_leave_the_zero_predictor(loss):
    fit = fit_linear_predictor(np.zeros((5, 3)), np.array([1.0, -1, 1, 1, -1]), loss=loss)
    assert (fit.W == 0).all()
    assert fit.converged
    assert fit.rank == 0
    assert fit.objective == pytest.approx({"squared": 0.5, "logistic": np.log(2), "pseudo_huber": np.sqrt(2) - 1}[loss])
    assert fit.separable is (False if loss == "logistic" else None)


@pytest.mark.parametrize("loss", LOSSES)
def test_norm_bound_of_zero_leaves_one_point(loss):
    fit = fit_linear_predictor(np.eye(3), np.array([1.0, -1, 1]), loss=loss, max_norm=0.0)
    assert (fit.W == 0).all()
    assert fit.converged
    assert fit.multiplier == np.inf


def test_one_class_alone_has_no_minimiser_exactly_if_a_feature_combination_is_positive():
    X = np.random.default_rng(12).standard_normal((100, 2))
    assert fit_linear_predictor(X, np.ones(100)).separable is False
    with pytest.raises(InvalidInputError, match=r"one class alone: all 100 labels are \+1"):
        fit_linear_predictor(np.column_stack([X, np.ones(100)]), np.ones(100))


@pytest.mark.parametrize("delta", [1e-3, 1.0, 1e3])
def test_pseudo_huber_converges_from_nearly_absolute_to_nearly_squared(delta):
    rng = np.random.default_rng(13)
    X = features(rng, 200, 5)
    y = X @ np.arange(5.0) + rng.standard_cauchy(200)
    fit = fit_linear_predictor(X, y, loss=PseudoHuber(delta))
    assert fit.converged
    assert kkt_residual(fit, X, y, PseudoHuber(delta)) <= PROMISED


def test_too_few_iterations_are_admitted():
    rng = np.random.default_rng(14)
    X = features(rng, 100, 5)
    y = labels(rng, X, "logistic")
    fit = fit_linear_predictor(X, y, max_norm=10.0, max_iterations=1)
    assert not fit.converged
    assert fit.grad_norm == pytest.approx(kkt_residual(fit, X, y, "logistic"), rel=1e-10)
    assert fit.grad_norm > 1e-6


def test_a_fit_says_what_it_is_and_whether_it_converged():
    rng = np.random.default_rng(14)
    X = features(rng, 100, 5)
    y = labels(rng, X, "logistic")
    fit = fit_linear_predictor(X, y)
    assert fit.status is Status.CONVERGED
    facts = dict(line.split("  ", 1) for line in repr(fit).splitlines())
    assert facts.keys() >= {"best linear predictor", "mean training loss"}
    assert facts["mean training loss"].strip() == f"{fit.objective:.8g}"
    table = fit._repr_html_()
    assert table.startswith("<table>")
    assert f"<td>{fit.objective:.8g}</td>" in table
    assert "max_norm" not in table
    unfinished = fit_linear_predictor(X, y, max_norm=10.0, ridge=1e-3, max_iterations=1)
    assert unfinished.status is Status.ITERATION_LIMIT
    warning = "The linear fit did not converge: no statement about the gap can rest on it."
    assert repr(unfinished).splitlines()[0] == warning
    table = unfinished._repr_html_()
    assert table.startswith(f"<p><b>{warning}</b></p><table>")
    for shown in (Status.ITERATION_LIMIT.sentence, "<td>max_norm</td><td>10</td>", "<td>ridge</td><td>0.001</td>"):
        assert shown in table


def test_suboptimality_is_what_is_left_to_gain():
    rng = np.random.default_rng(15)
    X = features(rng, 500, 5)
    y = labels(rng, X, "logistic")
    best = fit_linear_predictor(X, y)
    for iterations in (2, 3):
        fit = fit_linear_predictor(X, y, max_norm=100.0, max_iterations=iterations)
        gain = fit.objective - best.objective
        assert gain > 0
        assert fit.suboptimality == pytest.approx(gain, rel=0.5)


class _Quartic(Loss):
    """A loss of the user's own, with ℓ'' = 0 at its minimum, where Newton's method is only linear."""

    name = "quartic"

    def value(self, p, y):
        return (p - y) ** 4

    def derivative(self, p, y):
        return 4 * (p - y) ** 3

    def second_derivative(self, p, y):
        return 12 * (p - y) ** 2


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_a_loss_of_ones_own_is_minimised(max_norm):
    rng = np.random.default_rng(16)
    X = features(rng, 100, 4)
    y = labels(rng, X, "squared")
    fit = fit_linear_predictor(X, y, loss=_Quartic(), max_norm=max_norm)
    assert fit.converged
    assert fit.loss == "quartic"
    assert kkt_residual(fit, X, y, _Quartic()) <= 1e-11


@pytest.mark.parametrize("loss", LOSSES)
def test_sorted_samples_and_many_of_them_give_the_same_fit(loss):
    """Many samples are started from every tenth of them."""
    rng = np.random.default_rng(17)
    X = features(rng, 4000, 3)
    y = labels(rng, X, loss)
    order = np.argsort(y)
    fit, by_order = (fit_linear_predictor(X[rows], y[rows], loss=loss) for rows in (slice(None), order))
    assert fit.converged
    assert by_order.converged
    np.testing.assert_allclose(by_order.W, fit.W, rtol=1e-12)
    assert abs(fit.objective - least_objective(X, y, loss)) <= SAME_SUM


@pytest.mark.parametrize(("loss", "outputs"), [*((loss, 1) for loss in LOSSES), ("squared", 3), ("softmax", 3)])
@pytest.mark.parametrize("options", [{}, {"ridge": 1e-3}, {"max_norm": 0.3}])
@pytest.mark.parametrize("deficient", [False, True])
def test_chunks_and_memory_maps_give_the_same_fit(loss, outputs, options, deficient, monkeypatch, tmp_path):
    rng = np.random.default_rng(18)
    X = features(rng, 700, 6).astype(np.float32)
    if deficient:
        X[:, 5] = X[:, 4]
    y = np.column_stack([labels(rng, X[:, :5].astype(np.float64), loss) for _ in range(outputs)])
    y = np.argmax(y, axis=1) if loss == "softmax" else np.squeeze(y)
    whole = fit_linear_predictor(X.astype(np.float64), y, loss=loss, **options)
    stored = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=X.shape)
    stored[:] = X
    monkeypatch.setattr(_linear_algebra, "_CHUNK_VALUES", 300)
    monkeypatch.setattr(_linear_algebra, "KEEP_VALUES", 0)
    fit = fit_linear_predictor(stored, y, loss=loss, **options)
    assert fit.converged
    assert fit.rank == whole.rank == (5 if deficient else 6)
    np.testing.assert_allclose(fit.W, whole.W, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_jax_arrays_and_integers_are_fitted_in_float64(loss):
    rng = np.random.default_rng(19)
    X = rng.integers(-3, 4, size=(80, 3))
    y = labels(rng, X.astype(float), "logistic").astype(int)
    expected = fit_linear_predictor(X.astype(float), y.astype(float), loss=loss)
    for given in ((X, y), (jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32))):
        fit = fit_linear_predictor(*given, loss=loss)
        assert isinstance(fit.W, np.ndarray)
        assert fit.W.dtype == np.float64
        np.testing.assert_allclose(fit.W, expected.W, rtol=1e-12)


def test_logistic_terms_that_share_an_exponential_are_those_of_the_loss():
    p = np.concatenate([np.linspace(-800, 800, 101), [0.0]])
    for y in (np.ones(102), -np.ones(102)):
        value, slope, curvature = _linear_problem.loss_terms(Logistic(), p, y)
        np.testing.assert_allclose(value, Logistic().value(p, y), rtol=4 * EPS)
        np.testing.assert_allclose(slope, Logistic().derivative(p, y), rtol=4 * EPS, atol=1e-300)
        np.testing.assert_allclose(curvature, Logistic().second_derivative(p, y), rtol=8 * EPS, atol=1e-300)


@pytest.mark.parametrize("loss", ["logistic", PseudoHuber()])
def test_a_wider_tolerance_takes_fewer_steps_and_says_what_is_left(loss):
    rng = np.random.default_rng(0)
    X = features(rng, 200, 8)
    y = labels(rng, X, as_loss(loss))
    best = fit_linear_predictor(X, y, loss=loss)
    fit = fit_linear_predictor(X, y, loss=loss, tolerance=1e-3)
    at_zero = float(np.mean(as_loss(loss).value(np.zeros(200), y)))
    assert 0.0 < fit.objective - best.objective <= 2.0 * fit.suboptimality <= 2e-3 * at_zero
    assert fit.iterations < best.iterations
    assert fit.status is Status.WIDE_TOLERANCE
    assert not fit.converged


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_norm": -1.0}, r"max_norm=-1.0 must be at least 0"),
        ({"max_norm": float("nan")}, r"max_norm=nan must be at least 0"),
        ({"ridge": -0.1}, r"ridge=-0.1 must be a finite number, at least 0"),
        ({"ridge": float("inf")}, r"ridge=inf must be a finite number"),
        ({"max_iterations": 0}, r"max_iterations=0 must be at least 1"),
        ({"tolerance": 0.0}, r"tolerance=0.0 must be from 1e-12 to 1"),
        ({"tolerance": "1e-6"}, r"tolerance='1e-6' must be from 1e-12 to 1"),
        ({"loss": "logstic"}, r"loss='logstic' is unknown: nearest is 'logistic'"),
        ({"y": np.ones(3)}, r"y has shape \(3,\), but X has 4 samples"),
        ({"X": np.ones(4)}, r"X has shape \(4,\), but must have 2 axes"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, r"at least one sample"),
        ({"X": np.ones((4, 0))}, r"at least one sample and one feature"),
        ({"y": np.array([0.0, 1, 2, 0]), "loss": "logistic"}, r"labels \{0, 1, 2\}.*−1 and \+1, 0 and 1"),
        ({"y": np.array([np.nan, 1, 1, 1])}, r"y has 1 labels that are not finite"),
        ({"X": np.array([[1.0, 2], [3, 4], [5, np.nan], [np.inf, 8]])}, r"first in column 1, row 2"),
        ({"X": np.full((4, 2), 1e200)}, r"column 0 is of a size .*1e\+200.*rescale it"),
    ],
)
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_bad_input_is_one_line_that_says_what_to_do(changes, message, loss):
    X, y = np.array([[1.0, 2], [3, 4], [5, 6], [7, 9]]), np.array([1.0, -1, 1, -1])
    with pytest.raises(InvalidInputError, match=message) as raised:
        fit_linear_predictor(**{"X": X, "y": y, "loss": loss} | changes)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("loss", "d"), [("softmax", 6), ("softmax", 90), ("logistic", 6)])
def test_fit_that_starts_from_one_at_another_ridge_is_the_same_in_no_more_steps(loss, d):
    rng = np.random.default_rng(0)
    X, V = rng.standard_normal((300, d)), rng.standard_normal((d, 3))
    y = np.argmax(X @ V / np.sqrt(d) + rng.gumbel(size=(300, 3)), axis=1)
    y = y if loss == "softmax" else np.where(y > 0, 1.0, -1.0)
    before, cold = (fit_linear_predictor(X, y, loss=loss, ridge=ridge) for ridge in (0.02, 0.01))
    for start in (before.W, 1e6 * before.W):
        warm = fit_linear_predictor(X, y, loss=loss, ridge=0.01, start=start)
        np.testing.assert_allclose(warm.W, cold.W, atol=1e-6)
        np.testing.assert_allclose(warm.objective, cold.objective, rtol=1e-7)
        assert warm.converged
        assert warm.iterations <= cold.iterations


@pytest.mark.usefixtures("unchecked_types")
def test_start_of_another_shape_is_refused():
    X, y = np.random.default_rng(0).standard_normal((30, 3)), np.arange(30) % 2
    with pytest.raises(InvalidInputError, match=r"start has shape \(2,\), but the weights have \(3,\)"):
        fit_linear_predictor(X, y, ridge=0.1, start=np.zeros(2))
