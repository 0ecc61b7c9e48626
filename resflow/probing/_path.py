"""The path of linear probes over ridge strengths, which is that over norm bounds: each fit starts from the last one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from resflow.arrays import as_number
from resflow.errors import InvalidInputError, shown
from resflow.losses import Loss
from resflow.probing.linear_probe import fit_linear_probe
from resflow.probing.stream import Stream

__all__ = ["PathPoint", "as_path", "probe_path"]


class PathPoint(NamedTuple):
    """The linear probe of one representation at one strength, the best of all within the ball of its norm.

    Attributes:
        block: l of h_l.
        ridge: λ, in units of the mean square of the representation's centred columns.
        norm: ‖W‖ s, s² that mean square: the bound on it within which the probe is the best predictor.
        objective: F_lin(h_l), its mean training loss, without the ridge term.
        gap: F − F_lin(h_l) on the training samples.
        held_out_objective: Its mean loss on held-out samples; NaN for none.
        suboptimality: By how much objective and ridge term can still fall together.
        converged: Whether the fit converged.
    """

    block: int
    ridge: float
    norm: float
    objective: float
    gap: float
    held_out_objective: float
    suboptimality: float
    converged: bool


def as_path(path: Any) -> list[float]:
    """The strengths in descending order, each once; none for None.

    Raises:
        InvalidInputError: If they are no list, or one is out of range.
    """
    if path is None:
        return []
    if isinstance(path, str) or not isinstance(path, Iterable):
        raise InvalidInputError(f"path={shown(path)} must be a list of ridge strengths, such as [1.0, 0.1, 0.01]")
    allowed = "must be from 1e-12 to 1e12, in units of the columns' mean square"
    strengths = {as_number(f"path[{at}]", each, allowed, lambda r: 1e-12 <= r <= 1e12) for at, each in enumerate(path)}
    if not strengths:
        raise InvalidInputError("path has no ridge strength: pass some, such as [1.0, 0.1, 0.01], or None for no path")
    return sorted(strengths, reverse=True)


def probe_path(
    strengths: list[float], training: Stream, unseen: Stream | None, loss: Loss, outputs: int | None, objective: float
) -> tuple[PathPoint, ...]:
    """The probes of all representations at all strengths, the strongest first.

    Args:
        strengths: λ, in descending order.
        training, unseen: The samples.
        loss, outputs: As of `fit_linear_probe`.
        objective: F, the network's mean training loss.
    """
    found = []
    for block, h in enumerate(training.representations):
        before = None
        for ridge in strengths:
            probe = fit_linear_probe(h, training.y, loss, outputs, name=f"h_{block}", ridge=ridge, start=before)
            before = probe.fit.W
            held_out = math.nan
            if unseen is not None:
                p = probe.predictions(unseen.representations[block])
                held_out = float(np.mean(loss.value(p, unseen.y)))
            level = float(np.mean(loss.value(probe.predictions(h), training.y)))
            point = PathPoint(
                block=block,
                ridge=ridge,
                norm=float(np.linalg.norm(probe.fit.W[..., :-1])),
                objective=level,
                gap=objective - level,
                held_out_objective=held_out,
                suboptimality=probe.fit.suboptimality,
                converged=probe.finished,
            )
            found.append(point)
    return tuple(found)
