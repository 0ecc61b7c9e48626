"""Networks of Flax, nnx and linen: probed batch by batch, in evaluation mode, each pass one compiled program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from resflow.errors import InvalidInputError
from resflow.losses import Loss
from resflow.networks._batches import report_on
from resflow.networks._curvature import jax_curvature
from resflow.networks._passes import HEAD, Pass, Recorder, check_blocks, no_part
from resflow.networks._tracing import compiled, listening, widened
from resflow.networks.frameworks import framework
from resflow.probing.report import ProbeReport

__all__ = ["probe"]

_EVALUATING = ("deterministic", "use_running_average")


def probe(
    net: Any,
    data: Any,
    y: Any = None,
    *,
    blocks: Any,
    head: Any,
    variables: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    pool: Any = "mean",
    held_out: Any = None,
    loss: str | Loss = "softmax",
    ridge: float | None = None,
    batch_size: int = 256,
    hessian: str | None = None,
    path: Any = None,
) -> ProbeReport:
    """What linear probes along its residual stream say of a Flax network: `resflow.probe` with the arrays collected.

    The representations are those of `resflow.networks.torch.probe`. A copy of an nnx network runs in evaluation mode;
    in a linen network batch normalization is told to use its running averages, and dropout to be deterministic.

    Args:
        net: An nnx module, or a linen module, that maps a batch X to scores, shape (n, m).
        data: Batches (X, y), or samples X, shape (n, ...), with y.
        y: Labels of the samples, if data is an array.
        blocks: The residual blocks, first to last: of nnx modules of net; of linen their names, with a slash behind
            each module they are in, as "encoder/block_0".
        head: The last layer, an `nnx.Linear` of net; of linen the name of a `Dense`.
        variables: Of a linen module, what its `init` gave or training made of that.
        arguments: What the network is called with besides X, by name, such as {"train": False}.
        pool: How a representation of more than two axes becomes one vector a sample: "mean" over all axes but samples
            and channels, which are the last axis; or a function of it.
        held_out: Batches or a pair (X, y) of samples that the network was not trained on.
        loss: As of `resflow.probe`; the network's scores are its predictions, not probabilities.
        ridge: As of `resflow.probe`.
        batch_size: Samples in a pass, where arrays are given.
        hessian: "network" for λ_min of the Hessian of the mean training loss in all parameters, in float64:
            all of it up to 1,024 parameters, by a Lanczos iteration beyond, of some hundred to some thousand products
            with the Hessian, each a pass over all samples, which are kept. "last block" as of `resflow.probe`.
        path: As of `resflow.probe`.

    Raises:
        InvalidInputError: If Flax is not installed, a block or the head is no module of net or is not called once in a
            pass, the network gives something else than its head, or what `resflow.probe` is given does not fit.
    """
    framework("flax")
    from flax import linen, nnx

    places = dict(enumerate(check_blocks(blocks), 1)) | {HEAD: head}
    named = dict(arguments or {})
    if isinstance(net, nnx.Module):
        told, parameters, weights = _of_nnx(nnx, net, places, named)
    elif isinstance(net, linen.Module):
        told, parameters, weights = _of_linen(linen, net, variables, places, named)
    else:
        raise InvalidInputError(f"net is a {type(net).__name__}, but must be a Flax nnx or linen module")

    def traced(parameters: Any, X: jax.Array) -> Pass:
        recorder = Recorder(len(places) - 1)
        predictions = told(parameters, X, recorder)
        return recorder.passed(predictions, pool=pool, channels_first=False, widened=widened)

    return report_on(
        compiled(traced, parameters),
        weights,
        data,
        y,
        held_out=held_out,
        loss=loss,
        ridge=ridge,
        batch_size=batch_size,
        hessian=hessian,
        path=path,
        curvature=partial(jax_curvature, traced, *parameters),
    )


_Told = tuple[Callable[[Any, jax.Array, Recorder], Any], Any, tuple[Any, Any]]
"""The pass of parameters, samples and recorder, the parameters with what else there is, and (W, b)."""


def _of_nnx(nnx: Any, net: Any, places: dict[int, Any], named: dict[str, Any]) -> _Told:
    paths = {id(module): path for path, module in nnx.iter_modules(net)}
    for each in places.values():
        if id(each) not in paths:
            raise no_part(each, ())
    head = places[HEAD]
    if not isinstance(head, nnx.Linear):
        raise InvalidInputError(f"head is a {type(head).__name__}, but must be an nnx.Linear: the last layer")
    graph, *state = nnx.split(net, nnx.Param, ...)

    def told(state: Any, X: jax.Array, recorder: Recorder) -> Any:
        copy = nnx.merge(graph, *state)
        copy.eval()
        modules = dict(nnx.iter_modules(copy))
        with listening({place: modules[paths[id(each)]] for place, each in places.items()}, recorder):
            return copy(X, **named)

    bias = getattr(head, "bias", None)
    return told, tuple(state), (head.kernel[...].T, None if bias is None else bias[...])


def _of_linen(linen: Any, net: Any, variables: Any, places: dict[int, Any], named: dict[str, Any]) -> _Told:
    if variables is None:
        raise InvalidInputError("variables=None: pass what net.init(key, X) gave, which a linen module keeps outside")
    by_name = {each: place for place, each in places.items() if isinstance(each, str)}
    if len(by_name) < len(places):
        raise InvalidInputError("blocks and head of a linen module must be names, each another, such as 'block_0'")
    weights: Any = variables.get("params", {})
    for part in places[HEAD].split("/"):
        weights = weights.get(part, {})
    if getattr(weights.get("kernel"), "ndim", 0) != 2:
        raise InvalidInputError(
            f"head={places[HEAD]!r} has no kernel of shape (d, m): name the Dense layer that is last"
        )

    def told(variables: Any, X: jax.Array, recorder: Recorder) -> Any:
        called: set[str] = set()

        def evaluating(call: Any, arguments: Any, given: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return call(*arguments, **given)
            name = "/".join(context.module.path)
            called.add(name)
            result = _evaluated(call, context.module, arguments, given)
            if name in by_name:
                recorder.tell(by_name[name], arguments, given, result)
            return result

        with linen.intercept_methods(evaluating):
            predictions = net.apply({"params": variables[0], **variables[1]}, X, **named)
        for name in by_name:
            if name not in called:
                raise no_part(name, sorted(called))
        return predictions

    others = {name: each for name, each in variables.items() if name != "params"}
    return told, (variables["params"], others), (weights["kernel"].T, weights.get("bias"))


def _evaluated(call: Any, module: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """A linen module's call in evaluation mode, whether it takes that as an argument or has it as an attribute."""
    bound = inspect.signature(type(module).__call__).bind(module, *arguments, **named)
    asked = {name: True for name in _EVALUATING if name in bound.signature.parameters}
    bound.arguments.update(asked)
    kept = {name: getattr(module, name) for name in _EVALUATING if hasattr(module, name)}
    for name in kept:
        object.__setattr__(module, name, None if name in asked else True)
    try:
        return call(*bound.args[1:], **bound.kwargs)
    finally:
        for name, value in kept.items():
            object.__setattr__(module, name, value)
