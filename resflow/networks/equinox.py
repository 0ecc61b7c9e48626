"""Networks of Equinox: probed batch by batch, in inference mode, each pass one compiled program."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax

from resflow.errors import InvalidInputError
from resflow.losses import Loss
from resflow.networks._batches import report_on
from resflow.networks._choice import LinearLayer, Whole
from resflow.networks._curvature import jax_curvature, parameters_of
from resflow.networks._passes import HEAD, Pass, Recorder, check_blocks, no_part
from resflow.networks._tracing import compiled, listening, multiplications, visible, widened
from resflow.probing.report import ProbeReport
from resflow.progress import Progress

__all__ = ["probe"]


def probe(
    net: Any,
    data: Any,
    y: Any = None,
    *,
    blocks: Any,
    head: Any,
    state: Any = None,
    batched: bool = False,
    pool: Any = "mean",
    held_out: Any = None,
    loss: str | Loss = "softmax",
    ridge: float | None = None,
    batch_size: int = 256,
    hessian: str | None = "auto",
    progress: bool | Progress = False,
    path: Any = None,
) -> ProbeReport:
    """What linear probes along its residual stream say of an Equinox network: `resflow.probe`, the arrays collected.

    The representations are those of `resflow.networks.torch.probe`. A copy of the network runs in inference mode.

    Args:
        net: An Equinox module that maps one sample to scores, shape (m,), as Equinox's layers do; with a state, a pair
            of sample and state to scores and state.
        data: Batches (X, y), or samples X, shape (n, ...), with y.
        y: Labels of the samples, if data is an array.
        blocks: The residual blocks, first to last: modules of net.
        head: The last layer, an `equinox.nn.Linear` of net.
        state: The `equinox.nn.State` of a network with batch normalization and the like.
        batched: Whether the network maps a batch of samples to a batch of scores instead; its blocks must then be
            called outside of vmap.
        pool: How a representation of more than two axes becomes one vector a sample: "mean" over all axes but samples
            and channels, which are the second axis of images (n, c, ...), the last of sequences (n, t, d); or a
            function of it.
        held_out: Batches or a pair (X, y) of samples that the network was not trained on.
        loss: As of `resflow.probe`; the network's scores are its predictions, not probabilities.
        ridge: As of `resflow.probe`.
        batch_size: Samples in a pass, where arrays are given.
        hessian: "network" for λ_min of the Hessian of the mean training loss in all floating-point arrays, in
            float64: all of it up to 1,024 parameters, by a Lanczos iteration beyond, of some hundred to some thousand
            products with the Hessian, each a pass over all samples, which are kept. "last block" for that in the head
            and the linear layer that the last block ends in, h_L = h_{L−1} + V f + c, or as of `resflow.probe` if it
            ends in none. "auto" for the last block's if it ends in a linear layer and nothing stands between that and
            the head, as is found out by its numbers, and otherwise the network's, of at most some 300 products; each
            only if it costs no more than the probes, or some seconds. The report says which it had and why. None for
            neither.
        progress: Called with how many products with the network's Hessian are done, and how many there may be; True
            for a progress bar.
        path: As of `resflow.probe`.

    Raises:
        InvalidInputError: If a block or the head is no module of net or is not called once in a pass, the network gives
            something else than its head, or what `resflow.probe` is given does not fit.
    """
    if not isinstance(net, eqx.Module):
        raise InvalidInputError(f"net is a {type(net).__name__}, but must be an equinox.Module")
    if not isinstance(head, eqx.nn.Linear):
        raise InvalidInputError(f"head is a {type(head).__name__}, but must be an equinox.nn.Linear: the last layer")
    wanted = {place: each for place, each in enumerate(check_blocks(blocks), 1)} | {HEAD: head}
    nodes, structure = jax.tree.flatten(net, is_leaf=lambda node: any(node is each for each in wanted.values()))
    at = {}
    for place, module in wanted.items():
        found = [position for position, node in enumerate(nodes) if node is module]
        if not found:
            raise no_part(module, ())
        at[place] = found[0]
    block = at[len(at) - 1]
    parts_of_block, block_structure = jax.tree.flatten(nodes[block], is_leaf=_is_linear)
    inner = [position for position, node in enumerate(parts_of_block) if _is_linear(node) and node is not nodes[block]]
    places = {-place: position for place, position in enumerate(inner, 1)}
    parameters, rest = eqx.partition(net, eqx.is_inexact_array)
    others, rest = eqx.partition(rest, eqx.is_array)

    ambiguous: set[int] = set()

    def traced(given: Any, X: jax.Array) -> Pass:
        parameters, (others, state) = given
        copy = eqx.nn.inference_mode(eqx.combine(parameters, others, rest))
        parts = structure.flatten_up_to(copy)  # type: ignore[attr-defined]

        def told(x: Any) -> tuple[Any, dict[int, Any], dict[int, Any]]:
            recorder = Recorder(len(at) - 1)
            of_block = block_structure.flatten_up_to(parts[block])  # type: ignore[attr-defined]
            told_of = {place: parts[position] for place, position in at.items()}
            told_of |= {place: of_block[position] for place, position in places.items()}
            with listening(told_of, recorder):
                p = copy(x) if state is None else copy(x, state)[0]
            seen = {
                place: h for place, h in recorder.entered.items() if place >= HEAD or (h is not None and visible(h))
            }
            return p, seen, recorder.left

        predictions, entered, left = told(X) if batched else jax.vmap(told)(X)
        recorder = Recorder(len(at) - 1, entered, left)
        if batched and recorder.is_ambiguous:
            ambiguous.add(len(X))
        return recorder.passed(predictions, pool=pool, channels_first=True, widened=widened)

    fixed = others, state
    names = _names(net)
    curvature = partial(jax_curvature, traced, parameters, fixed, progress=progress)
    of_block = {place: parts_of_block[position] for place, position in places.items()}
    return report_on(
        compiled(traced, (parameters, fixed), ambiguous),
        (head.weight, head.bias),
        data,
        y,
        held_out=held_out,
        loss=loss,
        ridge=ridge,
        batch_size=batch_size,
        hessian=hessian,
        path=path,
        whole=Whole(curvature, parameters_of(parameters), partial(multiplications, traced, (parameters, fixed))),
        layers={place: LinearLayer(names[id(each)], each.weight, each.bias) for place, each in of_block.items()},
    )


def _is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def _names(net: Any) -> dict[int, str]:
    """What leads to each linear layer of a network."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(net, is_leaf=_is_linear)
    return {id(node): jax.tree_util.keystr(path).lstrip(".") for path, node in nodes}
