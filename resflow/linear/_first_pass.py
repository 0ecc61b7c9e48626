"""The first pass over the samples of a fit, at W = 0: their sizes, their Gram matrix and the gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from resflow.linear._problem import Problem, add_weighted_gram, weighted_gram
from resflow.linear._samples import check_columns
from resflow.linear._some_rows import some_rows
from resflow.linear._sums import Blocks, sums
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
    if large:
        return _of_classes(problem, m or 1, least=least)
    zero = np.broadcast_to(0.0, rows.n if m is None else (rows.n, m))
    gram, gradient = np.zeros((d, d), order="F"), np.zeros((d, *zero.shape[1:]))
    values, curvatures, steepness = np.empty(rows.n), np.empty(rows.n if m is None else 0), 0.0
    for part, block in rows.blocks():
        values[part], slopes, curvature = loss_terms(problem.loss, zero[part], problem.y[part], curved=m is None)
        weighted = problem.weighed(slopes, part)
        add_weighted_gram(gram, block, problem, part)
        gradient += block.T @ weighted
        steepness += float(np.vdot(weighted, slopes))
        if m is None:
            curvatures[part] = curvature
    squares = np.diag(gram)
    check_columns(rows, squares)
    return FirstPass(gram, gradient, squares, float(np.mean(problem.weighed(values))), steepness, curvatures)


def _of_classes(problem: Problem, m: int, *, least: float) -> FirstPass:
    """The pass for the softmax loss, which is log m for every sample, and its derivative 1/m less the label."""
    rows, d = problem.rows, problem.rows.d

    def of_group(blocks: Blocks) -> list[Any]:
        gradient, squares, steepness = np.zeros((m, d)), np.zeros(d), 0.0
        for part, block in blocks:
            y = problem.y[part]
            slopes = np.full((m, len(block)), 1.0 / m)
            if y.ndim == 2:
                slopes -= y.T
            else:
                slopes[y, np.arange(len(y))] -= 1.0
            weighted = problem.weighed_columns(slopes, part)
            gradient += weighted @ block
            squares += np.einsum("ij,ij->j", problem.weighed(block, part), block)
            steepness += float(np.vdot(weighted, slopes))
        return [gradient, squares, steepness]

    gradient, squares, steepness = sums(rows, of_group, outputs=m, size=m * d)
    check_columns(rows, squares)
    some = some_rows(problem, m)
    metric = None if some is None else some.metric(squares, least)
    gram = weighted_gram(problem) if metric is None else metric
    return FirstPass(gram, gradient.T, squares, math.log(m), steepness, np.empty(0))
