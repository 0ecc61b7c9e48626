"""The best linear predictor, which every residual unit is measured against: fitted exactly, with the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Real, Shaped

from resflow.arrays import LARGEST, SMALLEST, Array, as_array, as_number
from resflow.errors import InvalidInputError
from resflow.linear._algebra import (
    WELL_CONDITIONED,
    RowSpace,
    reciprocal_condition,
    row_space,
    triangular_factor,
    undetermined_below,
)
from resflow.linear._evidence import as_fit, fit_of_zero, in_weights
from resflow.linear._hessian_free import hessian_free
from resflow.linear._in_ball import in_ball
from resflow.linear._newton import TOLERANCE, newton
from resflow.linear._problem import Evaluation, Problem, add_weighted_gram, evaluate, loss_terms
from resflow.linear._quasi_newton import quasi_newton
from resflow.linear._samples import as_samples, check_columns
from resflow.linear._separation import Separation
from resflow.linear._some_rows import some_rows
from resflow.linear._unbounded import unbounded
from resflow.linear.fit import LinearFit
from resflow.losses import Logistic, Loss, PseudoHuber, Softmax, as_loss

__all__ = ["LinearFit", "fit_linear_predictor"]

_MANY, _STRIDE = 200, 10
_LARGE, _DENSE = 256, 6000
_FAR = 100.0


def fit_linear_predictor(
    X: Real[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss = "logistic",
    max_norm: float | None = None,
    ridge: float = 0.0,
    sample_weight: Real[Array, "n"] | None = None,
    class_weight: Mapping[Any, Any] | str | None = None,
    classes: int | None = None,
    max_iterations: int = 200,
    start: Real[Array, "*m d"] | None = None,
) -> LinearFit:
    """The W that minimises mean_i ℓ(Wx_i; y_i) + ½ ridge ‖W‖² over ‖W‖ ≤ max_norm, of one output or several.

    How many outputs there are the loss and the labels say: classes for softmax, columns of y for the squared loss, and
    one otherwise. Computed with NumPy in float64, whatever JAX's settings. No intercept is added: append a constant
    column to X for one. X is read in chunks of rows, several times over, and may be a `np.memmap` larger than memory.

    By Newton's method, whose first step solves the squared loss and whose next ones refine that, or by limited-memory
    BFGS in the metric of XᵀX where samples are many. The softmax loss needs no Hessian where m d > 256: limited-memory
    BFGS in a metric from XᵀX, or from some of the rows where they are many, and Newton's method by conjugate gradients,
    until the suboptimality is proven; where that fails and m d ≤ 6000 the Hessian is formed after all. Otherwise, where
    columns nearly depend on each other, in coordinates of the row space, from a QR factorisation accumulated over the
    chunks. The norm bound is met exactly, by its multiplier. Where the loss does not change when one number is added to
    all outputs, W is the one whose columns sum to 0, which has the least norm.

    For one output the largest arrays made are of shape (d, d) and (n,). For m classes they are of shape (d, d), a few
    dozen of (m, d), and (n, m) where that is at most 256 MiB; a step costs about 4 n d m. For m outputs otherwise, but
    for the squared loss, they are of shape (m d, m d) and (n, m), and a step costs about n d² m² / 2 + (m d)³ / 3:
    meant for m d up to a few thousand.

    Features of float32 are computed with in float64, but directions along which they vary by their rounding only do
    not count: see `LinearFit.rank`.

    Args:
        X: Samples as rows, shape (n, d).
        y: Labels, as `as_labels` takes them: numbers, two classes as −1 and +1, 0 and 1 or truth values, several as
            0, ..., m − 1 or one-hot, shape (n,) or (n, m). For classes also their probabilities (soft targets, as of
            label smoothing): of the second of two, shape (n,), or of each of several, shape (n, m).
        loss: A loss or its name.
        max_norm: Bound on ‖W‖, for several outputs the Frobenius norm; None for none.
        ridge: Coefficient of ½‖W‖², at least 0; per mean loss, not per sum.
        sample_weight: How much each sample counts, shape (n,), at least 0; the mean is the weighted one, so that only
            ratios matter. A weight of 2 equals the sample twice, one of 0 leaves it out. None for all alike.
        class_weight: How much the samples of each class count, besides sample_weight: {class: number}, in which a class
            left out counts 1, or "balanced" for the inverse of how often it occurs. As in scikit-learn, whose C is
            1 / (ridge · sum of the weights).
        classes: The number m of classes of the softmax loss, where the last ones may not occur in y; None for as many
            as its labels, or its rows, have.
        max_iterations: Newton steps at most. If they do not suffice, the fit has not converged, and says so.
        start: Where to begin, such as W of a fit to the same samples with a larger ridge: along a path of them it saves
            steps. Looked at where there is a ridge term; where columns depend on each other only of many classes.

    Returns:
        The weights with their mean loss and the evidence of optimality.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm, ridge
            or a weight is out of range, or if the logistic or softmax loss has no minimiser because the data is
            linearly separable and neither max_norm nor ridge is given.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2: the objective F_lin and its minimum over a ball.
        Albert and Anderson 1984: separation decides whether a logistic or multinomial minimiser exists.

    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = fit_linear_predictor(X, np.array([1.0, 3.0, 5.0]), loss="squared")
    >>> fit.W.round(12), fit.converged
    (array([1., 2.]), True)
    """
    loss = as_loss(loss)
    samples = as_samples(X, y, loss, sample_weight=sample_weight, class_weight=class_weight, classes=classes)
    radius, ridge, max_iterations = _checked_options(max_norm, ridge, max_iterations)
    rows, y, m, weights = samples
    n, d = rows.n, rows.d
    guess = _checked_start(start, (d,) if m is None else (m, d)) if ridge > 0.0 and math.isinf(radius) else None
    zero = np.broadcast_to(0.0, n if m is None else (n, m))
    outputs = None if m is None else np.eye(m)
    problem = Problem(rows, y, loss, ridge, radius, math.nan, math.nan, outputs, weights)
    large = type(loss) is Softmax and problem.size > _LARGE
    some = some_rows(problem, m or 1) if large else None
    gram, gradient = np.zeros((d, d), order="F"), np.zeros((d, *zero.shape[1:]))
    values, curvatures, steepness = np.empty(n), np.empty(n if m is None else 0), 0.0
    squares = np.zeros(d)
    for part, block in rows.blocks():
        values[part], slopes, curvature = loss_terms(loss, zero[part], y[part], curved=m is None)
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

    scale = math.sqrt(squares.sum() / n * steepness / n)
    problem = problem._replace(objective_scale=float(np.mean(problem.weighed(values))), gradient_scale=scale)
    inner = problem._replace(outputs=_outputs(m, loss))
    rank = int(np.count_nonzero(squares))
    hessian, cut, of_classes = None, None, isinstance(loss, Logistic | Softmax)
    below = undetermined_below(rows.dtype, d)
    least = max(WELL_CONDITIONED, below**2)
    if some is not None and some.surely_regular(squares, least):
        gram = some.metric(squares)
    elif some is not None:
        for part, block in rows.blocks():
            add_weighted_gram(gram, block, problem, part)
    if rank and reciprocal_condition(gram) < least:
        space = row_space(triangular_factor(rows), n, below=below)
        rank, cut = space.basis.shape[1], space.cut
        inner = inner._replace(rows=rows.within(_coordinates(problem, space, squares)))
    elif problem.quadratic or (m is None and np.ptp(curvatures) == 0.0):
        hessian = gram * ((1.0 if problem.quadratic else curvatures[0]) / n)
    if rank == 0 or radius == 0.0:
        return fit_of_zero(problem, rank, False if rank == 0 and of_classes else None)

    if large and not problem.free:
        if math.isinf(radius):
            found = hessian_free(problem, gram, gradient.T / n, max_iterations=max_iterations, guess=guess)
        else:
            found = in_ball(problem, gram, gradient.T / n, max_iterations=max_iterations)
        if found.suboptimality <= TOLERANCE * problem.objective_scale or inner.size > _DENSE:
            return as_fit(problem, found, rank, None, max_iterations=max_iterations)

    separation = Separation(inner, rows) if of_classes else None
    if separation is not None and large and problem.free:
        found = unbounded(problem, inner.rows, gram, gradient.T / n, separation, max_iterations=max_iterations)
        if found.suboptimality <= TOLERANCE * problem.objective_scale or inner.size > _DENSE:
            separation.settle()
            verdict, unknown = separation.found, separation.unknown
            return as_fit(problem, found, rank, cut, separable=verdict, unknown=unknown, max_iterations=max_iterations)
    basis, best = inner.rows.basis, None
    at_zero = Evaluation(problem.objective_scale, problem.flat(gradient) / n, hessian, zero, curvatures)
    if m is None and basis is None and problem.free and n >= _MANY * d and not problem.quadratic:
        minimum = quasi_newton(problem, gram, at_zero, max_iterations=max_iterations)
        if minimum is not None:
            best, there = minimum
            if separation is not None:
                solve, _, _ = best.solver(0.0)
                separation.judge_minimiser(there.predictions, rows.times(solve(there.gradient)))
    if best is None:
        begin = _start(inner, at_zero) if guess is None or basis is not None else _from_guess(inner, at_zero, guess)
        best = newton(inner, *begin, max_iterations=max_iterations, watch=separation)
    if separation is not None:
        separation.settle()
    if basis is not None or m is not None:
        best = in_weights(problem, inner, best)
    verdict, unknown = (None, False) if separation is None else (separation.found, separation.unknown)
    return as_fit(problem, best, rank, cut, separable=verdict, unknown=unknown, max_iterations=max_iterations)


def _checked_options(max_norm: Any, ridge: Any, max_iterations: Any) -> tuple[float, float, int]:
    """Radius of the ball, infinite for none, coefficient of the ridge term, and the most steps."""
    size = f"between {SMALLEST:g} and {LARGEST:g}"
    radius = math.inf
    if max_norm is not None:
        allowed = f"must be at least 0 and then {size}, or None for no bound"
        radius = as_number("max_norm", max_norm, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST or r == math.inf)
    allowed = f"must be a finite number, at least 0 and then {size}; 0 is no ridge term"
    coefficient = as_number("ridge", ridge, allowed, lambda r: r == 0 or SMALLEST <= r <= LARGEST)
    steps = as_number("max_iterations", max_iterations, "must be at least 1", lambda most: 1 <= most <= 1e9, whole=True)
    return radius, coefficient, steps


def _checked_start(start: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if start is None:
        return None
    guess = np.asarray(as_array("start", start, finite=True), dtype=np.float64)
    if guess.shape != shape:
        raise InvalidInputError(f"start has shape {guess.shape}, but the weights have {shape}")
    return guess


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


def _start(problem: Problem, at_zero: Evaluation) -> tuple[np.ndarray, Evaluation]:
    """Where to start, and the evaluation there: the solution of every tenth sample if they are many, or 0.

    That at 0 is taken if it has a Hessian, and made otherwise.

    A pseudo-Huber loss hardly curves at labels far beyond its δ, which leaves Newton's method blind at 0: there it is
    the solution for a larger δ, got from one for a still larger one.
    """
    rows, zero = problem.rows, np.zeros(problem.size)
    if isinstance(problem.loss, PseudoHuber):
        size = float(np.sqrt(np.mean(problem.y**2)))
        if size > _FAR * problem.loss.delta:
            return _from_larger_deltas(problem, size, problem.loss.delta)
    if rows.n >= _MANY * max(rows.d, problem.size) and not problem.quadratic:
        some = None if problem.weights is None else problem.weights[::_STRIDE] / np.mean(problem.weights[::_STRIDE])
        part = problem._replace(rows=rows.every(_STRIDE), y=problem.y[::_STRIDE], weights=some)
        first = evaluate(part, zero, hessian=True)
        guess = newton(part, zero, first, max_iterations=8, enough=0.01 * rows.d / part.rows.n)
        there = evaluate(problem, guess.z, hessian=True)
        if there.objective < problem.objective_scale:
            return guess.z, there
    return zero, evaluate(problem, zero, hessian=True) if at_zero.hessian is None else at_zero


def _from_guess(problem: Problem, at_zero: Evaluation, W: np.ndarray) -> tuple[np.ndarray, Evaluation]:
    """These weights and the evaluation there, or where to start without them if the objective is no lower there."""
    z = W if problem.outputs is None else (problem.outputs.T @ W).ravel()
    there = evaluate(problem, z, hessian=True)
    better = there.objective + 0.5 * problem.ridge * float(z @ z) < problem.objective_scale
    return (z, there) if better else _start(problem, at_zero)


def _from_larger_deltas(problem: Problem, size: float, last: float) -> tuple[np.ndarray, Evaluation]:
    z, delta = np.zeros(problem.size), size
    while delta > last:
        softer = problem._replace(loss=PseudoHuber(delta), objective_scale=delta * size)
        first = evaluate(softer, z, hessian=True)
        z = newton(softer, z, first, max_iterations=20, enough=1e-3 * first.objective).z
        delta *= 0.1
    return z, evaluate(problem, z, hessian=True)
