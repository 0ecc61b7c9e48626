"""The best linear predictor with vector-valued output, softmax regression among them: fitted exactly, with evidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from resflow.arrays import check_samples, check_size
from resflow.linear._algebra import (
    WELL_CONDITIONED,
    BallStep,
    Rows,
    ball_step,
    cholesky_solver,
    reciprocal_condition,
    row_space,
    triangular_factor,
)
from resflow.linear._multinomial_separation import MultinomialSeparation
from resflow.linear._newton import TOLERANCE, into_ball
from resflow.linear.fit import LinearFit
from resflow.losses import Loss, Softmax
from resflow.status import Status

__all__ = ["fit_several"]

_EPS = float(np.finfo(np.float64).eps)


def fit_several(
    X: np.ndarray, y: np.ndarray, loss: Loss, m: int, radius: float, ridge: float, max_iterations: int
) -> LinearFit:
    """The best linear predictor of several outputs, by Newton's method, each step a minimiser over the ball."""
    X = np.asarray(check_samples(X), dtype=np.float64)
    for column, largest in enumerate(np.abs(X).max(axis=0)):
        check_size(f"X's column {column}", float(largest))
    max_norm = None if math.isinf(radius) else radius
    d = X.shape[1]
    if radius == 0.0:
        at_zero = float(np.mean(loss.value(np.zeros((len(X), m)), y)))
        zero, found = np.zeros((m, d)), Status.CONVERGED
        return LinearFit(zero, at_zero, 0.0, found, 0.0, math.inf, None, d, 0, max_norm, ridge, loss.name)
    problem = _Problem.of(X, y, loss, m, ridge, radius)
    best, separable = _minimise(problem, max_iterations)
    W = problem.weights(best.z)
    objective, grad_norm = _evidence(problem, W, best.multiplier)
    converged = grad_norm <= TOLERANCE * problem.gradient_scale and (
        best.suboptimality <= TOLERANCE * problem.objective_scale
    )
    status = Status.CONVERGED if converged else Status.ROUNDING
    if not converged and math.isinf(best.suboptimality):
        status = Status.NO_MINIMIZER_KNOWN
    elif not converged and best.iterations >= max_iterations:
        status = Status.ITERATION_LIMIT
    return LinearFit(
        W=W,
        objective=objective,
        grad_norm=grad_norm,
        status=status,
        suboptimality=best.suboptimality,
        multiplier=best.multiplier,
        separable=separable,
        rank=problem.Z.shape[1],
        iterations=best.iterations,
        max_norm=max_norm,
        ridge=float(ridge),
        loss=loss.name,
    )


class _Problem(NamedTuple):
    """The fit in coordinates z ∈ R^{c r}, W = outputs · z.reshape(c, r) · basisᵀ, that leave nothing undetermined.

    Attributes:
        X: Samples, shape (n, d).
        Y: Labels.
        loss: ℓ.
        outputs: Orthonormal, shape (m, c): c = m − 1, orthogonal to 1, where the loss is invariant to shifts.
        basis: Orthonormal, of X's row space, shape (d, r); None where X has full column rank and r = d.
        Z: X · basis, shape (n, r).
        ridge: At least 0.
        radius: Of the ball, np.inf for none.
        objective_scale: The mean loss at 0.
        gradient_scale: sqrt(mean‖x‖² · mean‖ℓ'(0; y)‖²).
    """

    X: np.ndarray
    Y: np.ndarray
    loss: Loss
    outputs: np.ndarray
    basis: np.ndarray | None
    Z: np.ndarray
    ridge: float
    radius: float
    objective_scale: float
    gradient_scale: float

    @classmethod
    def of(cls, X, Y, loss, m: int, ridge: float, radius: float) -> _Problem:
        outputs = np.eye(m)
        if loss.shift_invariant:
            outputs = np.linalg.qr(np.column_stack([np.ones(m), np.eye(m)[:, 1:]]))[0][:, 1:]
        basis, Z = None, X
        if reciprocal_condition(X.T @ X) < WELL_CONDITIONED or not np.any(X, axis=0).all():
            basis = row_space(triangular_factor(Rows(X), np.zeros(len(X)))[:, :-1], len(X)).orthonormal.basis
            Z = X @ basis
        zero = np.zeros((len(X), m))
        scale = math.sqrt(np.mean(np.sum(X**2, axis=1)) * np.mean(np.sum(loss.derivative(zero, Y) ** 2, axis=1)))
        return cls(X, Y, loss, outputs, basis, Z, ridge, radius, float(np.mean(loss.value(zero, Y))), scale)

    def weights(self, z: np.ndarray) -> np.ndarray:
        Z = self.outputs @ z.reshape(self.outputs.shape[1], self.Z.shape[1])
        return Z if self.basis is None else Z @ self.basis.T

    def predictions(self, z: np.ndarray) -> np.ndarray:
        return (self.Z @ z.reshape(self.outputs.shape[1], self.Z.shape[1]).T) @ self.outputs.T

    def derivatives(self, p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Mean loss, gradient and Hessian in z."""
        n, c = len(self.Z), self.outputs.shape[1]
        r = self.Z.shape[1]
        gradient = (self.outputs.T @ self.loss.derivative(p, self.Y).T @ self.Z / n).ravel()
        curvature = self.outputs.T @ self.loss.second_derivative(p, self.Y) @ self.outputs
        H = np.empty((c * r, c * r), order="F")
        for i in range(c):
            rows, so_far = slice(i * r, (i + 1) * r), (i + 1) * r
            weighted = (curvature[:, i, : i + 1, None] * self.Z[:, None, :]).reshape(n, so_far)
            H[rows, :so_far] = self.Z.T @ weighted / n
            H[:so_far, rows] = H[rows, :so_far].T
        return float(np.mean(self.loss.value(p, self.Y))), gradient, H


class _Iterate(NamedTuple):
    z: np.ndarray
    total: float
    multiplier: float
    residual: float
    suboptimality: float
    iterations: int


def _minimise(problem: _Problem, max_iterations: int) -> tuple[_Iterate, bool | None]:
    ridge, radius = problem.ridge, problem.radius
    z = np.zeros(problem.outputs.shape[1] * problem.Z.shape[1])
    free = ridge == 0.0 and math.isinf(radius)
    separation = None
    if isinstance(problem.loss, Softmax):
        m = problem.outputs.shape[0]
        separation = MultinomialSeparation(problem.X, problem.Y, m, problem.basis, needed=free)
    best: _Iterate | None = None
    guess, stalled = 0.0, 0
    for iteration in range(max_iterations + 1):
        p = problem.predictions(z)
        objective, gradient, H = problem.derivatives(p)
        total, slope = objective + 0.5 * ridge * float(z @ z), gradient + ridge * z
        H[np.diag_indices_from(H)] += ridge
        model = ball_step(cholesky_solver(H), slope, z, radius, start=guess)
        guess = model.multiplier
        change = problem.predictions(model.step)
        if separation is not None:
            exact = free and model.exact and reciprocal_condition(H) >= WELL_CONDITIONED
            separation.look(problem.weights(z), p, change if exact else None, iteration)
        iterate = _describe(problem, z, total, slope, model, iteration)
        if separation is not None and np.max(np.abs(change)) > 0.5:
            # the second-order model does not hold as far as the minimum, but the loss is never negative
            iterate = iterate._replace(suboptimality=max(iterate.suboptimality, total))
        if best is None or iterate.total < best.total - 64 * _EPS * abs(best.total):
            best, stalled = iterate, 0
        else:
            stalled = 0 if iterate.residual <= 0.5 * best.residual else stalled + 1
            best = iterate if iterate.residual <= best.residual else best
        goal = 0.1 * TOLERANCE
        solved = iterate.residual <= goal * min(problem.gradient_scale, 1.0)
        if (solved and iterate.suboptimality <= goal * problem.objective_scale) or stalled >= 4:
            break
        z = into_ball(z + _step_length(problem, p, change, z, model, total) * model.step, radius)
    assert best is not None
    if separation is not None:
        separation.settle()
    if separation is None:
        return best._replace(iterations=iteration), None
    if free and separation.verdict is None:  # there may be no minimiser to converge to
        best = best._replace(suboptimality=math.inf)
    return best._replace(iterations=iteration), separation.found


def _describe(problem: _Problem, z, total: float, slope, model: BallStep, iteration: int) -> _Iterate:
    length, radius = float(np.linalg.norm(z)), problem.radius
    multiplier = 0.0
    if length > 0.0 and length >= radius * (1.0 - 8.0 * _EPS):
        multiplier = max(-float(slope @ (z / length)) / length, 0.0)
    suboptimality = model.decrease if model.exact else math.inf
    if math.isfinite(radius):
        steepest = radius * float(np.linalg.norm(slope))
        suboptimality = min(suboptimality, max(float(slope @ z) + steepest, 0.0) + 16.0 * _EPS * steepest)
    residual = float(np.linalg.norm(slope + multiplier * z))
    return _Iterate(z, total, multiplier, residual, suboptimality, iteration)


def _step_length(problem: _Problem, p, change, z, model: BallStep, total: float) -> float:
    """The first of 1, ½, ¼, ... with sufficient decrease; 1 where the decrease is below what the objective resolves."""
    if model.decrease <= 64.0 * _EPS * abs(total):
        return 1.0
    t = 1.0
    for _ in range(40):
        moved = z + t * model.step
        value = float(np.mean(problem.loss.value(p + t * change, problem.Y))) + 0.5 * problem.ridge * moved @ moved
        if value <= total + 0.1 * t * model.slope + 64.0 * _EPS * abs(total):
            return t
        t *= 0.5
    return t


def _evidence(problem: _Problem, W: np.ndarray, multiplier: float) -> tuple[float, float]:
    """Objective and residual of the optimality conditions, from X and W themselves."""
    p = problem.X @ W.T
    gradient = problem.loss.derivative(p, problem.Y).T @ problem.X / len(p)
    residual = float(np.linalg.norm(gradient + (problem.ridge + multiplier) * W))
    return float(np.mean(problem.loss.value(p, problem.Y))), residual
