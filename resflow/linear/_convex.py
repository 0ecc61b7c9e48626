"""The best linear predictor of any convex loss, by Newton's method in coordinates that leave nothing undetermined."""

from __future__ import annotations

import math

import numpy as np

from resflow.linear._algebra import (
    WELL_CONDITIONED,
    Rows,
    RowSpace,
    add_gram,
    reciprocal_condition,
    row_space,
    triangular_factor,
)
from resflow.linear._evidence import as_fit, fit_of_zero, in_weights
from resflow.linear._inputs import check_columns
from resflow.linear._newton import newton
from resflow.linear._problem import Evaluation, Problem, evaluate, loss_terms
from resflow.linear._quasi_newton import quasi_newton
from resflow.linear._separation import Separation
from resflow.linear.fit import LinearFit
from resflow.losses import Logistic, Loss, PseudoHuber, Softmax

__all__ = ["fit_convex"]

_MANY, _STRIDE = 200, 10
_FAR = 100.0


def fit_convex(
    X: np.ndarray, y: np.ndarray, loss: Loss, m: int | None, radius: float, ridge: float, max_iterations: int
) -> LinearFit:
    """The best linear predictor of one output, or of m."""
    n, d = X.shape
    rows, zero = Rows(X), np.zeros(n if m is None else (n, m))
    values, slopes, curvatures = loss_terms(loss, zero, y, curved=m is None)
    gram, gradient = np.zeros((d, d), order="F"), np.zeros((d, *slopes.shape[1:]))
    for part, block in rows.blocks():
        add_gram(gram, block)
        gradient += block.T @ slopes[part]
    squares = np.diag(gram)
    check_columns(X, squares)

    scale = math.sqrt(squares.sum() / n * float(np.vdot(slopes, slopes)) / n)
    problem = Problem(rows, y, loss, ridge, radius, float(np.mean(values)), scale, None if m is None else np.eye(m))
    inner = problem._replace(outputs=_outputs(m, loss))
    rank = int(np.count_nonzero(squares))
    first, cut = None, None
    if rank and reciprocal_condition(gram) < WELL_CONDITIONED:
        space = row_space(triangular_factor(rows), n)
        rank, cut = space.basis.shape[1], space.cut
        inner = inner._replace(rows=Rows(X, _coordinates(problem, space, squares)))
    elif problem.quadratic or (m is None and np.ptp(curvatures) == 0.0):
        curvature = 1.0 if problem.quadratic else curvatures[0]
        first = Evaluation(
            problem.objective_scale, problem.flat(gradient) / n, gram * (curvature / n), zero, curvatures
        )
    if rank == 0 or radius == 0.0:
        return fit_of_zero(problem, rank, False if rank == 0 and isinstance(loss, Logistic | Softmax) else None)

    separation = Separation(inner, X) if isinstance(loss, Logistic | Softmax) else None
    basis, best = inner.rows.basis, None
    if m is None and basis is None and problem.free and n >= _MANY * d and not problem.quadratic:
        at_zero = Evaluation(problem.objective_scale, gradient / n, None, zero, curvatures)
        found = quasi_newton(problem, gram, at_zero, max_iterations=max_iterations)
        if found is not None:
            best, there = found
            if separation is not None:
                solve, _, _ = best.solver(0.0)
                separation.judge_minimiser(there.predictions, rows.times(solve(there.gradient)))
    if best is None:
        start, first = _start(inner, first)
        best = newton(inner, start, first, max_iterations=max_iterations, watch=separation)
    if separation is not None:
        separation.settle()
    if basis is not None or m is not None:
        best = in_weights(problem, inner, best)
    verdict, unknown = (None, False) if separation is None else (separation.found, separation.unknown)
    return as_fit(problem, best, rank, cut, separable=verdict, unknown=unknown, max_iterations=max_iterations)


def _outputs(m: int | None, loss: Loss) -> np.ndarray | None:
    """An orthonormal basis of the outputs, orthogonal to 1 where the loss does not see what is added to all of them."""
    if m is None or not loss.shift_invariant:
        return None if m is None else np.eye(m)
    return np.linalg.qr(np.column_stack([np.ones(m), np.eye(m)[:, 1:]]))[0][:, 1:]


def _coordinates(problem: Problem, space: RowSpace, squares: np.ndarray) -> np.ndarray:
    """A basis in which the Hessian is as near to diagonal as it can be; orthonormal where lengths matter."""
    if problem.free:
        return space.unitless
    live = squares[squares > 0.0]
    far_apart = live.max() > 1e12 * live.min()  # in an eigenbasis short columns would drown
    return space.basis if far_apart else space.orthonormal


def _start(problem: Problem, at_zero: Evaluation | None) -> tuple[np.ndarray, Evaluation]:
    """Where to start, and the evaluation there: the solution of every tenth sample if they are many, or 0.

    A pseudo-Huber loss hardly curves at labels far beyond its δ, which leaves Newton's method blind at 0: there it is
    the solution for a larger δ, got from one for a still larger one.
    """
    rows, zero = problem.rows, np.zeros(problem.size)
    if isinstance(problem.loss, PseudoHuber):
        size = float(np.sqrt(np.mean(problem.y**2)))
        if size > _FAR * problem.loss.delta:
            return _from_larger_deltas(problem, size, problem.loss.delta)
    if rows.n >= _MANY * max(rows.d, problem.size) and not problem.quadratic:
        part = problem._replace(rows=rows.every(_STRIDE), y=problem.y[::_STRIDE])
        first = evaluate(part, zero, hessian=True)
        guess = newton(part, zero, first, max_iterations=8, enough=0.01 * rows.d / part.rows.n)
        there = evaluate(problem, guess.z, hessian=True)
        if there.objective < problem.objective_scale:
            return guess.z, there
    return zero, at_zero or evaluate(problem, zero, hessian=True)


def _from_larger_deltas(problem: Problem, size: float, last: float) -> tuple[np.ndarray, Evaluation]:
    z, delta = np.zeros(problem.size), size
    while delta > last:
        softer = problem._replace(loss=PseudoHuber(delta), objective_scale=delta * size)
        first = evaluate(softer, z, hessian=True)
        z = newton(softer, z, first, max_iterations=20, enough=1e-3 * first.objective).z
        delta *= 0.1
    return z, evaluate(problem, z, hessian=True)
