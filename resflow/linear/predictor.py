"""The best linear predictor, which every residual unit is measured against: fitted exactly, with the evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Real, Shaped

from resflow.arrays import LARGEST, SMALLEST, Array, as_array, as_number, check_size
from resflow.errors import InvalidInputError
from resflow.labels import as_labels, count_outputs
from resflow.linear._algebra import (
    WELL_CONDITIONED,
    BallStep,
    Rows,
    RowSpace,
    Solver,
    add_gram,
    ball_step,
    diagonal_solver,
    reciprocal_condition,
    row_space,
    triangular_factor,
    triangular_solver,
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
    solved,
)
from resflow.linear._quasi_newton import quasi_newton
from resflow.linear._separation import Separation
from resflow.linear.fit import LinearFit
from resflow.linear.vector import fit_several
from resflow.losses import Logistic, Loss, PseudoHuber, Squared, as_loss
from resflow.status import Status

__all__ = ["LinearFit", "fit_linear_predictor"]

_MANY, _STRIDE = 200, 10
_FAR = 100.0
_ONE_SIZE = 1e6
_EPS = float(np.finfo(np.float64).eps)


def fit_linear_predictor(
    X: Real[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss = "logistic",
    max_norm: float | None = None,
    ridge: float = 0.0,
    max_iterations: int = 200,
) -> LinearFit:
    """The W that minimises mean_i ℓ(Wx_i; y_i) + ½ ridge ‖W‖² over ‖W‖ ≤ max_norm, of one output or several.

    How many outputs there are the loss and the labels say: classes for softmax, columns of y for the squared loss, and
    one otherwise. Computed with NumPy in float64, whatever JAX's settings. No intercept is added: append a constant
    column to X for one. X is read in chunks of rows, several times over, and may be a `np.memmap` larger than memory.

    The squared loss is solved by a QR factorisation accumulated over the chunks and the singular values of its
    factor, any other by Newton's method, or by limited-memory BFGS in the metric of XᵀX where samples are many. The
    norm bound is met exactly, by its multiplier. Where the loss does not change when one number is added to all
    outputs, W is the one whose columns sum to 0, which has the least norm.

    For one output the largest arrays made are of shape (d, d) and (n,). For m outputs of any loss but the squared one
    they are of shape (m d, m d) and (n, m), and a step costs about n d² m² / 2 + (m d)³ / 3: meant for m d up to a few
    thousand.

    Args:
        X: Samples as rows, shape (n, d).
        y: Labels, as `as_labels` takes them: numbers, two classes as −1 and +1, 0 and 1 or truth values, several as
            0, ..., m − 1 or one-hot, shape (n,) or (n, m).
        loss: A loss or its name.
        max_norm: Bound on ‖W‖, for several outputs the Frobenius norm; None for none.
        ridge: Coefficient of ½‖W‖², at least 0; per mean loss, not per sum.
        max_iterations: Newton steps at most. If they do not suffice, the fit has not converged, and says so.

    Returns:
        The weights with their mean loss and the evidence of optimality.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm or
            ridge is out of range, or if the logistic or softmax loss has no minimiser because the data is linearly
            separable and neither max_norm nor ridge is given.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2: the objective F_lin and its minimum over a ball.
        Albert and Anderson 1984: separation decides whether a logistic or multinomial minimiser exists.

    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = fit_linear_predictor(X, np.array([1.0, 3.0, 5.0]), loss="squared")
    >>> fit.W.round(12), fit.converged
    (array([1., 2.]), True)
    """
    loss = as_loss(loss)
    X, labels, m = _checked(X, y, loss)
    radius, ridge, max_iterations = check_options(max_norm, ridge, max_iterations)
    if m is not None:
        return fit_several(X, labels, loss, m, radius, ridge, max_iterations)
    solve = _fit_squared if type(loss) is Squared else _fit_by_newton
    bound = None if math.isinf(radius) else radius
    return solve(X, labels, loss, radius, ridge, max_iterations)._replace(max_norm=bound)


def check_options(max_norm: Any, ridge: Any, max_iterations: Any) -> tuple[float, float, int]:
    """Radius of the ball, infinite for none, coefficient of the ridge term, and the most steps.

    Raises:
        InvalidInputError: If one is no number, or out of range.
    """
    size = f"between {SMALLEST:g} and {LARGEST:g}"
    radius = math.inf
    if max_norm is not None:
        allowed = f"must be at least 0 and then {size}, or None for no bound"
        radius = as_number("max_norm", max_norm, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST or r == math.inf)
    allowed = f"must be a finite number, at least 0 and then {size}; 0 is no ridge term"
    coefficient = as_number("ridge", ridge, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST)
    steps = as_number("max_iterations", max_iterations, "must be at least 1", lambda most: 1 <= most <= 1e9, whole=True)
    return radius, coefficient, steps


def _checked(X: Any, y: Any, loss: Loss) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Samples, labels as the loss takes them, and the number of outputs, None for one without an axis."""
    X = np.asarray(as_array("X", X, 2))
    if 0 in X.shape:
        raise InvalidInputError(f"X has shape {X.shape}, but there must be at least one sample and one feature")
    labels, m = np.asarray(as_labels(y, loss, n=len(X))), count_outputs(as_array("y", y), loss)
    return X, labels.astype(int if loss.labels == "classes" else np.float64), m


def _check_columns(X: np.ndarray, squares: np.ndarray) -> None:
    """`squares` are sums of squares of X's columns, which are finite if X is, up to overflow."""
    with np.errstate(invalid="ignore"):
        sizes = np.sqrt(squares / len(X))
        fine = (squares == 0.0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))
    if fine.all() and (squares > 0.0).all():
        return
    for part, block in Rows(X).blocks():
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InvalidInputError(
                f"X has a value that is not finite, the first in column {column}, row {part.start + row} (counted "
                "from 0): fill it in or drop that row"
            )
    # a column whose squares all underflow is not 0 either
    largest = np.max([np.abs(block).max(axis=0) for _, block in Rows(X).blocks()], axis=0)
    for column in np.flatnonzero(~fine | (squares == 0.0)):
        check_size(f"X's column {column}", float(largest[column]))
    for column in np.flatnonzero(~fine):
        check_size(f"X's column {column}", float(sizes[column]), "its values' root mean square is")


def _fit_squared(
    X: np.ndarray, y: np.ndarray, loss: Loss, radius: float, ridge: float, max_iterations: int
) -> LinearFit:
    n, d = X.shape
    R = triangular_factor(Rows(X), y)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(R).sum(axis=0)
    _check_columns(X, squares[:d])
    space = row_space(R[:, :d], n)
    rank = space.basis.shape[1]
    scale = math.sqrt(squares[:d].sum()) * float(np.linalg.norm(y)) / n
    problem = Problem(Rows(X), y, loss, ridge, radius, float(y @ y) / (2 * n), scale)
    if radius == 0.0 or rank == 0:
        return _fit_of_zero(problem, rank, None)
    if ridge == 0.0:
        unitless = space.unitless
        solver = diagonal_solver(unitless.singular_values**2 / n)
        slope = -unitless.singular_values * (unitless.left.T @ R[:, d]) / n
        free = _refined_squared(problem._replace(radius=math.inf), solver, unitless.basis, slope)
        if np.linalg.norm(free.z) <= radius:
            return _linear_fit(problem, free, space, separable=None)
    sizes = np.sqrt(squares[:d][squares[:d] > 0.0])
    basis = space.orthonormal.basis
    if sizes.max() <= _ONE_SIZE * sizes.min():
        solver = diagonal_solver(space.orthonormal.singular_values**2 / n + ridge)
        slope = -space.orthonormal.singular_values * (space.orthonormal.left.T @ R[:, d]) / n
    else:  # in an eigenbasis short columns would drown
        basis = space.basis
        factor = R[:, :d] @ basis
        solver, slope = triangular_solver(factor / math.sqrt(n), ridge), -(factor.T @ R[:, d]) / n
    return _linear_fit(problem, _refined_squared(problem, solver, basis, slope), space, separable=None)


def _refined_squared(problem: Problem, solver: Solver, basis: np.ndarray, slope: np.ndarray) -> Iterate:
    """The minimiser of the squared loss, iteratively refined by gradients from X itself.

    Args:
        problem: With the squared loss.
        solver: Of its Hessian, with the ridge term, in the coordinates z of w = basis z.
        basis: Shape (d, r); orthonormal if there is a ridge or a norm bound.
        slope: The gradient at 0 in these coordinates.
    """
    z = np.zeros(basis.shape[1])
    model = ball_step(solver, slope, z, problem.radius)
    best: Iterate | None = None
    for iteration in range(8):
        z = into_ball(z + model.step, problem.radius)
        iterate, model = _in_weights(problem, solver, basis, z, iteration, guess=model.multiplier)
        if best is None or _better(iterate, best):
            best = iterate
        if iterate is not best or solved(problem, iterate):
            break
    assert best is not None
    return best


def _better(iterate: Iterate, best: Iterate) -> bool:
    """By the residual, which columns of large values decide, or the suboptimality, in which all count alike."""
    closer = iterate.residual < best.residual
    return (
        closer and iterate.suboptimality <= 2.0 * best.suboptimality
    ) or iterate.suboptimality < 0.1 * best.suboptimality


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
    _check_columns(X, squares)

    gradient_scale = math.sqrt(squares.sum() / n * float(np.mean(slopes**2)))
    problem = Problem(rows, y, loss, ridge, radius, float(np.mean(values)), gradient_scale)
    rank = int(np.count_nonzero(squares))
    first, space = None, None
    if rank and reciprocal_condition(gram) < WELL_CONDITIONED:
        space = row_space(triangular_factor(rows, y)[:, :d], n)
        rank = space.basis.shape[1]
        problem = problem._replace(rows=Rows(X, _coordinates(problem, space, squares)))
    elif np.ptp(curvatures) == 0.0:
        first = Evaluation(problem.objective_scale, gradient / n, gram * (curvatures[0] / n), np.zeros(n), curvatures)
    if rank == 0 or radius == 0.0:
        return _fit_of_zero(problem, rank, False if rank == 0 and isinstance(loss, Logistic) else None)

    separation = Separation(problem, X) if isinstance(loss, Logistic) else None
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
        sound = best.sound
        problem = problem._replace(rows=rows)
        best, _ = _in_weights(problem, best.solver, basis, best.z, best.iterations, guess=best.multiplier)
        best = best._replace(sound=best.sound and sound)
    fit = _linear_fit(problem, best, space or rank, separable=None if separation is None else separation.found)
    if separation is not None and separation.verdict is None and _is_free(problem):
        return fit._replace(status=Status.NO_MINIMIZER_KNOWN)
    return (
        fit._replace(status=Status.ITERATION_LIMIT) if best.iterations >= max_iterations and not fit.converged else fit
    )


def _coordinates(problem: Problem, space: RowSpace, squares: np.ndarray) -> np.ndarray:
    """A basis in which the Hessian is as near to diagonal as it can be; orthonormal where lengths matter."""
    if _is_free(problem):
        return space.unitless.basis
    sizes = squares[squares > 0.0]
    one_size = sizes.max() <= _ONE_SIZE**2 * sizes.min()
    return space.orthonormal.basis if one_size else space.basis  # in an eigenbasis short columns would drown


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
    """Where to start, and the evaluation there: the solution of every tenth sample if they are many, or 0.

    A pseudo-Huber loss hardly curves at labels far beyond its δ, which leaves Newton's method blind at 0: there it is
    the solution for a larger δ, got from one for a still larger one.
    """
    rows, zero = problem.rows, np.zeros(problem.rows.width)
    if isinstance(problem.loss, PseudoHuber):
        size = float(np.sqrt(np.mean(problem.y**2)))
        if size > _FAR * problem.loss.delta:
            return _from_larger_deltas(problem, size, problem.loss.delta)
    if rows.n >= _MANY * rows.d:
        part = problem._replace(rows=rows.every(_STRIDE), y=problem.y[::_STRIDE])
        first = evaluate(part, zero, hessian=True)
        guess = newton(part, zero, first, max_iterations=8, enough=0.01 * rows.d / part.rows.n)
        there = evaluate(problem, guess.z, hessian=True)
        if there.objective < problem.objective_scale:
            return guess.z, there
    return zero, at_zero or evaluate(problem, zero, hessian=True)


def _from_larger_deltas(problem: Problem, size: float, last: float) -> tuple[np.ndarray, Evaluation]:
    z, delta = np.zeros(problem.rows.width), size
    while delta > last:
        softer = problem._replace(loss=PseudoHuber(delta), objective_scale=delta * size)
        first = evaluate(softer, z, hessian=True)
        z = newton(softer, z, first, max_iterations=20, enough=1e-3 * first.objective).z
        delta *= 0.1
    return z, evaluate(problem, z, hessian=True)


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
    nothing = diagonal_solver(np.zeros(0))
    best = Iterate(np.zeros(problem.rows.d), problem.objective_scale, multiplier, 0.0, 0.0, True, nothing, 0)
    return _linear_fit(problem, best, rank, separable=separable)


def _linear_fit(problem: Problem, best: Iterate, space: RowSpace | int, *, separable: bool | None) -> LinearFit:
    """The fit at the best point found, or at 0 if that is lower, which says that none was found.

    Args:
        problem: In the coordinates of w.
        best: The point.
        space: X's row space, or its rank if nothing of it was cut.
        separable: As in `LinearFit`.
    """
    with np.errstate(all="ignore"):
        total = best.objective + 0.5 * problem.ridge * float(best.z @ best.z)
    if not total <= problem.objective_scale * (1.0 + 64.0 * _EPS):
        at_zero = evaluate(problem, np.zeros(problem.rows.d), hessian=False)
        residual = float(np.linalg.norm(at_zero.gradient))
        best = Iterate(np.zeros(problem.rows.d), at_zero.objective, 0.0, residual, math.inf, False, best.solver, 0)
    rank = space if isinstance(space, int) else space.basis.shape[1]
    suboptimality, sound = best.suboptimality, best.sound
    if not isinstance(space, int) and space.cut.size:
        suboptimality += _hidden_gain(problem, best, space.cut)
    small = best.residual <= TOLERANCE * problem.gradient_scale
    if not small:
        left, gain = _left_by_rounding(problem, best)
        small, suboptimality = best.residual <= left, suboptimality + gain
    if isinstance(problem.loss, Squared | Logistic | PseudoHuber):  # none of these is ever negative
        total = best.objective + 0.5 * problem.ridge * float(best.z @ best.z)
        suboptimality, sound = min(suboptimality, total) if sound else total, True
    converged = sound and small and suboptimality <= TOLERANCE * problem.objective_scale
    return LinearFit(
        W=best.z,
        objective=best.objective,
        grad_norm=best.residual,
        status=Status.CONVERGED if converged else Status.ROUNDING,
        suboptimality=suboptimality,
        multiplier=best.multiplier,
        separable=separable,
        rank=rank,
        iterations=best.iterations,
        max_norm=None,
        ridge=problem.ridge,
        loss=problem.loss.name,
    )


def _left_by_rounding(problem: Problem, best: Iterate) -> tuple[float, float]:
    """How large a residual rounding of the predictions alone can leave, and how much of a decrease that can hide."""
    rows, n = problem.rows, problem.rows.n
    unit = 4.0 * math.sqrt(rows.d) * _EPS
    shift = problem.ridge + (best.multiplier if math.isfinite(best.multiplier) else 0.0)
    left, hidden = 0.0, 0.0
    for part, block in rows.blocks():
        y = problem.y[part]
        _, slopes, curvatures = loss_terms(problem.loss, block @ best.z, y)
        error = unit * (np.abs(block) @ np.abs(best.z) + np.abs(y))
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        left += float(np.sum((curvatures * error + _EPS * np.abs(slopes)) * lengths)) / n
        hidden += float(np.sum(curvatures * error**2)) / n
    return left + unit * shift * float(np.linalg.norm(best.z)), 0.5 * hidden


def _hidden_gain(problem: Problem, best: Iterate, cut: np.ndarray) -> float:
    """What directions that X determines within rounding only could gain, where that cannot be rounding.

    Along such a direction u the second-order model can fall by ½ (uᵀ∇)² / uᵀHu. If uᵀx_i is rounding, and so has
    nothing to do with the ℓ'_i, that is about F/n: 32 times as much happens once in 10⁷ times.
    """
    shift = problem.ridge + (best.multiplier if math.isfinite(best.multiplier) else 0.0)
    along, p = problem.rows.times(cut), problem.rows.times(best.z)
    _, slopes, curvatures = loss_terms(problem.loss, p, problem.y)
    slope = slopes @ along / problem.rows.n + shift * (best.z @ cut)
    curvature = curvatures @ along**2 / problem.rows.n + shift * np.sum(cut**2, axis=0)
    gains = 0.5 * slope**2 / np.where(curvature > 0.0, curvature, np.inf)
    return float(np.sum(gains[gains > 32.0 * best.objective / problem.rows.n]))
