"""How a computation that goes step by step ended, with a sentence for whoever reads its result."""

from __future__ import annotations

from enum import Enum

__all__ = ["Status"]


class Status(Enum):
    """What became of a fit, a solver, a search or a training; only `CONVERGED` lets a claim rest on the result.

    >>> Status.ITERATION_LIMIT.value, Status.ITERATION_LIMIT.sentence
    ('iteration_limit', 'It was cut off at the largest number of steps allowed.')
    """

    CONVERGED = "converged"
    ITERATION_LIMIT = "iteration_limit"
    ROUNDING = "rounding"
    WIDE_TOLERANCE = "wide_tolerance"
    NO_MINIMIZER_KNOWN = "no_minimizer_known"
    DIVERGED = "diverged"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "It met its tolerance.",
    Status.ITERATION_LIMIT: "It was cut off at the largest number of steps allowed.",
    Status.ROUNDING: "It stopped where rounding leaves no progress, short of its tolerance.",
    Status.WIDE_TOLERANCE: "It stopped at the tolerance that was asked for, which is too wide for a claim.",
    Status.NO_MINIMIZER_KNOWN: "Whether there is a minimizer is not known: the data may be linearly separable.",
    Status.DIVERGED: "It ran away, or left the finite numbers.",
}
