"""The partial spectrum against dense automatic differentiation, and on every kind of device and data."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.errors import InvalidInputError
from resflow.losses.scalar import as_loss
from resflow.spectrum import partial_hessian as partial_hessian_module
from resflow.spectrum.partial import partial_spectrum
from resflow.spectrum.partial_hessian import hessian_vector_product
from tests.new_process import python
from tests.problems import LOSSES, ROUNDING, SHAPES, SPECIAL, Point, dense_hessians, point


def relative_errors(points: list[Point], loss: str, **ridge: float) -> list[float]:
    errors = []
    for arrays, dense in zip(points, dense_hessians(points, loss, **ridge), strict=True):
        expected = np.linalg.eigvalsh(dense)
        found = partial_spectrum(*arrays, loss=loss, **ridge).eigenvalues
        assert found.shape == expected.shape
        assert (np.diff(found) >= 0).all()
        errors.append(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))
    return errors


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_eigenvalues_match_dense_hessian(shape, loss):
    points = [point(seed, *SHAPES[shape], loss, **options) for seed, options in enumerate(SPECIAL.values())]
    assert max(relative_errors(points, loss)) <= 1e-12


@pytest.mark.parametrize(("ridge_w", "ridge_V"), [(0.3, 0.3), (0.7, 0.1), (0.0, 0.2)])
@pytest.mark.parametrize("shape", ["wide", "one_input", "one_feature"])
def test_all_eigenvalues_match_dense_hessian_of_ridge_regularised_objective(shape, ridge_w, ridge_V):
    options = [{}, {"w_norm": 0.0}, {"gamma": 0.0}, {"w_norm": 0.0, "gamma": 0.0}]
    points = [point(seed, *SHAPES[shape], "logistic", **option) for seed, option in enumerate(options)]
    assert max(relative_errors(points, "logistic", ridge_w=ridge_w, ridge_V=ridge_V)) <= 1e-12


@pytest.mark.parametrize("gamma", [1e-3, 1e-9, 1e-30, 1e-100])
def test_negative_eigenvalues_at_w_zero_keep_their_digits_for_tiny_g(gamma):
    """They are −γ²/h to leading order, far below the rounding of a dense eigensolver."""
    n, d, k = 40, 4, 6
    arrays = point(0, n, d, k, "squared", w_norm=0.0)
    arrays = arrays._replace(features=np.full((n, k), gamma), y=np.ones(n))  # g = −mean f
    a = arrays.X + arrays.features @ arrays.V.T
    h, size = np.linalg.eigvalsh(a.T @ a / n), gamma * np.sqrt(k)
    expected = np.sort(-2 * size * (size / (h + np.hypot(h, 2 * size))))
    found = partial_spectrum(*arrays, loss="squared").eigenvalues[:d]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_counts_the_zeros_that_are_there_by_structure():
    arrays = point(0, 60, 6, 9, "logistic")
    spectrum = partial_spectrum(*arrays, loss="logistic")
    assert (spectrum.reduced_order, spectrum.kernel_dimension) == (2 * 6 + 9 - 1, 5 * 8)
    assert np.count_nonzero(spectrum.eigenvalues == 0.0) >= spectrum.kernel_dimension
    assert spectrum.eigenvalues[0] < 0 < spectrum.eigenvalues[-1]


def test_jit_and_vmap_over_a_population_agree_with_one_point_at_a_time():
    points = [point(seed, 30, 4, 5, "pseudo_huber", w_norm=0.0 if seed == 2 else None) for seed in range(5)]
    alone = np.stack([partial_spectrum(*arrays, loss="pseudo_huber").eigenvalues for arrays in points])
    population = Point(*(jnp.stack([jnp.asarray(arrays[i]) for arrays in points]) for i in range(5)))
    together = jax.jit(jax.vmap(lambda *arrays: partial_spectrum(*arrays, loss="pseudo_huber").eigenvalues))(
        *population
    )
    np.testing.assert_allclose(together, alone, atol=ROUNDING * np.abs(alone).max())


def test_precision_follows_jax_arrays_and_numpy_arrays_are_analysed_in_float64():
    arrays = point(3, 50, 5, 7, "logistic")
    double = partial_spectrum(*arrays, loss="logistic").eigenvalues
    single = partial_spectrum(*(jnp.asarray(array, jnp.float32) for array in arrays), loss="logistic").eigenvalues
    assert isinstance(double, np.ndarray)
    assert double.dtype == np.float64
    assert isinstance(single, jax.Array)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=2e-6)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(partial_spectrum(*arrays, loss="logistic").eigenvalues, double)


@pytest.mark.parametrize("kind", ["numpy", "memory_mapped", "jax"])
@pytest.mark.parametrize("n", [512, 1000, 1279])
def test_samples_in_chunks_give_the_same_spectrum(kind, n, tmp_path, monkeypatch):
    arrays = point(1, n, 3, 4, "logistic")
    whole = partial_spectrum(*arrays, loss="logistic").eigenvalues
    monkeypatch.setattr(partial_hessian_module, "_CHUNK_ENTRIES", 1)
    if kind == "memory_mapped":
        for name in ("X", "features"):
            np.save(tmp_path / f"{name}.npy", getattr(arrays, name).astype(np.float32))
        arrays = arrays._replace(
            **{name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("X", "features")}
        )
    if kind == "jax":
        arrays = Point(*map(jnp.asarray, arrays))
    in_chunks = partial_spectrum(*arrays, loss="logistic").eigenvalues
    scale = np.abs(whole).max()
    # read as float32, of which the eigenvalues are the sums of a thousand products
    atol = 1e-7 if kind == "memory_mapped" else 1279 * np.finfo(float).eps * scale
    np.testing.assert_allclose(in_chunks, whole, atol=atol)


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_enable_x64", True)
from resflow.spectrum.partial import partial_spectrum
from tests.problems import ROUNDING, point
assert jax.device_count() == 8
for n, axis_type in ((64, AxisType.Auto), (4096, AxisType.Auto), (64, AxisType.Explicit)):
    mesh = jax.make_mesh((8,), ("samples",), axis_types=(axis_type,))
    arrays = point(0, n, 5, 6, "logistic")
    sharded = [jax.device_put(array, NamedSharding(mesh, P())) for array in arrays[:2]]
    sharded += [jax.device_put(array, NamedSharding(mesh, P("samples"))) for array in arrays[2:]]
    expected = partial_spectrum(*arrays, loss="logistic").eigenvalues
    found = partial_spectrum(*sharded, loss="logistic").eigenvalues
    np.testing.assert_allclose(found, expected, atol=ROUNDING * n / 64 * np.abs(expected).max())
    found = jax.jit(lambda *a: partial_spectrum(*a, loss="logistic").eigenvalues)(*sharded)
    np.testing.assert_allclose(found, expected, atol=ROUNDING * n / 64 * np.abs(expected).max())
"""


def run_on_eight_devices(script: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    python("-c", script, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


def test_data_sharded_over_eight_devices_give_the_same_spectrum():
    run_on_eight_devices(SHARDED)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", ["wide", "one_input"])
def test_hessian_vector_product_matches_dense_hessian(shape, loss):
    points = [point(seed, *SHAPES[shape], loss, **options) for seed, options in enumerate(SPECIAL.values())]
    rng = np.random.default_rng(0)
    for arrays, dense in zip(points, dense_hessians(points, loss), strict=True):
        a, B = rng.standard_normal(arrays.w.shape), rng.standard_normal(arrays.V.shape)
        product = hessian_vector_product(*map(jnp.asarray, (*arrays, a, B)), loss=as_loss(loss))
        expected = dense @ np.concatenate([a, B.ravel()])
        found = np.concatenate([np.ravel(part) for part in product])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * max(1e-300, np.abs(dense).max()) * a.size * 9)


def test_shapes_that_do_not_fit_are_named(unchecked_types):
    arrays = point(0, 20, 3, 4, "squared")
    with pytest.raises(InvalidInputError, match=r"V has shape \(4, 3\), but must be \(3, 4\)"):
        partial_spectrum(arrays.w, arrays.V.T, *arrays[2:], loss="squared")
