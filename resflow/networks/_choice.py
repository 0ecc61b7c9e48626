"""Which Hessian a report on a network looks at, found out while its training samples pass through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resflow.errors import InvalidInputError
from resflow.losses import Loss
from resflow.networks._passes import Pass
from resflow.probing.affordable import MOST_RESTARTS, fits_work, iteration_products, reason_against
from resflow.probing.choice import CurvatureFound, affordable_last_block
from resflow.probing.curvature import Curvature, LastLayer, check_hessian, last_block_curvature
from resflow.probing.stream import Head, Stream
from resflow.tensors import plain_array

__all__ = ["Choice", "LinearLayer", "Whole"]

_FAR = 2.0**-8
"""How far h_L may lie from h_{L−1} + V f + c, in units of |h_L| + |h_{L−1}| + |V||f| + |c|: what bfloat16 leaves."""

_TELLING = 2.0**-6
"""And in units of the size of V f + c in each output: what is added must be seen to be that, and no function of it."""

_UNCOMPUTABLE = (RuntimeError, TypeError, ValueError)
"""What a framework raises of a network that cannot be differentiated twice, or in float64."""

_PASSES = 6.0
"""What a product with a Hessian costs, in passes."""


class LinearLayer(NamedTuple):
    """A linear layer of the last block, f ↦ V f + c: its name, V of shape (d, k), and c of shape (d,) or None."""

    name: str
    V: Any
    c: Any


class Whole(NamedTuple):
    """The Hessian in all parameters of a network.

    Attributes:
        curvature: λ_min, of the training samples in batches, their labels, the head, the loss and the number of
            restarts of the iteration.
        parameters: How many these are.
        multiplications: How many a pass of a batch takes; 0.0 if that is not known.
    """

    curvature: Callable[[list[Any], np.ndarray, Head, Loss, int], Curvature]
    parameters: int
    multiplications: Callable[[Any], float]


class Choice:
    """The Hessian that was asked for; or by itself that of the last block if its form fits, else that of the network.

    The form fits if h_L = h_{L−1} + V f + c for a linear layer of the last block and the f that enters it, for all
    samples. Samples are kept only where the whole network's Hessian may be looked at.

    Args:
        hessian: As of `resflow.networks.torch.probe`.
        layers: The linear layers of the last block, by their numbers.
        whole: The whole network's Hessian.
        bias: Whether the head has biases.
        chosen: Whether every probe's strength is chosen by cross-validation.

    Raises:
        InvalidInputError: If hessian is not what is allowed.
    """

    def __init__(
        self, hessian: str | None, layers: dict[int, LinearLayer], whole: Whole, *, bias: bool, chosen: bool
    ) -> None:
        check_hessian(hessian)
        self._hessian, self._whole, self._bias, self._chosen = hessian, whole, bias, chosen
        self._layers = layers if hessian in ("auto", "last block") else {}
        self._fitting: dict[int, list[np.ndarray]] = {place: [] for place in self._layers}
        self._kept: list[Any] = []
        self._samples, self._work, self._against = 0, 0.0, ""

    def see(self, X: Any, passed: Pass) -> None:
        """A batch of training samples and its pass."""
        first, fitted = self._samples == 0, bool(self._fitting)
        self._samples += len(passed.stream[-1])
        self._fitting = {
            place: [*parts, passed.features[place]]
            for place, parts in self._fitting.items()
            if _makes(self._layers[place], place, passed)
        }
        if self._hessian == "network":
            self._kept.append(X)
        if self._hessian != "auto" or self._fitting or self._against:
            return
        if fitted and not first:
            self._against = "λ_min is left out, as the form of the last block fits some samples only."
            return
        if first:
            self._work = max(self._whole.multiplications(X) / self._samples, self._whole.parameters)
        self._against = self._reason_against(passed)
        self._kept = [] if self._against else [*self._kept, X]

    def curvature(self, stream: Stream, head: Head, loss: Loss) -> CurvatureFound:
        """λ_min as chosen, of all training samples."""
        layer = self._layer()
        if self._hessian == "network":
            try:
                return self._of_network(stream, head, loss, 20), ""
            except InvalidInputError:
                raise
            except _UNCOMPUTABLE as error:
                raise InvalidInputError(f"hessian='network': {_failing(error)}: pass another, or None") from error
        if self._hessian == "last block":
            return last_block_curvature(stream, head, loss, bias=self._bias, layer=layer), ""
        if self._hessian is None or self._against:
            return None, self._against
        if layer is not None:
            why = f"λ_min is that in the head and in {layer.name}, the linear layer that the last block ends in."
            how = {"bias": self._bias, "chosen": self._chosen}
            return affordable_last_block(stream, head, loss, layer=layer, why=why, **how)
        try:
            found = self._of_network(stream, head, loss, MOST_RESTARTS)
        except _UNCOMPUTABLE as error:
            return None, f"λ_min is left out, as {_failing(error)}"
        return found, (
            "λ_min is that in all parameters, as no linear layer of the last block, trained by itself as the head is, "
            "was seen to make h_L − h_{L−1}."
        )

    def _of_network(self, stream: Stream, head: Head, loss: Loss, max_restarts: int) -> Curvature:
        return self._whole.curvature(self._kept, stream.y, head, loss, max_restarts)

    def _layer(self) -> LastLayer | None:
        for place, parts in self._fitting.items():
            name, V, c = self._layers[place]
            return LastLayer(name, plain_array(V), None if c is None else plain_array(c), np.concatenate(parts))
        return None

    def _reason_against(self, passed: Pass) -> str:
        n, parameters = self._samples, self._whole.parameters
        if parameters == 0:
            return "λ_min is left out, as no parameter of the network asks for a gradient."
        widths, outputs = [h.shape[1] for h in passed.stream], passed.scores[0].size
        work = _PASSES * iteration_products(parameters) * n * self._work
        fits = fits_work(n, widths, outputs, chosen=self._chosen)
        return reason_against(work, fits, "hessian='network'")


def _failing(error: Exception) -> str:
    said = next(iter(str(error).splitlines()), "")
    kind = "" if isinstance(error, InvalidInputError) else f"{type(error).__name__}: "
    return f"products with the Hessian fail: {kind}{said}"


def _makes(layer: LinearLayer, place: int, passed: Pass) -> bool:
    """Whether what the last block adds is what a linear layer gives."""
    if place not in passed.features:
        return False
    V = np.asarray(plain_array(layer.V), dtype=np.float64)
    c = np.zeros(len(V)) if layer.c is None else np.asarray(plain_array(layer.c), dtype=np.float64)
    f, before, after = (h.astype(np.float64) for h in (passed.features[place], *passed.stream[-2:]))
    if f.shape[1] != V.shape[1] or not before.shape == after.shape == (len(f), len(V)):
        return False
    size = np.abs(f) @ np.abs(V).T + np.abs(c) + np.abs(before) + np.abs(after)
    added = f @ V.T + c
    apart = np.abs(before + added - after)
    told = np.linalg.norm(apart, axis=0) < _TELLING * np.linalg.norm(added, axis=0)
    return bool((apart <= _FAR * size).all() and told.all())
