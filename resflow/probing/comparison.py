"""Two predictors on the same samples: the difference of their mean losses, its error, and what can be told from 0."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from resflow.numerals import number_text

__all__ = ["NOTHING", "Difference", "compare", "resolution_factor"]

_CONFIDENCE = 0.95
_IMMATERIAL = 1e-4


class Difference(NamedTuple):
    """A difference of two mean losses on the same samples.

    Attributes:
        value: Mean of the differences, sample by sample.
        standard_error: Of the value.
        resolution: What |value| must exceed to be told from 0: the t-quantile times the standard error, or 1e-4 of the
            mean loss at 0 if that is more, below which the tolerance of a fit may decide.
    """

    value: float
    standard_error: float
    resolution: float

    @property
    def sign(self) -> int:
        """1 or −1 where the difference is told from 0, else 0."""
        return int(np.sign(self.value)) if abs(self.value) > self.resolution else 0

    def __str__(self) -> str:
        return f"{number_text(self.value, 3)} ± {number_text(self.standard_error, 2)}"


NOTHING = Difference(math.nan, math.nan, math.nan)
"""Where there are no samples to compare on."""


def compare(losses: np.ndarray, others: np.ndarray, *, at_zero: float, factor: float) -> Difference:
    """The mean of losses − others, of the same samples, with its standard error.

    Args:
        losses: Of one predictor, shape (n,).
        others: Of the other one, shape (n,).
        at_zero: The mean loss of the prediction 0.
        factor: That of `resolution_factor`.
    """
    apart = losses - others
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    return Difference(float(apart.mean()), error, max(factor * error, _IMMATERIAL * at_zero))


def resolution_factor(n: int, comparisons: int) -> float:
    """How many standard errors a difference must exceed, so that among so many none is told from 0 wrongly, in 95 %."""
    return float(student.ppf(1.0 - (1.0 - _CONFIDENCE) / (2.0 * comparisons), n - 1))
