"""Sums over the rows, by groups of them side by side, whose bits do not depend on how many cores there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from resflow.linear._algebra import Rows
from resflow.parallel import in_order

__all__ = ["Blocks", "sums"]

_MOST_GROUPS = 16
_WORK = 6e6
"""Multiplications below which a thread of its own costs more than it saves."""
_KEPT = 1 << 24
"""Numbers in the sums of all groups together, at most (128 MiB)."""

Blocks = Iterator[tuple[slice, np.ndarray]]


def sums(
    rows: Rows, of_group: Callable[[Blocks], list[Any]], *, outputs: int, size: int, chunk: int | None = None
) -> list[Any]:
    """Σ over all rows of several quantities, each a number or an array.

    Args:
        rows: The rows.
        of_group: The sums over some of the rows, which come in blocks; from several threads at once.
        outputs: How many products with a row each row takes part in.
        size: How many numbers `of_group` returns, about.
        chunk: Rows in a block at most, None for the default of `Rows.blocks`.
    """
    most = min(float(rows.n) * rows.width * outputs / _WORK, _KEPT / size, _MOST_GROUPS)
    groups = max(int(most), 1)
    edges = [rows.n * i // groups for i in range(groups + 1)]
    if chunk is not None:  # a short block after a long one would be a product that is hardly worth its call
        longest = -(-rows.n // groups)
        chunk = -(-longest // -(-longest // chunk))
    found = in_order(lambda i: of_group(rows.blocks(chunk, slice(edges[i], edges[i + 1]))), groups)
    totals = found[0]
    for more in found[1:]:
        totals = [total + part for total, part in zip(totals, more, strict=True)]
    return totals
