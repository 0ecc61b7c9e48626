"""All batches of samples through a network of any framework: what they showed as arrays, and the report on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from resflow.arrays import as_number
from resflow.errors import InvalidInputError
from resflow.losses import Loss, as_loss
from resflow.networks._choice import Choice, LinearLayer, Whole
from resflow.networks._passes import Pass
from resflow.probing.probe import report_with
from resflow.probing.report import ProbeReport
from resflow.probing.stream import Head, as_head
from resflow.tensors import plain_array

__all__ = ["report_on", "stream_of"]

_FAR = 0.01
"""How far scores may lie from W h + b, in units of |W||h| + |b|: what bfloat16 and TF32 leave of a product."""
_SUM = 0.01
"""By how much the sum of probabilities, in whatever precision, may miss 1."""


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
    whole: Whole,
    layers: dict[int, LinearLayer],
) -> ProbeReport:
    """The report on a network from its passes over all samples, the arguments as of `resflow.networks.torch.probe`.

    Args:
        run: One pass of a batch.
        head: (W, b) in the orientation of `resflow.probe`.
        whole: The Hessian in all parameters.
        layers: The linear layers of the last block, by their numbers.

    Raises:
        InvalidInputError: If samples and labels do not fit, or the network predicts something else than its head.
    """
    chosen = as_loss(loss)
    choice = Choice(hessian, layers, whole, bias=head[1] is not None, chosen=ridge is None)
    unmoved: list[tuple[Any, ...]] = []

    def see(X: Any, passed: Pass) -> None:
        choice.see(X, passed)
        unmoved.append(passed.unmoved)

    arrays = stream_of(run, head, data, y, held_out=held_out, loss=chosen, batch_size=batch_size, see=see)
    dead = {place for place, of_batches in enumerate(zip(*unmoved, strict=True), 1) if all(of_batches)}
    return report_with(**arrays, loss=chosen, ridge=ridge, path=path, curvature=choice.curvature, dead=dead)


def stream_of(
    run: Callable[[Any], Pass],
    head: tuple[Any, Any],
    data: Any,
    y: Any,
    *,
    held_out: Any,
    loss: Loss,
    batch_size: int,
    see: Callable[[Any, Pass], None] | None = None,
) -> dict[str, Any]:
    """The arguments of `resflow.probe`: representations, head, y and held_out.

    Arguments and errors are those of `report_on`; besides, `see` is told every batch of training samples and its pass.
    """
    batch_size = as_number("batch_size", batch_size, "must be at least 1", lambda size: size >= 1, whole=True)
    W, b = plain_array(head[0]), plain_array(head[1])

    def collected(samples: Any, labels: Any, name: str) -> tuple[list[np.ndarray], np.ndarray]:
        streams, ys, last = [], [], None
        for place, (X, targets) in enumerate(_batches(samples, labels, batch_size, name)):
            targets = np.asarray(plain_array(targets))
            _check_order(X, targets, loss, f"batch {place} of {name}")
            passed = _plain(run(X))
            h = passed.stream[-1]
            if targets.shape[:1] != h.shape[:1]:
                raise InvalidInputError(
                    f"batch {place} of {name} has labels of shape {targets.shape} for {len(h)} samples: pass batches "
                    "(X, y), as of a DataLoader, or arrays of as many labels as samples"
                )
            last = last or as_head((W, b), h.shape[1], loss)
            _check_scores(last, passed, loss)
            streams.append(passed.stream)
            if see is not None and name == "data":
                see(X, passed)
            ys.append(targets)
        if not ys:
            raise InvalidInputError(f"{name} has no batch of samples")
        return [np.concatenate(layer) for layer in zip(*streams, strict=True)], np.concatenate(ys)

    training, labels = collected(data, y, "data")
    pair = isinstance(held_out, tuple) and len(held_out) == 2 and not all(map(_is_batch, held_out))
    samples, targets = held_out if pair else (held_out, None)
    unseen = None if held_out is None else collected(samples, targets, "held_out")
    return {"representations": training, "head": (W, b), "y": labels, "held_out": unseen}


def _plain(passed: Pass) -> Pass:
    """A pass in NumPy's arrays."""
    plain = (np.asarray(plain_array(h)) for h in (*passed.stream, passed.scores, passed.predictions))
    *stream, scores, predictions = plain
    features = {place: np.asarray(plain_array(h)) for place, h in passed.features.items()}
    return Pass(tuple(stream), scores, predictions, features, tuple(bool(each) for each in passed.unmoved))


def _is_batch(each: Any) -> bool:
    return isinstance(each, tuple | list) and len(each) == 2 and all(hasattr(part, "shape") for part in each)


def _batches(data: Any, y: Any, size: int, name: str) -> Iterator[tuple[Any, Any]]:
    """Batches (X, y) of a loader, or of arrays."""
    if y is None:
        if not isinstance(data, Iterable):
            raise InvalidInputError(
                f"{name} is a {type(data).__name__}, but must be batches (X, y), as of a DataLoader, or an array with y"
            )
        for place, batch in enumerate(data):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                given = f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, tuple | list) else "")
                raise InvalidInputError(
                    f"batch {place} of {name} is a {given}, but must be a pair (X, y): pass a loader of such pairs, "
                    "or ((batch[0], batch[1]) for batch in loader) with what they are, or samples X and their labels y"
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


def _check_order(X: Any, targets: np.ndarray, loss: Loss, name: str) -> None:
    """Check that samples and labels are not in each other's place, which a network would have its own words for."""
    of_classes, samples = loss.labels in ("binary", "classes"), tuple(getattr(X, "shape", ()))
    if not of_classes or len(samples) != 1 or targets.ndim < 2:
        return
    if targets.ndim > 2 or (np.abs(targets.sum(axis=1) - 1.0) > _SUM).any():
        raise InvalidInputError(
            f"{name} has samples of shape {samples} and labels of shape {targets.shape}, which are neither classes nor "
            "probabilities of them: pass the samples first, then their labels"
        )


def _check_scores(head: Head, passed: Pass, loss: Loss) -> None:
    """Check that the head is W h + b, and that the network gives what its head gives, up to what the loss ignores."""
    h = passed.stream[-1]
    n = len(h)
    p = head.predictions(h).reshape(n, -1)
    allowed = _FAR * Head(np.abs(head.W), np.abs(head.b)).predictions(np.abs(h)).reshape(n, -1)
    for scores, what in ((passed.scores, "the head gives"), (passed.predictions, "the network gives")):
        apart = scores.reshape(n, -1).astype(np.float64)
        if apart.shape != p.shape:
            raise InvalidInputError(
                f"{what} an array of shape {scores.shape}, but W h + b of the head has {p.shape}: name the linear "
                "layer that makes the scores"
            )
        apart, limit = apart - p, allowed
        if loss.shift_invariant:  # log-probabilities are as good as scores
            apart, limit = apart - apart[:, :1], allowed + allowed[:, :1]
        if (np.abs(apart) > limit).any():
            raise InvalidInputError(
                f"{what} other numbers than W h + b of the head, by up to {np.abs(apart).max():.3g}: name the linear "
                "layer that makes the scores, and let the network return these, not probabilities"
            )
