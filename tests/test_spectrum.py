"""The partial spectrum against dense automatic differentiation, and on every kind of device and data."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import Point
from resflow.hessian.partial_hessian import hessian_vector_product
from tests.new_process import python
from tests.problems import OUTPUTS, ROUNDING, SHAPES, SPECIAL, dense_hessians, point, stacked

RANKS = {f"rank {rank}": {"rank": rank} for rank in range(4)}


def special(shape: str, loss: str, m: int | None) -> list[Point]:
    """A point for every special case, and of several outputs for every rank of W."""
    cases = SPECIAL if m is None else SPECIAL | RANKS
    return [point(seed, *SHAPES[shape], loss, m, **options) for seed, options in enumerate(cases.values())]


def relative_errors(points: list[Point], **ridge: float) -> list[float]:
    errors = []
    for at, dense in zip(points, dense_hessians(points, **ridge), strict=True):
        expected = np.linalg.eigvalsh(dense)
        found = resflow.spectrum(at, **ridge).eigenvalues
        assert found.shape == expected.shape
        assert (np.diff(found) >= 0).all()
        errors.append(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))
    return errors


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_eigenvalues_match_dense_hessian(shape, loss, m):
    """Three outputs among them: more than inputs, and more than features."""
    assert max(relative_errors(special(shape, loss, m))) <= 1e-12


@pytest.mark.parametrize(("ridge_W", "ridge_V"), [(0.3, 0.3), (0.7, 0.1), (0.0, 0.2)])
@pytest.mark.parametrize("shape", ["wide", "one_input", "one_feature"])
@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_all_eigenvalues_match_dense_hessian_of_ridge_regularised_objective(shape, loss, m, ridge_W, ridge_V):
    options = [{}, {"w_norm": 0.0}, {"gamma": 0.0}, {"w_norm": 0.0, "gamma": 0.0}]
    points = [point(seed, *SHAPES[shape], loss, m, **option) for seed, option in enumerate(options)]
    assert max(relative_errors(points, ridge_W=ridge_W, ridge_V=ridge_V)) <= 1e-12


@pytest.mark.parametrize("gamma", [1e-3, 1e-9, 1e-30, 1e-100])
def test_negative_eigenvalues_at_w_zero_keep_their_digits_for_tiny_g(gamma):
    """They are −γ²/h to leading order, far below the rounding of a dense eigensolver."""
    n, d, k = 40, 4, 6
    at = point(0, n, d, k, "squared", w_norm=0.0)
    at = at.part(np.full((n, k), gamma), at.X, np.ones(n))  # g = −mean f
    h, size = np.linalg.eigvalsh(at.inner.T @ at.inner / n), gamma * np.sqrt(k)
    expected = np.sort(-2 * size * (size / (h + np.hypot(h, 2 * size))))
    np.testing.assert_allclose(resflow.spectrum(at).eigenvalues[:d], expected, rtol=1e-9)


def test_eigenvalues_of_a_confident_softmax_keep_their_digits():
    """σ_y (1 − σ_y) where 1 − σ_y has none left in floating point: of two classes it is that of the logistic loss."""
    one = np.ones((1, 1))
    for margin in (0.0, 10.0, 25.0, 34.0, 36.0, 40.0):
        a = np.exp(-margin) / (1.0 + np.exp(-margin)) ** 2
        at = Point(np.array([[margin], [0.0]]), 0 * one, 0 * one, one, np.zeros(1), "softmax")
        found = resflow.spectrum(at).eigenvalues
        np.testing.assert_allclose(found / (2 * a), [0.0, 0.0, 1.0], atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize(
    ("m", "order", "kernel"), [(None, 2 * 6 + 9 - 1, 5 * 8), (4, 4 * 6 + 4 * 9 + 2 * 4, 2 * 5), (11, 11 * 6 + 6 * 9, 0)]
)
def test_counts_the_zeros_that_are_there_by_structure(m, order, kernel):
    """d = 6, k = 9; whatever W's rank."""
    for rank in range(1, 3):
        at = point(0, 60, 6, 9, "squared", m, rank=rank if m else None)
        found = resflow.spectrum(at)
        assert (found.reduced_order, found.kernel_dimension) == (order, kernel)
        assert order + kernel == len(found.eigenvalues) == (m or 1) * 6 + 6 * 9
        assert np.count_nonzero(found.eigenvalues == 0.0) >= kernel
        assert found.eigenvalues[0] < 0 < found.eigenvalues[-1]


@pytest.mark.parametrize(("loss", "m"), [("pseudo_huber", None), ("softmax", 3)])
def test_jit_and_vmap_over_a_population_agree_with_one_point_at_a_time(loss, m):
    points = [point(seed, 30, 4, 5, loss, m, w_norm=0.0 if seed == 2 else None) for seed in range(5)]
    alone = np.stack([resflow.spectrum(at).eigenvalues for at in points])
    together = jax.jit(jax.vmap(lambda at: resflow.spectrum(at).eigenvalues))(stacked(points))
    np.testing.assert_allclose(together, alone, atol=ROUNDING * np.abs(alone).max())


@pytest.mark.parametrize(("loss", "m"), [("logistic", None), ("softmax", 3)])
def test_precision_follows_jax_arrays_and_numpy_arrays_are_analysed_in_float64(loss, m):
    at = point(3, 50, 5, 7, loss, m)
    double = resflow.spectrum(at).eigenvalues
    single = resflow.spectrum(jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), at)).eigenvalues
    assert isinstance(double, np.ndarray)
    assert double.dtype == np.float64
    assert isinstance(single, jax.Array)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=2e-6)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(resflow.spectrum(at).eigenvalues, double)


def in_chunks(at: Point, kind: str, folder, monkeypatch, dtype=np.float64) -> Point:
    """The point with samples of a kind, to be read 256 at a time."""
    monkeypatch.setattr("resflow.point._CHUNK_ENTRIES", 1)
    if kind == "memory_mapped":
        for name in ("features", "X"):
            np.save(folder / f"{name}.npy", getattr(at, name).astype(dtype))
        return at.part(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("features", "X")), at.y)
    return jax.tree.map(jnp.asarray, at) if kind == "jax" else at


@pytest.mark.parametrize("kind", ["numpy", "memory_mapped", "jax"])
@pytest.mark.parametrize(("n", "loss", "m"), [(512, "logistic", None), (1000, "softmax", 3), (1279, "logistic", None)])
def test_samples_in_chunks_give_the_same_spectrum(kind, n, loss, m, tmp_path, monkeypatch):
    at = point(1, n, 3, 4, loss, m)
    whole = resflow.spectrum(at).eigenvalues
    found = resflow.spectrum(in_chunks(at, kind, tmp_path, monkeypatch, np.float32)).eigenvalues
    # read as float32, of which the eigenvalues are the sums of a thousand products
    atol = 1e-7 if kind == "memory_mapped" else 1279 * np.finfo(float).eps * np.abs(whole).max()
    np.testing.assert_allclose(found, whole, atol=atol)


SHARDED = """
import jax, numpy as np, resflow
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
from tests.problems import ROUNDING, point
assert jax.device_count() == 8
for n, axis_type, loss, m in (
    (64, AxisType.Auto, "logistic", None), (4096, AxisType.Auto, "logistic", None),
    (64, AxisType.Explicit, "logistic", None), (64, AxisType.Auto, "softmax", 3), (64, AxisType.Explicit, "softmax", 3),
):
    mesh = jax.make_mesh((8,), ("samples",), axis_types=(axis_type,))
    at = point(0, n, 5, 6, loss, m)
    put = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
    sharded = at.at(put(at.W, P()), put(at.V, P()))
    sharded = sharded.part(*(put(array, P("samples")) for array in (at.features, at.X, at.y)))
    expected = resflow.spectrum(at).eigenvalues
    found = resflow.spectrum(sharded).eigenvalues
    np.testing.assert_allclose(found, expected, atol=ROUNDING * n / 64 * np.abs(expected).max())
    found = jax.jit(lambda at: resflow.spectrum(at).eigenvalues)(sharded)
    np.testing.assert_allclose(found, expected, atol=ROUNDING * n / 64 * np.abs(expected).max())
"""


def run_on_eight_devices(script: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    python("-c", script, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


def test_data_sharded_over_eight_devices_give_the_same_spectrum():
    run_on_eight_devices(SHARDED)


@pytest.mark.parametrize(("loss", "m"), OUTPUTS)
@pytest.mark.parametrize("shape", ["wide", "one_input"])
def test_hessian_vector_product_matches_dense_hessian(shape, loss, m):
    points = special(shape, loss, m)
    rng = np.random.default_rng(0)
    for at, dense in zip(points, dense_hessians(points), strict=True):
        A, B = rng.standard_normal(at.rows.shape), rng.standard_normal(at.V.shape)
        product = hessian_vector_product(jax.tree.map(jnp.asarray, at), jnp.asarray(A), jnp.asarray(B))
        expected = dense @ np.concatenate([A.ravel(), B.ravel()])
        found = np.concatenate([np.ravel(part) for part in product])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * max(1e-300, np.abs(dense).max()) * A.size * 9)
