"""Where Newton's method begins: at a guess, at the solution of some of the samples or of an easier loss, or at 0."""

from __future__ import annotations

import numpy as np

from resflow.linear._newton import newton
from resflow.linear._problem import Evaluation, Problem, evaluate
from resflow.losses import PseudoHuber

__all__ = ["start_of"]

_MANY, _STRIDE = 200, 10
_FAR = 100.0


def start_of(problem: Problem, at_zero: Evaluation, guess: np.ndarray | None = None) -> tuple[np.ndarray, Evaluation]:
    """Where to start, and the evaluation there: a guess that is better than 0, the solution of every tenth sample if
    they are many, or 0.

    The evaluation at 0 is taken if it has a Hessian, and made otherwise.

    A pseudo-Huber loss hardly curves at labels far beyond its δ, which leaves Newton's method blind at 0: there it is
    the solution for a larger δ, got from one for a still larger one.
    """
    if guess is not None:
        z = guess if problem.outputs is None else (problem.outputs.T @ guess).ravel()
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no better than 0
            there = evaluate(problem, z, hessian=True)
            total = there.objective + 0.5 * problem.ridge * float(z @ z)
        if total < problem.objective_scale:
            return z, there
    rows, zero = problem.rows, np.zeros(problem.size)
    worthwhile = rows.n >= _MANY * max(rows.d, problem.size) and problem.device is None
    if isinstance(problem.loss, PseudoHuber):
        size = float(np.sqrt(np.mean(problem.y**2)))
        if size > _FAR * problem.loss.delta:
            return _from_larger_deltas(problem, size, problem.loss.delta)
    if worthwhile and not problem.quadratic:
        some = None if problem.weights is None else problem.weights[::_STRIDE] / np.mean(problem.weights[::_STRIDE])
        part = problem._replace(rows=rows.every(_STRIDE), y=problem.y[::_STRIDE], weights=some)
        first = evaluate(part, zero, hessian=True)
        z = newton(part, zero, first, max_iterations=8, enough=0.01 * rows.d / part.rows.n).z
        there = evaluate(problem, z, hessian=True)
        if there.objective < problem.objective_scale:
            return z, there
    known = at_zero.hessian is not None and problem.device is None
    return zero, at_zero if known else evaluate(problem, zero, hessian=True)


def _from_larger_deltas(problem: Problem, size: float, last: float) -> tuple[np.ndarray, Evaluation]:
    z, delta = np.zeros(problem.size), size
    while delta > last:
        softer = problem._replace(loss=PseudoHuber(delta), objective_scale=delta * size)
        first = evaluate(softer, z, hessian=True)
        z = newton(softer, z, first, max_iterations=20, enough=1e-3 * first.objective).z
        delta *= 0.1
    return z, evaluate(problem, z, hessian=True)
