"""The best linear predictor, which every residual unit is measured against: fitted exactly, with the evidence."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from resflow.arrays import Array, check_labels
from resflow.errors import InvalidInputError
from resflow.linear._algebra import (
    BallStep,
    Coordinates,
    Rows,
    Solver,
    add_gram,
    ball_step,
    diagonal_solver,
    reciprocal_condition,
    row_space,
    triangular_factor,
)
from resflow.linear._newton import (
    TOLERANCE,
    Evaluation,
    Iterate,
    Problem,
    describe,
    evaluate,
    into_ball,
    loss_terms,
    newton,
)
from resflow.linear._quasi_newton import quasi_newton
from resflow.linear._separation import WELL_CONDITIONED, Separation
from resflow.losses.scalar import Logistic, Loss, Squared, as_loss

__all__ = ["LinearFit", "fit_linear_predictor"]

_MANY, _STRIDE = 200, 10


class LinearFit(NamedTuple):
    """The best linear predictor w and the evidence that it is the best.

    Attributes:
        w: Weights, float64, shape (d,); of least norm where the samples do not determine them.
        objective: F_lin(w), the mean loss per sample, without the ridge term.
        grad_norm: ‖∇F_lin(w) + ridge · w + multiplier · w‖, the residual of the optimality conditions.
        converged: True if grad_norm ≤ 1e-12 sqrt(mean‖x‖² · mean ℓ'(0; y)²) and suboptimality ≤ 1e-12 F_lin(0). Of
            features of condition beyond about 1e6, rounding in wᵀx can forbid the first: then it is False.
        suboptimality: By how much the objective with its ridge term can still fall within ‖w‖ ≤ max_norm: by its
            second-order model at w (half the squared Newton decrement where the bound is inactive, or a bound on it
            from XᵀX where no Hessian was formed) or, if that is less, by the bound ⟨∇F, w⟩ + max_norm ‖∇F‖, which
            convexity proves. Infinite if neither can be had.
        multiplier: Of the bound ‖w‖ ≤ max_norm: 0 where it is inactive, infinite for max_norm = 0.
        separable: Logistic loss only. True: some hyperplane through 0 has no sample on its wrong side and not all of
            them on it, so that without bound or ridge there is no minimiser. False: there is none, and a minimiser
            exists. None: the fit did not need to know.
        rank: Of X: how many of the d directions the samples determine, in the units of each feature.
        iterations: Newton or quasi-Newton steps, or steps of refinement for the squared loss.
        max_norm: The bound on ‖w‖ that was asked for, or None.
        ridge: The coefficient of ½‖w‖² that was asked for.
        loss: Name of the loss.
    """

    w: Float[np.ndarray, "d"]
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


def fit_linear_predictor(
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss = "logistic",
    max_norm: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 200,
) -> LinearFit:
    """The w that minimises mean_i ℓ(wᵀx_i; y_i) + ½ ridge ‖w‖² over ‖w‖ ≤ max_norm.

    Computed with NumPy in float64, whatever JAX's settings. No intercept is added: append a constant column to X for
    one. X is read in chunks of rows, several times over, and may be a `np.memmap` larger than memory; the largest
    arrays made are of shape (d, d) and (n,).

    The squared loss is solved by a QR factorisation accumulated over the chunks and the singular values of its
    factor, any other by Newton's method, or by limited-memory BFGS in the metric of XᵀX where samples are many. The
    norm bound is met exactly, by its multiplier.

    Args:
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        max_norm: Bound on ‖w‖; None for none.
        ridge: Coefficient of ½‖w‖², at least 0; per mean loss, not per sum.
        max_iterations: Newton steps at most. If they do not suffice, `converged` is False.

    Returns:
        The weights with their mean loss and the evidence of optimality.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm or
            ridge is negative, or if the logistic loss has no minimiser because the data is linearly separable and
            neither max_norm nor ridge is given.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2: the objective F_lin and its minimum over a ball.
        Albert and Anderson 1984: separation decides whether a logistic minimiser exists.

    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = fit_linear_predictor(X, np.array([1.0, 3.0, 5.0]), loss="squared")
    >>> fit.w.round(12), fit.converged
    (array([1., 2.]), True)
    """
    loss = as_loss(loss)
    X, y = _checked(X, y, loss)
    radius = _radius(max_norm)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise InvalidInputError(f"ridge={ridge} must be a finite number, at least 0; 0 is no ridge term")
    if max_iterations < 1:
        raise InvalidInputError(f"max_iterations={max_iterations} must be at least 1")
    solve = _fit_squared if type(loss) is Squared else _fit_by_newton
    return solve(X, y, loss, radius, float(ridge), max_iterations)._replace(max_norm=max_norm)


def _checked(X: Array, y: Array, loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or y.shape != X.shape[:1] or 0 in X.shape:
        raise InvalidInputError(
            f"X has shape {X.shape} and y {y.shape}, but they must be (n, d) and (n,), with at least one sample and "
            "one feature"
        )
    check_labels(y, loss)
    return X, y.astype(np.float64)


def _radius(max_norm: float | None) -> float:
    if max_norm is None:
        return math.inf
    if not max_norm >= 0:
        raise InvalidInputError(f"max_norm={max_norm} must be at least 0, or None for no bound")
    return float(max_norm)


def _check_finite(X: np.ndarray, squares: np.ndarray) -> None:
    """`squares` are sums of squares of X's columns, which are finite if X is, up to overflow."""
    if np.isfinite(squares).all():
        return
    for part, block in Rows(X).blocks():
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InvalidInputError(
                f"X has a value that is not finite, the first in column {column}, row {part.start + row} (counted "
                "from 0): fill it in or drop that row"
            )
    column = int(np.argmin(np.isfinite(squares)))
    raise InvalidInputError(f"X has values in column {column} whose squares overflow: scale that feature down")


def _fit_squared(
    X: np.ndarray, y: np.ndarray, loss: Loss, radius: float, ridge: float, max_iterations: int
) -> LinearFit:
    n, d = X.shape
    R = triangular_factor(Rows(X), y)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(R).sum(axis=0)
    _check_finite(X, squares[:d])
    orthonormal, unitless = row_space(R[:, :d], n)
    rank = len(unitless.singular_values)
    scale = math.sqrt(squares[:d].sum()) * float(np.linalg.norm(y)) / n
    problem = Problem(Rows(X), y, loss, ridge, radius, float(y @ y) / (2 * n), scale)
    if radius == 0.0 or rank == 0:
        return _fit_of_zero(problem, rank, None)
    if ridge == 0.0:
        free = _refined_squared(problem._replace(radius=math.inf), unitless, R[:, d])
        if np.linalg.norm(free.z) <= radius:
            return _linear_fit(problem, free, rank=rank, separable=None)
    return _linear_fit(problem, _refined_squared(problem, orthonormal, R[:, d]), rank=rank, separable=None)


def _refined_squared(problem: Problem, space: Coordinates, Qy: np.ndarray) -> Iterate:
    """The minimiser of the squared loss in coordinates that make its Hessian diagonal, iteratively refined.

    Args:
        problem: With the squared loss.
        space: Coordinates; orthonormal if there is a ridge or a norm bound.
        Qy: Qᵀy, beside R in the factorisation of [X y].
    """
    n = problem.rows.n
    solver = diagonal_solver(space.singular_values**2 / n + problem.ridge)
    z = np.zeros(len(space.singular_values))
    model = ball_step(solver, -space.singular_values * (space.left.T @ Qy) / n, z, problem.radius)
    best: Iterate | None = None
    for iteration in range(4):
        z = into_ball(z + model.step, problem.radius)
        iterate, model = _in_weights(problem, solver, space.basis, z, iteration, guess=model.multiplier)
        if best is None or iterate.residual < best.residual:
            best = iterate
        if iterate is not best or best.residual <= 0.1 * TOLERANCE * min(problem.gradient_scale, 1.0):
            break
    assert best is not None
    return best


def _fit_by_newton(
    X: np.ndarray, y: np.ndarray, loss: Loss, radius: float, ridge: float, max_iterations: int
) -> LinearFit:
    n, d = X.shape
    rows = Rows(X)
    values, slopes, curvatures = loss_terms(loss, np.zeros(n), y)
    gram, gradient = np.zeros((d, d), order="F"), np.zeros(d)
    for part, block in rows.blocks():
        add_gram(gram, block)
        gradient += slopes[part] @ block
    squares = np.diag(gram)
    _check_finite(X, squares)

    gradient_scale = math.sqrt(squares.sum() / n * float(np.mean(slopes**2)))
    problem = Problem(rows, y, loss, ridge, radius, float(np.mean(values)), gradient_scale)
    rank = int(np.count_nonzero(squares))
    first = None
    if rank and reciprocal_condition(gram) < WELL_CONDITIONED:
        space, _ = row_space(triangular_factor(rows, y)[:, :d], n)
        rank = len(space.singular_values)
        problem = problem._replace(rows=Rows(X, space.basis))
    elif np.ptp(curvatures) == 0.0:
        first = Evaluation(problem.objective_scale, gradient / n, gram * (curvatures[0] / n), np.zeros(n), curvatures)
    if rank == 0 or radius == 0.0:
        return _fit_of_zero(problem, rank, False if rank == 0 and isinstance(loss, Logistic) else None)

    separation = Separation(problem) if isinstance(loss, Logistic) else None
    best = None
    if problem.rows.basis is None and _is_free(problem) and n >= _MANY * d:
        at_zero = Evaluation(problem.objective_scale, gradient / n, None, np.zeros(n), curvatures)
        best = _by_gram(problem, gram, at_zero, separation, max_iterations)
    if best is None:
        start, first = _start(problem, first)
        best = newton(problem, start, first, max_iterations=max_iterations, watch=separation)
    if separation is not None:
        separation.settle()
    basis = problem.rows.basis
    if basis is not None:
        best, _ = _in_weights(
            problem._replace(rows=rows), best.solver, basis, best.z, best.iterations, guess=best.multiplier
        )
    return _linear_fit(problem, best, rank=rank, separable=None if separation is None else separation.verdict)


def _is_free(problem: Problem) -> bool:
    return problem.ridge == 0.0 and math.isinf(problem.radius)


def _by_gram(
    problem: Problem, gram: np.ndarray, at_zero: Evaluation, separation: Separation | None, max_iterations: int
) -> Iterate | None:
    """The minimiser without a Hessian, where that is possible."""
    found = quasi_newton(problem, gram, at_zero, max_iterations=max_iterations)
    if found is None:
        return None
    best, there = found
    if separation is not None:
        solve, _, _ = best.solver(0.0)
        separation.judge_minimiser(there.predictions, problem.rows.times(solve(there.gradient)))
    return best


def _start(problem: Problem, at_zero: Evaluation | None) -> tuple[np.ndarray, Evaluation]:
    """Where to start, and the evaluation there: the solution of every tenth sample if they are many, or 0."""
    rows, zero = problem.rows, np.zeros(problem.rows.width)
    if rows.n >= _MANY * rows.d:
        part = problem._replace(rows=rows.every(_STRIDE), y=problem.y[::_STRIDE])
        first = evaluate(part, zero, hessian=True)
        guess = newton(part, zero, first, max_iterations=8, enough=0.01 * rows.d / part.rows.n)
        there = evaluate(problem, guess.z, hessian=True)
        if there.objective < problem.objective_scale:
            return guess.z, there
    return zero, at_zero or evaluate(problem, zero, hessian=True)


def _in_weights(
    problem: Problem, solver: Solver, basis: np.ndarray, z: np.ndarray, iterations: int, *, guess: float
) -> tuple[Iterate, BallStep]:
    """The evidence at w = basis z, by a pass over X itself, and the step from there in z's coordinates."""
    w = into_ball(basis @ z, problem.radius)
    here = evaluate(problem, w, hessian=False)
    total = here.gradient + problem.ridge * w
    model = ball_step(solver, basis.T @ total, z, problem.radius, start=guess)
    return describe(problem, w, here, total, model, solver, iterations), model


def _fit_of_zero(problem: Problem, rank: int, separable: bool | None) -> LinearFit:
    """w = 0: the only point of a ball of radius 0, or the least of all equal ones where X is zero."""
    multiplier = math.inf if problem.radius == 0.0 else 0.0
    best = Iterate(
        np.zeros(problem.rows.d), problem.objective_scale, multiplier, 0.0, 0.0, diagonal_solver(np.zeros(0)), 0
    )
    return _linear_fit(problem, best, rank=rank, separable=separable)


def _linear_fit(problem: Problem, best: Iterate, *, rank: int, separable: bool | None) -> LinearFit:
    converged = (
        best.residual <= TOLERANCE * problem.gradient_scale
        and best.suboptimality <= TOLERANCE * problem.objective_scale
    )
    return LinearFit(
        w=best.z,
        objective=best.objective,
        grad_norm=best.residual,
        converged=bool(converged),
        suboptimality=best.suboptimality,
        multiplier=best.multiplier,
        separable=separable,
        rank=rank,
        iterations=best.iterations,
        max_norm=None,
        ridge=problem.ridge,
        loss=problem.loss.name,
    )
