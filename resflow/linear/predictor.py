"""The best linear predictor, which every residual unit is measured against: fitted exactly, with the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
from jaxtyping import Real, Shaped

from resflow.arrays import LARGEST, SMALLEST, Array, as_array, as_number, is_traced
from resflow.errors import InvalidInputError
from resflow.linear._algebra import (
    WELL_CONDITIONED,
    RowSpace,
    reciprocal_condition,
    row_space,
    triangular_factor,
    undetermined_below,
)
from resflow.linear._device import samples_on_device
from resflow.linear._evidence import as_fit, fit_of_zero, in_weights
from resflow.linear._first_pass import first_pass
from resflow.linear._hessian_free import hessian_free
from resflow.linear._in_ball import in_ball
from resflow.linear._newton import Newton, newton
from resflow.linear._problem import TOLERANCE, Evaluation, Problem, evaluate
from resflow.linear._quasi_newton import quasi_newton
from resflow.linear._samples import as_samples
from resflow.linear._separation import Separation
from resflow.linear._start import start_of
from resflow.linear._unbounded import unbounded
from resflow.linear.fit import LinearFit
from resflow.losses import Logistic, Loss, Softmax, as_loss
from resflow.parallel import blas_on_one_thread

__all__ = ["LinearFit", "fit_linear_predictor"]

_MANY = 200
_LARGE, _DENSE = 256, 6000
_MUCH = 1e7
"""n (m d)², multiplications in Hessians of a few classes, from which on doing without takes a tenth of the time."""
_LITTLE = 2e7
"""Multiplications in a pass that a second thread would hardly speed up, and a busy second core slow down many times."""


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
    tolerance: float = TOLERANCE,
    start: Real[Array, "*m d"] | None = None,
) -> LinearFit:
    """The W that minimises mean_i ℓ(Wx_i; y_i) + ½ ridge ‖W‖² over ‖W‖ ≤ max_norm, of one output or several.

    How many outputs there are the loss and the labels say: classes for softmax, columns of y for the squared loss, and
    one otherwise. Computed in float64, whatever JAX's settings: with NumPy, or where JAX has an accelerator, on it, if
    the samples are many (2²² numbers) and fit its memory with room to spare. No intercept is added: append a constant
    column to X for one. X is read in chunks of rows, several times over, and may be a `np.memmap` larger than memory.

    By Newton's method, whose first step solves the squared loss and whose next ones refine that, or by limited-memory
    BFGS in the metric of XᵀX where samples are many. The softmax loss needs no Hessian where m d > 256 or n (m d)² >
    10⁷: limited-memory BFGS in a metric from XᵀX, or from some of the rows where they are many, and Newton's method by
    conjugate gradients, until the suboptimality is proven; where that fails and m d ≤ 6000 the Hessian is formed after
    all. Otherwise, where columns nearly depend on each other, in coordinates of the row space, from a QR factorisation
    accumulated over the chunks. The norm bound is met exactly, by its multiplier. Where the loss does not change when
    one number is added to all outputs, W is the one whose columns sum to 0, which has the least norm.

    Where no Hessian is formed, a thread for each core passes over groups of the rows. The groups, and so the bits of
    the fit, do not depend on how many cores there are.

    For one output the largest arrays made are of shape (d, d) and (n,). For m classes they are of shape (m, d), a few
    dozen, of (d, d), several where they take at most 128 MiB, and of (n, m) where that is at most 256 MiB; a step costs
    about 4 n d m. For m outputs otherwise, but for the squared loss, they are of shape (m d, m d) and (n, m), and a
    step costs about n d² m² / 2 + (m d)³ / 3: meant for m d up to a few thousand.

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
        tolerance: Where to stop: the suboptimality in units of F_lin(0), and the same of what `grad_norm` is judged by,
            between 1e-12 and 1. A wider one than 1e-12, or than 1e-10 where the suboptimality is proven, ends in
            `Status.WIDE_TOLERANCE`: its `suboptimality` holds, but no claim rests on the fit.
        start: Where to begin, such as W of a fit to the same samples with a larger ridge: along a path of them it saves
            steps. Looked at where there is a ridge term; where columns depend on each other only of many classes.

    Returns:
        The weights with their mean loss and the evidence of optimality.

    Raises:
        InvalidInputError: If shapes disagree, a value is not finite, the labels do not suit the loss, max_norm, ridge,
            tolerance or a weight is out of range, an argument is being traced by jit, vmap or grad, or if the logistic
            or softmax loss has no minimiser because the data is linearly separable and neither max_norm nor ridge is
            given.

    References:
        Shamir 2018 (arXiv:1804.06739), section 2: the objective F_lin and its minimum over a ball.
        Albert and Anderson 1984: separation decides whether a logistic or multinomial minimiser exists.

    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    >>> fit = fit_linear_predictor(X, np.array([1.0, 3.0, 5.0]), loss="squared")
    >>> fit.W.round(12), fit.converged
    (array([1., 2.]), True)
    """
    of_classes = class_weight.values() if isinstance(class_weight, Mapping) else ()
    numbers = (max_norm, ridge, classes, max_iterations, tolerance)
    if is_traced(X, y, sample_weight, start, *numbers, *of_classes):
        raise InvalidInputError(
            "fit_linear_predictor is given an array that jit, vmap or grad is tracing, but it needs the values: call "
            "it outside the traced function, and pass in what it returns"
        )
    loss = as_loss(loss)
    samples = as_samples(X, y, loss, sample_weight=sample_weight, class_weight=class_weight, classes=classes)
    radius, ridge, max_iterations = _checked_options(max_norm, ridge, max_iterations)
    tolerance = as_number("tolerance", tolerance, "must be from 1e-12 to 1", lambda left: TOLERANCE <= left <= 1.0)
    rows, y, m, weights = samples
    guess = _checked_start(start, (rows.d,) if m is None else (m, rows.d)) if ridge and math.isinf(radius) else None
    outputs = None if m is None else np.eye(m)
    problem = Problem(rows, y, loss, ridge, radius, math.nan, math.nan, outputs, weights, tolerance=tolerance)
    with blas_on_one_thread() if _work(problem) <= _LITTLE else nullcontext():
        if m is not None and not _is_large(problem):
            return _fit(problem, m, max_iterations, guess)
        device = samples_on_device(rows.X, y, weights, rows.places, m or 1)
        with nullcontext() if device is None else jax.enable_x64(True):
            return _fit(problem._replace(device=device), m, max_iterations, guess)


def _is_large(problem: Problem) -> bool:
    """Whether the classes, or the samples of a few, are so many that no Hessian is formed."""
    much = problem.size > _LARGE or problem.rows.n * float(problem.size) ** 2 > _MUCH
    return type(problem.loss) is Softmax and much


def _work(problem: Problem) -> float:
    """Multiplications in a pass over the samples, of a Hessian where one is formed."""
    n, d = problem.rows.n, problem.rows.d
    outputs = problem.size // d
    return float(n) * d * (outputs if _is_large(problem) else d * outputs**2)


def _fit(problem: Problem, m: int | None, max_iterations: int, guess: np.ndarray | None) -> LinearFit:
    """The fit of a problem in the weights, whose scales are not known yet, of m outputs; None for one."""
    rows, loss, n, large = problem.rows, problem.loss, problem.rows.n, _is_large(problem)
    below = undetermined_below(rows.dtype, rows.d)
    least = max(WELL_CONDITIONED, below**2)
    with blas_on_one_thread() if large else nullcontext():
        gram, gradient, squares, level, steepness, curvatures = first_pass(problem, m, large=large, least=least)
        regular = reciprocal_condition(gram) >= least
    scale = math.sqrt(squares.sum() / n * steepness / n)
    problem = problem._replace(objective_scale=level, gradient_scale=scale)
    inner = problem._replace(outputs=_outputs(m, loss))
    rank = int(np.count_nonzero(squares))
    hessian, cut, of_classes = None, None, isinstance(loss, Logistic | Softmax)
    if rank and not regular:
        R = triangular_factor(rows) if problem.device is None else problem.device.triangular_factor()
        space = row_space(R, n, below=below)
        rank, cut = space.basis.shape[1], space.cut
        axes = _coordinates(problem, space, squares)
        scale *= float(np.linalg.norm(R @ axes)) / math.sqrt(squares.sum())
        inner = inner.within(axes)._replace(gradient_scale=scale)
    elif problem.quadratic or (curvatures.size and np.ptp(curvatures) == 0.0):
        hessian = gram * ((1.0 if problem.quadratic else curvatures[0]) / n)
    if rank == 0 or problem.radius == 0.0:
        return fit_of_zero(problem, rank, False if rank == 0 and of_classes else None)

    if large and not problem.free:
        if math.isinf(problem.radius):
            found = hessian_free(problem, gram, gradient.T / n, max_iterations=max_iterations, guess=guess)
        else:
            found = in_ball(problem, gram, gradient.T / n, max_iterations=max_iterations)
        if found.suboptimality <= problem.goal or inner.size > _DENSE:
            return as_fit(problem, found, rank, None, max_iterations=max_iterations)

    separation = Separation(inner, rows) if of_classes else None
    if separation is not None and large and problem.free:
        found = unbounded(problem, inner, gram, gradient.T / n, separation, max_iterations=max_iterations)
        if found.suboptimality <= problem.goal or inner.size > _DENSE:
            separation.settle()
            verdict, unknown = separation.found, separation.unknown
            return as_fit(problem, found, rank, cut, separable=verdict, unknown=unknown, max_iterations=max_iterations)
    basis, best, begin, spent = inner.rows.basis, None, None, 0
    if m is not None:  # passes with a Hessian of several outputs are NumPy's
        problem, inner = problem._replace(device=None), inner._replace(device=None)
    zero = np.broadcast_to(0.0, n if m is None else (n, m))
    at_zero = Evaluation(problem.objective_scale, problem.flat(gradient) / n, hessian, zero, curvatures)
    newtonian = problem.quadratic or basis is not None or m is not None or problem.device is not None
    if problem.free and n >= _MANY * rows.d and not newtonian:
        minimum = quasi_newton(problem, gram, at_zero, max_iterations=max_iterations)
        if minimum is not None and minimum[0].sound:
            best, there = minimum
            if separation is not None:
                solve, _, _ = best.solver(0.0)
                separation.judge_minimiser(there.predictions, rows.times(solve(there.gradient)))
        elif minimum is not None:  # where some sample has next to no curvature, XᵀX bounds the Hessian by next to none
            begin, spent = (minimum[0].z, evaluate(inner, minimum[0].z, hessian=True)), minimum[0].iterations
    if best is None:
        begin = begin or start_of(inner, at_zero, guess if basis is None else None)
        watch = _watching(inner, separation)
        best = newton(inner, *begin, max_iterations=max_iterations - spent, watch=watch)
        best = best._replace(iterations=best.iterations + spent)
    if separation is not None:
        separation.settle()
    if basis is not None or m is not None:
        best = in_weights(problem, inner, best)
    verdict, unknown = (None, False) if separation is None else (separation.found, separation.unknown)
    return as_fit(problem, best, rank, cut, separable=verdict, unknown=unknown, max_iterations=max_iterations)


def _watching(problem: Problem, separation: Separation | None) -> Callable[[Newton], None] | None:
    """What the judge of separation is shown: from an accelerator only what may tell it something."""
    device = problem.device
    if separation is None or device is None:
        return separation

    def watch(seen: Newton) -> None:
        if separation.verdict is None and (problem.free or not device.on_both_sides(seen.predictions)):
            separation(seen._replace(change=np.asarray(seen.change), predictions=np.asarray(seen.predictions)))

    return watch


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
