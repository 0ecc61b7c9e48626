"""All batches of samples through a network of any framework: what they showed as arrays, and the report on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from resflow.arrays import as_number
from resflow.errors import InvalidInputError
from resflow.losses import Loss, as_loss
from resflow.networks._passes import Pass
from resflow.probing.curvature import Curvature
from resflow.probing.probe import report_with
from resflow.probing.report import ProbeReport
from resflow.probing.stream import Head, Stream, as_head, plain_array

__all__ = ["CurvatureOf", "report_on", "stream_of"]

CurvatureOf = Callable[[list[Any], np.ndarray, Head, Loss], Curvature]
"""λ_min in all parameters of a network, of the training samples in batches, their labels, the head and the loss."""

_FAR = 0.01
"""How far scores may lie from W h + b, in units of |W||h| + |b|: what bfloat16 and TF32 leave of a product."""


def report_on(
    run: Callable[[Any], Pass],
    head: tuple[Any, Any],
    data: Any,
    y: Any,
    *,
    held_out: Any,
    loss: str | Loss,
    ridge: float | None,
    batch_size: int,
    hessian: str | None,
    path: Any,
    curvature: CurvatureOf,
) -> ProbeReport:
    """The report on a network from its passes over all samples, the arguments as of `resflow.networks.torch.probe`.

    Args:
        run: One pass of a batch.
        head: (W, b) in the orientation of `resflow.probe`.
        curvature: Asked where `hessian` is "network".

    Raises:
        InvalidInputError: If samples and labels do not fit, or the network predicts something else than its head.
    """
    chosen, whole = as_loss(loss), hessian == "network"
    kept: list[Any] = []
    arrays = stream_of(
        run, head, data, y, held_out=held_out, loss=chosen, batch_size=batch_size, kept=kept if whole else None
    )

    def of_network(stream: Stream, head: Head, loss: Loss) -> Curvature:
        return curvature(kept, stream.y, head, loss)

    options = {"ridge": ridge, "path": path, "hessian": hessian}
    return report_with(**arrays, loss=chosen, of_network=of_network if whole else None, **options)


def stream_of(
    run: Callable[[Any], Pass],
    head: tuple[Any, Any],
    data: Any,
    y: Any,
    *,
    held_out: Any,
    loss: Loss,
    batch_size: int,
    kept: list[Any] | None = None,
) -> dict[str, Any]:
    """The arguments of `resflow.probe`: representations, head, y and held_out.

    Arguments and errors are those of `report_on`; besides, `kept` gets the batches of training samples.
    """
    as_number("batch_size", batch_size, "must be at least 1", lambda size: size >= 1, whole=True)
    W, b = plain_array(head[0]), plain_array(head[1])

    def collected(samples: Any, labels: Any, name: str) -> tuple[list[np.ndarray], np.ndarray]:
        streams, ys, last = [], [], None
        for place, (X, targets) in enumerate(_batches(samples, labels, batch_size, name)):
            passed = Pass(*(_each(plain_array, part) for part in run(X)))
            targets = np.asarray(plain_array(targets))
            h = passed.stream[-1]
            if targets.shape[:1] != h.shape[:1]:
                raise InvalidInputError(
                    f"batch {place} of {name} has labels of shape {targets.shape} for {len(h)} samples: pass batches "
                    "(X, y), as of a DataLoader, or arrays of as many labels as samples"
                )
            last = last or as_head((W, b), h.shape[1], loss)
            _check_scores(last, passed, loss)
            streams.append(passed.stream)
            if kept is not None and name == "data":
                kept.append(X)
            ys.append(targets)
        if not ys:
            raise InvalidInputError(f"{name} has no batch of samples")
        return [np.concatenate(layer) for layer in zip(*streams, strict=True)], np.concatenate(ys)

    training, labels = collected(data, y, "data")
    pair = isinstance(held_out, tuple) and len(held_out) == 2
    samples, targets = held_out if pair else (held_out, None)
    unseen = None if held_out is None else collected(samples, targets, "held_out")
    return {"representations": training, "head": (W, b), "y": labels, "held_out": unseen}


def _each(convert: Callable[[Any], Any], part: Any) -> Any:
    return tuple(np.asarray(convert(h)) for h in part) if isinstance(part, tuple) else np.asarray(convert(part))


def _batches(data: Any, y: Any, size: int, name: str) -> Iterator[tuple[Any, Any]]:
    """Batches (X, y) of a loader, or of arrays."""
    if y is None:
        if not isinstance(data, Iterable):
            raise InvalidInputError(
                f"{name} is a {type(data).__name__}, but must be batches (X, y), or an array with y"
            )
        for place, batch in enumerate(data):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise InvalidInputError(
                    f"batch {place} of {name} is a {type(batch).__name__}, but must be a pair (X, y): pass batches, or "
                    "an array of samples with its labels y"
                )
            yield batch[0], batch[1]
        return
    X, labels = (each if hasattr(each, "shape") else np.asarray(each) for each in (data, y))
    if len(X.shape) == 0 or tuple(labels.shape[:1]) != tuple(X.shape[:1]):
        raise InvalidInputError(
            f"{name} has samples of shape {tuple(X.shape)} and labels of shape {tuple(labels.shape)}: one label a "
            "sample is needed"
        )
    for start in range(0, len(X), size):
        yield X[start : start + size], labels[start : start + size]


def _check_scores(head: Head, passed: Pass, loss: Loss) -> None:
    """Check that the head is W h + b, and that the network gives what its head gives, up to what the loss ignores."""
    h = passed.stream[-1]
    n = len(h)
    p = head.predictions(h).reshape(n, -1)
    allowed = _FAR * Head(np.abs(head.W), np.abs(head.b)).predictions(np.abs(h)).reshape(n, -1)
    for scores, what in ((passed.scores, "the head gives"), (passed.predictions, "the network gives")):
        apart = scores.reshape(n, -1).astype(np.float64)
        if apart.shape != p.shape:
            raise InvalidInputError(f"{what} an array of shape {scores.shape}, but W h + b has {p.shape}")
        apart, limit = apart - p, allowed
        if loss.shift_invariant:  # log-probabilities are as good as scores
            apart, limit = apart - apart[:, :1], allowed + allowed[:, :1]
        if (np.abs(apart) > limit).any():
            raise InvalidInputError(
                f"{what} other numbers than W h + b of the head, by up to {np.abs(apart).max():.3g}: name the linear "
                "layer that makes the scores, and let the network return these, not probabilities"
            )
