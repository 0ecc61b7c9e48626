"""Five networks of one training run, each spoilt in its own way but the first: the report finds what was done to it."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow.networks.equinox import probe

D, K, N = 4, 4, 1000


class Block(eqx.Module):
    U: jax.Array
    a: jax.Array
    V: jax.Array

    def __call__(self, h):
        return h + jnp.tanh(h @ self.U + self.a) @ self.V


class Network(eqx.Module):
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, key, blocks=2):
        keys = jax.random.split(key, 3 * blocks + 1)
        shapes = [(D, K), (K,), (K, D)] * blocks
        draw = [jax.random.normal(each, shape) for each, shape in zip(keys[:-1], shapes, strict=True)]
        parts = zip(draw[::3], draw[1::3], draw[2::3], strict=True)
        self.blocks = [Block(0.7 * U, 0.5 * a, 0.3 * V) for U, a, V in parts]
        self.head = eqx.nn.Linear(D, "scalar", key=keys[-1])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class OnBatches(eqx.Module):
    network: Network

    def __call__(self, X):
        return jax.vmap(self.network)(X)


def samples(seed):
    """Labels of which a linear predictor of X tells some, and one block of this width not all."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, D))
    return X, X[:, 0] + X[:, 1] * X[:, 2] + np.abs(X[:, 3]) + 0.1 * rng.standard_normal(N)


@pytest.fixture(scope="module")
def trained():
    X, y = samples(0)
    options = resflow.TrainingOptions(steps=1000, learning_rate=0.01)
    start = OnBatches(Network(jax.random.key(0)))
    return resflow.train(start, X, y, loss="squared", options=options, key=jax.random.key(1)).model.network


def report_on(net, **options):
    X, y = samples(0)
    how = {
        "blocks": net.blocks,
        "head": net.head,
        "held_out": samples(1),
        "loss": "squared",
        "ridge": 1e-6,
        "hessian": None,
    }
    return probe(net, X, y, **how | options)


def verdicts(report):
    return [layer.verdict for layer in report.layers[1:]]


def test_trained_network_is_healthy(trained):
    report = report_on(trained)
    assert report.findings == {"network": "below", "head": "finished", "blocks": "healthy"}
    assert verdicts(report) == ["adds", "adds"]


def test_block_set_to_zero_is_called_dead(trained):
    report = report_on(eqx.tree_at(lambda net: net.blocks[1].V, trained, replace_fn=jnp.zeros_like))
    assert verdicts(report) == ["adds", "dead"]
    assert report.findings["blocks"] == "dead"
    assert report.findings["head"] == "unfinished"  # which was made for what the block added


def test_first_block_whose_units_never_leave_0_is_called_dead(trained):
    units = lambda net: (net.blocks[0].U, net.blocks[0].a)  # noqa: E731
    report = report_on(eqx.tree_at(units, trained, replace_fn=jnp.zeros_like))
    assert verdicts(report)[0] == "dead"
    assert "Dead: block 1 leaves every sample as it was" in str(report)


def test_head_stopped_on_its_way_is_called_unfinished(trained):
    parts = lambda net: (net.head.weight, net.head.bias)  # noqa: E731
    report = report_on(eqx.tree_at(parts, trained, replace_fn=lambda each: 0.5 * each))
    assert report.findings["head"] == "unfinished"
    assert report.head.certificate >= report.head.gap.value > 0.01
    assert verdicts(report) == ["adds", "adds"]


def test_network_stuck_at_a_saddle_above_its_own_input_is_told_where_it_leads_down(trained):
    """W = 0, b the mean of y and V of the last block so that what it leaves tells nothing of y: stationary in all."""
    X, y = samples(0)
    h, apart = np.asarray(jax.vmap(trained.blocks[0])(X)), y - y.mean()
    block = trained.blocks[1]
    g = apart @ np.tanh(h @ block.U + block.a) / N
    V = -np.outer(g, apart @ h / N) / (g @ g)
    parts = lambda net: (net.blocks[1].V, net.head.weight, net.head.bias)  # noqa: E731
    stuck = eqx.tree_at(parts, trained, (jnp.asarray(V), jnp.zeros((1, D)), jnp.full(1, y.mean())))
    report = report_on(stuck, hessian="network")
    found = report.curvature
    assert report.findings["network"] == "above"
    assert report.findings["curvature"] == "saddle"
    assert found.grad_norm < 1e-12
    assert found.lambda_min_lower <= found.lambda_min < -0.01
    moved = eqx.apply_updates(stuck, jax.tree.map(lambda v: found.step * jnp.asarray(v), found.direction))
    objective = 0.5 * np.mean((np.asarray(jax.vmap(moved)(X)) - y) ** 2)
    np.testing.assert_allclose(report.objective - objective, found.fall, rtol=1e-8)
    assert found.fall > 0.01
    assert "This direction leads down" in str(report)
    last = report_on(stuck, hessian="last block").curvature
    assert last.lambda_min < 0
    assert last.grad_norm < 1e-12
