"""What a report says of networks as people have them: small or shared layers, other modes, types and arguments."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import resflow
import resflow.networks.flax
from resflow.errors import InvalidInputError

D, K, M, N = 4, 5, 3, 60
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)).astype(np.float32), RNG.integers(0, M, N)


class Block(nnx.Module):
    def __init__(self, rngs, scale=1.0, dtype=None):
        self.U, self.V = nnx.Linear(D, K, rngs=rngs, dtype=dtype), nnx.Linear(K, D, rngs=rngs, dtype=dtype)
        self.scale = scale

    def __call__(self, h, mask=None):
        return h + self.scale * self.V(jnp.tanh(self.U(h)))


class Net(nnx.Module):
    def __init__(self, call=lambda block, h: block(h), **how):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([Block(rngs, **how) for _ in range(2)])
        self.head = nnx.Linear(D, M, rngs=rngs, dtype=how.get("dtype"))
        self.call = call

    def __call__(self, h):
        for block in self.blocks:
            h = self.call(block, h)
        return self.head(h)


def report(net, data=X, y=Y, **options):
    return resflow.networks.flax.probe(net, data, y, blocks=list(net.blocks), head=net.head, ridge=0.1, **options)


def smallest_eigenvalue(net):
    """λ_min of the mean loss in all parameters, from the whole Hessian in float64."""
    with jax.enable_x64(True):
        graph, state, rest = nnx.split(net, nnx.Param, ...)
        flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), state))

        def loss(flat):
            p = nnx.merge(graph, unravel(flat), rest)(jnp.asarray(X, float))
            return jnp.mean(jax.nn.logsumexp(p, axis=1) - p[jnp.arange(N), Y])

        return float(jnp.linalg.eigvalsh(jax.hessian(loss)(flat))[0])


@pytest.mark.parametrize("scale", [-3.0, 0.1, 5.0, np.array([5.0, 1.0, 1.0, 1.0], np.float32)])
@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_layer_that_adds_little_is_not_taken_for_the_last_one_behind_a_scale(scale, size):
    net = Net(scale=scale)
    for block in net.blocks:
        block.V.kernel[...] = jnp.asarray(block.V.kernel[...]) * size
    found = report(net)
    assert found.curvature.of == "network"
    np.testing.assert_allclose(found.curvature.lambda_min, smallest_eigenvalue(net), atol=1e-6)


def test_layer_that_adds_little_and_is_the_last_one_is_found():
    net = Net()
    net.blocks[1].V.kernel[...] = jnp.asarray(net.blocks[1].V.kernel[...]) * 1e-2
    assert report(net).curvature.of == "last block"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_network_that_computes_in_less_is_looked_at_in_double_precision(dtype):
    net = Net(dtype=dtype)
    wide = Net()
    found = report(net, hessian="network").curvature
    expected = report(wide, hessian="network").curvature
    assert found.lambda_min == pytest.approx(expected.lambda_min, rel=1e-12)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-12)
    assert all(block.U.dtype == dtype for block in net.blocks)


def test_linen_network_that_computes_in_less_is_looked_at_in_double_precision():
    class Residual(linen.Module):
        dtype: type | None = None

        @linen.compact
        def __call__(self, h):
            return h + linen.Dense(D, dtype=self.dtype)(jnp.tanh(linen.Dense(K, dtype=self.dtype)(h)))

    def of(dtype):
        net = linen.Sequential([Residual(dtype), Residual(dtype), linen.Dense(M, dtype=dtype)])
        variables = net.init(jax.random.key(0), X)
        blocks = {"blocks": ["layers_0", "layers_1"], "head": "layers_2", "variables": variables}
        return resflow.networks.flax.probe(net, X, Y, **blocks, ridge=0.1, hessian="network").curvature

    assert of(jnp.bfloat16).lambda_min == pytest.approx(of(None).lambda_min, rel=1e-12)


def test_network_that_rounds_within_itself_is_said_to():
    net = Net(call=lambda block, h: block(h.astype(jnp.bfloat16)).astype(h.dtype))
    with pytest.raises(InvalidInputError, match="rounds to bfloat16 within itself"):
        report(net, hessian="network")


def test_hidden_state_is_found_among_a_blocks_arguments():
    plain = report(Net())
    for call in (
        lambda block, h: block(mask=jnp.zeros((N, 1)), h=h),
        lambda block, h: block(mask=jnp.zeros_like(h), h=h),
        lambda block, h: block(h, jnp.zeros_like(h)),
    ):
        found = report(Net(call=call))
        assert str(found) == str(plain)


class Sequences(nnx.Module):
    """Its blocks' hidden states have positions before samples if asked to."""

    def __init__(self, positions_first):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([Block(rngs)])
        self.head = nnx.Linear(D, M, rngs=rngs)
        self.positions_first = positions_first

    def __call__(self, X):
        h = self.blocks[0](jnp.swapaxes(X, 0, 1) if self.positions_first else X)
        return self.head(h.mean(0 if self.positions_first else 1))


def test_axis_of_positions_is_not_taken_for_that_of_samples_where_both_are_as_long():
    data = RNG.standard_normal((N, N, D)).astype(np.float32)
    report(Sequences(False), data, hessian=None)
    with pytest.raises(InvalidInputError, match="the head reads 59 samples"):
        report(Sequences(True), data, hessian=None)


def test_held_out_samples_may_be_two_batches():
    net = Net()
    halves = (X[:30], Y[:30]), (X[30:], Y[30:])
    both = [str(report(net, held_out=given, hessian=None)) for given in (halves, list(halves), (X, Y))]
    assert both[0] == both[1] == both[2]


def test_what_a_network_itself_raises_is_one_line():
    with pytest.raises(
        InvalidInputError, match=r"the network raises .* on samples of shape \(60, 3\) and type float32"
    ):
        report(Net(), X[:, :3])


class Dropped(nnx.Module):
    def __init__(self):
        self.layer, self.dropout = nnx.Linear(D, M, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, X):
        return self.dropout(self.layer(X))


def test_module_in_training_mode_has_no_certificate():
    net = Dropped()
    linear = resflow.fit_linear_predictor(X, Y, loss="softmax", ridge=0.1)
    with pytest.raises(InvalidInputError, match="the module 'dropout' in it is in training mode"):
        resflow.tangent_certificate(net, X, Y, loss="softmax", against=linear)
    with pytest.raises(InvalidInputError, match="the module 'dropout' in it is in training mode"):
        resflow.Point.of(net, X, Y, loss="softmax")
    net.eval()
    assert resflow.tangent_certificate(net, X, Y, loss="softmax", against=linear).objective > 0
