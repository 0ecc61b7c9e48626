"""On which side of a hyperplane samples lie, in exact arithmetic: floats are rational numbers, and so are products."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.linalg import qr

from resflow.linear._algebra import EPS

__all__ = ["beside", "off_plane", "whole_numbers"]

_MOST_PRODUCTS = 4_000_000
_MOST_UNKNOWNS = 80


def off_plane(blocks: Iterable[np.ndarray], direction: list[int]) -> int | None:
    """How many rows x have direction · x > 0, if no row has it below 0; None if one has, or it is not known.

    Signs that rounding cannot touch are taken from floats, all others from exact products of whole numbers. It is
    unknown where these are too many. The rows come some at a time, in blocks of shape (rows, d).
    """
    largest = max(map(abs, direction), default=0)
    if largest == 0:
        return 0
    z = np.array([entry / largest for entry in direction])  # correctly rounded, whatever the size of the numbers
    touched = np.array([entry != 0 for entry in direction])  # a coordinate of 1e-320 may be 0 in z
    bound = 2.0 * (len(z) + 3) * EPS
    positive, left = 0, _MOST_PRODUCTS
    for block in blocks:
        products, sizes = block @ z, np.abs(block) @ np.abs(z)
        surely = np.abs(products) > bound * sizes
        if (products[surely] < 0.0).any():
            return None
        positive += int(np.count_nonzero(surely))
        close = np.flatnonzero(~surely & (block[:, touched] != 0.0).any(axis=1))
        left -= close.size * int(np.count_nonzero(touched))
        if left < 0:
            return None
        for row in block[close]:
            sign = sum(a * b for a, b in zip(whole_numbers(row), direction, strict=True) if a and b)
            if sign < 0:
                return None
            positive += sign > 0
    return positive


def beside(rows: np.ndarray, direction: list[int]) -> list[int] | None:
    """A direction nearly orthogonal to all the rows made exactly so; None if there is none or it is too far.

    As many of its coordinates as the rows leave free keep their values, the others follow from them by a linear system
    that is solved without rounding.
    """
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0.0]
    if len(rows) == 0:
        return direction
    sizes = np.linalg.norm(rows, axis=0)
    scaled = rows / np.where(sizes > 0.0, sizes, 1.0) / lengths[lengths > 0.0, None]
    triangle, order = qr(scaled.T, mode="r", pivoting=True, check_finite=False)
    diagonal = np.abs(np.diag(triangle))
    rank = int(np.count_nonzero(diagonal > diagonal[0] * 1e-10))
    if not 0 < rank < rows.shape[1] or rank > _MOST_UNKNOWNS:
        return None
    chosen = order[:rank]
    _, places = qr(scaled[chosen], mode="r", pivoting=True, check_finite=False)
    pivots, free = places[:rank], places[rank:]
    matrix = [whole_numbers(row) for row in rows[chosen]]
    right = [-sum(row[place] * direction[place] for place in free) for row in matrix]
    solution = _solve([[row[place] for place in pivots] for row in matrix], right)
    if solution is None:
        return None
    numerators, denominator = solution
    result = [entry * denominator for entry in direction]
    for place, numerator in zip(pivots, numerators, strict=True):
        result[place] = numerator
    return [entry if denominator > 0 else -entry for entry in result]


def whole_numbers(values: np.ndarray) -> list[int]:
    """Whole numbers in the ratios of these floats."""
    ratios = [value.as_integer_ratio() for value in np.asarray(values, dtype=np.float64).tolist()]
    common = max((denominator for _, denominator in ratios), default=1)  # all of them powers of 2
    return [numerator * (common // denominator) for numerator, denominator in ratios]


def _solve(matrix: list[list[int]], right: list[int]) -> tuple[list[int], int] | None:
    """x with matrix x = right as numerators and one denominator, by Bareiss's elimination; None if it is singular."""
    size = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    previous = 1
    for step in range(size):
        pivot = next((place for place in range(step, size) if rows[place][step]), None)
        if pivot is None:
            return None
        rows[step], rows[pivot] = rows[pivot], rows[step]
        for place in range(size):
            if place != step:
                factor = rows[place][step]
                rows[place] = [
                    (entry * rows[step][step] - factor * above) // previous
                    for entry, above in zip(rows[place], rows[step], strict=True)
                ]
        previous = rows[step][step]
    common = math.lcm(*(rows[place][place] for place in range(size)))
    return [rows[place][size] * (common // rows[place][place]) for place in range(size)], common
