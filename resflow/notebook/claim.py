"""What a run puts to the test, and how that came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resflow.workflow import names

__all__ = ["ROUNDING", "Claim"]

ROUNDING = 1e-10
"""What a bound may be exceeded by, for each unit of its scale."""


@dataclass(frozen=True)
class Claim:
    """What a run puts to the test, and how that came out.

    >>> claim = Claim.of_bound("certificate_bounds_gap", [0.5, 1e-3, -1e-12])
    >>> claim.holds, claim.outcome, claim.margin
    (True, 'holds', -1e-12)

    Attributes:
        name: A short name, the same in every run that tests the claim.
        holds: Whether it held, rounding allowed for.
        margin: By how much, in the claim's own units: negative by how much it failed.
    """

    name: str
    holds: bool
    margin: float

    @classmethod
    def of_bound(cls, name: str, slack: Any, *, scale: float = 0.0, besides: bool = True) -> Claim:
        """The claim that something never exceeds its bound.

        Args:
            name: The claim's name.
            slack: Bound minus what it bounds, wherever that was measured; NaN where there is no bound.
            scale: The size of these values, which rounding goes with.
            besides: What else must be true for the claim to hold.
        """
        margin = float(np.fmin.reduce(np.ravel(slack)))
        return cls(name, bool(margin >= -ROUNDING * (1.0 + scale) and besides), margin)

    @property
    def outcome(self) -> str:
        """How it came out, as a sentence has it: holds or FAILS."""
        return "holds" if self.holds else "FAILS"

    def values(self) -> dict[str, str | float]:
        """How it came out, by the names that a run has for it."""
        return {names.CLAIM_HOLDS: "true" if self.holds else "false", names.CLAIM_MARGIN: self.margin}
