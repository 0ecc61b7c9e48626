"""What fits and eigenvalues cost: a report looks by itself only at a Hessian that costs no more than its fits."""

from __future__ import annotations

from collections.abc import Sequence

from resflow.numerals import number_text

__all__ = ["MOST_RESTARTS", "fits_work", "iteration_products", "last_block_work", "reason_against"]

MOST_RESTARTS = 2
"""Of an iteration that nobody asked for: some 300 products with a Hessian."""

_ALWAYS = 1.5e10
"""Multiplications that take some seconds of two cores, whatever the fits take."""
_STEPS, _WHOLE, _FACTORIZED = 96, 1024, {True: 8192, False: 2000}  # as of `resflow.hessian`
_FITS, _PASSES, _FACTORIZATIONS = 8, 30, 15  # with a strength to be chosen; of a fit; of a bracket


def fits_work(n: int, widths: Sequence[int], outputs: int, *, chosen: bool) -> float:
    """Multiplications in the linear probes of representations, roughly.

    Args:
        n: How many samples.
        widths: How many columns each representation has.
        outputs: How many outputs the head has.
        chosen: Whether every probe's strength is chosen by cross-validation.
    """
    one = sum(d * d + 2.0 * _PASSES * d * outputs for d in widths)
    return (_FITS if chosen else 1) * n * one


def last_block_work(n: int, d: int, k: int, outputs: int) -> float:
    """Multiplications in λ_min of the last block, of W (outputs, d) and V (d, k), roughly."""
    order = outputs * d + min(outputs, d) * k
    products = iteration_products(outputs * d + d * k) * 6.0 * n * (outputs * d + d * k)
    return products + (_FACTORIZATIONS * order**3 / 6 + n * order**2 if order <= _FACTORIZED[outputs == 1] else 0.0)


def iteration_products(parameters: int) -> int:
    """How many products with a Hessian of so many parameters an iteration of `MOST_RESTARTS` takes at most."""
    return parameters + 2 if parameters <= _WHOLE else (MOST_RESTARTS + 1) * (_STEPS + 1)


def reason_against(work: float, fits: float, ask: str) -> str:
    """What to say of work that nobody asked for and that costs more than the fits; "" where it is done.

    Args:
        work: What it costs, in multiplications.
        fits: What the fits cost.
        ask: How to ask for it.
    """
    if work <= max(fits, _ALWAYS):
        return ""
    times = f"{work / fits:,.0f}" if work > 10 * fits else number_text(work / fits, 2)
    return f"λ_min is left out, as it would cost about {times} times what the probes do: {ask} asks for it."
