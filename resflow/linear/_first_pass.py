"""The first pass over the samples of a fit, at W = 0: their sizes, their Gram matrix and the gradient."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from resflow.linear._problem import Problem, add_weighted_gram, weighted_gram
from resflow.linear._samples import check_columns
from resflow.linear._some_rows import some_rows
from resflow.linear._terms import loss_terms

__all__ = ["FirstPass", "first_pass"]


class FirstPass(NamedTuple):
    """What the samples are at W = 0, each counted by its weight.

    Attributes:
        gram: XᵀX, or what stands for it as a metric, shape (d, d).
        gradient: Σ x_i ℓ'_i, shape (d,) or (d, m).
        squares: The diagonal of XᵀX.
        objective: The mean loss.
        steepness: Σ ‖ℓ'_i‖².
        curvatures: ℓ''_i of one output, shape (n,); empty for several, and where the samples are on an accelerator.
    """

    gram: np.ndarray
    gradient: np.ndarray
    squares: np.ndarray
    objective: float
    steepness: float
    curvatures: np.ndarray


def first_pass(problem: Problem, m: int | None, *, large: bool, least: float) -> FirstPass:
    """Make the pass, and check on the way that X is finite.

    Args:
        problem: In the weights.
        m: Outputs; None for one without an axis.
        large: Whether XᵀX is wanted as a metric only, for which some of the rows may do.
        least: The reciprocal condition below which a metric from some rows is not trusted.

    Raises:
        InvalidInputError: If a column is not finite, or of a size that cannot be squared.
    """
    rows, d = problem.rows, problem.rows.d
    if problem.device is not None:
        gram, gradient, objective, steepness = problem.device.at_zero(problem.loss, m)
        check_columns(rows, np.diag(gram))
        return FirstPass(gram, gradient, np.diag(gram), objective, steepness, np.empty(0))
    zero = np.broadcast_to(0.0, rows.n if m is None else (rows.n, m))
    some = some_rows(problem, m or 1) if large else None
    gram, gradient = np.zeros((d, d), order="F"), np.zeros((d, *zero.shape[1:]))
    values, curvatures, steepness = np.empty(rows.n), np.empty(rows.n if m is None else 0), 0.0
    squares = np.zeros(d)
    for part, block in rows.blocks():
        values[part], slopes, curvature = loss_terms(problem.loss, zero[part], problem.y[part], curved=m is None)
        weighted = problem.weighed(slopes, part)
        if some is None:
            add_weighted_gram(gram, block, problem, part)
        else:
            squares += np.einsum("ij,ij->j", problem.weighed(block, part), block)
        gradient += block.T @ weighted
        steepness += float(np.vdot(weighted, slopes))
        if m is None:
            curvatures[part] = curvature
    squares = np.diag(gram) if some is None else squares
    check_columns(rows, squares)
    if some is not None:
        gram = some.metric(squares) if some.surely_regular(squares, least) else weighted_gram(problem)
    return FirstPass(gram, gradient, squares, float(np.mean(problem.weighed(values))), steepness, curvatures)
