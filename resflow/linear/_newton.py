"""Damped Newton's method for the best linear predictor, over a ball or over all of space, and its line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resflow.linear._algebra import EPS, BallStep, Solver, ball_step, cholesky_solver, reciprocal_condition
from resflow.linear._problem import Evaluation, Problem, evaluate
from resflow.linear._terms import loss_terms
from resflow.losses import Logistic, Loss, PseudoHuber, Softmax

PROVEN = 1e-10
"""What may be left, of F(0), where all rounding errors are counted in, which may be most of it."""


class Iterate(NamedTuple):
    """A point of the ball and the evidence of how good it is.

    Attributes:
        z: The point, |z| ≤ radius.
        objective: The mean loss, without the ridge term.
        multiplier: μ ≥ 0 that makes the KKT residual least, 0 in the ball's interior.
        residual: |∇(mean loss) + ridge z + μ z|.
        suboptimality: By how much the objective can still fall within the ball, as in `LinearFit`.
        sound: Whether that is more than a guess: the second-order model it is taken from holds as far as the minimum,
            and its matrix is regular beyond rounding.
        solver: Of the Hessian with ridge, here or at a point not far away.
        iterations: Newton steps taken so far.
        proven: Whether the suboptimality is proven without any model, so that nothing is asked of the residual.
    """

    z: np.ndarray
    objective: float
    multiplier: float
    residual: float
    suboptimality: float
    sound: bool
    solver: Solver
    iterations: int
    proven: bool = False


class Newton(NamedTuple):
    """What `newton` shows of each iteration.

    Attributes:
        iterate: The point.
        step: The next full step.
        change: What it would change the predictions by, of their shape.
        predictions: p_i, shape (n,) or (n, m).
        hessian: The Hessian at z if the step is the exact, unbounded Newton step; None otherwise.
    """

    iterate: Iterate
    step: np.ndarray
    change: Any
    predictions: Any
    hessian: np.ndarray | None


def newton(
    problem: Problem,
    z: np.ndarray,
    first: Evaluation,
    *,
    max_iterations: int,
    enough: float = 0.0,
    watch: Callable[[Newton], None] | None = None,
) -> Iterate:
    """Minimise the problem until the rounding errors of float64 stop all progress, or it is solved by sound evidence.

    Each step minimises the second-order model over the ball exactly, then searches along the segment, which stays in
    the ball. Once a step reduces the residual a hundredfold the Hessian is kept for the next: it is nearly all the
    cost of a pass, and the method then still gains two digits a step.

    Args:
        problem: What to minimise.
        z: Where to start, in the ball.
        first: The evaluation there, with the Hessian.
        max_iterations: Newton steps at most.
        enough: A suboptimality at which to stop.
        watch: Is shown every iterate; may raise.
    """
    here, ridge, most_stalled = first, problem.ridge, 1 if problem.quadratic else 4
    best: Iterate | None = None
    guess, stalled, previous_residual, hessian = 0.0, 0, 0.0, first.hessian
    for iteration in range(max_iterations + 1):
        total = here.gradient + ridge * z
        while True:
            if here.hessian is not None:
                hessian = here.hessian
                solver = cholesky_solver(hessian + ridge * np.eye(len(hessian)))
            model = ball_step(solver, total, z, problem.radius, start=guess)
            iterate = describe(problem, z, here, model, solver, iteration)
            fresh = here.hessian is not None or problem.quadratic or iterate.residual <= 0.1 * previous_residual
            if fresh or solved(problem, iterate):
                break
            here = evaluate(problem, z, hessian=True)  # the old Hessian has served its time
        guess = model.multiplier

        change = np.empty(0) if problem.quadratic else problem.times(model.step)
        iterate = iterate._replace(sound=iterate.sound or follows(problem.loss, change))
        if watch is not None:
            unbounded = model.exact and model.multiplier == 0.0 and ridge == 0.0
            watch(Newton(iterate, model.step, change, here.predictions, here.hessian if unbounded else None))
        if best is None or _progress(problem, iterate, best):
            best, stalled = iterate, 0
        else:
            stalled = 0 if iterate.residual <= 0.5 * best.residual else stalled + 1
            best = iterate if iterate.residual <= best.residual else best
        done = solved(problem, iterate) and iterate.sound
        if done or iterate.suboptimality <= enough or stalled >= most_stalled:
            break
        t = 1.0 if problem.quadratic else _line_search(problem, z, here, change, model)
        if t == 0.0:
            break
        z = into_ball(z + t * model.step, problem.radius)
        contracted = problem.quadratic or iterate.residual <= 0.01 * previous_residual
        previous_residual = iterate.residual
        here = evaluate(problem, z, hessian=not (contracted and t == 1.0))
    assert best is not None
    assert hessian is not None
    regular = reciprocal_condition(hessian + (ridge + guess) * np.eye(len(hessian))) > 8.0 * len(hessian) * EPS
    return best._replace(iterations=iteration, sound=best.sound and regular)


def describe(
    problem: Problem, z: np.ndarray, here: Evaluation, model: BallStep, solver: Solver, iterations: int
) -> Iterate:
    """The evidence at a point z of the ball, from the evaluation there, and the second-order model's best step."""
    length, radius, multiplier = float(np.linalg.norm(z)), problem.radius, 0.0
    total = here.gradient + problem.ridge * z
    if length > 0.0 and length >= radius * (1.0 - 8.0 * EPS):
        multiplier = max(-float(total @ (z / length)) / length, 0.0)
        # where columns are far apart, rounding along the longest is all there is in this product
        if np.linalg.norm(total + model.multiplier * z) <= 2.0 * np.linalg.norm(total + multiplier * z):
            multiplier = model.multiplier
    suboptimality, proven = model.decrease if model.exact else math.inf, False
    if math.isfinite(radius):
        # F(z) − F(u) ≤ <∇F(z), z − u> ≤ <∇F(z), z> + radius |∇F(z)| for every u in the ball, and what rounding may hide
        steepest = radius * float(np.linalg.norm(total))
        bound = max(float(total @ z) + steepest, 0.0) + 16.0 * EPS * steepest
        proven, suboptimality = bound <= suboptimality, min(suboptimality, bound)
    return Iterate(
        z=z,
        objective=here.objective,
        multiplier=multiplier,
        residual=float(np.linalg.norm(total + multiplier * z)),
        suboptimality=suboptimality,
        sound=proven or model_holds(problem, model.decrease, here.curvatures),
        solver=solver,
        iterations=iterations,
    )


def model_holds(problem: Problem, decrease: float, curvatures: Any) -> bool:
    """Whether the second-order model's decrease bounds what the objective can still fall by, up to a factor of 2.

    For a loss with |ℓ'''| ≤ c ℓ'' it does if c max_i |uᵀx_i| ≤ ½ for all u with ½ uᵀHu ≤ decrease, H being at least
    mean c_i ℓ''_i x_i x_iᵀ: then |uᵀx_i|² ≤ 2 decrease n / (c_i ℓ''_i) (Bach 2010). Of other losses nothing is known.
    """
    c = _relative_change(problem.loss)
    least = float(np.min(problem.weighed(curvatures))) if curvatures.size else 0.0
    return c == 0.0 or (least > 0.0 and c * math.sqrt(2.0 * decrease / least * problem.rows.n) <= 0.5)


def follows(loss: Loss, change: Any) -> bool:
    """Whether the curvatures hardly change along a step that changes the predictions by that."""
    c, spread = _relative_change(loss), abs(change) if change.ndim == 1 else np.ptp(change, axis=1)
    return c == 0.0 or c * float(np.max(spread)) <= 0.5


def _relative_change(loss: Loss) -> float:
    """The largest |ℓ'''| / ℓ'', for softmax along p of spread 1; 0 for losses that are taken at their word."""
    if type(loss) in (Logistic, Softmax):
        return 1.0
    return 1.5 / loss.delta if type(loss) is PseudoHuber else 0.0


def into_ball(z: np.ndarray, radius: float) -> np.ndarray:
    """z, shortened to the radius if it is longer."""
    length = float(np.linalg.norm(z))
    return z * (radius / length) if length > radius else z


def solved(problem: Problem, iterate: Iterate) -> bool:
    """True well below what `LinearFit.converged` asks for, in absolute terms too."""
    goal = 0.1 * problem.tolerance
    return iterate.residual <= goal * min(problem.gradient_scale, 1.0) and iterate.suboptimality <= goal * min(
        problem.objective_scale, 1.0
    )


def _progress(problem: Problem, iterate: Iterate, best: Iterate) -> bool:
    """True if the objective with its ridge term is less by more than rounding."""
    new, old = (it.objective + 0.5 * problem.ridge * float(it.z @ it.z) for it in (iterate, best))
    return new < old - 64.0 * EPS * abs(old)


def _line_search(problem: Problem, z: np.ndarray, here: Evaluation, change: Any, model: BallStep) -> float:
    """A step length t with φ(t) ≤ φ(0) and |φ'(t)| ≤ ½|φ'(0)|, φ(t) the objective at z + t·step; 0 if none is found.

    It works on the n predictions alone. t = 1 is tried first and nearly always taken. φ is convex, so the sign of φ'
    brackets its minimum.
    """
    loss, y, p, ridge, step = problem.loss, problem.y, here.predictions, problem.ridge, model.step
    zz, zs, ss = float(z @ z), float(z @ step), float(step @ step)

    def phi(t: float) -> tuple[float, float]:
        if problem.device is not None and problem.outputs is None:
            total, along = problem.device.along(loss, p, change, t)
        else:
            value, slope, _ = loss_terms(loss, p + t * change, y, curved=False)
            total = float(np.mean(problem.weighed(value)))
            along = float(np.vdot(problem.weighed(slope), change)) / len(y)
        return total + 0.5 * ridge * (zz + t * (2.0 * zs + t * ss)), along + ridge * (zs + t * ss)

    start, slope = here.objective + 0.5 * ridge * zz, model.slope
    slack = 64.0 * EPS * abs(start)
    if model.decrease <= slack:
        return 1.0  # below what φ resolves; on the sphere rounding in |z + s| alone outweighs φ' there
    if not slope < 0.0:
        return 0.0
    longest = 1024.0
    if math.isfinite(problem.radius):
        # the larger root of |z + t step| = radius, at least 1 up to rounding since z + step lies in the ball
        inside = max(problem.radius**2 - zz, 0.0)
        longest = max((math.sqrt(zs**2 + ss * inside) - zs) / ss, 1.0) if model.multiplier == 0.0 else 1.0

    low, low_slope, high, high_slope, t = 0.0, slope, None, 0.0, 1.0
    for _ in range(60):
        value, derivative = phi(t)
        falls = value <= start + slack
        if falls and (abs(derivative) <= 0.5 * abs(slope) or (derivative < 0.0 and t >= longest)):
            return t
        if derivative < 0.0:
            low, low_slope = t, derivative
        else:
            high, high_slope = t, derivative
        if high is None:
            t = min(4.0 * t, longest)
        else:
            secant = low + (high - low) * low_slope / (low_slope - high_slope)
            width = high - low
            t = min(max(secant, low + 0.1 * width), high - 0.1 * width)
    return low
