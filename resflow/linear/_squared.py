"""The best linear predictor of the squared loss, by the singular values of a triangular factor of the samples."""

from __future__ import annotations

import math

import numpy as np

from resflow.linear._algebra import (
    Coordinates,
    Rows,
    Solver,
    ball_step,
    diagonal_solver,
    of_one_size,
    row_space,
    triangular_factor,
    triangular_solver,
)
from resflow.linear._evidence import as_fit, fit_of_zero, in_weights
from resflow.linear._inputs import check_columns
from resflow.linear._newton import Iterate, Problem, into_ball, solved
from resflow.linear.fit import LinearFit
from resflow.losses import Loss

__all__ = ["fit_squared"]


def fit_squared(X: np.ndarray, y: np.ndarray, loss: Loss, m: int | None, radius: float, ridge: float) -> LinearFit:
    """The best linear predictor of one output, or of m: then the columns of y are as many right-hand sides.

    The norm bound alone couples outputs, by its multiplier.
    """
    n, d = X.shape
    R = triangular_factor(Rows(X), y)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(R[:, :d]).sum(axis=0)
    check_columns(X, squares)
    space, right = row_space(R[:, :d], n), R[:, d] if m is None else R[:, d:]
    rank = space.basis.shape[1]
    at_zero, scale = float(np.vdot(y, y)) / (2 * n), math.sqrt(squares.sum()) * float(np.linalg.norm(y)) / n
    outputs = None if m is None else np.eye(m)
    problem = Problem(Rows(X), y, loss, ridge, radius, at_zero, scale, outputs)
    if radius == 0.0 or rank == 0:
        return fit_of_zero(problem, rank, None)
    if ridge == 0.0:
        free = problem._replace(radius=math.inf)
        best = _refined(free, *_diagonal(free, space.unitless, right))
        if np.linalg.norm(best.z) <= radius:
            return as_fit(problem, best, space)
    if of_one_size(squares):
        return as_fit(problem, _refined(problem, *_diagonal(problem, space.orthonormal, right)), space)
    factor = R[:, :d] @ space.basis  # in an eigenbasis short columns would drown
    solver, slope = triangular_solver(factor / math.sqrt(n), ridge), problem.flat(-(factor.T @ right) / n)
    return as_fit(problem, _refined(problem, solver, space.basis, slope), space)


def _diagonal(problem: Problem, within: Coordinates, right: np.ndarray) -> tuple[Solver, np.ndarray, np.ndarray]:
    """Solver of the Hessian, basis and gradient at 0 in coordinates in which the Hessian is diagonal."""
    n, sizes = problem.rows.n, within.singular_values
    slope = -(sizes * (within.left.T @ right).T).T / n
    return diagonal_solver(sizes**2 / n + problem.ridge), within.basis, problem.flat(slope)


def _refined(problem: Problem, solver: Solver, basis: np.ndarray, slope: np.ndarray) -> Iterate:
    """The minimiser of the squared loss, iteratively refined by gradients from X itself.

    Args:
        problem: With the squared loss.
        solver: Of its Hessian, with the ridge term, in the coordinates z of w = basis z.
        basis: Shape (d, r); orthonormal if there is a ridge or a norm bound.
        slope: The gradient at 0 in these coordinates.
    """
    z = np.zeros(len(slope))
    model = ball_step(solver, slope, z, problem.radius)
    best: Iterate | None = None
    for iteration in range(8):
        z = into_ball(z + model.step, problem.radius)
        iterate, model = in_weights(problem, problem, solver, basis, z, iteration, guess=model.multiplier)
        if best is None or _better(iterate, best):
            best = iterate
        if iterate is not best or solved(problem, iterate):
            break
    assert best is not None
    return best


def _better(iterate: Iterate, best: Iterate) -> bool:
    """By the residual, which columns of large values decide, or the suboptimality, in which all count alike."""
    closer = iterate.residual < best.residual and iterate.suboptimality <= 2.0 * best.suboptimality
    return closer or iterate.suboptimality < 0.1 * best.suboptimality
