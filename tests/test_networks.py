"""Networks of torch, Flax and Equinox: the same weights give the same report, and nothing of a network is changed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

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
from resflow import InvalidInputError
from resflow.known import check_loss
from resflow.losses import as_loss
from tests.new_process import python

C, M, BLOCKS = 6, 10, 3
FRAMEWORKS = ("equinox", "nnx", "linen", "torch")
NO_HESSIAN = {"hessian": None}
TORCH_MISSING = "torch is not installed: pip install '.[torch]'"


def weights(dtype, seed=0):
    """A pre-activation ResNet on images of one channel: kernels (out, in, 3, 3), BatchNorm with statistics, a head."""
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    def norm():
        return [part.astype(dtype) for part in (rng.uniform(0.5, 2, (2, C)), rng.standard_normal((2, C)))]

    blocks = [{"norm": norm(), "kernel": kernel(C, C, 3, 3)} for _ in range(BLOCKS)]
    return {"stem": kernel(C, 1, 3, 3), "blocks": blocks, "norm": norm(), "W": kernel(M, C), "b": kernel(M)}


def samples(dtype=np.float32, n=500):
    data = resflow.load_dataset("digits:all").labelled_for("softmax")
    return (data.X[:n].reshape(-1, 1, 8, 8) / 8 - 1).astype(dtype), data.y[:n].astype(int)


def torch_network(given):
    """BatchNorm as torch has it; (scale, variance) and (shift, mean) are the rows of a norm."""
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    torch.set_num_threads(1)
    nn, dtype = torch.nn, torch.as_tensor(given["W"]).dtype

    def norm(values):
        made = nn.BatchNorm2d(C, dtype=dtype)
        state = zip(("weight", "running_var", "bias", "running_mean"), np.concatenate(values), strict=True)
        made.load_state_dict({name: torch.as_tensor(value) for name, value in state}, strict=False)
        return made

    def convolution(kernel):
        made = nn.Conv2d(kernel.shape[1], C, 3, padding=1, bias=False)
        made.weight = nn.Parameter(torch.as_tensor(kernel))
        return made

    class Block(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.norm, self.convolution = norm(block["norm"]), convolution(block["kernel"])
            self.dropout = nn.Dropout(0.5)

        def forward(self, h):
            return h + self.dropout(self.convolution(torch.relu(self.norm(h))))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = convolution(given["stem"]), norm(given["norm"])
            self.blocks = nn.ModuleList(Block(block) for block in given["blocks"])
            self.head = nn.Linear(C, M, dtype=dtype)
            self.head.load_state_dict({"weight": torch.as_tensor(given["W"]), "bias": torch.as_tensor(given["b"])})

        def forward(self, X):
            h = self.stem(X)
            for block in self.blocks:
                h = block(h)
            return self.head(torch.relu(self.norm(h)).mean((2, 3)))

    return Network()


def torch_report(given, X, y, **options):
    net = torch_network(given)
    return resflow.networks.torch.probe(net, X, y, blocks=net.blocks, head=net.head, **NO_HESSIAN | options)


def nnx_network(given):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: pip install flax")
    rngs, dtype = nnx.Rngs(0), given["W"].dtype

    def norm(values):
        made = nnx.BatchNorm(C, epsilon=1e-5, param_dtype=dtype, rngs=rngs)
        for name, value in zip(("scale", "var", "bias", "mean"), np.concatenate(values), strict=True):
            setattr(made, name, type(getattr(made, name))(jnp.asarray(value)))  # statistics are made in float32
        return made

    def convolution(kernel):
        made = nnx.Conv(kernel.shape[1], C, (3, 3), use_bias=False, param_dtype=dtype, rngs=rngs)
        made.kernel[...] = jnp.asarray(kernel.transpose(2, 3, 1, 0))
        return made

    class Block(nnx.Module):
        def __init__(self, block):
            self.norm, self.convolution = norm(block["norm"]), convolution(block["kernel"])
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, h):
            return h + self.dropout(self.convolution(jax.nn.relu(self.norm(h))))

    class Network(nnx.Module):
        def __init__(self):
            self.stem, self.norm = convolution(given["stem"]), norm(given["norm"])
            self.blocks = nnx.List([Block(block) for block in given["blocks"]])
            self.head = nnx.Linear(C, M, param_dtype=dtype, rngs=rngs)
            self.head.kernel[...], self.head.bias[...] = jnp.asarray(given["W"].T), jnp.asarray(given["b"])

        def __call__(self, X):
            h = self.stem(X)
            for block in self.blocks:
                h = block(h)
            return self.head(jax.nn.relu(self.norm(h)).mean((1, 2)))

    return Network()


def nnx_report(given, X, y, held_out, **options):
    net = nnx_network(given)
    held_out = (held_out[0].transpose(0, 2, 3, 1), held_out[1])
    options = NO_HESSIAN | options | {"held_out": held_out}
    return resflow.networks.flax.probe(net, X.transpose(0, 2, 3, 1), y, blocks=net.blocks, head=net.head, **options)


def linen_network(given):
    linen = pytest.importorskip("flax.linen", reason="flax is not installed: pip install flax")
    dtype = given["W"].dtype

    class Block(linen.Module):
        @linen.compact
        def __call__(self, h, train):
            norm = linen.BatchNorm(use_running_average=not train, epsilon=1e-5, param_dtype=dtype, name="norm")
            kept = linen.Conv(C, (3, 3), use_bias=False, param_dtype=dtype, name="convolution")(jax.nn.relu(norm(h)))
            return h + linen.Dropout(0.5)(kept, deterministic=not train)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, X, train=True):
            h = linen.Conv(C, (3, 3), use_bias=False, param_dtype=dtype, name="stem")(X)
            for place in range(BLOCKS):
                h = Block(name=f"block_{place}")(h, train)
            h = linen.BatchNorm(epsilon=1e-5, param_dtype=dtype, name="norm")(h, not train)
            return linen.Dense(M, param_dtype=dtype, name="head")(jax.nn.relu(h).mean((1, 2)))

    parts = {"stem": {"kernel": given["stem"]}, "head": {"kernel": given["W"].T, "bias": given["b"]}}
    parts["stem"]["kernel"] = given["stem"].transpose(2, 3, 1, 0)
    parameters, statistics = {**parts}, {}
    (scale, variance), (shift, mean) = given["norm"]
    parameters["norm"], statistics["norm"] = {"scale": scale, "bias": shift}, {"mean": mean, "var": variance}
    for place, block in enumerate(given["blocks"]):
        (scale, variance), (shift, mean) = block["norm"]
        kernel = {"kernel": block["kernel"].transpose(2, 3, 1, 0)}
        parameters[f"block_{place}"] = {"norm": {"scale": scale, "bias": shift}, "convolution": kernel}
        statistics[f"block_{place}"] = {"norm": {"mean": mean, "var": variance}}
    return Network(), jax.tree.map(jnp.asarray, {"params": parameters, "batch_stats": statistics})


def linen_report(given, X, y, held_out, **options):
    net, variables = linen_network(given)
    held_out = (held_out[0].transpose(0, 2, 3, 1), held_out[1])
    blocks = [f"block_{place}" for place in range(BLOCKS)]
    options = NO_HESSIAN | options | {"held_out": held_out, "variables": variables}
    return resflow.networks.flax.probe(net, X.transpose(0, 2, 3, 1), y, blocks=blocks, head="head", **options)


class Norm(eqx.Module):
    """Batch normalization with its statistics at hand."""

    values: list

    def __call__(self, h):
        (scale, variance), (shift, mean) = (part[:, :, None, None] for part in self.values)
        return scale * (h - mean) / jnp.sqrt(variance + 1e-5) + shift


def convolution_of(kernel):
    made = eqx.nn.Conv2d(kernel.shape[1], C, 3, padding=1, use_bias=False, dtype=kernel.dtype, key=jax.random.key(0))
    return eqx.tree_at(lambda made: made.weight, made, jnp.asarray(kernel))


class Block(eqx.Module):
    norm: Norm
    convolution: eqx.nn.Conv2d
    dropout: eqx.nn.Dropout

    def __init__(self, block):
        self.norm, self.convolution = Norm([*map(jnp.asarray, block["norm"])]), convolution_of(block["kernel"])
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, h):
        return h + self.dropout(self.convolution(jax.nn.relu(self.norm(h))))


class Network(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: list
    norm: Norm
    head: eqx.nn.Linear

    def __init__(self, given):
        self.stem, self.norm = convolution_of(given["stem"]), Norm([*map(jnp.asarray, given["norm"])])
        self.blocks = [Block(block) for block in given["blocks"]]
        head = eqx.nn.Linear(C, M, dtype=given["W"].dtype, key=jax.random.key(0))
        self.head = eqx.tree_at(
            lambda head: (head.weight, head.bias), head, (jnp.asarray(given["W"]), jnp.asarray(given["b"]))
        )

    def __call__(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        return self.head(jax.nn.relu(self.norm(h)).mean((1, 2)))


def equinox_report(given, X, y, **options):
    net = Network(given)
    return resflow.networks.equinox.probe(net, X, y, blocks=net.blocks, head=net.head, **NO_HESSIAN | options)


REPORTS = {"equinox": equinox_report, "nnx": nnx_report, "linen": linen_report, "torch": torch_report}


def independent(given, X, y, X_there, y_there, ridge):
    """The report on arrays that NumPy and SciPy made of the same weights, in float64."""
    from scipy.signal import correlate

    def convolved(h, kernel):
        padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        kernels = [[correlate(padded[:, c], part[None], "valid", "direct") for c, part in enumerate(k)] for k in kernel]
        return np.stack([np.sum(each, axis=0) for each in kernels], axis=1)

    def normalized(h, norm):
        (scale, variance), (shift, mean) = (part[:, :, None, None].astype(float) for part in norm)
        return np.maximum(scale * (h - mean) / np.sqrt(variance + 1e-5) + shift, 0)

    def stream(X):
        h = convolved(X.astype(float), given["stem"].astype(float))
        kept = [h.mean((2, 3))]
        for block in given["blocks"]:
            h = h + convolved(normalized(h, block["norm"]), block["kernel"].astype(float))
            kept.append(h.mean((2, 3)))
        return [*kept[:-1], normalized(h, given["norm"]).mean((2, 3))]

    head = (given["W"], given["b"])
    return resflow.probe(stream(X), head, y, held_out=(stream(X_there), y_there), ridge=ridge, hessian=None)


def halves(X, y):
    return (X[:300], y[:300]), (X[300:], y[300:])


@pytest.fixture(scope="module")
def expected():
    """Of weights in float32 and float64, the independent report's numbers."""
    found = {}
    for dtype in (np.float32, np.float64):
        (X, y), (X_there, y_there) = halves(*samples(dtype))
        found[dtype] = independent(weights(dtype), X, y, X_there, y_there, ridge=0.01).metrics()
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-10)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_same_weights_give_the_same_report_in_every_framework(framework, dtype, tolerance, expected):
    """Networks are in training mode, with half of their features dropped and statistics of batches, until asked."""
    (X, y), held_out = halves(*samples(dtype))
    report = REPORTS[framework](weights(dtype), X, y, held_out=held_out, ridge=0.01, batch_size=150)
    found = report.metrics()
    assert found.keys() == expected[dtype].keys()
    apart = {name: abs(found[name] - value) / max(abs(value), 1.0) for name, value in expected[dtype].items()}
    assert max(apart.values()) < tolerance, apart


def loader(X, y, size=128):
    return [(X[at : at + size], y[at : at + size]) for at in range(0, len(X), size)]


def test_batches_of_a_loader_are_as_good_as_one_array():
    (X, y), held_out = halves(*samples())
    at_once = equinox_report(weights(np.float32), X, y, held_out=held_out, ridge=0.01)
    batches = equinox_report(weights(np.float32), loader(X, y), None, held_out=iter(loader(*held_out)), ridge=0.01)
    for name, value in at_once.metrics().items():
        np.testing.assert_allclose(batches.metrics()[name], value, rtol=1e-5, atol=1e-6)


def test_torch_loader_in_any_order_and_tensors_of_any_kind():
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    X, y = samples()
    at_once = torch_report(weights(np.float32), X, y, ridge=0.01)
    data = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    shuffled = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    assert torch_report(weights(np.float32), shuffled, None, ridge=0.01).objective == pytest.approx(
        at_once.objective, abs=1e-6
    )
    net = torch_network(weights(np.float32))
    arrays = resflow.networks.torch.stream(net, X, y, blocks=net.blocks, head=net.head)
    assert resflow.probe(**arrays, ridge=0.01, hessian=None).metrics() == at_once.metrics()
    tensor = torch.as_tensor(X, dtype=torch.float64).requires_grad_()
    assert torch_report(weights(np.float32), tensor, torch.as_tensor(y), ridge=0.01).metrics() == at_once.metrics()
    net = torch_network(weights(np.float32)).to(torch.bfloat16)
    coarse = resflow.networks.torch.probe(net, X, y, blocks=net.blocks, head=net.head, ridge=0.01, hessian=None)
    assert coarse.objective == pytest.approx(at_once.objective, rel=0.05)
    assert coarse.objective != at_once.objective


@pytest.mark.skipif(find_spec("torch") is None, reason=TORCH_MISSING)
def test_torch_network_on_a_device_gives_the_report_of_the_cpu():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    (X, y), held_out = halves(*samples(np.float64))
    net = torch_network(weights(np.float64))
    here, there = (
        resflow.networks.torch.probe(each, X, y, blocks=each.blocks, head=each.head, held_out=held_out, ridge=0.01)
        for each in (net, net.cuda())
    )
    for name, value in here.metrics().items():
        np.testing.assert_allclose(there.metrics()[name], value, rtol=1e-9, atol=1e-10)


def test_torch_networks_without_numbers_or_arrays_get_one_line():
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    net = torch_network(weights(np.float32)).to("meta")
    with pytest.raises(InvalidInputError, match=r"a tensor of shape \(10, 6\) is on torch's meta device"):
        resflow.networks.torch.probe(net, *samples(n=9), blocks=net.blocks, head=net.head)

    class Named(torch.nn.Linear):
        def forward(self, h):
            return {"h": super().forward(h)}

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Named(4, 4), torch.nn.Linear(4, 3)

        def forward(self, X):
            return self.head(self.block(X)["h"])

    net = Network()
    with pytest.raises(InvalidInputError, match="block 1 gives a dict, but must give an array"):
        resflow.networks.torch.probe(net, np.zeros((9, 4)), np.arange(9) % 3, blocks=[net.block], head=net.head)


def torch_blocks(*, blocks=2, outputs=M):
    """A network of fully connected residual blocks on digits as torch users write them, h += f(h) in place."""
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, h):
            if not self.in_place:
                return h + torch.tanh(self.layer(h))
            h += torch.tanh(self.layer(h))
            return h

        in_place = False

    torch.manual_seed(0)
    X, y = samples()
    net = nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(64, outputs))
    return torch, net, X.reshape(len(X), -1), y


def test_blocks_that_add_in_place_are_seen_as_those_that_do_not():
    _, net, X, y = torch_blocks()
    how = {"blocks": net[:2], "head": net[2]}
    apart = resflow.networks.torch.stream(net, X, y, **how)["representations"]
    for block in net[:2]:
        block.in_place = True
    before = X.copy()
    within = resflow.networks.torch.stream(net, X, y, **how)["representations"]
    np.testing.assert_array_equal(X, before)
    for one, other in zip(apart, within, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(within[0], within[1])


def test_block_is_dead_if_it_leaves_what_enters_it_and_not_if_pooling_hides_what_it_does():
    torch, net, X, y = torch_blocks()
    with torch.no_grad():
        for part in net[1].layer.parameters():
            part.zero_()
    normed = torch.nn.Sequential(*net[:2], torch.nn.LayerNorm(64), net[2])
    report = resflow.networks.torch.probe(normed, X, y, blocks=normed[:2], head=normed[3], ridge=0.01, **NO_HESSIAN)
    assert [layer.verdict for layer in report.layers] == ["", "not judged", "dead"]

    class Tokens(torch.nn.Module):  # the first block writes into one token, and the second reads it
        def forward(self, h):
            return h + torch.roll(h, 1, 1) * torch.tensor(self.of)[:, None]

    first, second = Tokens(), Tokens()
    first.of, second.of = [0.0, 1.0], [1.0, 0.0]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.head = torch.nn.ModuleList([first, second]), torch.nn.Linear(32, M)

        def forward(self, X):
            h = X.reshape(len(X), 2, 32)
            for block in self.blocks:
                h = block(h)
            return self.head(h[:, 0])

    net = Network()
    how = {"blocks": net.blocks, "head": net.head, "pool": lambda h: h[:, 0], "ridge": 0.01}
    report = resflow.networks.torch.probe(net, X, y, **how, **NO_HESSIAN)
    assert [layer.verdict for layer in report.layers] == ["", "not judged", "not judged"]


def test_torch_blocks_and_heads_that_are_not_what_they_should_be_get_one_line():
    torch, net, X, y = torch_blocks()
    inside = torch.nn.Sequential(*net[:2], torch.nn.Linear(64, 64), net[2])

    def refused(match, net=net, data=X, y=y, **how):
        with pytest.raises(InvalidInputError, match=match) as caught:
            resflow.networks.torch.probe(net, data, y, **how, **NO_HESSIAN)
        assert "\n" not in str(caught.value)

    refused("block 2 is called out of turn|block 1 is called out of turn", blocks=[net[1], net[0]], head=net[2])
    refused("the head is in block 3", blocks=net, head=net[2])
    refused("block 2 is a block before it", blocks=[net[0], net[0]], head=net[2])
    refused("block 2 is inside of block 1", blocks=[net[0], net[0].layer], head=net[2])
    refused(r"blocks is one Block: pass a list, \[block\]", blocks=net[0], head=net[2])
    refused(r"the network gives an array of shape \(256, 10\)", net=inside, blocks=inside[:2], head=inside[2])
    refused(
        r"batch 0 of data is a tuple of 3, but must be a pair", data=[(X, y, y)], y=None, blocks=net[:2], head=net[2]
    )
    refused("classes count from 0 to 9", y=y + 1, blocks=net[:2], head=net[2])
    refused(r"or whole numbers of classes, shape \(n,\)", y=y[:, None], blocks=net[:2], head=net[2])
    refused("is called loss='softmax' here", blocks=net[:2], head=net[2], loss="cross_entropy")
    with pytest.raises(InvalidInputError, match=r"loss=.* is called loss='softmax' here"):
        check_loss(torch.nn.CrossEntropyLoss())
    with pytest.raises(InvalidInputError, match=r"loss=.* is called loss='huber' here"):
        check_loss(torch.nn.SmoothL1Loss())
    with pytest.raises(InvalidInputError, match=r"loss=L1Loss.* is unknown"):
        check_loss(torch.nn.L1Loss())


def test_missing_classes_and_a_head_without_intercept_are_told():
    torch, net, X, y = torch_blocks()
    net = torch.nn.Sequential(*net[:2], torch.nn.Linear(64, M, bias=False))
    rest = y != 7
    how = {"blocks": net[:2], "head": net[2], "ridge": 0.01, **NO_HESSIAN}
    found = {each.finding: each.sentence for each in resflow.networks.torch.probe(net, X[rest], y[rest], **how).advice}
    assert "No training sample is of class 7" in found["classes missing"]
    assert "an intercept, which the head lacks" in found["unfinished"]
    held_out = resflow.networks.torch.probe(net, X, y, **how, held_out=(X, y))
    assert "nothing follows" not in str(held_out)
    arrays = resflow.networks.torch.stream(net, X, y, blocks=net[:2], head=net[2])["representations"]
    blind = [np.ones_like(arrays[0]), *arrays[1:]]
    head = net[2].weight.detach().numpy(), np.zeros(M)
    report = resflow.probe(blind, head, y, held_out=(blind, y), ridge=0.01, hessian=None)
    assert "h_0 is the same for every sample" in str(report)
    assert "classes missing" not in [each.finding for each in resflow.networks.torch.probe(net, X, y, **how).advice]


def test_layers_of_transformers_are_called_one_by_one_with_masks_too():
    torch, _, X, y = torch_blocks()
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, M)

        def forward(self, X):
            tokens = X.reshape(len(X), 8, 8)
            mask = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            mask[:, 6:] = True
            return self.head(self.encoder(tokens, src_key_padding_mask=mask)[:, 0])

    net, before = Network(), torch.backends.mha.get_fastpath_enabled()
    how = {"blocks": net.encoder.layers, "head": net.head, "pool": lambda h: h[:, 0], "ridge": 0.01}
    report = resflow.networks.torch.probe(net, X, y, **how, **NO_HESSIAN)
    assert len(report.layers) == 3
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_torch_network_is_left_as_it_was():
    torch = pytest.importorskip("torch", reason=TORCH_MISSING)
    net = torch_network(weights(np.float32)).train()
    net.blocks[1].eval()
    modes = [module.training for module in net.modules()]
    before = {name: each.clone() for name, each in net.state_dict().items()}
    for X, good in ((samples()[0], True), (np.zeros((9, 2, 8, 8), np.float32), False)):
        try:
            how = {"ridge": 0.01, "hessian": None}
            resflow.networks.torch.probe(net, X, samples()[1][: len(X)], blocks=net.blocks, head="head", **how)
        except resflow.InvalidInputError:  # of two channels
            assert not good
        assert [module.training for module in net.modules()] == modes
        assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
        assert not any(module._forward_hooks for module in net.modules())
        assert all(each.requires_grad and each.grad is None for each in net.parameters())


def test_classes_of_jax_modules_listen_only_while_they_are_asked():
    X, y = samples(n=60)
    calls = {kind: kind.__call__ for kind in (Block, eqx.nn.Linear)}
    equinox_report(weights(np.float32), X, y, ridge=0.01)
    with pytest.raises(ValueError, match="needs to have rank 3"):  # the network's own
        equinox_report(weights(np.float32), X[:, :, 0], y, ridge=0.01)
    assert {kind: kind.__call__ for kind in calls} == calls


class Tanh(eqx.Module):
    W: jax.Array

    def __call__(self, h):
        return h + jnp.tanh(h @ self.W)


class RowWise(eqx.nn.Linear):
    """A linear layer of batches."""

    def __call__(self, h):
        return h @ self.weight.T + self.bias


class Vectors(eqx.Module):
    """A small network of vectors, which may misbehave in ways that are refused."""

    blocks: list
    head: eqx.nn.Linear
    way: str = "well"

    def __init__(self, way="well", head=eqx.nn.Linear):
        rng = np.random.default_rng(0)
        self.blocks = [Tanh(jnp.asarray(rng.standard_normal((C, C)))) for _ in range(2)]
        self.head, self.way = head(C, M, key=jax.random.key(0)), way

    def __call__(self, h):
        h = jnp.stack([h] * 5) if self.way == "turns" else h  # positions before samples
        for block in self.blocks[: 1 if self.way == "skips" else 2]:
            h = jax.vmap(block)(h) if self.way == "vmaps" else block(h)
        h = self.blocks[0](h) if self.way == "twice" else h
        scores = self.head(h.mean(0) if self.way == "turns" else h)
        return {"softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax}.get(self.way, lambda p: p)(scores)


def vectors(n=40):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, C)), rng.integers(M, size=n)


def on_vectors(net, *, data=None, y=None, **options):
    X, labels = vectors()
    options = {"blocks": net.blocks, "head": net.head, "ridge": 0.1, "hessian": None} | options
    if data is None:
        data, y = X, labels
    return resflow.networks.equinox.probe(net, data, y, **options)


def test_network_of_batches_and_one_that_gives_log_probabilities():
    net, X = Vectors(), vectors()[0]
    head = (net.head.weight, net.head.bias)
    h = [X, net.blocks[0](X)]
    expected = resflow.probe([*h, net.blocks[1](h[-1])], head, vectors()[1], ridge=0.1, hessian=None)
    for each in (
        on_vectors(net),
        on_vectors(Vectors(head=RowWise), batched=True),
        on_vectors(Vectors("log_softmax")),
    ):
        for name, value in expected.metrics().items():
            np.testing.assert_allclose(each.metrics()[name], value, rtol=1e-9, atol=1e-9)


def test_equinox_network_with_a_state_uses_its_running_statistics():
    class Stateful(eqx.Module):
        norm: eqx.nn.BatchNorm
        blocks: list
        head: eqx.nn.Linear

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(C, "batch", mode="ema")
            self.blocks, self.head = Vectors().blocks, Vectors().head

        def __call__(self, x, state):
            h, state = self.norm(x, state)
            for block in self.blocks:
                h = block(h)
            return self.head(h), state

    net, state = eqx.nn.make_with_state(Stateful)()
    X, y = vectors()
    state = state.set(net.norm.ema_state_index, (0.5 * jnp.ones(C), 4.0 * jnp.ones(C)))
    found = on_vectors(net, state=state)
    expected = on_vectors(Vectors(), data=(X - 0.5) / np.sqrt(4.0 + 1e-5), y=y)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)


def test_curvature_of_a_network_is_that_of_the_dense_hessian_whatever_the_batches():
    net, (X, y) = Vectors(), vectors()
    parameters, rest = eqx.partition(net, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(parameters)

    def objective(flat):
        p = jax.vmap(eqx.combine(unravel(flat), rest))(X)
        return jnp.mean(as_loss("softmax").value(p, y))

    eigenvalues, slope = np.linalg.eigvalsh(jax.jit(jax.hessian(objective))(flat)), jax.grad(objective)(flat)
    found = on_vectors(net, hessian="network", batch_size=13).curvature
    np.testing.assert_allclose(found.lambda_min, eigenvalues[0], rtol=1e-9)
    np.testing.assert_allclose(found.grad_norm, np.linalg.norm(slope), rtol=1e-9)
    assert found.certain
    assert found.converged
    assert found.parameters == len(eigenvalues)
    moved, _ = ravel_pytree(found.direction)
    np.testing.assert_allclose(objective(flat) - objective(flat + found.step * moved), found.fall, rtol=1e-8)
    assert found.fall > 0


def test_curvature_is_in_float64_where_jax_and_the_network_are_not():
    net, (X, y) = Vectors(), vectors()
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, net)
    double = jax.tree.map(lambda leaf: leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf, single)
    expected = on_vectors(double, data=X.astype(np.float32).astype(float), y=y, hessian="network").curvature
    with jax.enable_x64(False):
        found = on_vectors(single, data=X.astype(np.float32), y=y, hessian="network").curvature
    np.testing.assert_allclose(found[2:4], expected[2:4], rtol=1e-10)
    np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=1e-10)


def with_statistics_of(given, net):
    """The Equinox network with means and variances that are no parameters, as in the other frameworks."""

    def normalizations(net):
        return [net.norm.values, *(block.norm.values for block in net.blocks)]

    values = [
        [jnp.stack([scale, variance]), jnp.stack([shift, mean])]
        for ((scale, _), (shift, _)), ((_, variance), (_, mean)) in zip(
            normalizations(net), [given["norm"], *(block["norm"] for block in given["blocks"])], strict=True
        )
    ]
    return eqx.tree_at(normalizations, net, values)


@pytest.fixture(scope="module")
def smallest():
    """λ_min and ‖∇F‖ of a small network by automatic differentiation of the Equinox one, and how many parameters."""
    with pytest.MonkeyPatch.context() as patched:
        [patched.setitem(globals(), name, value) for name, value in SMALL.items()]
        given, (X, y) = weights(np.float64), samples(np.float64, 20)
        parameters, rest = eqx.partition(eqx.nn.inference_mode(Network(given)), eqx.is_inexact_array)
        flat, unravel = ravel_pytree(parameters)

        def objective(flat):
            p = jax.vmap(with_statistics_of(given, eqx.combine(unravel(flat), rest)))(X)
            return jnp.mean(as_loss("softmax").value(p, y))

        eigenvalues, slope = jnp.linalg.eigvalsh(jax.jit(jax.hessian(objective))(flat)), jax.grad(objective)(flat)
    return float(eigenvalues[0]), float(jnp.linalg.norm(slope)), len(flat) - 4 * SMALL["C"]  # statistics are fixed


SMALL = {"C": 3, "BLOCKS": 1}


@pytest.mark.parametrize("framework", ["nnx", "linen", "torch"])
def test_curvature_of_the_same_weights_is_the_same_in_every_framework(framework, smallest, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(globals(), name, value)
    X, y = samples(np.float64, 20)
    how = {"held_out": (X[:9], y[:9]), "ridge": 0.1, "batch_size": 12, "hessian": "network"}
    jax.config.update("jax_enable_x64", framework != "torch")  # of all threads: its users do not have it
    try:
        found = REPORTS[framework](weights(np.float64), X, y, **how).curvature
    finally:
        jax.config.update("jax_enable_x64", True)
    np.testing.assert_allclose([found.lambda_min, found.grad_norm, found.parameters], smallest, rtol=1e-9)
    assert found.lambda_min_lower - found.rounding <= smallest[0] < 0 < found.fall
    assert found.converged


X, Y = vectors()


@pytest.mark.parametrize(
    ("way", "options", "message"),
    [
        ("well", {"blocks": [Tanh(jnp.eye(C))]}, "a Tanh given is no part of the network"),
        ("well", {"blocks": []}, "blocks has no block"),
        ("well", {"blocks": "blocks"}, "blocks='blocks' must be a list of the network's blocks"),
        ("well", {"head": Tanh(jnp.eye(C))}, "head is a Tanh, but must be an equinox.nn.Linear"),
        ("skips", {}, "block 2 is not called in a pass"),
        ("twice", {}, "block 1 is called more than once"),
        ("softmax", {}, r"the network gives other numbers than W h \+ b .* not probabilities"),
        ("vmaps", {"batched": True}, "inside of a transformation of the network's own"),
        ("well", {"data": X}, r"batch 0 of data is a ndarray, but must be a pair \(X, y\)"),
        ("well", {"data": X, "y": Y[:7]}, r"data has samples of shape \(40, 6\) and labels of shape \(7,\)"),
        ("well", {"data": Y, "y": X}, r"samples of shape \(40,\) and labels of shape \(40, 6\), .* samples first"),
        ("well", {"data": [(Y, X)]}, r"batch 0 of data has samples of shape \(40,\) .* pass the samples first"),
        ("well", {"data": Y, "y": X[:, :, None]}, r"labels of shape \(40, 6, 1\), .* pass the samples first"),
        ("well", {"held_out": (Y, X)}, r"batch 0 of held_out has samples of shape \(40,\) .* pass the samples first"),
        ("well", {"data": [(X, Y[:7])]}, r"batch 0 of data has labels of shape \(7,\) for 40 samples"),
        ("well", {"data": []}, "data has no batch"),
        ("well", {"data": 3}, "data is a int, but must be batches"),
        ("well", {"held_out": [(X * np.nan, Y)]}, r"held_out\[0\]\[0\] has a value that is not finite"),
        ("well", {"batch_size": 0}, "batch_size=0 must be at least 1"),
        ("well", {"pool": "max"}, "pool='max' is unknown"),
        ("turns", {"batched": True}, r"h_0 of shape \(5, 40, 6\) is pooled to \(5, 6\), but the head reads 40 samples"),
        ("well", {"hessian": "net"}, "hessian='net' is unknown: nearest is 'network'"),
    ],
)
def test_what_does_not_fit_gets_one_line(way, options, message):
    with pytest.raises(InvalidInputError, match=message) as raised:
        on_vectors(Vectors(way, RowWise if "batched" in options else eqx.nn.Linear), **options)
    assert "\n" not in str(raised.value)


def test_flax_modules_that_do_not_fit_get_one_line():
    pytest.importorskip("flax", reason="flax is not installed: pip install flax")
    net, variables = linen_network(weights(np.float32))
    images, y = (part[:20] for part in samples())
    images, probe = images.transpose(0, 2, 3, 1), resflow.networks.flax.probe
    blocks = [f"block_{place}" for place in range(BLOCKS)]
    for options, message in (
        ({"blocks": ["blok_0"], "variables": variables}, "'blok_0' is no part of the network: nearest is 'block_0'"),
        ({"head": "stem", "variables": variables}, r"head='stem' has no kernel of shape \(d, m\)"),
        ({}, r"variables=None: pass what net.init\(key, X\) gave"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            probe(net, images, y, **{"blocks": blocks, "head": "head", "ridge": 0.1} | options)
    nnx = nnx_network(weights(np.float32))
    with pytest.raises(InvalidInputError, match=r"head is a Conv, but must be an nnx\.Linear"):
        probe(nnx, images, y, blocks=nnx.blocks, head=nnx.stem)
    with pytest.raises(InvalidInputError, match="net is a int, but must be a Flax"):
        probe(3, images, y, blocks=[1], head=2)


@pytest.mark.parametrize(("framework", "install"), [("torch", r"resflow\[torch\]"), ("flax", "flax")])
def test_missing_framework_says_what_installs_it(framework, install, monkeypatch):
    monkeypatch.setitem(sys.modules, framework, None)
    module = getattr(resflow.networks, framework)
    with pytest.raises(InvalidInputError, match=f"networks of {framework} need it installed: pip install '{install}'"):
        module.probe(None, X, Y, blocks=[1], head=2)


def test_frameworks_are_imported_by_networks_of_theirs_only():
    names = "resflow.networks.torch, resflow.networks.flax"
    python("-c", f"import {names}, sys; assert not {{'torch', 'flax'}} & set(sys.modules)")
