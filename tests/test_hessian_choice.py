"""Which Hessian a report looks at by itself: the last block's where its form fits, else the network's."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import resflow
import resflow.networks.equinox
import resflow.networks.flax
import resflow.networks.torch
from resflow.losses import as_loss
from resflow.probing import affordable

D, K, M, N = 4, 3, 3, 40
RNG = np.random.default_rng(0)
BLOCKS = [{"U": RNG.standard_normal((K, D)), "V": RNG.standard_normal((D, K)), "c": RNG.standard_normal(D)}] * 2
HEAD = {"W": RNG.standard_normal((M, D)), "b": RNG.standard_normal(M)}
X, Y = RNG.standard_normal((N, D)), np.arange(N) % M


def torch_report(behind, **options):
    """h + V tanh(U h) + c, and tanh or nothing before the head."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    nn = torch.nn

    def linear(W, b=None):
        made = nn.Linear(W.shape[1], W.shape[0], bias=b is not None, dtype=torch.float64)
        made.load_state_dict({"weight": torch.as_tensor(W)} | ({} if b is None else {"bias": torch.as_tensor(b)}))
        return made

    class Block(nn.Sequential):
        def forward(self, h):
            return h + super().forward(h)

    blocks = [Block(linear(each["U"]), nn.Tanh(), linear(each["V"], each["c"])) for each in BLOCKS]
    net = nn.Sequential(*blocks, nn.Tanh() if behind else nn.Identity(), linear(*HEAD.values()))
    return resflow.networks.torch.probe(net, X, Y, blocks=blocks, head=net[-1], **options)


def nnx_report(behind, **options):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: pip install flax")

    def linear(W, b=None):
        made = nnx.Linear(*W.T.shape, use_bias=b is not None, param_dtype=float, rngs=nnx.Rngs(0))
        made.kernel[...] = jnp.asarray(W.T)
        if b is not None:
            made.bias[...] = jnp.asarray(b)
        return made

    class Block(nnx.Module):
        def __init__(self, U, V, c):
            self.U, self.V = linear(U), linear(V, c)

        def __call__(self, h):
            return h + self.V(jnp.tanh(self.U(h)))

    class Network(nnx.Module):
        def __init__(self):
            self.blocks, self.head = nnx.List([Block(**each) for each in BLOCKS]), linear(*HEAD.values())

        def __call__(self, h):
            for block in self.blocks:
                h = block(h)
            return self.head(jnp.tanh(h) if behind else h)

    net = Network()
    return resflow.networks.flax.probe(net, X, Y, blocks=net.blocks, head=net.head, **options)


def linen_report(behind, **options):
    linen = pytest.importorskip("flax.linen", reason="flax is not installed: pip install flax")

    class Block(linen.Module):
        @linen.compact
        def __call__(self, h):
            f = jnp.tanh(linen.Dense(K, use_bias=False, param_dtype=float, name="U")(h))
            return h + linen.Dense(D, param_dtype=float, name="V")(f)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, h):
            for place in range(2):
                h = Block(name=f"block_{place}")(h)
            return linen.Dense(M, param_dtype=float, name="head")(jnp.tanh(h) if behind else h)

    parts = {
        f"block_{place}": {"U": {"kernel": each["U"].T}, "V": {"kernel": each["V"].T, "bias": each["c"]}}
        for place, each in enumerate(BLOCKS)
    }
    variables = {"params": parts | {"head": {"kernel": HEAD["W"].T, "bias": HEAD["b"]}}}
    options |= {"variables": jax.tree.map(jnp.asarray, variables), "head": "head"}
    return resflow.networks.flax.probe(Network(), X, Y, blocks=["block_0", "block_1"], **options)


def linear(W, b=None):
    made = eqx.nn.Linear(*W.T.shape, use_bias=b is not None, dtype=float, key=jax.random.key(0))
    made = eqx.tree_at(lambda made: made.weight, made, jnp.asarray(W))
    return made if b is None else eqx.tree_at(lambda made: made.bias, made, jnp.asarray(b))


class Block(eqx.Module):
    U: eqx.nn.Linear
    V: eqx.nn.Linear
    row_by_row: bool = False

    def __call__(self, h):
        if self.row_by_row:  # where what enters the layers is of no use outside
            return h + jax.vmap(lambda h: self.V(jnp.tanh(self.U(h))))(h[None])[0]
        return h + self.V(jnp.tanh(self.U(h)))


class Network(eqx.Module):
    blocks: list
    head: eqx.nn.Linear
    behind: bool

    def __init__(self, behind, row_by_row=False):
        self.blocks = [Block(linear(each["U"]), linear(each["V"], each["c"]), row_by_row) for each in BLOCKS]
        self.head, self.behind = linear(*HEAD.values()), behind

    def __call__(self, h):
        for block in self.blocks:
            h = block(h)
        return self.head(jnp.tanh(h) if self.behind else h)


def equinox_report(behind, row_by_row=False, **options):
    net = Network(behind, row_by_row)
    return resflow.networks.equinox.probe(net, X, Y, blocks=net.blocks, head=net.head, **options)


REPORTS = {"equinox": equinox_report, "nnx": nnx_report, "linen": linen_report, "torch": torch_report}
HOW = {"ridge": 0.1, "batch_size": 16}


@pytest.fixture(scope="module")
def of_last_block():
    """λ_min in W, b, V and c of the last block by automatic differentiation."""
    before = X + np.tanh(X @ BLOCKS[0]["U"].T) @ BLOCKS[0]["V"].T + BLOCKS[0]["c"]
    f = np.tanh(before @ BLOCKS[1]["U"].T)
    flat, unravel = ravel_pytree((HEAD["W"], HEAD["b"], BLOCKS[1]["V"], BLOCKS[1]["c"]))

    def objective(flat):
        W, b, V, c = unravel(flat)
        return jnp.mean(as_loss("softmax").value((before + f @ V.T + c) @ W.T + b, Y))

    return np.linalg.eigvalsh(jax.jit(jax.hessian(objective))(flat))[0], len(flat)


@pytest.mark.parametrize("framework", sorted(REPORTS))
def test_last_block_that_ends_in_a_linear_layer_is_found_by_its_numbers(framework, of_last_block):
    report = REPORTS[framework](False, **HOW)
    found = report.curvature
    np.testing.assert_allclose(found.lambda_min, of_last_block[0], rtol=1e-9)
    assert found.lambda_min_lower <= of_last_block[0] + found.rounding
    assert (found.of, found.parameters) == ("last block", of_last_block[1])
    assert {name: part.shape for name, part in found.direction.items()} == {
        "W": (M, D),
        "b": (M,),
        "V": (D, K),
        "c": (D,),
    }
    assert f"the last block's {found.layer}" in str(report)
    assert str(report).endswith(f"{found.layer}, the linear layer that the last block ends in.")


@pytest.mark.parametrize("framework", sorted(REPORTS))
def test_network_with_something_behind_its_last_block_is_looked_at_in_all_parameters(framework):
    report = REPORTS[framework](True, **HOW)
    assert report.curvature.of == "network"
    assert report.curvature.parameters == 2 * (K * D + D * K + D) + M * D + M
    assert str(report).endswith("trained by itself as the head is, was seen to make h_L − h_{L−1}.")


def test_layers_called_within_a_transformation_are_not_seen():
    assert equinox_report(False, row_by_row=True, **HOW).curvature.of == "network"


@pytest.mark.parametrize(("behind", "ask"), [(True, "network"), (False, "last block")])
def test_what_costs_more_than_the_probes_is_left_out_with_a_line_until_it_is_asked_for(behind, ask, monkeypatch):
    monkeypatch.setattr(affordable, "_ALWAYS", 0.0)
    report = equinox_report(behind, **HOW)
    assert report.curvature is None
    assert "curvature" not in report.findings
    assert "times what the probes do: hessian='" + ask in str(report)


def test_arrays_are_looked_at_in_the_head_and_a_map_behind_the_last_block():
    hs, head = [X, X + np.tanh(X)], (HEAD["W"], HEAD["b"])
    report = resflow.probe(hs, head, Y, ridge=0.1)
    asked = resflow.probe(hs, head, Y, ridge=0.1, hessian="last block")
    assert report.metrics() == pytest.approx(asked.metrics(), rel=1e-9, abs=1e-12)
    assert asked.curvature_choice == ""
    assert "all that arrays tell of" in str(report)
    narrow = resflow.probe([X, X[:, :2]], (HEAD["W"][:, :2], None), Y, ridge=0.1)
    assert narrow.curvature is None
    assert "the last block changes the width from 4 to 2" in str(narrow)


def test_network_that_cannot_be_differentiated_is_reported_on_all_the_same():
    class Loop(Network):
        def __call__(self, h):
            for block in self.blocks:
                h = jax.lax.while_loop(lambda h: h[0] > 1e9, jnp.tanh, block(h))
            return self.head(jnp.tanh(h))

    net = Loop(True)
    how = {"blocks": net.blocks, "head": net.head, **HOW}
    report = resflow.networks.equinox.probe(net, X, Y, **how)
    assert report.curvature is None
    assert "λ_min is left out, as products with the Hessian fail: ValueError: Reverse-mode" in str(report)
    with pytest.raises(ValueError, match="Reverse-mode"):
        resflow.networks.equinox.probe(net, X, Y, hessian="network", **how)


def test_progress_of_a_networks_hessian_is_told():
    told = []
    equinox_report(True, hessian="network", progress=lambda done, most: told.append((done, most)), **HOW)
    assert told[-1][0] == told[-1][1] > 0
