"""Vector-valued outputs: the certificate at any rank, and the exact spectrum."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import ROUNDING
from vector_problems import VectorPoint, random_points, reference_objective

from resflow.certificates.vector import vector_gap_certificate, vector_gap_certificate_terms
from resflow.errors import InvalidInputError
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses.vector import VECTOR_LOSSES, as_vector_loss
from resflow.models.architectures import build_model
from resflow.models.feature_maps import mlp
from resflow.spectrum.vector import vector_partial_spectrum
from resflow.status import Status
from resflow.studies.measures import VectorGapMeasure
from resflow.training.train import TrainingOptions, train
from tests.test_linear_several_outputs import table

LOSSES = tuple(VECTOR_LOSSES)
N, D, K, M = 12, 5, 6, 3
KEY = jax.random.key(0)


def point(seed, loss="softmax", rank=M, n=N, d=D, k=K, m=M):
    return VectorPoint(*(array[0] for array in random_points(seed, 1, n, d, k, m, loss, rank)))


def test_eigenvalues_of_a_confident_softmax_keep_their_digits():
    """σ_y (1 − σ_y) where 1 − σ_y has none left in floating point: of two classes it is that of the logistic loss."""
    for margin in (0.0, 10.0, 25.0, 34.0, 36.0, 40.0):
        a = np.exp(-margin) / (1.0 + np.exp(-margin)) ** 2
        at = (np.array([[margin], [0.0]]), np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1))
        found = vector_partial_spectrum(*at, loss="softmax")
        np.testing.assert_allclose(found.eigenvalues / (2 * a), [0.0, 0.0, 1.0], atol=1e-15, rtol=1e-12)
        assert found.residual <= 1e-15 * a


@pytest.mark.parametrize(("loss", "m", "count"), [("softmax", 3, 10_000), ("multioutput_squared", 7, 10_000)])
def test_certificate_bounds_the_gap_at_random_points_of_every_rank(loss, m, count):
    """m > d among them: then no W has full row rank."""
    ranks = np.arange(count) % (min(m, D) + 1)
    at = random_points(m, count, N, D, K, m, loss, ranks)
    linear_W = np.random.default_rng(0).standard_normal((count, m, D))

    def terms(at, linear_W):
        linear_objective = jnp.mean(as_vector_loss(loss).value(at.X @ linear_W.T, at.Y))
        gap = reference_objective(*at, loss=loss) - linear_objective
        gradients = jax.grad(partial(reference_objective, loss=loss), argnums=(0, 1))(*at)
        return vector_gap_certificate_terms(*at, linear_W, linear_objective, loss=as_vector_loss(loss)), gap, gradients

    found, gap, gradients = jax.tree.map(np.asarray, jax.jit(jax.vmap(terms))(VectorPoint(*at), linear_W))
    pulled = at.W @ (np.linalg.pinv(at.W, rcond=1e-12) @ linear_W @ at.V)
    G = at.W - linear_W, np.linalg.pinv(at.W, rcond=1e-12) @ linear_W @ at.V
    product = sum(np.sum(a * b, axis=(1, 2)) for a, b in zip(G, gradients, strict=True))
    rounding = 1e-12 * (1.0 + np.abs(found.certificate) + np.abs(found.rank_term) + np.linalg.norm(pulled, axis=(1, 2)))
    assert (found.rank == ranks).all()
    np.testing.assert_allclose(found.gap, gap, rtol=1e-11, atol=1e-11)
    assert (found.gap <= found.certificate + rounding).all()
    assert (np.abs(found.gradient_term + found.rank_term - found.certificate) <= rounding).all()
    some = ranks > 0
    np.testing.assert_allclose(found.gradient_term[some], product[some], rtol=1e-6, atol=1e-9)
    assert (found.certificate[some] <= found.norm_bound[some] * (1 + 1e-12) + rounding[some]).all()
    norms = np.sqrt(sum(np.sum(g**2, axis=(1, 2)) for g in gradients))
    np.testing.assert_allclose(found.partial_grad_norm, norms, rtol=1e-9)
    full = ranks == m
    assert (np.abs(found.rank_term[full]) <= rounding[full]).all()
    assert (found.smallest_singular_value[full] > 0).all()
    assert (np.abs(found.rank_term[~full]) > 1e-6).mean() > 0.9  # so that it is needed


def test_softmax_needs_one_rank_less():
    """ℓ' sums to 0: a W whose columns sum to 0 and of rank m − 1 leaves no rank term."""
    at = point(0)
    at = at._replace(W=at.W - at.W.mean(axis=0))
    linear_W = np.random.default_rng(0).standard_normal((M, D))
    objective = float(np.mean(as_vector_loss("softmax").value(at.X @ linear_W.T, at.Y)))
    fit = LinearFit(linear_W, objective, 0.0, Status.CONVERGED, 0.0, 0.0, None, D, 0, None, 0.0, "softmax")
    found = vector_gap_certificate(*at, loss="softmax", linear_fit=fit)
    assert found.rank == M - 1
    assert abs(found.rank_term) <= ROUNDING * (1.0 + abs(found.certificate))


SHAPES = {
    "wide": {"n": 20, "d": 5, "k": 7, "m": 3},
    "narrow": {"n": 20, "d": 6, "k": 2, "m": 3},
    "more outputs than inputs": {"n": 20, "d": 3, "k": 4, "m": 5},
    "one output": {"n": 20, "d": 4, "k": 3, "m": 1},
    "few samples": {"n": 2, "d": 4, "k": 6, "m": 3},
}


@partial(jax.jit, static_argnums=1)
def dense_hessian(at, loss):
    m, d = at.W.shape

    def objective(flat):
        W, V = flat[: m * d].reshape(m, d), flat[m * d :].reshape(at.V.shape)
        return reference_objective(W, V, at.features, at.X, at.Y, loss)

    return jax.hessian(objective)(jnp.concatenate([at.W.ravel(), at.V.ravel()]))


@pytest.mark.parametrize(
    ("shape", "loss"),
    [
        ("wide", "softmax"),
        ("narrow", "multioutput_squared"),
        ("more outputs than inputs", "softmax"),
        ("one output", "multioutput_squared"),
        ("few samples", "softmax"),
    ],
)
def test_spectrum_equals_that_of_the_dense_hessian_at_every_rank(shape, loss):
    sizes = SHAPES[shape]
    full = min(sizes["m"], sizes["d"])
    for seed, rank in enumerate(range(full + 1)):
        at = point(seed, loss, rank, **sizes)
        H = np.asarray(dense_hessian(at, loss))
        found = vector_partial_spectrum(*at, loss=loss)
        expected = np.linalg.eigvalsh(H)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12 * scale)
        R = as_vector_loss(loss).derivative((at.X + at.features @ at.V.T) @ at.W.T, at.Y).T @ at.features
        m, d, k = sizes["m"], sizes["d"], sizes["k"]
        assert found.order == m * d + rank * k + (d - rank) * np.linalg.matrix_rank(R)
        assert found.order + found.kernel_dimension == m * d + d * k
        v = np.concatenate([found.direction_W.ravel(), found.direction_V.ravel()])
        np.testing.assert_allclose(np.linalg.norm(v), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(H @ v - found.lambda_min * v), found.residual, atol=1e-12 * scale)
        assert found.residual <= 1e-11 * scale


def test_point_whose_shapes_disagree_gets_one_clear_line(unchecked_types):
    at = point(0)
    with pytest.raises(InvalidInputError, match=r"V has shape \(6, 5\), but must be \(5, 6\)"):
        vector_partial_spectrum(*at._replace(V=at.V.T), loss="softmax")
    with pytest.raises(InvalidInputError, match="Y is for 4 outputs, but W has shape"):
        vector_partial_spectrum(*at._replace(Y=np.full(N, 3.0)), loss="softmax")


def test_training_records_the_certificate_of_what_it_trains():
    X, y = table("iris")
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=1e-2)
    model = build_model(
        "vector_output", 5, mlp(5, width=4, depth=1, activation="tanh", key=jax.random.key(0)), key=KEY, outputs=3
    )
    options = TrainingOptions(steps=200, learning_rate=0.02, log_every=50)
    measure = VectorGapMeasure.against(fit, "softmax")
    result = train(model, X, y, loss="softmax", options=options, key=KEY, measure=measure)
    history = result.history
    assert history["linear_predictor_gap"][-1] < 0 < history["linear_predictor_gap"][0]
    assert (history["linear_predictor_gap"] <= history["gap_certificate"] + 1e-12).all()
    end = vector_gap_certificate(
        *map(np.asarray, (result.model.W, result.model.V, result.model.features(X), X, y)),
        loss="softmax", linear_fit=fit,
    )  # fmt: skip
    np.testing.assert_allclose(
        [history[name][-1] for name in ("linear_predictor_gap", "gap_certificate", "rank_term", "norm_bound")],
        [end.gap, end.certificate, end.rank_term, end.norm_bound],
        rtol=1e-9, atol=1e-13,
    )  # fmt: skip
