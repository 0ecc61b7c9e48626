"""Networks of Flax, nnx and linen: probed batch by batch, in evaluation mode, each pass one compiled program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resflow.errors import InvalidInputError
from resflow.losses import Loss
from resflow.networks._batches import report_on
from resflow.networks._choice import LinearLayer, Whole
from resflow.networks._curvature import jax_curvature, parameters_of
from resflow.networks._passes import HEAD, Pass, Recorder, check_blocks, in_order, no_part
from resflow.networks._tracing import compiled, listening, multiplications, visible, widened
from resflow.networks.frameworks import framework
from resflow.probing.report import ProbeReport
from resflow.progress import Progress

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
    hessian: str | None = "auto",
    progress: bool | Progress = False,
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
        hessian: "network" for λ_min of the Hessian of the mean training loss in all parameters, in float64: all of it
            up to 1,024 parameters, by a Lanczos iteration beyond, of some hundred to some thousand products with the
            Hessian, each a pass over all samples, which are kept. "last block" for that in the head and the linear
            layer that the last block ends in, h_L = h_{L−1} + V f + c, or as of `resflow.probe` if it ends in none.
            "auto" for the last block's if it ends in a linear layer and nothing stands between that and the head, as
            is found out by its numbers, and otherwise the network's, of at most some 300 products; each only if it
            costs no more than the probes, or some seconds. The report says which it had and why. None for neither.
        progress: Called with how many products with the network's Hessian are done, and how many there may be; True
            for a progress bar.
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
        told, parameters, weights, layers = _of_nnx(nnx, net, places, named)
    elif isinstance(net, linen.Module):
        told, parameters, weights, layers = _of_linen(linen, net, variables, places, named)
    else:
        raise InvalidInputError(f"net is a {type(net).__name__}, but must be a Flax nnx or linen module")

    ambiguous: set[int] = set()

    def traced(parameters: Any, X: jax.Array) -> Pass:
        recorder = Recorder(len(places) - 1)
        predictions = told(parameters, X, recorder)
        passed = recorder.passed(predictions, pool=pool, channels_first=False, widened=widened, visible=visible)
        if recorder.is_ambiguous:
            ambiguous.add(len(X))
        return passed

    curvature = partial(jax_curvature, traced, *parameters, progress=progress)
    return report_on(
        compiled(traced, parameters, ambiguous),
        weights,
        data,
        y,
        held_out=held_out,
        loss=loss,
        ridge=ridge,
        batch_size=batch_size,
        hessian=hessian,
        path=path,
        whole=Whole(curvature, parameters_of(parameters[0]), partial(multiplications, traced, parameters)),
        layers=layers,
    )


_Told = tuple[Callable[[Any, jax.Array, Recorder], Any], Any, tuple[Any, Any], dict[int, LinearLayer]]
"""The pass of parameters, samples and recorder, the parameters with what else there is, (W, b), and linear layers."""


def _of_nnx(nnx: Any, net: Any, places: dict[int, Any], named: dict[str, Any]) -> _Told:
    paths = {id(module): path for path, module in nnx.iter_modules(net)}
    for each in places.values():
        if id(each) not in paths:
            raise no_part(each, ())
    head = places[HEAD]
    if not isinstance(head, nnx.Linear):
        raise InvalidInputError(f"head is a {type(head).__name__}, but must be an nnx.Linear: the last layer")
    block = places[len(places) - 1]
    inner = [each for _, each in nnx.iter_modules(block) if isinstance(each, nnx.Linear) and each is not block]
    layers = {-place: each for place, each in enumerate(inner, 1)}
    graph, *state = nnx.split(net, nnx.Param, ...)

    def told(state: Any, X: jax.Array, recorder: Recorder) -> Any:
        copy = nnx.merge(graph, *state)
        copy.eval()
        modules = dict(nnx.iter_modules(copy))
        for module in modules.values() if _is_double(state[0]) else ():
            if _is_floating(getattr(module, "dtype", None)):
                module.dtype = jnp.float64
        with listening({place: modules[paths[id(each)]] for place, each in (places | layers).items()}, recorder):
            return copy(X, **named)

    def weights(layer: Any) -> tuple[Any, Any]:
        bias = getattr(layer, "bias", None)
        return layer.kernel[...].T, None if bias is None else bias[...]

    named_layers = {
        place: LinearLayer(".".join(map(str, paths[id(each)])), *weights(each)) for place, each in layers.items()
    }
    return told, tuple(state), weights(head), named_layers


def _of_linen(linen: Any, net: Any, variables: Any, places: dict[int, Any], named: dict[str, Any]) -> _Told:
    if variables is None:
        raise InvalidInputError("variables=None: pass what net.init(key, X) gave, which a linen module keeps outside")
    by_name = {each: place for place, each in places.items() if isinstance(each, str)}
    if len(by_name) < len(places):
        raise InvalidInputError("blocks and head of a linen module must be names, each another, such as 'block_0'")
    weights = _at(variables.get("params", {}), places[HEAD])
    if getattr(weights.get("kernel"), "ndim", 0) != 2:
        raise InvalidInputError(
            f"head={places[HEAD]!r} has no kernel of shape (d, m): name the Dense layer that is last"
        )

    layers: dict[int, LinearLayer] = {}
    block = places[len(places) - 1]
    for path, kernel in jax.tree_util.tree_leaves_with_path(_at(variables["params"], block)):
        *inner, last = (part.key for part in path)
        if last == "kernel" and kernel.ndim == 2:
            name = "/".join([block, *inner])
            layers[-1 - len(layers)] = LinearLayer(name, kernel.T, _at(variables["params"], name).get("bias"))
    by_name |= {layer.name: place for place, layer in layers.items() if layer.name not in by_name}

    def told(variables: Any, X: jax.Array, recorder: Recorder) -> Any:
        called: set[str] = set()
        double = _is_double(variables[0])

        def evaluating(call: Any, arguments: Any, given: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return call(*arguments, **given)
            name = "/".join(context.module.path)
            called.add(name)
            result = _evaluated(call, context.module, arguments, given, double)
            if name in by_name:
                own = type(context.module).__call__
                recorder.tell(by_name[name], in_order(own, (context.module, *arguments), given)[1:], result)
            return result

        with linen.intercept_methods(evaluating):
            predictions = net.apply({"params": variables[0], **variables[1]}, X, **named)
        for name, place in by_name.items():
            if name not in called and place >= HEAD:
                raise no_part(name, sorted(called))
        return predictions

    others = {name: each for name, each in variables.items() if name != "params"}
    return told, (variables["params"], others), (weights["kernel"].T, weights.get("bias")), layers


def _at(parameters: Any, name: str) -> Any:
    """The parameters of a linen module by its name; none of one that has none."""
    for part in name.split("/"):
        parameters = parameters.get(part, {})
    return parameters


def _is_double(parameters: Any) -> bool:
    """Whether parameters came in float64, as for products with the Hessian: what a module computes in is that, too."""
    return any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(parameters))


def _is_floating(dtype: Any) -> bool:
    """Whether what a module has as its `dtype` is a floating-point type."""
    try:
        return dtype is not None and bool(jnp.issubdtype(dtype, jnp.floating))
    except TypeError:  # a module's own attribute of that name
        return False


def _evaluated(call: Any, module: Any, arguments: Any, named: dict[str, Any], double: bool) -> Any:
    """A linen module's call in evaluation mode, whether it takes that as an argument or has it as an attribute.

    With `double`, it computes in float64 besides.
    """
    bound = inspect.signature(type(module).__call__).bind(module, *arguments, **named)
    asked = {name: True for name in _EVALUATING if name in bound.signature.parameters}
    bound.arguments.update(asked)
    kept = {name: getattr(module, name) for name in _EVALUATING if hasattr(module, name)}
    for name in kept:
        object.__setattr__(module, name, None if name in asked else True)
    if double and _is_floating(getattr(module, "dtype", None)):
        kept["dtype"] = module.dtype
        object.__setattr__(module, "dtype", jnp.float64)
    try:
        return call(*bound.args[1:], **bound.kwargs)
    finally:
        for name, value in kept.items():
            object.__setattr__(module, name, value)
