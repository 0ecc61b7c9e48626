"""The bracketed smallest eigenvalue: against dense automatic differentiation, closed forms, and its own promises."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.losses.scalar import as_loss
from resflow.spectrum import partial_hessian as partial_hessian_module
from resflow.spectrum.partial import partial_spectrum
from resflow.spectrum.smallest_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from tests.problems import LOSSES, ROUNDING, SHAPES, SPECIAL, Point, dense_hessians, objective, point
from tests.test_spectrum import run_on_eight_devices

CASES = [(shape, "logistic") for shape in SHAPES] + [("wide", "squared"), ("narrow", "pseudo_huber")]


@cache
def in_one_call(loss: str):
    """λ_min at each of many points of one shape, one compilation for all."""
    return jax.jit(lambda points: jax.lax.map(lambda p: smallest_partial_eigenvalue(*p, loss=loss), points))


def at_points(points: list[Point], loss: str) -> list[SmallestEigenvalue]:
    stacked = Point(*(jnp.stack([jnp.asarray(arrays[i]) for arrays in points]) for i in range(5)))
    found = in_one_call(loss)(stacked)
    return [jax.tree.map(lambda leaf: np.asarray(leaf[i]), found) for i in range(len(points))]  # noqa: B023


def relative_width(found: SmallestEigenvalue) -> float:
    return float((found.upper - found.lower) / np.abs(found.lower)) if found.lower != found.upper else 0.0


@pytest.mark.parametrize(("shape", "loss"), CASES)
def test_value_bracket_residual_and_direction_agree_with_dense_hessian(shape, loss):
    points = [point(seed, *SHAPES[shape], loss, **options) for seed, options in enumerate(SPECIAL.values())]
    found = at_points(points, loss)
    for name, dense, result in zip(SPECIAL, dense_hessians(points, loss), found, strict=True):
        eigenvalues = np.linalg.eigvalsh(dense)
        rounding = ROUNDING * max(1.0, -eigenvalues[0])
        assert (
            abs(result.value - eigenvalues[0]) <= 1e-10 * abs(eigenvalues[0]) + ROUNDING * np.abs(eigenvalues).max()
        ), name
        assert result.lower <= result.value == result.upper, name
        direction = np.concatenate([result.direction_w, result.direction_V.ravel()])
        np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-12)
        # ‖w‖ = 1e8 makes the dense Hessian's own entries, as large as 1e16, uncertain by more than λ_min
        if np.abs(dense).max() < 1e3:
            assert abs(direction @ dense @ direction - result.value) <= rounding, name
            residual = np.linalg.norm(dense @ direction - result.value * direction)
            assert abs(residual - result.residual) <= rounding, name
        assert result.residual <= 1e-8 * abs(result.value) + 1e-13 * np.abs(eigenvalues).max(), name
        if SPECIAL[name].get("gamma") != 0.0:
            assert result.converged, name
            assert relative_width(result) <= 1e-10, name


def residual_bound(result, largest):
    """‖Hv − ρv‖² ≤ (λ_max − ρ)(ρ − λ_min) for a unit v of Rayleigh quotient ρ (Bhatia and Davis), and rounding.

    Rounding in the Hessian may have closed the bracket further than λ_min is known, by as much as `rounding` says.
    """
    width = result.upper - result.lower + result.rounding
    return np.sqrt((largest - result.value) * width) + 1e-13 * largest


GAMMAS = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7]
PLACES = {
    "random": {},
    "w = 0": {"w_norm": 0.0},
    "norm 1e-9": {"w_norm": 1e-9},
    "norm 1e-300": {"w_norm": 1e-300},
    "ill-conditioned": {"condition": 30.0},
}


@pytest.mark.parametrize("loss", ["logistic", "squared"])
@pytest.mark.parametrize("place", PLACES)
def test_bracket_closes_to_ten_digits_from_large_g_to_tiny(place, loss):
    points = [point(seed, 200, 12, 20, loss, gamma=gamma, **PLACES[place]) for seed, gamma in enumerate(GAMMAS * 3)]
    for result, gamma in zip(at_points(points, loss), GAMMAS * 3, strict=True):
        assert result.converged
        assert relative_width(result) <= 1e-10
        assert -gamma * (1 + 1e-8) <= result.lower
        assert result.value < 0
        assert result.factorizations <= 16


@pytest.mark.parametrize("gamma", [1e-1, 1e-4, 1e-9, 1e-40, 1e-100])
def test_value_at_w_zero_is_that_of_the_closed_form_to_ten_digits(gamma):
    n, d, k = 50, 6, 3
    arrays = point(0, n, d, k, "squared", w_norm=0.0)
    arrays = arrays._replace(features=np.full((n, k), gamma), y=np.ones(n))  # g = −mean f
    a = arrays.X + arrays.features @ arrays.V.T
    h, size = np.linalg.eigvalsh(a.T @ a / n)[0], gamma * np.sqrt(k)
    result = smallest_partial_eigenvalue(*arrays, loss="squared")
    assert result.converged
    assert result.value == pytest.approx(-2 * size * (size / (h + np.hypot(h, 2 * size))), rel=1e-10)


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
    result = smallest_partial_eigenvalue(w, V, features, X, np.array([float(value) for value in y]), loss="squared")
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
    assert result.rounding <= 1e-8 * abs(result.value)
    assert negative_pivots(Fraction(float(result.lower)) - slack) == 0
    assert negative_pivots(Fraction(float(result.upper)) + slack) >= 1


@pytest.mark.parametrize("loss", LOSSES)
def test_bracket_closes_all_along_a_training_run(loss):
    start = point(0, 200, 12, 20, loss)
    slope = jax.grad(objective)
    W = jnp.concatenate([start.w, start.V.ravel()])

    @jax.jit
    def hundred_steps(W):
        return jax.lax.fori_loop(0, 100, lambda _, W: W - 0.3 * slope(W, start.features, start.X, start.y, loss), W)

    points = []
    for _ in range(len(GAMMAS) * 3):  # as many as above, of the same shape: the same program
        points.append(start._replace(w=np.asarray(W[:12]), V=np.asarray(W[12:]).reshape(12, 20)))
        W = hundred_steps(W)
    found = at_points(points, loss)
    assert all(result.converged and relative_width(result) <= 1e-10 for result in found)
    assert abs(found[-1].value) < 1e-2 * abs(found[0].value)


def test_zero_is_exact_where_g_is_zero_and_d_at_least_two():
    arrays = point(0, 30, 4, 3, "logistic", features_scale=0.0)
    result = smallest_partial_eigenvalue(*arrays, loss="logistic")
    assert (result.value, result.lower, result.residual, result.factorizations) == (0.0, 0.0, 0.0, 0)
    assert result.converged
    assert abs(np.linalg.norm(result.direction_V) - 1) <= 8 * np.finfo(float).eps  # as many entries, of a unit vector


def test_one_input_may_have_a_positive_smallest_eigenvalue():
    arrays = point(5, 30, 1, 1, "squared", gamma=1e-3)
    result = smallest_partial_eigenvalue(*arrays, loss="squared")
    expected = np.linalg.eigvalsh(dense_hessians([arrays], "squared")[0])[0]
    assert expected > 0
    assert result.value == pytest.approx(expected, rel=1e-10)
    assert result.converged


@pytest.mark.parametrize(("ridge_w", "ridge_V"), [(0.3, 0.3), (0.7, 0.1), (0.0, 0.2), (0.01, 1.0)])
@pytest.mark.parametrize("shape", ["wide", "one_input"])
def test_ridge_regularised_objective_matches_dense_hessian(shape, ridge_w, ridge_V):
    options = [{}, {"w_norm": 0.0}, {"gamma": 0.0}, {"gamma": 1e-4, "w_norm": 0.0}]
    points = [point(seed, *SHAPES[shape], "logistic", **option) for seed, option in enumerate(options)]
    for arrays, dense in zip(points, dense_hessians(points, "logistic", ridge_w, ridge_V), strict=True):
        result = smallest_partial_eigenvalue(*arrays, loss="logistic", ridge_w=ridge_w, ridge_V=ridge_V)
        expected = np.linalg.eigvalsh(dense)[0]
        assert result.lower - result.rounding - ROUNDING <= expected <= result.upper + result.rounding + ROUNDING
        assert result.upper - result.lower <= 1e-10 * abs(result.lower - ridge_V)
        assert result.residual <= residual_bound(result, np.linalg.eigvalsh(dense)[-1])


@pytest.mark.parametrize("case", ["repeated features", "k > n", "norm 1e8, k > n", "n < d"])
def test_a_singular_hessian_does_not_deceive_the_factorisation(case):
    """There every pivot of K's kernel is the shift itself, and rounding in K would refuse a factor too early."""
    shape = {"n < d": (6, 20, 8), "repeated features": (200, 8, 30)}.get(case, (12, 8, 30))
    options = {"repeated features": {"repeated": True}, "norm 1e8, k > n": {"w_norm": 1e8}}.get(case, {})
    for gamma in (1e-2, 1e-4, 1e-6):
        arrays = point(1, *shape, "squared", gamma=gamma, **options)
        result = smallest_partial_eigenvalue(*arrays, loss="squared")
        # λ_min = −1.6e-12 beside λ_max = 5: where rounding in the sums is larger than the tolerance, the flag says so
        assert result.converged or result.upper - result.lower <= result.rounding
        largest = partial_spectrum(*arrays, loss="squared").eigenvalues[-1]
        assert result.residual <= residual_bound(result, largest)
        if case == "n < d":
            assert result.value == pytest.approx(-gamma, rel=1e-14 / gamma)


def test_tolerance_that_cannot_be_met_is_flagged_and_the_bracket_stays_true():
    arrays = point(0, 6, 20, 8, "logistic", gamma=1e-12)
    result = smallest_partial_eigenvalue(*arrays, loss="logistic", rtol=1e-15)
    assert not result.converged
    assert result.lower <= -1e-12 * (1 - 1e-3)
    assert abs(result.value) <= 1e-12 + result.rounding


def test_population_under_vmap_agrees_with_one_point_at_a_time():
    special = [{}, {"w_norm": 0.0}, {"gamma": 1e-4}, {"features_scale": 0.0}]
    points = [point(seed, 30, 4, 5, "logistic", **options) for seed, options in enumerate(special)]
    alone = [smallest_partial_eigenvalue(*arrays, loss="logistic") for arrays in points]
    population = Point(*(jnp.stack([jnp.asarray(arrays[i]) for arrays in points]) for i in range(5)))
    together = jax.jit(jax.vmap(lambda *arrays: smallest_partial_eigenvalue(*arrays, loss="logistic")))(*population)
    np.testing.assert_allclose(together.value, [result.value for result in alone], rtol=1e-9)
    assert together.converged.all()
    assert (together.upper - together.lower <= 1e-10 * np.abs(together.lower)).all()


def test_single_precision_finds_four_digits_and_says_so():
    arrays = point(3, 50, 5, 7, "logistic")
    double = smallest_partial_eigenvalue(*arrays, loss="logistic")
    single = smallest_partial_eigenvalue(*(jnp.asarray(array, jnp.float32) for array in arrays), loss="logistic")
    assert isinstance(double.value, np.floating)
    assert single.value.dtype == single.direction_V.dtype == jnp.float32
    assert single.converged
    assert float(single.value) == pytest.approx(double.value, rel=1e-4)
    with jax.enable_x64(False):
        assert smallest_partial_eigenvalue(*arrays, loss="logistic").value == double.value


@pytest.mark.parametrize("kind", ["memory_mapped", "jax"])
def test_samples_in_chunks_give_the_same_bracket(kind, tmp_path, monkeypatch):
    arrays = point(1, 1279, 3, 4, "logistic")
    whole = smallest_partial_eigenvalue(*arrays, loss="logistic")
    monkeypatch.setattr(partial_hessian_module, "_CHUNK_ENTRIES", 1)
    if kind == "memory_mapped":
        for name in ("X", "features"):
            np.save(tmp_path / f"{name}.npy", getattr(arrays, name))
        arrays = arrays._replace(
            **{name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "features")}
        )
    else:
        arrays = Point(*map(jnp.asarray, arrays))
    in_chunks = smallest_partial_eigenvalue(*arrays, loss="logistic")
    assert in_chunks.value == pytest.approx(whole.value, rel=1e-12)
    assert in_chunks.residual <= whole.residual + 1279 * np.finfo(float).eps


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
from resflow.spectrum.smallest_eigenvalue import smallest_partial_eigenvalue
from tests.problems import ROUNDING, point
arrays = point(0, 64, 5, 6, "logistic")
expected = smallest_partial_eigenvalue(*arrays, loss="logistic")
for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((8,), ("samples",), axis_types=(axis_type,))
    sharded = [jax.device_put(array, NamedSharding(mesh, P())) for array in arrays[:2]]
    sharded += [jax.device_put(array, NamedSharding(mesh, P("samples"))) for array in arrays[2:]]
    found = smallest_partial_eigenvalue(*sharded, loss="logistic")
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-12)
    assert found.converged and found.residual <= expected.residual + ROUNDING
"""


def test_data_sharded_over_eight_devices_give_the_same_bracket():
    run_on_eight_devices(SHARDED)


def test_the_hessian_is_that_of_the_loss_at_hand():
    arrays = point(0, 20, 3, 2, "squared")
    found = smallest_partial_eigenvalue(*arrays, loss=as_loss("pseudo_huber"))
    assert found.value == pytest.approx(np.linalg.eigvalsh(dense_hessians([arrays], "pseudo_huber")[0])[0], rel=1e-9)


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
        arrays = (w, np.array([[V]]), f[:, None], x[:, None], np.sign(rng.standard_normal(6)))
        found = smallest_partial_eigenvalue(*arrays, loss="logistic", ridge_w=ridge, ridge_V=ridge)
        with localcontext() as context:
            context.prec = 60
            ww = coupled = ff = Decimal(0)
            for xi, fi, yi in zip(map(Decimal, x.tolist()), map(Decimal, f.tolist()), arrays[4].tolist(), strict=True):
                a, b = xi + Decimal(V) * fi, Decimal(float(w[0])) * fi
                sigma = 1 / (1 + (Decimal(yi) * Decimal(float(w[0])) * a).exp())
                ww += sigma * (1 - sigma) * a * a / 6
                coupled += (sigma * (1 - sigma) * a * b - Decimal(yi) * sigma * fi) / 6
                ff += sigma * (1 - sigma) * b * b / 6
            root = ((ww - ff) ** 2 + 4 * coupled**2).sqrt()
            exact = (ww + ff - root) / 2 + Decimal(ridge)
            off = float(abs(Decimal(float(found.value)) - exact))
        assert off <= found.rounding + (found.upper - found.lower), (seed, off, found.rounding)
        assert found.rounding >= 4 * np.finfo(float).eps * ridge


def test_float32_brackets_that_say_converged_have_their_four_digits():
    """Collinear features, and gradients from large to tiny: what float32 cannot tell it says."""
    points = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gamma = 10.0 ** rng.uniform(-6, 0) if seed % 2 else None
        arrays = point(seed, 50, 5, 7, "logistic", gamma=gamma, w_norm=10.0 ** rng.uniform(-2, 2))
        if not seed % 2:
            arrays.features[:, 3] = arrays.features[:, 2] * (1 + 10.0 ** rng.uniform(-7, -3) * rng.standard_normal(50))
            arrays.features[:, 5] = arrays.features[:, 4]
        points.append(Point(*(np.asarray(array, np.float32) for array in arrays)))
    stacked = Point(*(jnp.stack([jnp.asarray(arrays[i]) for arrays in points]) for i in range(5)))
    single = in_one_call("logistic")(stacked)
    double = in_one_call("logistic")(Point(*(jnp.asarray(array, float) for array in stacked)))
    error = np.abs(np.asarray(single.value, float) - double.value)
    converged = np.asarray(single.converged)
    assert single.value.dtype == jnp.float32
    assert (error <= 1e-4 * np.abs(double.value))[converged].all()
    assert (error <= single.rounding + (single.upper - single.lower)).all()
    assert 30 <= converged.sum() < 60


def test_a_tiny_g_is_not_lost_to_the_square_of_its_norm():
    arrays = point(0, 6, 20, 8, "squared", w_norm=0.0)
    arrays = arrays._replace(features=np.full((6, 8), 1e-200), y=np.ones(6))  # n < d: h = 0, and λ_min = −‖g‖
    result = smallest_partial_eigenvalue(*arrays, loss="squared")
    assert not result.converged
    assert result.lower == pytest.approx(-1e-200 * np.sqrt(8), rel=1e-9)
    assert result.lower < result.upper <= 0.0
