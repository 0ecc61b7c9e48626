"""What a report says of torch networks as people have them, and that it leaves them as they are."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest

import resflow
import resflow.networks.torch
from resflow.errors import InvalidInputError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
nn = torch.nn

D, K, M, N = 4, 5, 3, 60
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)).astype(np.float32), RNG.integers(0, M, N)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.U, self.V = nn.Linear(D, K), nn.Linear(K, D)
        self.scale = 1.0

    def forward(self, h, mask=None):
        return h + self.scale * self.V(torch.tanh(self.U(h)))


class Net(nn.Module):
    def __init__(self, call=lambda block, h: block(h)):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(D, M)
        self.call = call

    def forward(self, h):
        for block in self.blocks:
            h = self.call(block, h)
        return self.head(h)


def report(net, data=X, y=Y, of=None, **options):
    inner = net if of is None else of
    return resflow.networks.torch.probe(net, data, y, blocks=inner.blocks, head=inner.head, ridge=0.1, **options)


def smallest_eigenvalue(net):
    """λ_min of the mean loss in all parameters that are trained, from the whole Hessian in float64."""
    net = copy.deepcopy(net).double().eval()
    start = {name: each.detach() for name, each in net.named_parameters()}
    sizes = [each.numel() for each in start.values()]

    def loss(flat):
        parts = (part.reshape(each.shape) for part, each in zip(flat.split(sizes), start.values(), strict=True))
        p = torch.func.functional_call(net, dict(zip(start, parts, strict=True)), (torch.as_tensor(X).double(),))
        return nn.functional.cross_entropy(p, torch.as_tensor(Y))

    flat = torch.cat([each.reshape(-1) for each in start.values()])
    return float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[0])


@pytest.mark.parametrize("scale", [-3.0, 0.1, torch.tensor([5.0, 1.0, 1.0, 1.0])])
def test_layer_that_adds_nothing_is_not_taken_for_the_last_one_behind_a_scale(scale):
    net = Net()
    for block in net.blocks:
        block.scale = scale
        nn.init.zeros_(block.V.weight)
    nn.init.zeros_(net.blocks[1].V.bias[:1].detach())
    found = report(net)
    assert found.curvature.of == "network"
    assert found.curvature.lambda_min == pytest.approx(smallest_eigenvalue(net), abs=1e-6)


def test_layer_that_is_tied_or_not_trained_is_not_looked_at_by_itself():
    tied = Net()
    tied.blocks[0].V.weight = tied.blocks[1].V.weight
    found = report(tied)
    assert found.curvature.of == "network"
    assert found.curvature.lambda_min == pytest.approx(smallest_eigenvalue(tied), abs=1e-6)
    frozen = Net().requires_grad_(False)
    found = report(frozen)
    assert found.curvature is None
    assert "no parameter of the network asks for a gradient" in str(found)
    assert report(Net()).curvature.of == "last block"


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm_and_buffers_are_left_as_they_are(training):
    net = Net()
    nn.utils.parametrizations.spectral_norm(net.blocks[1].V)
    with torch.no_grad():
        net.blocks[1].V.parametrizations.weight.original.normal_().mul_(3)
    net.register_buffer("calls", torch.zeros(()))

    def counted(block, h):
        net.calls += 1
        return block(h)

    net.call = counted
    net.train(training)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    found = report(net)
    assert found.curvature.of == "network"
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert net.training is training


def test_second_derivatives_that_are_not_symmetric_are_said_to_be():
    net = Net()
    nn.utils.parametrizations.weight_norm(net.blocks[1].V)
    with pytest.raises(InvalidInputError, match="second derivatives of the network are not symmetric"):
        report(net, hessian="network")
    assert "not symmetric" in str(report(net))


def test_compiled_and_spread_networks_are_seen_through():
    plain = str(report(Net(), hessian="network"))
    net = Net()
    compiled = torch.compile(net, backend="eager")
    compiled(torch.as_tensor(X))
    assert str(report(compiled, of=net, hessian="network")) == plain
    assert str(report(nn.DataParallel(net), of=net, hessian="network")) == plain
    net.compile(backend="eager")
    assert str(report(net, hessian="network")) == plain


def test_hidden_state_is_found_among_a_blocks_arguments():
    plain = str(report(Net()))
    assert str(report(Net(lambda block, h: block(mask=torch.zeros_like(h), h=h)))) == plain
    assert str(report(Net(lambda block, h: block(mask=torch.zeros(N, 1), h=h)))) == plain


class Transformer(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first) for _ in range(2)])
        self.head = nn.Linear(8, M)
        self.batch_first = batch_first

    def forward(self, h):
        h = h if self.batch_first else h.transpose(0, 1)
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(1 if self.batch_first else 0))


def test_axis_of_positions_is_not_taken_for_that_of_samples_where_both_are_as_long():
    data, y = RNG.standard_normal((6, 6, 8)).astype(np.float32), np.arange(6) % M
    report(Transformer(True), data, y, hessian=None)
    with pytest.raises(InvalidInputError, match="the head reads 5 samples"):
        report(Transformer(False), data, y, hessian=None)


def test_samples_may_be_views_and_what_the_network_raises_is_one_line():
    assert str(report(Net(), X[::-1], Y[::-1])) == str(report(Net(), X[::-1].copy(), Y[::-1].copy()))
    with pytest.raises(InvalidInputError, match=r"the network raises RuntimeError on samples of shape \(60, 3\) and"):
        report(Net(), X[:, :3])
    with pytest.raises(InvalidInputError, match="hessian='network': products with the Hessian fail"):
        report(Net(lambda block, h: block(h.float())), hessian="network")


def test_attention_has_a_certificate():
    data, y = RNG.standard_normal((20, 3, 8)).astype(np.float32), np.arange(20) % M
    net = Transformer(True).eval()
    linear = resflow.fit_linear_predictor(data.reshape(20, -1), y, loss="softmax", ridge=0.1)
    found = resflow.tangent_certificate(net, data, y, loss="softmax", against=linear)
    loss = nn.functional.cross_entropy(net(torch.as_tensor(data)), torch.as_tensor(y))
    assert found.objective == pytest.approx(float(loss.detach()), rel=1e-5)
    assert found.gap <= found.gap_certificate <= found.bound
    assert found.gap_certificate == pytest.approx(found.gradient_form, rel=1e-9)


def test_parts_in_training_mode_have_no_certificate():
    net = nn.Sequential(nn.Linear(D, K), nn.Dropout(0.5), nn.Linear(K, M)).eval()
    net[1].train()
    linear = resflow.fit_linear_predictor(X, Y, loss="softmax", ridge=0.1)
    with pytest.raises(InvalidInputError, match="the module '1' in it is in training mode"):
        resflow.tangent_certificate(net, X, Y, loss="softmax", against=linear)


def test_samples_of_a_certificate_may_be_of_any_kind():
    net = nn.Sequential(nn.Linear(D, K), nn.Tanh(), nn.Linear(K, M)).eval()
    linear = resflow.fit_linear_predictor(X, Y, loss="softmax", ridge=0.1)

    def bound(samples, y=Y):
        return resflow.tangent_certificate(net, samples, y, loss="softmax", against=linear).bound

    expected = bound(X)
    kinds = (torch.as_tensor(X), torch.as_tensor(X).requires_grad_(), X[::-1][::-1], pd.DataFrame(X))
    assert [bound(each) for each in kinds] == pytest.approx([expected] * len(kinds), rel=1e-9)
    whole = np.round(3 * X).astype(int)
    linear = resflow.fit_linear_predictor(whole, Y, loss="softmax", ridge=0.1)
    assert bound(whole) == pytest.approx(bound(whole.astype(float)), rel=1e-12)
    with pytest.raises(InvalidInputError, match="at least one sample"):
        bound(X[:0], Y[:0])


@pytest.mark.usefixtures("unchecked_types")
def test_tensors_that_ask_for_a_gradient_are_arrays():
    p = nn.Linear(D, M)(torch.as_tensor(X))
    how = {"loss": "softmax", "fit": resflow.fit_linear_predictor(X, Y, loss="softmax", ridge=0.1)}
    assert resflow.held_out_gap(p, X, Y, **how) == resflow.held_out_gap(p.detach().numpy(), X, Y, **how)
