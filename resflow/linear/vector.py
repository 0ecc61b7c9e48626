"""The best linear predictor with vector-valued output, softmax regression among them: fitted exactly, with evidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, as_array, check_samples, check_size
from resflow.errors import InvalidInputError
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
from resflow.linear.predictor import check_options
from resflow.losses.vector import Softmax, VectorLoss, as_vector_loss, check_targets

__all__ = ["VectorLinearFit", "fit_vector_linear_predictor"]

_EPS = float(np.finfo(np.float64).eps)


class VectorLinearFit(NamedTuple):
    """The best linear predictor x ↦ Wx and the evidence that it is the best.

    Attributes:
        W: Weights, float64, shape (m, d); of least norm where the samples do not determine them.
        objective: F_lin(W), the mean loss per sample, without the ridge term.
        grad_norm: ‖∇F_lin(W) + ridge · W + multiplier · W‖_F, the residual of the optimality conditions.
        converged: True if grad_norm ≤ 1e-12 sqrt(mean‖x‖² · mean‖ℓ'(0; y)‖²) and suboptimality ≤ 1e-12 F_lin(0).
        suboptimality: By how much the objective with its ridge term can still fall within ‖W‖_F ≤ max_norm, by its
            second-order model at W or, if that is less, by the bound ⟨∇F, W⟩ + max_norm ‖∇F‖, which convexity proves.
        multiplier: Of the bound ‖W‖_F ≤ max_norm: 0 where it is inactive.
        separable: Softmax loss only. True: some W ranks no sample's own class below another, and not all of them
            equal, by exact arithmetic, so that without bound or ridge there is no minimiser. False: a minimiser exists.
            None: not known. Either the fit did not need to know, or a class has no samples, or it could not be decided
            beyond rounding; in the last case, without bound or ridge, `converged` is False.
        rank: Of X: how many of the d directions the samples determine.
        iterations: Newton steps.
        max_norm: The bound on ‖W‖_F that was asked for, or None.
        ridge: The coefficient of ½‖W‖_F² that was asked for.
        loss: Name of the loss.
    """

    W: Float[np.ndarray, "m d"]
    objective: float
    grad_norm: float
    converged: bool
    suboptimality: float
    multiplier: float
    separable: bool | None
    rank: int
    iterations: int
    max_norm: float | None
    ridge: float
    loss: str


def fit_vector_linear_predictor(
    X: Real[Array, "n d"],
    Y: Real[Array, "n ..."],
    *,
    loss: str | VectorLoss = "softmax",
    max_norm: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 100,
) -> VectorLinearFit:
    """The W that minimises mean_i ℓ(Wx_i; y_i) + ½ ridge ‖W‖_F² over ‖W‖_F ≤ max_norm.

    By Newton's method in float64, each step the minimiser of the second-order model over the ball. Where the loss does
    not change when one number is added to all outputs, W is the one whose columns sum to 0, which has the least norm.
    No intercept is added: append a constant column to X for one.

    A step costs about n d² m² / 2 + (m d)³ / 3: meant for m d up to a few thousand.

    Args:
        X: Samples as rows, shape (n, d).
        Y: Classes 0, ..., m − 1, shape (n,), for the softmax loss; vectors, shape (n, m), otherwise.
        loss: A loss of vector-valued predictions or its name.
        max_norm: Bound on the Frobenius norm of W; None for none.
        ridge: Coefficient of ½‖W‖_F², at least 0; per mean loss, not per sum.
        max_iterations: Newton steps at most. If they do not suffice, `converged` is False.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm or
            ridge is out of range, or if the softmax loss has no minimiser because the data is linearly separable and
            neither max_norm nor ridge is given.

    References:
        Albert and Anderson 1984: separation decides whether a multinomial logistic minimiser exists.
    """
    loss = as_vector_loss(loss)
    X = np.asarray(check_samples(X), dtype=np.float64)
    for column, largest in enumerate(np.abs(X).max(axis=0)):
        check_size(f"X's column {column}", float(largest))
    m = check_targets(Y, loss, len(X))
    radius, ridge, max_iterations = check_options(max_norm, ridge, max_iterations)
    if radius == 0.0:
        raise InvalidInputError("max_norm=0.0 must be positive, or None for no bound")
    max_norm = None if math.isinf(radius) else radius
    problem = _Problem.of(X, np.asarray(as_array("Y", Y)), loss, m, ridge, radius)
    best, separable = _minimise(problem, max_iterations)
    W = problem.weights(best.z)
    objective, grad_norm = _evidence(problem, W, best.multiplier)
    converged = grad_norm <= TOLERANCE * problem.gradient_scale and (
        best.suboptimality <= TOLERANCE * problem.objective_scale
    )
    return VectorLinearFit(
        W=W,
        objective=objective,
        grad_norm=grad_norm,
        converged=bool(converged),
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
    loss: VectorLoss
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
