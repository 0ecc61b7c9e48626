"""The best linear predictor where numbers are far apart or hardly different: right, or not said to be right."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest

from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import PseudoHuber
from resflow.status import Status
from tests.test_linear import EPS, has_separation

LONG = np.longdouble
LOSSES = ("squared", "logistic", "pseudo_huber")
MOST_SECONDS = 10.0


def terms(loss, delta, p, y):
    """ℓ, ℓ' and ℓ'' once more, in extended precision."""
    if loss == "squared":
        return (p - y) ** 2 / 2, p - y, np.ones_like(p)
    if loss == "logistic":
        tail = np.exp(-np.abs(y * p))
        above = np.where(y * p >= 0, tail, 1) / (1 + tail)
        return np.maximum(-y * p, 0) + np.log1p(tail), -y * above, tail / (1 + tail) ** 2
    r = (p - y) / LONG(delta)
    root = np.sqrt(1 + r * r)
    return LONG(delta) ** 2 * r * (r / (1 + root)), LONG(delta) * r / root, root**-3


def solve(A, b):
    """Gaussian elimination of a positive definite system, its unknowns in their own units, in extended precision."""
    scale = 1 / np.sqrt(np.diag(A))
    A, b = A * scale * scale[:, None], b * scale
    for i in range(len(b)):
        for j in range(i + 1, len(b)):
            factor = A[j, i] / A[i, i]
            A[j], b[j] = A[j] - factor * A[i], b[j] - factor * b[i]
    x = np.zeros_like(b)
    for i in reversed(range(len(b))):
        x[i] = (b[i] - A[i, i + 1 :] @ x[i + 1 :]) / A[i, i]
    return x * scale


def excess(fit, X, y, loss, delta):
    """How far F + R at the fit lies above its minimum over the ball, at most, and the loss at 0; in extended precision.

    For every multiplier μ ≥ 0 the least value of F + R + ½ μ (‖w‖² − max_norm²) over all w is no higher than that
    minimum. It is found by Newton's method from the fit, whose last decrement is what the method may still miss.
    """
    X, y = X.astype(LONG), y.astype(LONG)
    radius, n = LONG(fit.max_norm or 0), len(y)
    shift = LONG(fit.ridge) + LONG(fit.multiplier)

    def lagrangian(w):
        value, slope, curvature = terms(loss, delta, X @ w, y)
        total = value.mean() + shift * (w @ w) / 2 - LONG(fit.multiplier) * radius**2 / 2
        return total, X.T @ slope / n + shift * w, (X * curvature[:, None]).T @ X / n + shift * np.eye(len(w))

    w = fit.W.astype(LONG)
    reached = terms(loss, delta, X @ w, y)[0].mean() + LONG(fit.ridge) * (w @ w) / 2
    least, gradient, H = lagrangian(w)
    for _ in range(4):
        step = -solve(H, gradient)
        w = w + step
        decrement = abs(gradient @ step) / 2
        value, gradient, H = lagrangian(w)
        least = min(least, value)
    return reached - least + decrement, terms(loss, delta, np.zeros_like(y), y)[0].mean()


def random_fit(seed):
    """Columns, labels, ridge and norm bound at scales drawn from 1e-45 to 1e45."""
    rng = np.random.default_rng(seed)
    n, d, loss = int(rng.integers(8, 60)), int(rng.integers(1, 5)), LOSSES[seed % 3]
    B = rng.standard_normal((n, d))
    apart = 10.0 ** (rng.integers(-1, 2, d) * rng.choice([8, 16, 20, 45]))
    X = B * (apart if rng.random() < 0.5 else 10.0 ** rng.uniform(-45, 45, d))
    signal = B @ rng.standard_normal(d) + rng.standard_normal(n)
    size = 10.0 ** rng.uniform(-8, 8)
    y = np.sign(signal) if loss == "logistic" else size * signal
    delta = size * 10.0 ** rng.uniform(-5, 2)
    options = {}
    if rng.random() < 0.6 or loss == "logistic":  # without either it may be separable
        options["ridge"] = 10.0 ** rng.uniform(-40, 40)
    if rng.random() < 0.6:
        options["max_norm"] = 10.0 ** rng.uniform(-40, 40)
    return X, y, loss, delta, options


def test_extreme_scales_end_right_or_say_that_they_did_not():
    """60 fits, of which hardly one is unfinished; the tolerance is twice what `converged` promises."""
    finished = 0
    for seed in range(60):
        X, y, loss, delta, options = random_fit(seed)
        start = time.perf_counter()
        fit = fit_linear_predictor(X, y, loss=PseudoHuber(delta) if loss == "pseudo_huber" else loss, **options)
        assert time.perf_counter() - start < MOST_SECONDS, seed
        assert np.isfinite([*fit.W, fit.objective, fit.grad_norm]).all(), seed
        assert np.linalg.norm(fit.W) <= options.get("max_norm", np.inf) * (1 + 8 * EPS), seed
        above, at_zero = excess(fit, X, y, loss, delta)
        assert fit.objective <= at_zero * (1 + 64 * EPS), seed
        assert not fit.converged or above <= 2e-12 * at_zero, seed
        finished += fit.converged
    assert finished >= 50


@pytest.mark.parametrize("exponent", [14, 16, 18, 20, 50])
@pytest.mark.parametrize("loss", ["squared", "pseudo_huber"])
@pytest.mark.parametrize("options", [{"ridge": 0.1}, {"max_norm": 0.5}])
def test_columns_far_apart_with_a_ridge_or_norm_bound(exponent, loss, options):
    """The shortest column is of no use and the longest costs nothing: what is left has one coefficient to pay for."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((60, 3))
    y = np.where(B @ [1, 2, -1] + rng.standard_normal(60) > 0, 1.0, -1.0)
    fit = fit_linear_predictor(B * [10.0**-exponent, 1, 10.0**exponent], y, loss=loss, **options)
    assert fit.converged
    if loss == "squared" and "ridge" in options:
        A = B[:, 1:]
        u = np.linalg.solve(A.T @ A / 60 + np.diag([0.1, 0]), A.T @ y / 60)
        best = 0.5 * np.mean((A @ u - y) ** 2) + 0.05 * u[0] ** 2
        # the condition of the equations is below 10, so that 16 units of rounding are ample
        assert fit.objective + 0.05 * fit.W @ fit.W == pytest.approx(best, rel=16 * EPS)


@pytest.mark.parametrize("what", ["X", "y", "max_norm", "ridge"])
@pytest.mark.parametrize("factor", [1e-120, 1e120])
def test_sizes_whose_squares_leave_float64_are_refused(what, factor):
    rng = np.random.default_rng(0)
    arguments = {"X": rng.standard_normal((60, 3)), "y": rng.standard_normal(60), "max_norm": 0.5, "ridge": 0.1}
    arguments[what] = arguments[what] * (np.array([1.0, 1.0, factor]) if what == "X" else factor)
    with pytest.raises(InvalidInputError, match=r"1e-60 and 1e\+60"):
        fit_linear_predictor(**arguments, loss="squared")


@pytest.mark.parametrize("bits", [30, 36, 42, 44, 46])
@pytest.mark.parametrize("loss", ["squared", "pseudo_huber"])
@pytest.mark.parametrize("ridge", [0.0, 1e-30])
def test_difference_of_two_columns_is_used_or_said_to_be_left_out(bits, loss, ridge):
    """Columns a and a + b/2^bits, exactly: w = (−2^bits, 2^bits) predicts b, which is all there is to know."""
    rng = np.random.default_rng(1)
    n, h = 10_000, 2.0**-bits
    a, b = rng.integers(1, 1000, n) / 8.0, rng.integers(-4, 5, n) * 1.0
    X = np.column_stack([a, a + h * b])
    assert ((X[:, 1] - a) / h == b).all()
    y = b + 0.1 * rng.standard_normal(n)
    fit = fit_linear_predictor(X, y, loss=loss, ridge=ridge)
    r = b - y
    attained = np.mean(r**2 / 2 if loss == "squared" else np.sqrt(1 + r**2) - 1)
    assert not fit.converged
    assert fit.suboptimality >= 0.5 * (fit.objective - attained)
    if bits <= 36:  # above what the rounding of a itself leaves open
        assert fit.rank == 2
        assert fit.objective <= attained * (1 + 1e-3)


@pytest.mark.parametrize("mixed", ["repeated", "sum", "one-hot"])
def test_columns_that_depend_on_each_other_to_rounding_are_no_reason_for_doubt(mixed):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((500, 4)) + 3.0
    group = np.eye(4)[rng.integers(0, 4, 500)]
    more = {
        "repeated": X[:, :1],
        "sum": (X @ rng.standard_normal(4))[:, None],
        "one-hot": np.column_stack([(group - group.mean(axis=0)) / group.std(axis=0), np.ones(500)]),
    }[mixed]
    X = np.column_stack([X, more])
    y = X @ rng.standard_normal(X.shape[1]) + rng.standard_normal(500)
    fit = fit_linear_predictor(X, y, loss="squared")
    assert fit.rank == X.shape[1] - 1
    assert fit.converged
    np.testing.assert_allclose(fit.W, np.linalg.lstsq(X, y, rcond=1e-12)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e10])
@pytest.mark.parametrize("options", [{}, {"ridge": 1e-9}, {"max_norm": 0.5}])
def test_labels_far_beyond_delta_are_fitted(size, options):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((200, 3))
    y = size * (X @ [1.0, 2.0, -1.0] + rng.standard_normal(200))
    fit = fit_linear_predictor(X, y, loss="pseudo_huber", **options)
    above, at_zero = excess(fit, X, y, "pseudo_huber", 1.0)
    assert fit.converged
    assert above <= 2e-12 * at_zero


@pytest.mark.parametrize("v", [1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize("model", ["logistic", "softmax"])
def test_separation_by_less_than_a_solver_can_see_is_judged_exactly(v, model):
    """Two samples at (∓v, ±2) decide: with one sign weights prove that no line separates, with the other one does."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(200), rng.uniform(-3, 3, 200)])
    X[:2] = [[-v, 2.0], [-v, -2.0]]
    rows = [[Fraction(entry) for entry in row] for row in X.tolist()]
    first, second = (sum(row[place] for row in rows[2:]) for place in (0, 1))
    larger, smaller = first / (2 * Fraction(v)) - second / 4, first / (2 * Fraction(v)) + second / 4
    assert min(larger, smaller) > 0
    assert all(larger * a + smaller * b + rest == 0 for a, b, rest in zip(*rows[:2], (first, second), strict=True))
    y = np.where(rng.random(200) < 0.5, 1.0, -1.0)

    def fitted(X):
        if model == "logistic":
            return fit_linear_predictor(X * y[:, None], y)
        return fit_linear_predictor(X * y[:, None], (y + 1) / 2, loss="softmax")

    fit = fitted(X)
    assert fit.converged
    assert fit.separable is False
    with pytest.raises(InvalidInputError, match="linearly separable"):
        fitted(X * np.where(np.arange(200) < 2, -1.0, 1.0)[:, None] * [1, -1])


def test_verdict_on_separation_does_not_depend_on_units():
    """Columns times powers of 2, which changes no bit of them, from 2^-60 to 2^60."""
    rng = np.random.default_rng(4)
    verdicts = []
    for _ in range(25):
        n, d = rng.integers(4, 14), rng.integers(1, 4)
        X = rng.integers(-2, 3, size=(n, d)).astype(float)
        y = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
        verdicts.append(has_separation(X, y))
        scaled = X * 2.0 ** rng.integers(-60, 61, d)
        if verdicts[-1]:
            with pytest.raises(InvalidInputError, match="linearly separable"):
                fit_linear_predictor(scaled, y)
        else:
            assert fit_linear_predictor(scaled, y).separable is False
    assert 5 <= sum(verdicts) <= 20


def least_logistic(X, y, w):
    """F at the minimiser in extended precision, by Newton's method from weights close to it."""
    X, y, w = (np.asarray(each, dtype=np.longdouble) for each in (X, y, w))
    for _ in range(4):
        far = np.exp(-np.abs(y * (X @ w)))
        slope = -y * np.where(y * (X @ w) > 0, far, 1) / (1 + far)
        curvature = far / (1 + far) ** 2
        H = np.asarray(X.T @ (curvature[:, None] * X) / len(y), dtype=float)
        w = w - np.linalg.lstsq(H, np.asarray(X.T @ slope / len(y), dtype=float), rcond=1e-13)[0]
    return np.mean(np.logaddexp(np.longdouble(0), -y * (X @ w)))


@pytest.mark.parametrize("more", ["", "repeated", "polynomial", "one-hot", "repeated up to 1e-6"])
@pytest.mark.parametrize(("n", "d"), [(599, 3), (2000, 10), (3000, 3)])
def test_samples_on_their_own_side_by_far_leave_no_doubt(n, d, more):
    """Their curvature is next to none, which bounds nothing; the step that is left changes no prediction all the same.

    From 200 samples a feature on no Hessian is formed at first.
    """
    for seed in range(6):
        rng = np.random.default_rng(seed)
        X, group = rng.standard_normal((n, d)), np.eye(3)[rng.integers(0, 3, n)]
        y = np.where(X[:, 0] + (0.05, 0.1, 0.2)[seed % 3] * rng.standard_normal(n) > 0, 1.0, -1.0)
        columns = {
            "": X,
            "repeated": np.c_[X, X[:, 0]],
            "polynomial": np.c_[np.ones(n), (5 + X[:, :1]) ** [1, 2], 2 * (5 + X[:, 0])],
            "one-hot": np.c_[X, np.ones(n), group],
            "repeated up to 1e-6": np.c_[X, X[:, 0] + 1e-6 * rng.standard_normal(n)],
        }[more]
        fit = fit_linear_predictor(columns, y, loss="logistic")
        assert fit.converged, seed
        objective = np.mean(np.logaddexp(np.longdouble(0), -y * (columns.astype(np.longdouble) @ fit.W)))
        assert objective - least_logistic(columns, y, fit.W) <= fit.suboptimality + 1e-15
        near = fit_linear_predictor(columns, y, loss="logistic", tolerance=1e-3)
        assert near.status in (Status.WIDE_TOLERANCE, Status.CONVERGED)
        assert near.objective - fit.objective <= near.suboptimality + 1e-15
        for options in ({"ridge": 1e-6}, {"max_norm": 1e3}):
            assert fit_linear_predictor(columns, y, loss="logistic", **options).converged, options


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_empty_columns_are_left_out_of_what_must_be_regular(loss):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 30))
        X, weights = rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-3, 3, (n, 1)), 10.0 ** rng.uniform(-8, 8, n)
        X[:, rng.integers(0, 3)] = 0.0
        y = rng.integers(0, 2 if loss == "logistic" else 3, n)
        try:
            fit = fit_linear_predictor(X, y, loss=loss, sample_weight=weights)
        except InvalidInputError:  # separable
            continue
        assert (fit.W[..., ~X.any(axis=0)] == 0.0).all()
        kept = fit_linear_predictor(X[:, X.any(axis=0)], y, loss=loss, sample_weight=weights)
        assert kept.separable == fit.separable
        assert kept.objective == pytest.approx(fit.objective, rel=1e-9)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((600, 20)), rng.integers(0, 20, 600)
    X[:, 2] = 0.0
    fit = fit_linear_predictor(X, y, loss="softmax")
    assert fit.converged
    assert fit.separable is False
    assert (fit.W[:, 2] == 0.0).all()


@pytest.mark.parametrize(("loss", "shape"), [("logistic", (4,)), ("softmax", (3, 4))])
def test_start_too_far_away_to_be_looked_at_is_left_aside(loss, shape):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((80, 4)), rng.integers(0, 3 if loss == "softmax" else 2, 80)
    far = fit_linear_predictor(X, y, loss=loss, ridge=0.1, start=np.full(shape, 1e300))
    np.testing.assert_array_equal(far.W, fit_linear_predictor(X, y, loss=loss, ridge=0.1).W)
