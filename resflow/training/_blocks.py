"""Steps go in blocks of a fixed length, so that neither the host nor a check of every weight stands between two."""

from __future__ import annotations

from typing import Any

__all__ = ["steps_in_block"]

MOST_STEPS = 128
"""In a block: what is done once a block is then next to nothing, and little is lost of a model that diverges."""

_CPU_WORK, _ACCELERATOR_WORK = 2e9, 1e12
"""Operations in a block of more than one step: those of some 0.1 s, so that reports of progress stay frequent."""


def steps_in_block(options: Any, parameters: int, *, members: int, rows: int, on_cpu: bool) -> int:
    """Steps in a block: all up to the next measurement, or equal parts of these.

    Args:
        options: `TrainingOptions`.
        parameters: Of one model.
        members: Models side by side.
        rows: Samples in a step.
        on_cpu: Whether a CPU trains them.
    """
    work = 6.0 * max(1, members * rows * parameters)  # two operations a weight forward, four backward
    most = max(1, min(MOST_STEPS, int((_CPU_WORK if on_cpu else _ACCELERATOR_WORK) / work)))
    span = max(1, min(options.log_every, options.steps))
    return -(-span // -(-span // most))
