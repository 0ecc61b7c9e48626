"""The best linear predictor of many classes in a ball, by the ridge term whose minimiser is as long as its radius."""

from __future__ import annotations

import math

import numpy as np

from resflow.linear._algebra import EPS
from resflow.linear._hessian_free import NO_SOLVER, Metric, closer_rounding, minimise, rounding
from resflow.linear._newton import Iterate
from resflow.linear._passes import Look, at_zero, look
from resflow.linear._problem import Problem
from resflow.parallel import blas_on_one_thread

__all__ = ["in_ball"]

_MOST_MULTIPLIERS = 60
_CLOSE = 1e-2
_STRIDE = 0.03


@blas_on_one_thread()
def in_ball(problem: Problem, gram: np.ndarray, gradient: np.ndarray, *, max_iterations: int) -> Iterate:
    """Minimise a softmax objective F, perhaps with a ridge term, over ‖W‖ ≤ radius without its Hessian.

    Where the bound binds, the minimiser is that of F + ½ μ ‖W‖² for the multiplier μ that makes its norm the radius.
    1/‖W(μ)‖ is nearly linear in μ (Hebden 1973), so the secant method finds μ in a few steps, each from the minimiser
    before. What is left is judged in the ball itself: F(W) − F(U) ≤ ⟨∇F(W), W⟩ + radius ‖∇F(W)‖ for every U in it, in
    which the error of μ does not count, and that of W by its square; or by the strong convexity of a ridge term.

    Args:
        problem: Of the softmax loss, in the weights themselves, with a finite positive radius.
        gram: XᵀX.
        gradient: Of the mean loss at W = 0, shape (m, d).
        max_iterations: Steps at most, of all minimisations together.
    """
    radius, goal = problem.radius, problem.goal
    metric, W, here = Metric(gram / problem.rows.n), np.zeros_like(gradient), at_zero(problem, gradient)
    best = _judged(problem, metric, W, here, 0)
    low, high = 0.0, float(np.linalg.norm(gradient)) / radius  # μ radius² = −⟨∇F, W⟩ ≤ radius ‖∇F(0)‖
    multiplier, gap, tight, steps = 0.0 if problem.ridge else 0.3 * high, 0.3 * radius, False, 0
    seen: list[tuple[float, float]] = []
    for _ in range(_MOST_MULTIPLIERS):
        least = 0.5 * goal / radius**2  # changes nothing in the ball that counts
        shifted = problem._replace(ridge=problem.ridge + multiplier, radius=math.inf)
        enough = max(0.25 * goal, 0.5 * shifted.ridge * (0.03 * gap) ** 2)
        if tight:
            enough = 0.25 * goal if problem.ridge else (0.2 * goal / radius) ** 2 / (2.0 * shifted.ridge)
        here = _with_ridge(here, W, shifted.ridge)
        W, here, _, taken = minimise(shifted, metric, W, here, goal=enough, max_iterations=max_iterations - steps)
        steps, length = steps + taken, float(np.linalg.norm(W))
        inside, gap = length < radius, abs(length - radius)
        if gap <= _CLOSE * radius:
            at = W * (radius / length)
            judged = _judged(problem, metric, at, look(problem, at), steps)
        else:
            judged = _judged(problem, metric, W, _with_ridge(here, W, problem.ridge), steps) if inside else best
        best = judged if judged.suboptimality < best.suboptimality else best
        goal = max(goal, 1.2 * _hidden(problem, W, _unsure(problem, metric, W, here)))  # below it nothing can be proven
        finished = inside and multiplier <= least and tight
        if best.suboptimality <= goal or steps >= max_iterations or length == 0.0 or finished:
            break
        tight = inside and multiplier <= least
        if not tight:
            low, high = (low, multiplier) if inside else (multiplier, high)
            seen = [*seen[-1:], (multiplier, 1.0 / length)]
            following = _next_multiplier(seen, radius, low, high, least)
            if abs(following - multiplier) <= 4.0 * EPS * multiplier:
                break
            multiplier, tight = following, following <= least
    return best._replace(iterations=steps)


def _next_multiplier(seen: list[tuple[float, float]], radius: float, low: float, high: float, least: float) -> float:
    """Where the line through the last two 1/‖W(μ)‖ is 1/radius, kept between the bounds."""
    (last, inverse), (other, before) = seen[-1], seen[0]
    if len(seen) == 2 and inverse != before:
        guess = last + (1.0 / radius - inverse) * (last - other) / (inverse - before)
    else:
        guess = last / (inverse * radius) if last else 0.1 * high
    if low < guess < high:
        return guess
    if guess <= low == 0.0:
        # Perhaps the bound does not bind; or the classes are nearly separable, and 1/‖W(μ)‖ bends down to 0 late. A
        # minimiser at next to no multiplier would then be endlessly far: go there by ever longer strides.
        return max(high * min(_STRIDE, (last / other) ** 2 if last < other else 1.0), least)
    return math.sqrt(max(low, least) * high)


def _with_ridge(here: Look, W: np.ndarray, ridge: float) -> Look:
    """The same pass for another coefficient of the ridge term."""
    total = here.objective + 0.5 * ridge * float(np.vdot(W, W))
    return here._replace(total=total, gradient=here.slope + ridge * W)


def _unsure(problem: Problem, metric: Metric, W: np.ndarray, here: Look) -> float:
    """By how much rounding may put the gradient wrong: little where the classes are apart, and so the loss flat."""
    most = rounding(problem, metric, W)
    if _hidden(problem, W, most) <= 0.1 * problem.goal:
        return most
    return min(most, closer_rounding(problem, W, here))


def _hidden(problem: Problem, W: np.ndarray, unsure: float) -> float:
    """What rounding of the gradient adds to the bounds on F − F*."""
    within = unsure * (float(np.linalg.norm(W)) + problem.radius)
    return min(within, unsure**2 / (2.0 * problem.ridge)) if problem.ridge else within


def _judged(problem: Problem, metric: Metric, W: np.ndarray, here: Look, steps: int) -> Iterate:
    """The evidence at a W of the ball."""
    length, size = float(np.linalg.norm(W)), float(np.linalg.norm(here.gradient))
    unsure = _unsure(problem, metric, W, here)
    bound = max(float(np.vdot(here.gradient, W)) + problem.radius * size, 0.0)
    bound += unsure * (length + problem.radius)
    if problem.ridge:
        bound = min(bound, (size + unsure) ** 2 / (2.0 * problem.ridge))
    on_sphere = length >= problem.radius * (1.0 - 8.0 * EPS)
    multiplier = max(-float(np.vdot(here.gradient, W)) / length**2, 0.0) if on_sphere else 0.0
    residual = float(np.linalg.norm(here.gradient + multiplier * W))
    return Iterate(W.ravel(), here.objective, multiplier, residual, bound, True, NO_SOLVER, steps, proven=True)
