"""Deep residual networks: the pointwise certificate and where it ends, Yun's conditions, and λ_min."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import resflow
from resflow import Checkpoints, InvalidInputError, MeanLoss, Point, TrainingOptions, build_model, fit_linear_predictor
from resflow.certificates.deep import deep_gap_certificate
from resflow.losses import Logistic, as_loss
from resflow.models.deep_network import DeepResidualNetwork
from resflow.models.feature_maps import mlp

D, K, N, L = 5, 4, 15, 3


def network(key, inner=2, d=D, blocks=L, scale=1.0):
    keys = jax.random.split(key, blocks + 1)
    phis = [mlp(inner if b else d, width=K, depth=1, activation="tanh", key=keys[b]) for b in range(blocks)]
    return build_model("deep_residual_network", d, phis, inner=inner, key=keys[-1], scale=scale)


def data(key):
    X = jax.random.normal(key, (N, D))
    return X, jnp.where(X[:, 0] + X[:, 1] ** 2 > 1, 1.0, -1.0)


def certified(model, X, y, fit, loss="logistic"):
    return resflow.certify(Point.of(model, X, y, loss), fit)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_certificate_bounds_the_gap_at_10000_random_points(loss):
    """w, V and U of every scale; t anywhere, as the bounds hold against every linear predictor."""

    @jax.jit
    @jax.vmap
    def terms(key):
        keys = jax.random.split(key, 8)
        scales = jnp.exp(jax.random.normal(keys[0], (3,)))
        model = network(keys[1])
        shrink = lambda tree, scale: jax.tree.map(lambda leaf: scale * leaf, tree)  # noqa: E731
        outer = (shrink(model.w, scales[0]), shrink(model.V, scales[1]), shrink(model.U, scales[2]))
        model = eqx.tree_at(lambda model: (model.w, model.V, model.U), model, outer)
        X, y = data(keys[2])
        t = jax.random.normal(keys[3], (D,))
        linear_objective = jnp.mean(as_loss(loss).value(X @ t, y))
        gap = jnp.mean(as_loss(loss).value(model(X), y)) - linear_objective
        found = deep_gap_certificate(model, X, y, t, linear_objective, loss=as_loss(loss))
        stacked = jnp.concatenate(model.U)
        return found, gap, jnp.linalg.norm(model.w) + scales[1] * jnp.linalg.norm(t), stacked, model.w

    found, gap, size, stacked, w = jax.tree.map(np.asarray, terms(jax.random.split(jax.random.key(0), 10_000)))
    tolerance = 1e-11 * (1.0 + size + np.abs(found.gap_certificate)) / np.minimum(found.kernel_share_of_w, 1.0)
    np.testing.assert_allclose(found.linear_predictor_gap, gap, rtol=1e-9, atol=1e-9)
    assert (found.linear_predictor_gap <= found.gap_certificate + tolerance).all()
    assert (np.abs(found.gradient_form - found.gap_certificate) <= 100 * tolerance).all()
    assert (found.gap_certificate <= found.norm_bound + tolerance).all()
    assert (found.gap_certificate <= found.near_identity_bound + tolerance).all()
    np.testing.assert_allclose(
        found.stationarity_term + found.block_terms.sum(axis=1), found.gap_certificate, rtol=1e-8, atol=1e-9
    )
    assert (found.kernel_dimension == D - (L - 1) * 2).all()
    # The kernel's share of w by another way: what least squares on the U_l leaves of w.
    for i in range(0, 10_000, 1000):
        rest = w[i] - stacked[i].T @ np.linalg.lstsq(stacked[i].T, w[i], rcond=None)[0]
        np.testing.assert_allclose(found.kernel_share_of_w[i], np.linalg.norm(rest) / np.linalg.norm(w[i]), rtol=1e-7)


def test_certificate_ceases_to_exist_where_the_inner_matrices_span_everything():
    X, y = data(jax.random.key(0))
    fit = fit_linear_predictor(np.asarray(X), np.asarray(y), ridge=0.1)
    found = certified(network(jax.random.key(1), inner=3), X, y, fit)
    assert found.kernel_dimension == 0
    assert found.kernel_share_of_w == 0
    assert np.isnan(found.gradient_form)
    assert np.isinf(found.norm_bound)
    assert found.linear_predictor_gap <= found.gap_certificate <= found.near_identity_bound


def test_one_block_is_a_residual_unit_with_its_certificate():
    X, y = data(jax.random.key(0))
    fit = fit_linear_predictor(np.asarray(X), np.asarray(y), ridge=0.1)
    model = network(jax.random.key(1), blocks=1)
    deep = certified(model, X, y, fit)
    features = jax.vmap(model.feature_maps[0])(X)
    unit = resflow.certify(Point(model.w, model.V[0], features, X, y, "logistic"), fit)
    assert deep.kernel_dimension == D
    np.testing.assert_allclose(
        [deep.gap_certificate, deep.gradient_form, deep.norm_bound, deep.partial_grad_norm],
        [unit.gap_certificate, unit.gap_certificate, unit.frobenius_bound, unit.partial_grad_norm],
        rtol=1e-11,
    )


def test_conditions_of_yun_are_those_of_the_representations():
    X, y = data(jax.random.key(3))
    fit = fit_linear_predictor(np.asarray(X), np.asarray(y), ridge=0.1)
    model = network(jax.random.key(4))
    found = certified(model, X, y, fit)
    h = np.asarray(model.representations(X)[-1])
    curvature = np.asarray(Logistic().second_derivative(np.asarray(model(X)), np.asarray(y)))
    expected = np.linalg.eigvalsh((h.T * curvature) @ h / N)
    np.testing.assert_allclose(found.smallest_representation_curvature, expected[0], rtol=1e-9)
    assert found.representation_rank == D
    fit = fit_linear_predictor(np.asarray(X[:3]), np.asarray(y[:3]), ridge=0.1)
    few = certified(model, X[:3], y[:3], fit)
    assert few.representation_rank == 3


def test_blind_direction_has_the_curvature_of_the_formula():
    """With wᵀv = 0: along (a, v bᵀ) in (w, V_l) it is mean ℓ''(aᵀh_L)² + 2(aᵀv) bᵀ mean ℓ'φ_l."""
    X, y = data(jax.random.key(5))
    model = network(jax.random.key(6))
    v = np.linalg.svd(np.concatenate(model.U))[2][-1]
    model = eqx.tree_at(lambda model: model.w, model, model.w - v * (v @ model.w))
    representations, features = model.forward(X)
    slope, second = Logistic().derivative(model(X), y), Logistic().second_derivative(model(X), y)
    a, b = jax.random.normal(jax.random.key(7), (D,)), jax.random.normal(jax.random.key(8), (K,))
    for block in range(L):

        def along(s, block=block):
            moved = eqx.tree_at(
                lambda m: (m.w, m.V[block]), model, (model.w + s * a, model.V[block] + s * jnp.outer(v, b))
            )
            return MeanLoss(Logistic())(moved, X, y)

        expected = jnp.mean(second * (representations[-1] @ a) ** 2) + 2 * (a @ v) * (b @ (slope @ features[block] / N))
        np.testing.assert_allclose(jax.grad(jax.grad(along))(0.0), expected, rtol=1e-9)


def test_smallest_eigenvalue_of_the_full_hessian_is_within_its_residual_of_the_dense_one():
    X, y = data(jax.random.key(9))
    objective = MeanLoss(Logistic())
    models = [network(jax.random.key(seed), scale=scale) for seed, scale in enumerate((1.0, 0.3, 2.0))]
    flat, unravel, fixed = [], None, None
    for model in models:
        moving, fixed = eqx.partition(model, eqx.is_inexact_array)
        leaves, unravel = ravel_pytree(moving)
        flat.append(leaves)
    hessian = jax.hessian(lambda x: objective(eqx.combine(unravel(x), fixed), X, y))
    dense = np.linalg.eigvalsh(jax.jit(lambda points: jax.lax.map(hessian, points))(jnp.stack(flat)))
    for model, eigenvalues in zip(models, dense, strict=True):
        found = resflow.smallest_eigenvalue(Point.of(model, X, y, "logistic"))
        assert found.converged
        assert found.lambda_min_residual <= 1e-7 * np.abs(eigenvalues).max()
        error = abs(found.lambda_min - eigenvalues[0])
        assert error <= found.lambda_min_residual + 1e-13 * np.abs(eigenvalues).max()
        assert eigenvalues[0] < 0


def test_near_identity_bound_holds_at_every_checkpoint_of_a_training_with_w_stationary():
    X, y = data(jax.random.key(0))
    linear = fit_linear_predictor(np.asarray(X), np.asarray(y), max_norm=2.0)
    options = TrainingOptions(steps=150, learning_rate=0.02, log_every=10)
    measure = Checkpoints(resflow.GapMeasure.against(linear, "logistic"))
    start = network(jax.random.key(1), scale=0.3)
    result = resflow.train(start, X, y, loss="logistic", options=options, key=jax.random.key(2), measure=measure)
    models = [Checkpoints.restore(start, weights) for weights in result.history["weights"]]
    assert len(models) == 16
    assert result.history["objective"][-1] < 0.5 * result.history["objective"][0]
    at_best = []
    for model in models:
        best = fit_linear_predictor(np.asarray(model.representations(X)[-1]), np.asarray(y), max_norm=2.0)
        assert best.converged
        at_best.append(eqx.tree_at(lambda model: model.w, model, jnp.asarray(best.W)))
    arrays, static = eqx.partition(at_best, eqx.is_array)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
    found = jax.jit(
        jax.vmap(
            lambda model: deep_gap_certificate(
                eqx.combine(model, static[0]), X, y, jnp.asarray(linear.W), linear.objective, loss=Logistic()
            )
        )
    )(stacked)
    # In the ball w is stationary up to its multiplier, which pulls towards t: −μ wᵀ(w − t) ≤ 0.
    assert (found.stationarity_term <= 1e-10).all()
    moved = found.block_terms.sum(axis=1)
    assert (found.linear_predictor_gap <= moved + 1e-10).all()
    assert (moved <= found.near_identity_bound + 1e-10).all()
    ratios = np.prod(1.0 + np.asarray(found.block_ratios), axis=1) - 1.0
    worst = np.linalg.norm(linear.W) * ratios * np.mean(np.linalg.norm(X, axis=1))  # |ℓ'| ≤ 1
    assert (found.near_identity_bound <= worst + 1e-10).all()
    assert ratios[-1] > 2.0 * ratios[0]  # training leaves the neighbourhood of the identity, and the bound still holds


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_near_identity_bound_covers_networks_that_are_stationary_in_w(scale):
    X, y = data(jax.random.key(0))
    X, y = np.asarray(X), np.asarray(y)
    linear = fit_linear_predictor(X, y, max_norm=2.0)
    model = network(jax.random.key(1), scale=scale)
    best = fit_linear_predictor(np.asarray(model.representations(X)[-1]), y, max_norm=2.0)
    found = certified(eqx.tree_at(lambda model: model.w, model, jnp.asarray(best.W)), X, y, linear)
    # In the ball w is stationary up to its multiplier, which pulls towards t: −μ wᵀ(w − t) ≤ 0.
    assert found.stationarity_term <= 1e-10
    assert found.linear_predictor_gap <= found.near_identity_bound + 1e-10
    bound = np.linalg.norm(linear.W) * (np.prod(1 + np.asarray(found.block_ratios)) - 1)
    assert found.linear_predictor_gap <= bound * np.mean(np.linalg.norm(X, axis=1)) + 1e-10  # |ℓ'| ≤ 1


def test_data_that_does_not_fit_gets_one_clear_line():
    X, y = data(jax.random.key(0))
    fit = fit_linear_predictor(np.asarray(X), np.asarray(y), ridge=0.1)
    with pytest.raises(InvalidInputError, match="but the model takes 5 inputs"):
        certified(network(jax.random.key(1)), X[:, :4], y, fit)


def two_blocks(w, U, biased=False):
    """φ(0) = 0 in both blocks, or not."""
    first = (lambda x: jnp.tanh(x + 1.0)) if biased else jnp.tanh
    return DeepResidualNetwork(jnp.asarray(w), (jnp.eye(2), jnp.ones((2, 1))), (jnp.asarray(U),), (first, jnp.tanh))


ZERO_SAMPLE = np.array([[0.0, 0.0], [1.0, 2.0], [1.0, -1.0], [2.0, 1.0]]), np.array([1.0, 2.0, 0.0, 1.0])


def test_a_sample_that_is_zero_leaves_the_near_identity_bound_a_number():
    X, y = ZERO_SAMPLE
    fit = fit_linear_predictor(X, y, loss="squared")
    found = certified(two_blocks([1.0, 0.5], [[1.0, 2.0]]), X, y, fit, "squared")
    rest = X[1:], y[1:]
    theirs = fit_linear_predictor(*rest, loss="squared")
    others = certified(two_blocks([1.0, 0.5], [[1.0, 2.0]]), *rest, theirs, "squared")
    np.testing.assert_allclose(found.block_ratios, others.block_ratios, rtol=1e-14)
    assert found.gap_certificate <= found.near_identity_bound < np.inf
    # a block that moves 0 is nowhere near the identity
    moved = two_blocks([1.0, 0.5], [[1.0, 2.0]], biased=True)
    moved = certified(moved, X, y, fit, "squared")
    assert moved.block_ratios[0] == moved.near_identity_bound == np.inf
    zero = fit._replace(W=np.zeros(2), objective=float(np.mean(0.5 * y**2)))
    at_zero = certified(two_blocks([1.0, 0.5], [[1.0, 2.0]], biased=True), X, y, zero, "squared")
    assert at_zero.gap_certificate <= at_zero.near_identity_bound + 1e-12
    assert np.isfinite(at_zero.near_identity_bound)


@pytest.mark.parametrize("unit", [1e-9, 1e-30, 1e12])
def test_rank_of_the_representation_knows_no_units_as_that_of_the_linear_fit(unit):
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 3)))[0] * np.sqrt(50)
    X = orthogonal * [1.0, 1.0, unit]
    fit = fit_linear_predictor(X, X[:, 0], loss="squared")
    model = DeepResidualNetwork(jnp.ones(3), (jnp.zeros((3, 3)),), (), (jnp.tanh,))
    found = certified(model, X, X[:, 0], fit, "squared")
    assert found.representation_rank == fit.rank == 3
    if unit == 1e-9:
        np.testing.assert_allclose(found.smallest_representation_curvature, 1e-18, rtol=1e-5)
    dependent = X[:, [0, 1, 1]] * [1.0, 1.0, unit]
    fit = fit_linear_predictor(dependent, X[:, 0], loss="squared")
    found = certified(model, dependent, X[:, 0], fit, "squared")
    assert found.representation_rank == fit.rank == 2


@pytest.mark.parametrize("share", [0.0, 1e-17, 1e-13, 1e-10, 1e-4, 0.5])
def test_a_kernel_that_w_sees_only_by_rounding_gives_no_gradient_form(share):
    """The form divides by the part of w that later blocks are blind to: of rounding it makes any number."""
    X, y = ZERO_SAMPLE
    seen, unseen = np.array([0.6, 0.8]), np.array([0.8, -0.6])
    model = two_blocks(3.0 * (np.sqrt(1.0 - share**2) * seen + share * unseen), [3.7 * seen])
    fit = fit_linear_predictor(X, y, loss="squared")
    found = certified(model, X, y, fit, "squared")
    assert found.kernel_dimension == 1
    if share < 1e-8:
        assert np.isnan(found.gradient_form)
        assert found.norm_bound == np.inf
        assert found.kernel_share_of_w == 0.0
    else:
        np.testing.assert_allclose(found.kernel_share_of_w, share, rtol=1e-9)
        np.testing.assert_allclose(found.gradient_form, found.gap_certificate, rtol=1e-14 / share)
