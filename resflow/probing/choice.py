"""Which Hessian a report looks at where nobody names one: of arrays that of the last block, if it costs little."""

from __future__ import annotations

import numpy as np

from resflow.losses import Loss
from resflow.probing.affordable import MOST_RESTARTS, fits_work, last_block_work, reason_against
from resflow.probing.curvature import Curvature, LastLayer, last_block_curvature
from resflow.probing.stream import Head, Stream

__all__ = ["CurvatureFound", "affordable_last_block", "curvature_by_arrays"]

CurvatureFound = tuple[Curvature | None, str]
"""λ_min if it is known, and why that of this Hessian, or why none."""

_BY_ARRAYS = (
    "λ_min is that in the head and a linear map behind the last block, all that arrays tell of: directions of the "
    "network itself if its last block ends in a linear layer, and nothing stands between that and the head."
)


def curvature_by_arrays(
    stream: Stream, head: Head, loss: Loss, *, hessian: str | None, bias: bool, chosen: bool
) -> CurvatureFound:
    """λ_min of a network of which there are arrays only.

    Args:
        stream: The training samples.
        head: The head.
        loss: The loss.
        hessian: As of `resflow.probe`, checked.
        bias: Whether the head has biases.
        chosen: Whether every probe's strength is chosen by cross-validation.
    """
    if hessian is None:
        return None, ""
    if hessian == "last block":
        return last_block_curvature(stream, head, loss, bias=bias), ""
    before, after = (h.shape[1] for h in stream.representations[-2:])
    if before != after:
        return None, f"λ_min is left out, as the last block changes the width from {before} to {after}."
    return affordable_last_block(stream, head, loss, bias=bias, chosen=chosen, layer=None, why=_BY_ARRAYS)


def affordable_last_block(
    stream: Stream, head: Head, loss: Loss, *, bias: bool, chosen: bool, layer: LastLayer | None, why: str
) -> CurvatureFound:
    """λ_min of the last block, its arguments those of `last_block_curvature`, unless it costs more than the probes."""
    widths = [h.shape[1] for h in stream.representations]
    n, outputs = len(stream.y), len(np.atleast_2d(head.W))
    k = widths[-1] if layer is None else layer.V.shape[1] + 1
    fits = fits_work(n, widths, outputs, chosen=chosen)
    if against := reason_against(last_block_work(n, widths[-1], k, outputs), fits, "hessian='last block'"):
        return None, against
    return last_block_curvature(stream, head, loss, bias=bias, layer=layer, max_restarts=MOST_RESTARTS), why
