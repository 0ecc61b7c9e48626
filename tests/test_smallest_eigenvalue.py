"""The bracketed smallest eigenvalue: against dense automatic differentiation, closed forms, and its own promises."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import Point
from resflow.hessian.partial_eigenvalue import SmallestEigenvalue
from tests.problems import (
    OUTPUTS,
    ROUNDING,
    SHAPES,
    SPECIAL,
    dense_hessians,
    flat,
    gradient,
    linear_fit,
    point,
    stacked,
    unstacked,
)
from tests.test_spectrum import RANKS, in_chunks, run_on_eight_devices

CASES = [
    *((shape, "logistic", None) for shape in SHAPES),
    ("wide", "squared", None),
    ("narrow", "pseudo_huber", None),
    *((shape, "softmax", 3) for shape in ("wide", "one_input", "one_feature", "few_samples")),
    ("narrow", "squared", 3),
]

in_one_call = jax.jit(lambda points: jax.lax.map(resflow.smallest_eigenvalue, points))
"""λ_min at each of many points of one shape, one compilation for all."""


def at_points(points: list[Point]) -> list[SmallestEigenvalue]:
    return unstacked(in_one_call(stacked(points)))


def relative_width(found: SmallestEigenvalue) -> float:
    lower, upper = found.lambda_min_lower, found.lambda_min_upper
    return float((upper - lower) / np.abs(lower)) if lower != upper else 0.0


@pytest.mark.parametrize(("shape", "loss", "m"), CASES)
def test_value_bracket_residual_and_direction_agree_with_dense_hessian(shape, loss, m):
    cases = SPECIAL if m is None else SPECIAL | RANKS
    points = [point(seed, *SHAPES[shape], loss, m, **options) for seed, options in enumerate(cases.values())]
    for name, at, dense, found in zip(cases, points, dense_hessians(points), at_points(points), strict=True):
        eigenvalues = np.linalg.eigvalsh(dense)
        value, largest = found.lambda_min, np.abs(eigenvalues).max()
        rounding = ROUNDING * max(1.0, -eigenvalues[0])
        assert abs(value - eigenvalues[0]) <= 1e-10 * abs(eigenvalues[0]) + ROUNDING * largest, name
        assert found.lambda_min_lower <= value == found.lambda_min_upper, name
        assert found.direction[0].shape == at.W.shape
        direction = np.asarray(flat(*found.direction))
        np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-12)
        # ‖w‖ = 1e8 makes the dense Hessian's own entries, as large as 1e16, uncertain by more than λ_min
        if np.abs(dense).max() < 1e3:
            assert abs(direction @ dense @ direction - value) <= rounding, name
            residual = np.linalg.norm(dense @ direction - value * direction)
            assert abs(residual - found.lambda_min_residual) <= rounding, name
        assert found.lambda_min_residual <= 1e-8 * abs(value) + 1e-13 * largest, name
        coupling = np.linalg.norm(at.slopes.reshape(len(at.X), -1).T @ at.features / len(at.X), 2)
        assert -coupling * (1 + 1e-12) - found.rounding <= found.lambda_min_lower, name  # −‖R‖ ≤ λ_min
        if cases[name].get("gamma") != 0.0 and not stopped_at_rounding(found, at.outputs):
            assert found.converged, name
            assert relative_width(found) <= 1e-10, name


def stopped_at_rounding(result, outputs):
    """With several outputs the bracket may close to the rounding of the sums over samples, and stop there."""
    width = result.lambda_min_upper - result.lambda_min_lower
    return outputs > 1 and result.factorizations >= 12 and width <= result.rounding


def residual_bound(result, largest):
    """‖Hv − ρv‖² ≤ (λ_max − ρ)(ρ − λ_min) for a unit v of Rayleigh quotient ρ (Bhatia and Davis), and rounding.

    Rounding in the Hessian may have closed the bracket further than λ_min is known, by as much as `rounding` says.
    """
    width = result.lambda_min_upper - result.lambda_min_lower + result.rounding
    return np.sqrt((largest - result.lambda_min) * width) + 1e-13 * largest


GAMMAS = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
PLACES = {
    "random": {},
    "w = 0": {"w_norm": 0.0},
    "norm 1e-9": {"w_norm": 1e-9},
    "norm 1e-300": {"w_norm": 1e-300},
    "ill-conditioned": {"condition": 30.0},
}


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("squared", None), ("softmax", 3)])
@pytest.mark.parametrize("place", PLACES)
def test_bracket_closes_to_ten_digits_from_large_g_to_tiny(place, loss, m):
    points = [point(seed, 200, 12, 20, loss, m, gamma=gamma, **PLACES[place]) for seed, gamma in enumerate(GAMMAS * 3)]
    for result, gamma in zip(at_points(points), GAMMAS * 3, strict=True):
        if not stopped_at_rounding(result, m or 1):
            assert result.converged
            assert relative_width(result) <= 1e-10
        assert relative_width(result) <= 1e-6
        assert -gamma * (1 + 1e-8) <= result.lambda_min_lower
        assert result.lambda_min < 0
        assert result.factorizations <= 16


@pytest.mark.parametrize("gamma", [1e-1, 1e-4, 1e-9, 1e-40, 1e-100])
def test_value_at_w_zero_is_that_of_the_closed_form_to_ten_digits(gamma):
    n, d, k = 50, 6, 3
    at = point(0, n, d, k, "squared", w_norm=0.0)
    at = at.part(np.full((n, k), gamma), at.X, np.ones(n))  # g = −mean f
    h, size = np.linalg.eigvalsh(at.inner.T @ at.inner / n)[0], gamma * np.sqrt(k)
    result = resflow.smallest_eigenvalue(at)
    assert result.converged
    assert result.lambda_min == pytest.approx(-2 * size * (size / (h + np.hypot(h, 2 * size))), rel=1e-10)


@pytest.mark.parametrize(
    ("norm", "slope"), [(1, Fraction(1, 2)), (1, Fraction(1, 10**6)), (10**-6, Fraction(1, 10**9))]
)
def test_bracket_contains_an_eigenvalue_in_exact_arithmetic(norm, slope):
    """d = 2, k = 1, where the reduced matrix is the dense Hessian: its determinant, in fractions, changes sign."""
    X = np.array([[1.0, 0.5], [0.25, -1.0], [-0.5, 0.75]])
    features, V = np.array([[1.0], [0.5], [-0.25]]), np.array([[0.5], [0.125]])
    w = np.array([float(norm), 0.0])
    rows = [[Fraction(x) + Fraction(v) * Fraction(f) for x, v in zip(xs, V[:, 0], strict=True)]
            for xs, f in zip(X, features[:, 0], strict=True)]  # fmt: skip
    f = [Fraction(value) for value in features[:, 0]]
    p = [Fraction(w[0]) * row[0] for row in rows]
    y = [value - slope for value in p]  # so that ℓ' = slope for every sample of the squared loss
    labels = np.array([float(value) for value in y])
    result = resflow.smallest_eigenvalue(Point(w, V, features, X, labels, "squared"))
    slopes = [value - Fraction(float(label)) for value, label in zip(p, y, strict=True)]
    g = sum(s * value for s, value in zip(slopes, f, strict=True)) / 3
    j = [[row[0], row[1], Fraction(w[0]) * value, Fraction(0)] for row, value in zip(rows, f, strict=True)]
    H = [[sum(a[r] * a[c] for a in j) / 3 for c in range(4)] for r in range(4)]
    for r, c in ((0, 2), (2, 0), (1, 3), (3, 1)):
        H[r][c] += g

    def negative_pivots(sigma: Fraction) -> int:
        M, count = [[H[r][c] - (sigma if r == c else 0) for c in range(4)] for r in range(4)], 0
        for i in range(4):
            count += M[i][i] < 0
            for r in range(i + 1, 4):
                ratio = M[r][i] / M[i][i]
                M[r] = [entry - ratio * pivot for entry, pivot in zip(M[r], M[i], strict=True)]
        return count

    slack = Fraction(4 * float(result.rounding))
    assert result.converged
    assert result.rounding <= 1e-8 * abs(result.lambda_min)
    assert negative_pivots(Fraction(float(result.lambda_min_lower)) - slack) == 0
    assert negative_pivots(Fraction(float(result.lambda_min_upper)) + slack) >= 1


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
def test_bracket_closes_all_along_a_training_run(loss, m):
    start, points = point(0, 200, 12, 20, loss, m), []

    @jax.jit
    def hundred_steps(W, V):
        def step(_, weights):
            slope = gradient(start.at(*weights))
            return weights[0] - 0.3 * slope[: W.size].reshape(W.shape), weights[1] - 0.3 * slope[W.size :].reshape(
                V.shape
            )

        return jax.lax.fori_loop(0, 100, step, (W, V))

    weights = start.W, start.V
    for _ in range(len(GAMMAS) * 3):  # as many as above, of the same shape: the same program
        points.append(start.at(*map(np.asarray, weights)))
        weights = hundred_steps(*weights)
    found = at_points(points)
    assert all(result.converged and relative_width(result) <= 1e-10 for result in found)
    assert abs(found[-1].lambda_min) < 1e-2 * abs(found[0].lambda_min)


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_zero_is_exact_where_g_is_zero_and_d_at_least_two(loss, m):
    """And larger than m: then there is a direction of V that W does not see."""
    result = resflow.smallest_eigenvalue(point(0, 30, 4, 3, loss, m, features_scale=0.0))
    assert (result.lambda_min, result.lambda_min_lower) == (0.0, 0.0)
    assert (result.lambda_min_residual, result.factorizations) == (0.0, 0)
    assert result.converged
    # as many entries, of a unit vector
    assert abs(np.linalg.norm(result.direction[1]) - 1) <= 8 * np.finfo(float).eps


def test_one_input_may_have_a_positive_smallest_eigenvalue():
    at = point(5, 30, 1, 1, "squared", gamma=1e-3)
    result = resflow.smallest_eigenvalue(at)
    expected = np.linalg.eigvalsh(dense_hessians([at])[0])[0]
    assert expected > 0
    assert result.lambda_min == pytest.approx(expected, rel=1e-10)
    assert result.converged


@pytest.mark.parametrize(("ridge_W", "ridge_V"), [(0.3, 0.3), (0.7, 0.1), (0.0, 0.2), (0.01, 1.0)])
@pytest.mark.parametrize("shape", ["wide", "one_input"])
@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_ridge_regularised_objective_matches_dense_hessian(shape, loss, m, ridge_W, ridge_V):
    options = [{}, {"w_norm": 0.0}, {"gamma": 0.0}, {"gamma": 1e-4, "w_norm": 0.0}]
    points = [point(seed, *SHAPES[shape], loss, m, **option) for seed, option in enumerate(options)]
    for at, dense in zip(points, dense_hessians(points, ridge_W, ridge_V), strict=True):
        result = resflow.smallest_eigenvalue(at, ridge_W=ridge_W, ridge_V=ridge_V)
        eigenvalues, lower, upper = np.linalg.eigvalsh(dense), result.lambda_min_lower, result.lambda_min_upper
        assert lower - result.rounding - ROUNDING <= eigenvalues[0] <= upper + result.rounding + ROUNDING
        # of ends next to ridge_V, to which that is added last
        assert upper - lower <= 1e-10 * abs(lower - ridge_V) + np.spacing(ridge_V)
        assert result.lambda_min_residual <= residual_bound(result, eigenvalues[-1])


@pytest.mark.parametrize("case", ["repeated features", "k > n", "norm 1e8, k > n", "n < d"])
def test_a_singular_hessian_does_not_deceive_the_factorisation(case):
    """There every pivot of K's kernel is the shift itself, and rounding in K would refuse a factor too early."""
    shape = {"n < d": (6, 20, 8), "repeated features": (200, 8, 30)}.get(case, (12, 8, 30))
    options = {"repeated features": {"repeated": True}, "norm 1e8, k > n": {"w_norm": 1e8}}.get(case, {})
    for gamma in (1e-2, 1e-4, 1e-6):
        at = point(1, *shape, "squared", gamma=gamma, **options)
        result = resflow.smallest_eigenvalue(at)
        # λ_min = −1.6e-12 beside λ_max = 5: where rounding in the sums is larger than the tolerance, the flag says so
        assert result.converged or result.lambda_min_upper - result.lambda_min_lower <= result.rounding
        largest = resflow.spectrum(at).eigenvalues[-1]
        assert result.lambda_min_residual <= residual_bound(result, largest)
        if case == "n < d":
            assert result.lambda_min == pytest.approx(-gamma, rel=1e-14 / gamma)


def test_tolerance_that_cannot_be_met_is_flagged_and_the_bracket_stays_true():
    result = resflow.smallest_eigenvalue(point(0, 6, 20, 8, "logistic", gamma=1e-12), rtol=1e-15)
    assert not result.converged
    assert result.lambda_min_lower <= -1e-12 * (1 - 1e-3)
    assert abs(result.lambda_min) <= 1e-12 + result.rounding


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_population_under_vmap_agrees_with_one_point_at_a_time(loss, m):
    special = [{}, {"w_norm": 0.0}, {"gamma": 1e-4}, {"features_scale": 0.0}]
    points = [point(seed, 30, 4, 5, loss, m, **options) for seed, options in enumerate(special)]
    alone = [resflow.smallest_eigenvalue(at).lambda_min for at in points]
    together = jax.jit(jax.vmap(resflow.smallest_eigenvalue))(stacked(points))
    np.testing.assert_allclose(together.lambda_min, alone, rtol=1e-9)
    assert together.converged.all()
    width = together.lambda_min_upper - together.lambda_min_lower
    assert (width <= 1e-10 * np.abs(together.lambda_min_lower)).all()


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_single_precision_finds_four_digits_and_says_so(loss, m):
    at = point(3, 50, 5, 7, loss, m)
    double = resflow.smallest_eigenvalue(at)
    single = resflow.smallest_eigenvalue(jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), at))
    assert isinstance(double.lambda_min, np.floating)
    assert single.lambda_min.dtype == single.direction[1].dtype == jnp.float32
    assert single.converged
    assert float(single.lambda_min) == pytest.approx(double.lambda_min, rel=1e-4)
    with jax.enable_x64(False):
        assert resflow.smallest_eigenvalue(at).lambda_min == double.lambda_min


@pytest.mark.parametrize("kind", ["memory_mapped", "jax"])
@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_samples_in_chunks_give_the_same_bracket_certificate_and_verdict(kind, loss, m, tmp_path, monkeypatch):
    at = point(1, 1279, 3, 4, loss, m)
    fit = linear_fit(at)
    whole = resflow.smallest_eigenvalue(at), resflow.certify(at, fit), resflow.analyze(at, fit, epsilon=1e-3)
    at = in_chunks(at, kind, tmp_path, monkeypatch)
    found = resflow.smallest_eigenvalue(at), resflow.certify(at, fit), resflow.analyze(at, fit, epsilon=1e-3)
    assert found[0].lambda_min == pytest.approx(whole[0].lambda_min, rel=1e-12)
    assert found[0].lambda_min_residual <= whole[0].lambda_min_residual + 1279 * np.finfo(float).eps
    np.testing.assert_allclose(found[1], whole[1], rtol=1e-12, atol=1279 * np.finfo(float).eps)
    for name in ("grad_norm", "linear_predictor_gap", "lambda_min", "gap_error", "grad_error", "mu2", "gap_allowed"):
        assert getattr(found[2], name) == pytest.approx(getattr(whole[2], name), rel=1e-12, nan_ok=True)
    assert found[2].verdict == whole[2].verdict


SHARDED = """
import jax, numpy as np, resflow
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
from tests.problems import ROUNDING, point
for loss, m in (("logistic", None), ("softmax", 3)):
    at = point(0, 64, 5, 6, loss, m)
    expected = resflow.smallest_eigenvalue(at)
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("samples",), axis_types=(axis_type,))
        put = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
        sharded = at.at(put(at.W, P()), put(at.V, P()))
        found = resflow.smallest_eigenvalue(sharded.part(*(put(a, P("samples")) for a in (at.features, at.X, at.y))))
        np.testing.assert_allclose(found.lambda_min, expected.lambda_min, rtol=1e-12)
        assert found.converged and found.lambda_min_residual <= expected.lambda_min_residual + ROUNDING
"""


def test_data_sharded_over_eight_devices_give_the_same_bracket():
    run_on_eight_devices(SHARDED)


THREADS = """
import numpy as np
import resflow

rng = np.random.default_rng(0)
X, features = rng.standard_normal((426, 31)), rng.standard_normal((426, 32))
w, V = rng.standard_normal(31), rng.standard_normal((31, 32))
point = resflow.Point(w, V, features, X, np.sign(X[:, 0]), "logistic")
print([float(value).hex() for value in resflow.smallest_eigenvalue(point)[:4]])
"""


def test_bits_at_a_small_point_are_the_same_on_any_number_of_threads():
    """NPROC is what XLA sizes its pool of threads by."""
    command = [sys.executable, "-c", THREADS]
    runs = [subprocess.Popen(command, env=os.environ | {"NPROC": n}, stdout=subprocess.PIPE) for n in ("1", "2", "16")]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)


def test_the_hessian_is_that_of_the_loss_at_hand():
    at = point(0, 20, 3, 2, "squared")
    at = Point(at.W, at.V, at.features, at.X, at.y, resflow.PseudoHuber(0.5))
    found = resflow.smallest_eigenvalue(at).lambda_min
    assert found == pytest.approx(np.linalg.eigvalsh(dense_hessians([at])[0])[0], rel=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e8])
@pytest.mark.parametrize("norm", [1.0, 1e4, 1e7])
def test_rounding_counts_what_predictions_curvature_and_ridge_add_to_it(norm, ridge):
    """One input and one feature, in 60 digits: predictions of order 1 are differences of numbers of size ‖w‖."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        x, f = rng.uniform(0.5, 2.0, (2, 6))
        V = -float(x[0] / f[0])
        x = -V * f + rng.standard_normal(6) / norm  # so that x + V f is of size 1/‖w‖
        w = np.array([norm * (1.0 + 0.1 * seed)])
        y = np.sign(rng.standard_normal(6))
        at = Point(w, np.array([[V]]), f[:, None], x[:, None], y, "logistic")
        found = resflow.smallest_eigenvalue(at, ridge_W=ridge, ridge_V=ridge)
        with localcontext() as context:
            context.prec = 60
            ww = coupled = ff = Decimal(0)
            for xi, fi, yi in zip(map(Decimal, x.tolist()), map(Decimal, f.tolist()), y.tolist(), strict=True):
                a, b = xi + Decimal(V) * fi, Decimal(float(w[0])) * fi
                sigma = 1 / (1 + (Decimal(yi) * Decimal(float(w[0])) * a).exp())
                ww += sigma * (1 - sigma) * a * a / 6
                coupled += (sigma * (1 - sigma) * a * b - Decimal(yi) * sigma * fi) / 6
                ff += sigma * (1 - sigma) * b * b / 6
            root = ((ww - ff) ** 2 + 4 * coupled**2).sqrt()
            exact = (ww + ff - root) / 2 + Decimal(ridge)
            off = float(abs(Decimal(float(found.lambda_min)) - exact))
        assert off <= found.rounding + (found.lambda_min_upper - found.lambda_min_lower), (seed, off, found.rounding)
        assert found.rounding >= 4 * np.finfo(float).eps * ridge


def test_float32_brackets_that_say_converged_have_their_four_digits():
    """Collinear features, and gradients from large to tiny: what float32 cannot tell it says."""
    points = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gamma = 10.0 ** rng.uniform(-6, 0) if seed % 2 else None
        at = point(seed, 50, 5, 7, "logistic", gamma=gamma, w_norm=10.0 ** rng.uniform(-2, 2))
        if not seed % 2:
            at.features[:, 3] = at.features[:, 2] * (1 + 10.0 ** rng.uniform(-7, -3) * rng.standard_normal(50))
            at.features[:, 5] = at.features[:, 4]
        points.append(at)
    population = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), stacked(points))
    single = in_one_call(population)
    double = in_one_call(jax.tree.map(lambda array: jnp.asarray(array, float), population))
    error = np.abs(np.asarray(single.lambda_min, float) - double.lambda_min)
    converged = np.asarray(single.converged)
    assert single.lambda_min.dtype == jnp.float32
    assert (error <= 1e-4 * np.abs(double.lambda_min))[converged].all()
    assert (error <= single.rounding + (single.lambda_min_upper - single.lambda_min_lower)).all()
    assert 30 <= converged.sum() < 60


def test_a_tiny_g_is_not_lost_to_the_square_of_its_norm():
    at = point(0, 6, 20, 8, "squared", w_norm=0.0)
    at = at.part(np.full((6, 8), 1e-200), at.X, np.ones(6))  # n < d: h = 0, and λ_min = −‖g‖
    result = resflow.smallest_eigenvalue(at)
    assert not result.converged
    assert result.lambda_min_lower == pytest.approx(-1e-200 * np.sqrt(8), rel=1e-9)
    assert result.lambda_min_lower < result.lambda_min_upper <= 0.0


@pytest.mark.parametrize("margin", [38.0, 50.0, 200.0, 1e3])
@pytest.mark.parametrize("m", [2, 3, 10])
def test_confident_classifiers_have_no_negative_curvature_but_that_of_their_slopes(m, margin):
    """All of ℓ' and ℓ'' is of size exp(−margin): so is λ_min, and no difference of numbers close to 1."""
    d, k = m + 2, 4
    at = point(0, 40, d, k, "softmax", m)
    X = np.eye(d)[at.y] + 0.01 * at.X
    found = resflow.smallest_eigenvalue(Point(1.1 * margin * np.eye(m, d), 0 * at.V, at.features, X, at.y, "softmax"))
    assert -m * np.exp(-margin) <= found.lambda_min_lower <= found.lambda_min_upper <= 0.0
    assert found.lambda_min_upper - found.lambda_min_lower <= m * np.exp(-margin)
