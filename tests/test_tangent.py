"""The certificate of any network by its tangent features: its identity, its bounds along training, special cases."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import resflow
from resflow import InvalidInputError, Point, tangent_certificate
from resflow.certificates._tangent_jax import JaxTangent
from resflow.losses import as_loss
from resflow.status import Status
from tests.new_process import python
from tests.problems import ROUNDING

N, D, M = 40, 4, 3
KINDS = ("mlp", "residual_unit", "deep_residual_network", "pre_layer_norm", "torch")
POINTS = 200


class Stack(eqx.Module):
    """h ← h + MLP(LayerNorm(h)), twice, and a head behind a last LayerNorm."""

    inlet: eqx.nn.Linear
    blocks: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key, width=8):
        keys = jax.random.split(key, 4)
        self.inlet, self.head = eqx.nn.Linear(D, width, key=keys[0]), eqx.nn.Linear(width, M, key=keys[1])
        inner = [eqx.nn.MLP(width, width, 2 * width, 1, activation=jax.nn.gelu, key=key) for key in keys[2:]]
        self.blocks, self.norm = [(eqx.nn.LayerNorm(width), mlp) for mlp in inner], eqx.nn.LayerNorm(width)

    def one(self, x):
        h = self.inlet(x)
        for norm, mlp in self.blocks:
            h = h + mlp(norm(h))
        return self.head(self.norm(h))

    def __call__(self, X):
        return jax.vmap(self.one)(X)


def mlp_of(parameters, X):
    """A function with parameters, as one writes it by hand."""
    A, a, b, c = parameters
    return jnp.tanh(X @ A + a) @ b + c


def samples(kind: str, seed: int = 0, n: int = N):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, D))
    score = X[:, 0] + X[:, 1] ** 2 - 1 + 0.3 * rng.standard_normal(n)
    if kind == "pre_layer_norm":
        return X, np.digitize(score, [-0.5, 0.5]), "softmax"
    if kind == "torch":
        return rng.standard_normal((n, 1, 6, 6)), rng.integers(M, size=n), "softmax"
    return X, (score if kind == "mlp" else np.sign(score)), ("squared" if kind == "mlp" else "logistic")


def network(kind: str, seed: int = 0, scale: float = 1.0):
    if kind == "torch":
        return convolutional(seed, scale)
    keys = jax.random.split(jax.random.key(seed), 4)
    if kind == "mlp":
        shapes = [(D, 6), (6,), (6,), ()]
        draw = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        return Partial(mlp_of, [scale * each for each in draw])
    if kind == "pre_layer_norm":
        model = Stack(keys[0])
        return jax.tree.map(lambda leaf: scale * leaf if eqx.is_inexact_array(leaf) else leaf, model)
    first = resflow.feature_map("mlp", D, width=6, key=keys[0])
    if kind == "residual_unit":
        return resflow.build_model(kind, D, first, key=keys[1], scale=scale)
    maps = [first, resflow.feature_map("mlp", 2, width=5, key=keys[2])]
    return resflow.build_model(kind, D, maps, inner=2, key=keys[1], scale=scale)


def convolutional(seed: int, scale: float):
    """Two convolutions around a skip connection, a batch normalisation, and a linear head."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(4)
            self.second = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.head = torch.nn.Linear(4, M)

        def forward(self, X):
            h = torch.relu(self.first(X))
            h = h + self.second(torch.tanh(self.norm(h)))
            return self.head(h.mean(dim=(2, 3)))

    torch.set_num_threads(1)  # more would wait for each other where other processes keep the cores busy
    torch.manual_seed(seed)
    module = Network().eval()
    with torch.no_grad():
        for each in module.parameters():
            each.mul_(scale)
    return module


def trained(kind: str, model, X, y, loss: str, steps: int):
    if kind != "torch":
        options = resflow.TrainingOptions(steps=steps, learning_rate=0.01)
        return resflow.train(model, X, y, loss=loss, options=options, key=jax.random.key(0)).model
    import torch

    X, y = torch.as_tensor(X).float(), torch.as_tensor(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    return model


def any_comparator(y, loss: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (len(y), M) if loss == "softmax" else (len(y),)
    return 10.0 ** rng.uniform(-1, 1) * rng.standard_normal(shape)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_and_bounds_hold_at_random_points(kind):
    """200 of each of five kinds, at every scale, against any predictions; with directions of two steps of LSMR only."""
    X, y, loss = samples(kind, n=20)
    ratios = []
    for seed in range(POINTS):
        scale = 10.0 ** np.random.default_rng(seed).uniform(-1, 1)
        model, q = network(kind, seed, scale), any_comparator(y, loss, seed)
        found = tangent_certificate(model, X, y, loss=loss, against=q, max_iterations=2, tolerance=0.5)
        size = found.norm_bound + found.slope_size * found.residual + abs(found.objective) + abs(found.gap)
        assert abs(found.gradient_form - found.gap_certificate) <= ROUNDING * size
        assert found.gap <= found.gap_certificate + ROUNDING * size
        assert found.gap_certificate <= found.bound + ROUNDING * size
        assert found.bound <= found.norm_bound * (1 + 1e-12)
        assert found.norm_bound_infimum <= found.norm_bound * (1 + 1e-12)
        ratios.append(found.norm_bound / abs(found.gap_certificate))
        if seed % 20 == 0 and kind != "torch":
            p = model(jnp.asarray(X))
            values = as_loss(loss).value(np.asarray(p), y).mean(), as_loss(loss).value(q, y).mean()
            np.testing.assert_allclose([found.objective, found.gap], [values[0], values[0] - values[1]], rtol=1e-9)
    assert np.median(ratios) < 50  # so that the bound says something


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_close_in_on_the_gap_as_training_comes_to_a_stationary_point(kind):
    X, y, loss = samples(kind)
    rows = np.column_stack([X.reshape(len(X), -1)])
    ridge = 0.0 if loss == "squared" else 0.01
    fit = resflow.fit_linear_predictor(rows, y, loss=loss, ridge=ridge)
    model, bounds = network(kind), []
    for steps in (1, 30, 200, 1500):
        model = trained(kind, model, X, y, loss, steps)
        found = tangent_certificate(model, X, y, loss=loss, against=fit)
        assert found.converged
        rounding = ROUNDING * (1.0 + found.norm_bound)
        assert found.gap <= found.gap_certificate + rounding
        assert abs(found.gradient_form - found.gap_certificate) <= rounding
        assert found.gap_certificate <= found.bound + rounding
        assert found.bound <= found.norm_bound + rounding
        bounds.append(found)
    last = bounds[-1]
    while last.grad_norm > 1e-3 and len(bounds) < 12:
        model = trained(kind, model, X, y, loss, 1500)
        last = tangent_certificate(model, X, y, loss=loss, against=fit)
        bounds.append(last)
    assert last.grad_norm <= 1e-3
    assert last.norm_bound < 0.1
    assert last.norm_bound < 0.1 * bounds[0].norm_bound


def test_direction_of_theorem_1_leaves_no_misfit():
    """α = (w*, −w w*ᵀV / ‖w‖²), with θ at rest."""
    X, y, loss = samples("residual_unit")
    unit = network("residual_unit")
    fit = resflow.fit_linear_predictor(X, y, loss=loss, ridge=0.01)
    w, V = np.asarray(unit.W), np.asarray(unit.V)
    beta = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), eqx.filter(unit, eqx.is_inexact_array))
    over = -np.outer(w, fit.W @ V) / (w @ w)
    beta = eqx.tree_at(lambda unit: (unit.W, unit.V), beta, (fit.W - w, over))
    tangent = JaxTangent(unit, X, centred=False)
    moved = tangent.along(np.asarray(ravel_pytree(beta)[0]))
    np.testing.assert_allclose(tangent.predictions + moved, X @ fit.W, atol=1e-12)


def test_direction_for_depth_leaves_no_misfit():
    """w moves to t, and V_l along v (V_lᵀt)ᵀ / (wᵀv) where no later block sees v."""
    X, y, loss = samples("deep_residual_network")
    model = network("deep_residual_network")
    fit = resflow.fit_linear_predictor(X, y, loss=loss, ridge=0.01)
    w, (U,) = np.asarray(model.w), model.U
    v = w - np.linalg.pinv(U) @ (U @ w)
    zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), eqx.filter(model, eqx.is_inexact_array))
    along = tuple(-np.outer(v, fit.W @ np.asarray(V)) / (w @ v) for V in model.V)
    beta = eqx.tree_at(lambda model: (model.w, model.V), zero, (fit.W - w, along))
    tangent = JaxTangent(model, X, centred=False)
    moved = tangent.along(np.asarray(ravel_pytree(beta)[0]))
    np.testing.assert_allclose(tangent.predictions + moved, X @ fit.W, atol=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_best_direction_is_no_worse_than_that_of_theorem_1(seed):
    """With features that have no parameters both speak of the same gradient."""
    X, y, loss = samples("residual_unit", seed)
    unit = resflow.build_model("residual_unit", D, jnp.tanh, key=jax.random.key(seed))
    fit = resflow.fit_linear_predictor(X, y, loss=loss, ridge=0.01)
    found = tangent_certificate(unit, X, y, loss=loss, against=fit)
    known = resflow.certify(Point.of(unit, X, y, loss), fit)
    np.testing.assert_allclose(found.grad_norm, known.partial_grad_norm, rtol=1e-10)
    np.testing.assert_allclose(found.gap, known.linear_predictor_gap, atol=1e-12)
    np.testing.assert_allclose(found.gap_certificate, known.gap_certificate, rtol=1e-10)
    assert found.converged
    assert found.norm_bound_infimum <= known.frobenius_bound
    assert found.norm_bound <= 1.02 * known.frobenius_bound


def test_infimum_is_that_of_a_dense_search():
    """min a‖β‖ + b‖Jβ − s‖ over the damping of dense least squares, on a fine grid."""
    X, y, loss = samples("mlp")
    model, q = network("mlp"), np.zeros(N)
    found = tangent_certificate(model, X, y, loss=loss, against=q, tolerance=1e-4)
    tangent = JaxTangent(model, X, centred=False)
    J = np.column_stack([tangent.along(unit) for unit in np.eye(tangent.pulled(np.zeros(N)).size)])
    left, sigma, right = np.linalg.svd(J, full_matrices=False)
    s = q - tangent.predictions
    values = []
    for damping in sigma[0] * np.geomspace(1e-6, 1e3, 4000):
        beta = right.T @ (sigma / (sigma**2 + damping**2) * (left.T @ s))
        a, b = found.grad_norm, found.slope_size / np.sqrt(N)
        values.append(a * np.linalg.norm(beta) + b * np.linalg.norm(J @ beta - s))
    assert found.converged
    assert found.norm_bound_infimum <= min(values) * (1 + 1e-6)
    np.testing.assert_allclose(found.norm_bound, min(values), rtol=2e-4)
    np.testing.assert_allclose(found.norm_bound_infimum, min(values), rtol=2e-4)


def test_everything_is_in_float64_whatever_the_model_and_jax_are_in():
    X, y, loss = samples("mlp")
    model, q = network("mlp"), np.zeros(N)
    double = tangent_certificate(model, X, y, loss=loss, against=q)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    with jax.enable_x64(False):
        lower = tangent_certificate(single, X.astype(np.float32), y, loss=loss, against=q)
    np.testing.assert_allclose(lower[:5], double[:5], rtol=1e-4, atol=1e-6)
    assert abs(lower.gradient_form - lower.gap_certificate) <= ROUNDING * lower.norm_bound
    assert jax.tree.structure(double.direction) == jax.tree.structure(model)


def test_what_is_not_finite_is_said_so():
    X, y, loss = samples("mlp")
    model = jax.tree.map(lambda leaf: leaf.at[..., 0].set(jnp.nan) if leaf.ndim else leaf, network("mlp"))
    found = tangent_certificate(model, X, y, loss=loss, against=np.zeros(N))
    assert found.status is Status.DIVERGED
    assert np.isnan(found[:12]).all()


def test_network_that_is_its_comparator_has_bounds_0():
    X, y, loss = samples("mlp")
    model = network("mlp")
    found = tangent_certificate(model, X, y, loss=loss, against=model(jnp.asarray(X)))
    np.testing.assert_allclose([found.gap, found.bound, found.norm_bound], 0, atol=1e-12)


def test_bad_input_gets_one_line():
    X, y, loss = samples("mlp")
    model, q = network("mlp"), np.zeros(N)
    fit = resflow.fit_linear_predictor(X[:20], y[:20], loss=loss)
    cases = [
        ({"against": q[:5]}, "against has shape"),
        ({"against": fit}, "same samples"),
        ({"against": q, "tolerance": 0.0}, "tolerance"),
        ({"against": q, "max_iterations": 0}, "max_iterations"),
        ({"against": q, "loss": "hinge"}, "unknown"),
    ]
    for options, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            tangent_certificate(model, X, y, **({"loss": loss} | options))
    for wrong in (X[0], X[0, 0], X[:-1], X.tolist()[0]):
        with pytest.raises(InvalidInputError, match=r"^X has shape .*its first axis must be that of the samples"):
            tangent_certificate(model, wrong, y, loss=loss, against=q)
    for other, message in [
        (3, "must map samples"),
        (Partial(lambda X: X[:, 0]), "no trainable"),
        (network("pre_layer_norm"), "shape"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            tangent_certificate(other, X, y, loss=loss, against=q)


def test_torch_module_in_training_mode_is_refused_and_one_that_is_asked_is_left_alone():
    module = network("torch")
    X, y, loss = samples("torch")
    import torch

    before = {name: each.clone() for name, each in module.state_dict().items()}
    fit = resflow.fit_linear_predictor(X.reshape(N, -1), y, loss=loss, ridge=0.1)
    found = tangent_certificate(module, torch.as_tensor(X), torch.as_tensor(y), loss=loss, against=fit)
    assert set(found.direction) == {name for name, _ in module.named_parameters()}
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert all(each.dtype == torch.float32 for each in module.parameters())
    with pytest.raises(InvalidInputError, match="training mode"):
        tangent_certificate(module.train(), X, y, loss=loss, against=fit)
    for each in module.eval().parameters():
        each.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="requires_grad"):
        tangent_certificate(module, X, y, loss=loss, against=fit)


def test_torch_is_not_imported_for_networks_of_others():
    python("-c", "import resflow, sys; assert 'torch' not in sys.modules")
