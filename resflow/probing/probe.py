"""A report on any trained residual network, from its residual stream, its head and the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np

from resflow.arrays import as_number
from resflow.errors import InvalidInputError, shown
from resflow.losses import Loss, as_loss
from resflow.probing._advice import advise
from resflow.probing._path import as_path, probe_path
from resflow.probing.choice import CurvatureFound, curvature_by_arrays
from resflow.probing.comparison import NOTHING, Difference, compare, resolution_factor
from resflow.probing.curvature import check_hessian
from resflow.probing.linear_probe import fit_linear_probe
from resflow.probing.report import Baseline, ProbeReport
from resflow.probing.stream import Head, Stream, as_head, as_representations, as_stream

__all__ = ["probe", "report_with"]

_MOST_COLUMNS = 2048


def probe(
    representations: Any,
    head: tuple[Any, Any],
    y: Any,
    *,
    loss: str | Loss = "softmax",
    held_out: tuple[Any, Any] | None = None,
    ridge: float | None = None,
    hessian: str | None = "auto",
    path: Any = None,
) -> ProbeReport:
    """What linear probes along the residual stream say of a network: is it stuck, what does each block add?

    A network with the residual stream h_0, h_1, ..., h_L, one vector a sample before the first block and after each,
    predicts W h_L + b. On every h_l a linear probe is fitted, F_lin(h_l) its mean loss: with an intercept, by ridge
    regularization of strength λ in units of the mean square of the centred columns of h_l, so that one rule serves all
    layers. Representations are often separable, and then a best linear predictor exists by such a term only. Reported:

        F − F_lin(h_l)               is the network as good as if it had been cut after block l and its head trained?
        F_lin(h_{l−1}) − F_lin(h_l)  what block l adds for a linear predictor.
        F − F_lin(h_L)               how unfinished the head is, at most ⟨∇F, (W, b) − (W*, b*)⟩ in (W, b).
        F − F_aug, F_lin(h_0) − F_aug   with F_aug of the probe on (h_0, h_1 − h_0, ..., h_L − h_{L−1}): what training
                                     left undone in the linear maps, and what the blocks offer.

    Each on the training samples and on held-out ones, these with the standard error of the differences sample by
    sample. Advice rests on held-out differences beyond a t-quantile that holds for all of them together at 95 %; they
    say nothing of another training run. A block that adds nothing for a linear probe may still prepare what a later one
    adds.

    A network that knows its training samples by heart makes λ too small in its late layers, whose probes are then worse
    on held-out samples than they could be: give a `ridge` there.

    Computed with NumPy in float64. Choosing λ takes some 10 fits a layer.

    Args:
        representations: [h_0, ..., h_L] of the training samples, shape (n, d_l) each, at least two; after pooling, and
            after the last normalization, if there is one, for h_L. NumPy or JAX arrays, data frames or torch tensors,
            which may require gradients and be of bfloat16.
        head: (W, b) of the last layer, shapes (m, d_L) and (m,), or (d_L,) and () for one output; b None for none.
        y: Labels of the training samples, as `Point` takes them.
        loss: A loss or its name.
        held_out: ([h_0, ..., h_L], y) of samples that the network was not trained on.
        ridge: λ for all layers; None to choose it by cross-validation on the training samples, layer by layer.
        hessian: "last block" for λ_min of the Hessian in the head and a linear map behind what the last block adds, of
            the residual unit that these make: directions that the network itself has where its last block ends in a
            linear layer and its head reads what leaves that. That of the whole network needs the network:
            `resflow.networks`. "auto" for that of the last block where both of its representations have one width and
            it costs no more than the probes, or some seconds; the report says which it had and why. None for neither.
        path: Strengths λ, for the path of every layer's probes over them, each fit started from the one before, the
            strongest first. Every one is also the best predictor within the ball of its own norm. None for no path.

    Raises:
        InvalidInputError: If shapes, widths or classes do not fit, a value is not finite, ridge is out of range, or it
            is 0 and a representation is separable; if hessian or path is not what is allowed.

    References:
        Alain and Bengio 2016 (arXiv:1610.01644) for linear probes; Shamir 2018 (arXiv:1804.06739) for the premise that
        is measured; Chen 2021 (arXiv:2111.05496) for the augmented predictor.
    """
    if hessian == "network":
        raise InvalidInputError(
            "hessian='network' needs the network, not its arrays: call the probe of resflow.networks.torch, .flax or "
            ".equinox, or choose hessian='last block'"
        )
    check_hessian(hessian)
    curvature = partial(curvature_by_arrays, hessian=hessian, bias=_has_bias(head), chosen=ridge is None)
    return report_with(
        representations, head, y, loss=loss, held_out=held_out, ridge=ridge, path=path, curvature=curvature
    )


def report_with(
    representations: Any,
    head: tuple[Any, Any],
    y: Any,
    *,
    loss: str | Loss,
    held_out: Any,
    ridge: float | None,
    path: Any,
    curvature: Callable[[Stream, Head, Loss], CurvatureFound],
    dead: Collection[int] | None = None,
) -> ProbeReport:
    """The report of `probe`, whose arguments these are, for networks that are at hand.

    Args:
        curvature: λ_min of the training samples' stream, the head and the loss.
        dead: The blocks, counted from 1, that leave every sample as it was, where that is known of the network itself;
            None if representations have to tell.
    """
    loss = as_loss(loss)
    strengths = as_path(path)
    if ridge is not None:
        allowed = "must be 0, or from 1e-12 to 1e12, in units of the columns' mean square; None to choose it"
        ridge = as_number("ridge", ridge, allowed, lambda r: r == 0 or 1e-12 <= r <= 1e12)
    training, last, unseen = _checked(representations, head, y, loss, held_out)
    here = _Against(last, training, loss, comparisons=len(training.representations) + 1)
    there = None if unseen is None else _Against(last, unseen, loss, comparisons=len(training.representations) + 1)

    def baseline(name: str, h: np.ndarray, h_there: np.ndarray | None, before: Baseline | None) -> Baseline:
        found = fit_linear_probe(h, training.y, loss, here.outputs, name=name, ridge=ridge)
        gap, gain, objective, certificate = here.compared(name, found.predictions(h), before)
        unseen_gap, unseen_gain, unseen_objective = NOTHING, NOTHING, math.nan
        if there is not None and h_there is not None:
            unseen_gap, unseen_gain, unseen_objective, _ = there.compared(name, found.predictions(h_there), before)
        return Baseline(
            name=name,
            width=h.shape[1],
            probe=found._replace(objective=objective),
            certificate=certificate,
            gap=gap,
            gain=gain,
            held_out_objective=unseen_objective,
            held_out_gap=unseen_gap,
            held_out_gain=unseen_gain,
            verdict="",
        )

    layers: list[Baseline] = []
    for place, h in enumerate(training.representations):
        h_there = None if unseen is None else unseen.representations[place]
        before = layers[-1] if layers else None
        layer = baseline(f"h_{place}", h, h_there, before)
        if before is not None:
            still = all(each is None or each.is_dead(place) for each in (training, unseen))
            is_dead = still if dead is None else place in dead
            layer = layer._replace(verdict=_verdict(layer, before, is_dead))
        layers.append(layer)
    augmented = None
    if training.blocks_add and sum(h.shape[1] for h in training.representations) <= _MOST_COLUMNS:
        h_there = None if unseen is None else unseen.side_by_side()
        augmented = baseline("augmented", training.side_by_side(), h_there, layers[0])
    found, why = curvature(training, last, loss)
    held_out_samples = 0 if unseen is None else len(unseen.y)
    return ProbeReport(
        loss=loss.name,
        samples=len(training.y),
        held_out_samples=held_out_samples,
        objective=here.objective,
        held_out_objective=math.nan if there is None else there.objective,
        layers=tuple(layers),
        augmented=augmented,
        curvature=found,
        curvature_choice=why,
        path=probe_path(strengths, training, unseen, loss, here.outputs, here.objective),
        advice=advise(
            layers,
            held_out=held_out_samples,
            curvature=found,
            missing=_missing_classes(training.y, loss, here.outputs),
            bias=_has_bias(head),
            blind=bool((training.representations[0] == training.representations[0][:1]).all()),
        ),
    )


def _has_bias(head: Any) -> bool:
    return isinstance(head, tuple | list) and len(head) == 2 and head[1] is not None


def _missing_classes(y: np.ndarray, loss: Loss, outputs: int | None) -> list[int]:
    """The classes of which there is no sample."""
    if loss.labels != "classes" or outputs is None or y.ndim == 2:
        return []
    return [int(each) for each in np.setdiff1d(np.arange(outputs), y)]


def _checked(representations: Any, head: Any, y: Any, loss: Loss, held_out: Any) -> tuple[Stream, Head, Stream | None]:
    hs = as_representations(representations, "representations")
    last = as_head(head, hs[-1].shape[1], loss)
    outputs = len(last.W) if last.W.ndim == 2 else None
    training = as_stream(hs, y, loss, outputs, "y")
    if held_out is None:
        return training, last, None
    if not (isinstance(held_out, tuple | list) and len(held_out) == 2):
        raise InvalidInputError(
            f"held_out is a {type(held_out).__name__}, but must be a pair ([h_0, ..., h_L], y) of the representations "
            "and labels of other samples"
        )
    others = as_representations(held_out[0], "held_out[0]")
    widths, wanted = ([h.shape[1] for h in each] for each in (others, hs))
    if widths != wanted:
        raise InvalidInputError(
            f"held_out[0] has widths {shown(widths)}, but representations have {shown(wanted)}: pass the same layers"
        )
    return training, last, as_stream(others, held_out[1], loss, outputs, "held_out[1]")


class _Against:
    """The network's predictions on some samples, which probes' predictions are compared with."""

    def __init__(self, head: Head, stream: Stream, loss: Loss, *, comparisons: int) -> None:
        self.loss, self.y = loss, stream.y
        self.outputs = len(head.W) if head.W.ndim == 2 else None
        self.p = head.predictions(stream.representations[-1])
        self.losses = loss.value(self.p, self.y)
        self.objective = float(np.mean(self.losses))
        self.slopes = loss.derivative(self.p, self.y)
        at_zero = float(np.mean(loss.value(np.zeros_like(self.p), self.y)))
        factor = resolution_factor(len(self.y), comparisons)
        self.difference = partial(compare, at_zero=at_zero, factor=factor)
        self.of_probes: dict[str, np.ndarray] = {}

    def compared(
        self, name: str, q: np.ndarray, before: Baseline | None
    ) -> tuple[Difference, Difference, float, float]:
        """Gap of the network to a probe's predictions q, gain over the probe before, mean loss of q, certificate."""
        losses = self.loss.value(q, self.y)
        self.of_probes[name] = losses
        gain = NOTHING if before is None else self.difference(self.of_probes[before.name], losses)
        certificate = float(np.sum(self.slopes * (self.p - q))) / len(q)
        return self.difference(self.losses, losses), gain, float(np.mean(losses)), certificate


def _verdict(layer: Baseline, before: Baseline, dead: bool) -> str:
    """What the block between two representations does, by held-out samples."""
    if dead:
        return "dead"
    if math.isnan(layer.held_out_gain.value) or not (layer.probe.finished and before.probe.finished):
        return "not judged"
    return {1: "adds", 0: "not told from 0", -1: "loses"}[layer.held_out_gain.sign]
