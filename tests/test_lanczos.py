"""λ_min of any model's Hessian from products: against dense automatic differentiation and its own promises."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import resflow
from resflow import InvalidInputError, MeanLoss, Point, feature_map
from resflow.hessian.lanczos import smallest_hessian_eigenvalue, smallest_operator_eigenvalue
from resflow.losses import as_loss
from resflow.models.residual_unit import NoSkipNetwork, residual_unit, trainable
from resflow.stationarity.report import stationarity_verdict
from tests.problems import ROUNDING

EPS = np.finfo(float).eps
LOGISTIC = MeanLoss(as_loss("logistic"))


class TwoBlocks(eqx.Module):
    """x + V₁ tanh(x), then a block on top of it, then w: two blocks with their skip connections, as in Yun 2019."""

    w: jax.Array
    V1: jax.Array
    V2: jax.Array
    U2: jax.Array

    def __call__(self, X):
        h = X + jnp.tanh(X) @ self.V1.T
        return (h + jnp.tanh(h @ self.U2.T) @ self.V2.T) @ self.w


def unit(seed: int, d: int, k: int, dtype=None):
    network = feature_map("mlp", d, width=k, key=jax.random.key(seed))
    return residual_unit(d, network, key=jax.random.key(seed + 1), dtype=dtype)


def two_blocks(seed: int, d: int, k: int):
    shapes = ((d,), (d, d), (d, k), (k, d))
    return TwoBlocks(*(jax.random.normal(jax.random.key(4 * seed + i), shape) / 2 for i, shape in enumerate(shapes)))


def data(n: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((n, d))), jnp.asarray(np.sign(rng.standard_normal(n)))


def dense_hessian(objective, model, *arrays):
    moving, fixed = eqx.partition(model, trainable(model))
    flat, unravel = ravel_pytree(moving)
    return jax.hessian(lambda x: objective(eqx.combine(unravel(x), fixed), *arrays))(flat)


def stack(models):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *models)


def sharp_extremes(dense):
    """Smallest eigenvalue and largest modulus. LAPACK's own is off by more than the rounding that is allowed for here:
    the Rayleigh quotient of its vector, in extended precision, is off by the square of that only."""
    eigenvalues, vectors = np.linalg.eigh(dense)
    vector = vectors[:, 0].astype(np.longdouble)
    quotient = vector @ (dense.astype(np.longdouble) @ vector) / (vector @ vector)
    return float(quotient), np.abs(eigenvalues).max()


def output_weights(model):
    return model.w if isinstance(model, TwoBlocks) else model.W


MODELS = {
    "residual units, the whole matrix": (lambda seed: unit(seed, 3, 5), 3, None),
    "two blocks, an iteration": (lambda seed: two_blocks(seed, 7, 9), 7, 96),
}


@pytest.mark.parametrize("name", MODELS)
def test_whole_hessian_of_a_population_agrees_with_dense_automatic_differentiation(name):
    make, d, steps = MODELS[name]
    models = [make(seed) for seed in range(4)]
    models.append(eqx.tree_at(output_weights, models[0], jnp.full(d, jnp.nan)))
    arrays = data(30, d)
    moving, fixed = eqx.partition(stack(models), eqx.is_array)

    @jax.jit
    def found_and_dense(moving, arrays):
        def at_one(moving):
            model = eqx.combine(moving, fixed)
            found = smallest_hessian_eigenvalue(LOGISTIC, model, *arrays, steps=steps)
            return found, dense_hessian(LOGISTIC, model, *arrays)

        return jax.vmap(at_one)(moving)

    together, hessians = found_and_dense(moving, arrays)
    for i, dense in enumerate(np.asarray(hessians[:4])):
        found = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
        smallest, size = sharp_extremes(dense)
        assert found.converged
        assert found.lambda_min_lower - found.rounding <= smallest <= found.lambda_min_upper + found.rounding
        assert abs(found.lambda_min - smallest) <= 1e-8**2 * size + found.rounding  # as the square of the residual
        assert found.largest == pytest.approx(size, rel=1e-6)
        direction = np.asarray(ravel_pytree(found.direction)[0])
        assert np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-13)
        residual = np.linalg.norm(dense @ direction - found.lambda_min * direction)
        assert abs(residual - found.lambda_min_residual) <= 64 * EPS * size
    # the last, whose weights are not numbers, spoils no other and says so
    assert not together.converged[4]
    for number in (
        together.lambda_min,
        together.lambda_min_lower,
        together.lambda_min_upper,
        together.lambda_min_residual,
        together.largest,
    ):
        assert jnp.isnan(number[4])


def test_block_of_w_and_V_agrees_with_the_exact_form():
    model, (X, y) = unit(0, 10, 32), data(200, 10)
    exact = resflow.smallest_eigenvalue(Point.of(model, X, y, "logistic"))
    found = smallest_hessian_eigenvalue(LOGISTIC, model, X, y, block=lambda model: (model.W, model.V))
    assert found.converged
    assert found.lambda_min_lower - found.rounding <= exact.lambda_min_upper
    assert exact.lambda_min_lower <= found.lambda_min_upper + found.rounding
    assert found.lambda_min_upper - found.lambda_min_lower <= 1e-8 * found.largest
    assert not any(eqx.is_array(leaf) for leaf in jax.tree.leaves(found.direction.feature_map))
    overlap = jnp.vdot(found.direction.W, exact.direction[0]) + jnp.vdot(found.direction.V, exact.direction[1])
    assert abs(overlap) == pytest.approx(1.0, abs=1e-9)


def iteration(H, steps=96, **options):
    return smallest_operator_eigenvalue(lambda x: H @ x, H[0], key=jax.random.key(0), steps=steps, **options)


def rotated(eigenvalues, size: int):
    """A symmetric matrix with these eigenvalues, and zeros."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, len(eigenvalues))))
    return jnp.asarray(basis * eigenvalues @ basis.T)


EARLY = {
    "zero": np.zeros(1),
    "rank 3, positive": np.array([0.1, 1.0, 300.0]),
    "rank 3, indefinite": np.array([-2e-9, 1e-6, 300.0]),
    "rank 50": np.concatenate([-np.geomspace(1e-6, 1.0, 25), np.geomspace(1e-3, 290.0, 25)]),
    "multiple of the identity": np.full(120, -7.0),
    "tiny": 1e-300 * np.array([-1.0, 1.0]),
    "huge": 1e290 * np.array([-1.0, 1.0]),
}


@pytest.fixture(scope="module")
def of_matrix():
    return jax.jit(iteration)


@pytest.mark.parametrize("name", EARLY)
def test_an_iteration_that_ends_early_is_not_carried_on_with_rounding(name, of_matrix):
    """The Krylov space is invariant long before 96 steps, after which a Lanczos iteration continues on noise."""
    found = of_matrix(rotated(EARLY[name], 120))
    scale, expected = np.abs(EARLY[name]).max(), min(EARLY[name].min(), 0.0)
    # what rounding leaves of a coupling may hide 1e7 times as much, to be certain but for one start in a million
    assert expected - 1e-3 * scale <= found.lambda_min_lower <= expected + found.rounding
    assert abs(found.lambda_min - expected) <= ROUNDING * scale
    assert found.lambda_min_residual <= 2 * ROUNDING * scale


GRADED = {
    "graded": np.r_[-1e-4, np.geomspace(1e-6, 1e4, 149)],
    "dense down to zero": np.r_[-3e-3, np.linspace(0.0, 1.0, 249)],
    "apart": np.r_[-0.5, np.linspace(0.0, 1.0, 249)],
    "low rank": np.r_[np.zeros(246), -2e-6, 0.1, 1.0, 300.0],
    "positive": np.linspace(1.0, 2.0, 250),
    "clustered": np.r_[np.full(5, -1e-3), np.linspace(-1e-3, 1.0, 245)],
}


@pytest.mark.parametrize("name", GRADED)
def test_lower_end_of_an_iteration_is_never_above_the_smallest_eigenvalue(name):
    """30 random starts, iterations too short to find it among them: with probability 1 − 3e-5 all of them hold."""
    H = rotated(GRADED[name], len(GRADED[name]))
    smallest = GRADED[name].min()

    @jax.jit
    def brackets(keys):
        def one(key, steps):
            found = smallest_operator_eigenvalue(lambda x: H @ x, H[0], key=key, steps=steps, max_restarts=1)
            return (
                found.lambda_min_lower - found.rounding,
                found.lambda_min_upper + found.rounding,
                found.converged,
                found.largest,
            )

        return [jax.lax.map(lambda key: one(key, steps), keys) for steps in (3, 12, 48)]  # noqa: B023

    for lower, upper, converged, largest in brackets(jax.random.split(jax.random.key(1), 30)):
        assert (lower <= smallest).all()
        assert (smallest <= upper).all()
        assert (upper - lower <= 2e-8 * largest)[converged].all()
    assert converged.all() == (name in ("apart", "low rank"))


def test_a_saddle_is_not_called_a_minimum_whose_curvature_is_small_beside_the_largest():
    """λ_min = −1e-4 beside 1e4: a residual of 1e-8 times the largest says nothing of it."""
    H = rotated(GRADED["graded"], 150)
    found = smallest_operator_eigenvalue(lambda x: H @ x, H[0], key=jax.random.key(0))
    assert found.certain
    assert found.converged
    assert found.lambda_min_lower - found.rounding <= -1e-4 <= found.lambda_min_upper + found.rounding
    assert found.rounding <= 1e-9
    for seed in range(4):
        short = jax.jit(iteration)(H) if seed == 0 else iteration(H, max_restarts=seed)
        assert not short.converged
        assert short.lambda_min_lower <= -1e-4


def test_a_network_of_dead_units_has_a_zero_hessian():
    network = eqx.nn.Sequential([eqx.nn.Linear(2, 4, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)])
    network = eqx.tree_at(lambda net: net.layers[0].bias, network, jnp.full(4, -100.0))
    found = smallest_hessian_eigenvalue(LOGISTIC, NoSkipNetwork(jnp.ones(4), network), *data(20, 2))
    assert (found.lambda_min, found.lambda_min_residual, bool(found.converged)) == (0.0, 0.0, True)


def test_what_an_iteration_cannot_tell_from_zero_is_flagged_and_its_verdict_inconclusive(of_matrix):
    """λ_min = −1e-8 under a spectrum that is dense down to zero: thousands of products do not find it."""
    found = of_matrix(jnp.diag(jnp.concatenate([jnp.linspace(0.0, 1.0, 500), jnp.array([-1e-8])])))
    assert not found.converged
    assert found.lambda_min_lower <= -1e-8 <= found.lambda_min_upper
    assert found.lambda_min_lower < -1e-4
    assert not found.certain
    interval = (float(found.lambda_min_lower), float(found.lambda_min_upper))
    verdict = stationarity_verdict(
        objective=1.0,
        linear_predictor_gap=0.1,
        grad_norm=0.0,
        lambda_interval=interval,
        epsilon=(2e-8) ** 2,  # a minimum to that order
    ).verdict
    assert verdict == "inconclusive"


def test_a_vector_that_is_nearly_all_kernel_is_not_taken_for_the_smallest():
    """Three steps leave a residual within the tolerance at λ = 0; another pass finds −1e-8."""
    H = rotated(np.array([-1e-8, 1.0, 2.0]), 300)
    found = iteration(H, steps=3)
    assert found.lambda_min_lower <= -1e-8 + found.rounding
    assert found.lambda_min == pytest.approx(-1e-8, rel=1e-6)


def test_single_precision_keeps_its_type_and_its_interval_holds_the_eigenvalue():
    double, (X, y) = unit(0, 3, 5), data(30, 3)
    moving, fixed = eqx.partition(double, eqx.is_array)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, double)
    found = smallest_hessian_eigenvalue(LOGISTIC, single, X.astype(jnp.float32), y.astype(jnp.float32))
    assert found.lambda_min.dtype == found.direction.V.dtype == jnp.float32
    assert found.converged
    expected = np.linalg.eigvalsh(
        jax.jit(lambda moving: dense_hessian(LOGISTIC, eqx.combine(moving, fixed), X, y))(moving)
    )
    assert found.lambda_min_lower - found.rounding <= expected[0] <= found.lambda_min_upper + found.rounding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"max_restarts": -1}, "max_restarts=-1 must be at least 0"),
        ({"tolerance": 0.0}, r"tolerance=0\.0 must be positive"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        smallest_hessian_eigenvalue(LOGISTIC, unit(0, 3, 5), *data(30, 3), **options)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(InvalidInputError, match="no trainable floating-point arrays"):
        smallest_hessian_eigenvalue(LOGISTIC, len, *data(30, 3))
