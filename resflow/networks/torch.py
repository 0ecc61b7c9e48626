"""Networks of torch: probed batch by batch by hooks, in evaluation mode, without gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from resflow.errors import InvalidInputError
from resflow.losses import Loss, as_loss
from resflow.networks._batches import report_on, stream_of
from resflow.networks._choice import LinearLayer, Whole
from resflow.networks._passes import HEAD, Pass, Recorder, check_blocks, failing, first_of, in_order, no_part
from resflow.networks._torch_curvature import torch_curvature
from resflow.networks.frameworks import framework
from resflow.probing.curvature import Curvature
from resflow.probing.report import ProbeReport
from resflow.progress import Progress
from resflow.tensors import check_not_meta

__all__ = ["probe", "stream"]


def probe(
    net: Any,
    data: Any,
    y: Any = None,
    *,
    blocks: Any,
    head: Any,
    pool: Any = "mean",
    held_out: Any = None,
    loss: str | Loss = "softmax",
    ridge: float | None = None,
    batch_size: int = 256,
    hessian: str | None = "auto",
    progress: bool | Progress = False,
    path: Any = None,
) -> ProbeReport:
    """What linear probes along its residual stream say of a torch network: `resflow.probe` with the arrays collected.

    h_0 is what enters the first block, h_l what leaves block l, h_L what the head reads: what stands between the last
    block and the head, such as a normalization and pooling, counts as part of the last block. The network runs on its
    own device in evaluation mode, whose modes are set back afterwards; nothing of it is changed. Arrays of shape
    (n, d_l) are kept of all samples.

    Args:
        net: A `torch.nn.Module` that maps a batch X to scores, shape (n, m).
        data: Batches (X, y), such as a `DataLoader` gives; or samples X, shape (n, ...), with y.
        y: Labels of the samples, if data is an array.
        blocks: The residual blocks, first to last: modules of net, or their names as in `net.named_modules()`.
        head: The last layer, a `torch.nn.Linear` of net, or its name.
        pool: How a representation of more than two axes becomes one vector a sample: "mean" over all axes but samples
            and channels, which are the second axis of images (n, c, ...), the last of sequences (n, t, d); or a
            function of it.
        held_out: Batches or a pair (X, y) of samples that the network was not trained on.
        loss: As of `resflow.probe`; the network's scores are its predictions, not probabilities.
        ridge: As of `resflow.probe`.
        batch_size: Samples in a pass, where arrays are given.
        hessian: "network" for λ_min of the Hessian of the mean training loss in all parameters that ask for a
            gradient, in float64: all of it up to 1,024 parameters, by a Lanczos iteration beyond, of some hundred to
            some thousand products with the Hessian, each a pass over all samples, which are kept. "last block" for that
            in the head and the linear layer that the last block ends in, h_L = h_{L−1} + V f + c, or as of
            `resflow.probe` if it ends in none. "auto" for the last block's if it ends in a linear layer and nothing
            stands between that and the head, as is found out by its numbers, and otherwise the network's, of at most
            some 300 products; each only if it costs no more than the probes, or some seconds. The report says which it
            had and why. None for neither.
        progress: Called with how many products with the network's Hessian are done, and how many there may be; True
            for a progress bar.
        path: As of `resflow.probe`.

    Raises:
        InvalidInputError: If torch is not installed, a block or the head is no module of net or is not called once in
            a pass, the network gives something else than its head, or what `resflow.probe` is given does not fit.
    """
    torch = framework("torch")
    net = _as_it_is(torch, net)

    def curvature(batches: list[Any], *arguments: Any) -> Curvature:
        placed = [passes.placed(X) for X in batches]
        return torch_curvature(torch, net, passes.scores, placed, *arguments, progress)

    def multiplications(X: Any) -> float:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counted:
            net(passes.placed(X).clone())
        return counted.get_total_flops() / 2.0

    parameters = sum(each.numel() for each in net.parameters() if each.requires_grad)
    with _evaluating(net):
        passes = _passes(net, blocks, head, pool)
        return report_on(
            passes.run,
            passes.head,
            data,
            y,
            held_out=held_out,
            loss=loss,
            ridge=ridge,
            batch_size=batch_size,
            hessian=hessian,
            path=path,
            whole=Whole(curvature, parameters, multiplications),
            layers=passes.layers,
        )


def stream(
    net: Any,
    data: Any,
    y: Any = None,
    *,
    blocks: Any,
    head: Any,
    pool: Any = "mean",
    held_out: Any = None,
    loss: str | Loss = "softmax",
    batch_size: int = 256,
) -> dict[str, Any]:
    """The arrays that `probe` collects, as the arguments of `resflow.probe`: the report without the network.

    Arguments and errors are those of `probe`; of the loss it counts here whether it minds a shift of all scores.

    Returns:
        representations, [h_0, ..., h_L] of shape (n, d_l) each; head, the pair (W, b); y; and held_out, a pair of
        these of other samples, or None.
    """
    net = _as_it_is(framework("torch"), net)
    with _evaluating(net):
        passes = _passes(net, blocks, head, pool)
        return stream_of(passes.run, passes.head, data, y, held_out=held_out, loss=as_loss(loss), batch_size=batch_size)


class _Passes(NamedTuple):
    """A network's passes: what one shows, its scores alone, a batch on its device, its head (W, b), and linear layers.

    These are those of the last block, by their numbers.
    """

    run: Callable[[Any], Pass]
    scores: Callable[[Callable[[Any], Any], Any], Any]
    placed: Callable[[Any], Any]
    head: tuple[Any, Any]
    layers: dict[int, LinearLayer]


def _as_it_is(torch: Any, net: Any) -> Any:
    """A module, out of what compiles it or spreads it over devices."""
    if not isinstance(net, torch.nn.Module):
        raise InvalidInputError(f"net is a {type(net).__name__}, but must be a torch.nn.Module")
    wrapped = torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel
    while True:
        if isinstance(net, wrapped):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), torch.nn.Module):
            net = net._orig_mod
        else:
            return net


def _passes(net: Any, blocks: Any, head: Any, pool: Any) -> _Passes:
    torch = framework("torch")
    kinds = torch.nn.Sequential, torch.nn.ModuleList
    if isinstance(blocks, torch.nn.Module) and type(blocks).forward not in [each.forward for each in kinds]:
        raise InvalidInputError(f"blocks is one {type(blocks).__name__}: pass a list, [block] of a single one")
    modules = dict(net.named_modules())
    found = {place: _module(modules, each) for place, each in enumerate(check_blocks(blocks), 1)}
    check_blocks(found.values())
    last = _module(modules, head)
    for place, block in found.items():
        inside = [id(each) for each in block.modules()]
        if id(last) in inside:
            raise InvalidInputError(f"the head is in block {place}: pass the blocks before it, and the head apart")
        if other := next((one for one, each in found.items() if one != place and id(each) in inside), None):
            raise InvalidInputError(f"block {other} is inside of block {place}: pass blocks one after another")
    if not isinstance(last, torch.nn.Linear):
        raise InvalidInputError(f"head is a {type(last).__name__}, but must be a torch.nn.Linear: the last layer")
    trained = _trained_by_itself(torch, net)
    layers: dict[int, LinearLayer] = {}
    if trained(last):
        layers = _linear_layers(torch, modules, [*found.values(), last], found[len(found)], trained)
    told = {**found, HEAD: last, **{place: modules[each.name] for place, each in layers.items()}}
    weight = next((each for each in net.parameters() if each.is_floating_point()), last.weight)

    def widened(h: Any) -> Any:
        return h.to(torch.promote_types(h.dtype, torch.float32))

    def placed(X: Any) -> Any:
        X = X if isinstance(X, torch.Tensor) else torch.as_tensor(np.array(X))
        check_not_meta(X)
        return X.to(weight.device, weight.dtype if X.is_floating_point() else None)

    def run(X: Any) -> Pass:
        X = placed(X)
        recorder = Recorder(len(found))
        with _hooked(told, recorder):
            try:
                predictions = net(X.clone())  # which a network may write into
            except InvalidInputError:
                raise
            except Exception as error:
                raise failing("the network", X, error) from error
        passed = recorder.passed(predictions, pool=pool, channels_first=True, widened=widened)
        if recorder.is_ambiguous:
            run(X[:-1])  # which is refused if that axis is not the one of the samples
        return passed

    def scores(call: Callable[[Any], Any], X: Any) -> Any:
        recorder = Recorder(0)
        with _hooked({HEAD: last}, recorder):
            call(X.clone())
        return recorder.left[HEAD]

    return _Passes(run, scores, placed, (last.weight, last.bias), layers)


def _module(modules: dict[str, Any], each: Any) -> Any:
    if isinstance(each, str) and each in modules:
        return modules[each]
    if isinstance(each, str) or not any(each is module for module in modules.values()):
        raise no_part(each, modules)
    return each


def _trained_by_itself(torch: Any, net: Any) -> Callable[[Any], bool]:
    """Whether a linear layer's weights are parameters that are trained, and of no other module, too."""
    uses = Counter(id(each) for _, each in net.named_parameters(remove_duplicate=False))

    def trained(layer: Any) -> bool:
        parts = [each for each in (layer.weight, layer.bias) if each is not None]
        of_its_own = all(isinstance(each, torch.nn.Parameter) and uses[id(each)] == 1 for each in parts)
        return of_its_own and all(each.requires_grad for each in parts)

    return trained


def _linear_layers(
    torch: Any, modules: dict[str, Any], others: list[Any], block: Any, trained: Callable[[Any], bool]
) -> dict[int, LinearLayer]:
    """Linear layers of a block that are trained by themselves, other than some modules, by numbers below 0."""
    inner = {id(each) for each in block.modules() if isinstance(each, torch.nn.Linear) and trained(each)}
    inner -= {id(each) for each in others}
    names = [name for name, each in modules.items() if id(each) in inner]
    found = [(name, modules[name]) for name in names]
    return {-place: LinearLayer(name, each.weight, each.bias) for place, (name, each) in enumerate(found, 1)}


@contextmanager
def _hooked(modules: dict[int, Any], recorder: Recorder) -> Iterator[None]:
    """Tell the recorder of every call of some modules, by copies: what stands in place may be overwritten later."""
    given: dict[int, Any] = {}

    def copied(h: Any) -> Any:
        return h.clone() if hasattr(h, "clone") else h

    def before(place: int) -> Any:
        def hook(module: Any, arguments: Any, named: Any) -> None:
            given[place] = tuple(map(copied, in_order(module.forward, arguments, named)))

        return hook

    def after(place: int) -> Any:
        return lambda _, arguments, named, result: recorder.tell(place, given.pop(place, ()), copied(first_of(result)))

    handles = [each.register_forward_pre_hook(before(place), with_kwargs=True) for place, each in modules.items()]
    handles += [each.register_forward_hook(after(place), with_kwargs=True) for place, each in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(net: Any) -> Iterator[None]:
    """Evaluation mode without gradients, and every module's own mode and buffers again afterwards.

    Without torch's shortcut for layers of transformers, too, which calls no layer in them and makes nested tensors; and
    without compiled code, in which no hook is called.
    """
    torch = framework("torch")
    modes, shortcut = [(module, module.training) for module in net.modules()], torch.backends.mha.get_fastpath_enabled()
    buffers = [
        (module, name, buffer, None if buffer.is_meta else buffer.clone())
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with_hooks = torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
    net.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.no_grad(), with_hooks:
            yield
    finally:
        for module, name, buffer, former in buffers:
            module._buffers[name] = buffer
            if former is not None and not torch.equal(buffer, former):
                with torch.no_grad():
                    buffer.copy_(former)
        torch.backends.mha.set_fastpath_enabled(shortcut)
        for module, training in modes:
            module.training = training
