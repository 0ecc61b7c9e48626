"""A second-order solver that drives a residual unit to an ε-second-order stationary point in (W, V)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Float, Int, Real, Shaped

from resflow.arrays import Array, as_number, as_numpy
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.hessian.partial_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.hessian.partial_hessian import partial_hessian, reduced_order
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss
from resflow.models.residual_unit import ResidualUnit, trainable
from resflow.point import Point, check_point
from resflow.stationarity._trust_region import decrease, reduced_model, trust_region_step
from resflow.status import Status

__all__ = ["STEPS", "NewtonPath", "NewtonResult", "solve", "solve_unit"]

STEPS = ("newton", "negative_curvature", "theta", "rejected", "end")
"""What an iteration did, in the order in which `NewtonPath.step` counts."""

_NEWTON, _NEGATIVE, _THETA, _REJECTED, _END = range(5)


class _Options(NamedTuple):
    """The options of `solve` and `solve_unit`, with their defaults."""

    epsilon: float = 1e-10
    hessian_lipschitz: float = 1.0
    max_steps: int = 200
    radius: float = 1.0
    theta_steps: int = 0
    theta_optimizer: optax.GradientTransformation | None = None

    @property
    def threshold(self) -> float:
        return -math.sqrt(self.hessian_lipschitz * self.epsilon)

    def checked(self) -> _Options:
        for name in ("epsilon", "hessian_lipschitz", "radius"):
            value = getattr(self, name)
            as_number(name, value, "must be a positive finite number", lambda number: 0 < number < math.inf)
        most = as_number("max_steps", self.max_steps, "must be at least 1", lambda steps: steps >= 1, whole=True)
        of_theta = as_number(
            "theta_steps", self.theta_steps, "must be at least 0", lambda steps: steps >= 0, whole=True
        )
        return self._replace(max_steps=most, theta_steps=of_theta)


class NewtonPath(NamedTuple):
    """What was measured at each of the m points of a run, before the step that it names.

    Attributes:
        objective: F, shape (m,).
        linear_predictor_gap: F − F_lin(W*), shape (m,); NaN without a linear fit.
        grad_norm: ‖∇F‖ in (W, V), shape (m,).
        lambda_min_lower: No eigenvalue of the partial Hessian lies below, shape (m,).
        lambda_min_upper: An eigenvalue lies at or below, shape (m,).
        radius: Of the trust region, relative to the size of W and V, shape (m,).
        step_norm: ‖(ΔW, ΔV)‖ of the step, 0 if it was rejected or θ's, shape (m,).
        step: An index into `STEPS`, shape (m,).
    """

    objective: Float[Array, "m"]
    linear_predictor_gap: Float[Array, "m"]
    grad_norm: Float[Array, "m"]
    lambda_min_lower: Float[Array, "m"]
    lambda_min_upper: Float[Array, "m"]
    radius: Float[Array, "m"]
    step_norm: Float[Array, "m"]
    step: Int[Array, "m"]

    def frame(self) -> pd.DataFrame:
        """One row a point, each step by its name."""
        return pd.DataFrame(self._asdict()).assign(step=[STEPS[kind] for kind in self.step])


class NewtonResult(NamedTuple):
    """Where the solver ended, and the evidence.

    Attributes:
        point: The point reached.
        objective: F there.
        linear_predictor_gap: F − F_lin(W*); NaN without a linear fit.
        grad_norm: ‖∇F‖ in (W, V).
        smallest: λ_min of the partial Hessian with its bracket and direction.
        epsilon: What was asked for.
        curvature_threshold: −sqrt(μ₂ ε).
        status: `CONVERGED` if ‖∇F‖ ≤ ε and the bracket's lower end is not below −sqrt(μ₂ ε). A run ends at once at a
            point that is not finite: `DIVERGED`, with NaN for all numbers.
        norm_running_away: True if no minimum is near, however small ‖∇F‖: a Newton step from here would still be longer
            than a thousandth of the point's norm, or every sample is classified rightly, so that F falls to its
            infimum along t ↦ (tW, V) for ever. A run can also end in the valley W → 0, V → ∞ with W V fixed; at d = 1,
            where w cannot go round 0, even at its side without a minimum.
        newton_step_norm: ‖H⁺∇F‖ over the positive eigenvalues: how far away a minimum would be, to first order.
        model: The residual unit, θ included; None of `solve`, which keeps the features.
        path: What was measured on the way.
    """

    point: Point
    objective: float
    linear_predictor_gap: float
    grad_norm: float
    smallest: SmallestEigenvalue
    epsilon: float
    curvature_threshold: float
    status: Status
    norm_running_away: bool
    newton_step_norm: float
    model: ResidualUnit | None
    path: NewtonPath

    @property
    def converged(self) -> bool:
        """Whether the run ended where it was to end."""
        return self.status is Status.CONVERGED


def solve(
    point: Point,
    *,
    epsilon: float = 1e-10,
    fit: LinearFit | None = None,
    hessian_lipschitz: float = 1.0,
    max_steps: int = 200,
    radius: float = 1.0,
) -> NewtonResult:
    """Minimise F(W, V) from a point to an ε-second-order stationary point, θ held fixed.

    A trust-region Newton method in units of the size of W and of V. The subproblem is solved exactly, the hard case
    included, in the md + qk + (d − q) min(m, k) coordinates, q = min(m, d), outside which the gradient vanishes and the
    Hessian is zero. Always in float64. By Corollary 1 it ends no higher than the best linear predictor, wherever it
    starts, if it converges: where columns of X are of very different sizes that may take more than the default number
    of steps, so standardise them. Decreases too small to be seen in F are computed from ℓ' along the step, so that a
    step's success means something until ‖∇F‖ itself is rounding.

    Args:
        point: Where to start.
        epsilon: The run ends at an ε-second-order partial stationary point: ‖∇F‖ ≤ ε and λ_min ≥ −sqrt(μ₂ ε).
        fit: The linear predictor that the gap refers to.
        hessian_lipschitz: μ₂, in the units of the objective per cubed unit of the weights.
        max_steps: Iterations after which the run ends without having converged.
        radius: First radius of the trust region, relative to the size of W and V.

    Raises:
        InvalidInputError: If an option is out of range, the fit is of other data or another loss, or md + qk +
            (d − q) min(m, k) is above 8,192.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 3 and Corollary 1; Conn, Gould and Toint, Trust-Region Methods,
        2000, section 7.3, for the subproblem.
    """
    check_point(point, of_unit=True)
    return _solve(point, fit, _Options(epsilon, hessian_lipschitz, max_steps, radius).checked())


def solve_unit(
    model: ResidualUnit,
    X: Real[Array, "n d"],
    y: Shaped[Array, "n *m"],
    loss: str | Loss,
    *,
    theta_steps: int,
    theta_optimizer: optax.GradientTransformation | None = None,
    fit: LinearFit | None = None,
    **options: Any,
) -> NewtonResult:
    """`solve` from a residual unit's (W, V), θ moved by an Optax optimiser between the steps.

    Args:
        model: The residual unit to start from.
        X: Samples as rows, shape (n, d).
        y: Labels.
        loss: A loss or its name.
        theta_steps: Optimiser steps of θ. One follows every iteration in (W, V) until they are used up; after the
            last θ stays where it is and the run ends in (W, V) alone.
        theta_optimizer: An Optax transformation for θ; Adam with learning rate 0.01 if None.
        fit: The linear predictor that the gap refers to.
        options: Further ones of `solve`; its max_steps counts θ steps too.

    Raises:
        InvalidInputError: As `Point` and `solve`.
    """
    optimizer = optax.adam(1e-2) if theta_optimizer is None else theta_optimizer
    checked = _Options(**options, theta_steps=theta_steps, theta_optimizer=optimizer).checked()
    point = Point.of(model, X, y, loss)
    if not isinstance(point, Point):
        raise InvalidInputError(f"model is a {type(model).__name__}, but must be a residual unit")
    return _solve(point, fit, checked, *eqx.partition(model.feature_map, trainable(model.feature_map)))


def _solve(
    point: Point, fit: LinearFit | None, options: _Options, theta: Any = None, fixed: Any = None
) -> NewtonResult:
    """`solve`, with θ and the rest of the feature map where θ moves."""
    reduced_order(point, "train the model, or use fewer features")
    if fit is not None:
        check_baseline(fit, point.X, point.y, point.loss)
    with jax.enable_x64(True):
        start, theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (point, theta))
        level = jnp.asarray(jnp.nan if fit is None else fit.objective, float)
        point, state = as_numpy(_run(start, theta, fixed, level, options))
    path, last = jax.tree.map(lambda column: column[: int(state.count)], state.path), state.last
    far = float(last.newton_step_norm) > 1e-3 * math.hypot(np.linalg.norm(point.W), np.linalg.norm(point.V))
    status = Status.CONVERGED if last.converged else Status.ITERATION_LIMIT
    return NewtonResult(
        point=point,
        objective=float(path.objective[-1]),
        linear_predictor_gap=float(path.linear_predictor_gap[-1]),
        grad_norm=float(path.grad_norm[-1]),
        smallest=last.smallest,
        epsilon=options.epsilon,
        curvature_threshold=options.threshold,
        status=status if np.isfinite(path.grad_norm[-1]) else Status.DIVERGED,
        norm_running_away=far or _all_right(point),
        newton_step_norm=float(last.newton_step_norm),
        model=None if fixed is None else ResidualUnit(point.W, point.V, eqx.combine(state.theta, fixed)),
        path=path,
    )


def _all_right(point: Point) -> bool:
    """Whether every sample of classes is classified rightly."""
    with np.errstate(invalid="ignore", over="ignore"):
        p = point.predictions
    if not np.isfinite(p).all():
        return False
    if point.loss.labels == "binary":
        return bool((point.y * p > 0).all())
    if point.loss.labels != "classes":
        return False
    own = np.arange(p.shape[1]) == point.y[:, None]
    margin = np.where(own, p, -np.inf).max(axis=1) - np.where(own, -np.inf, p).max(axis=1)
    return bool((margin > 0).all())


class _Last(NamedTuple):
    """What is known of the point of the last iteration beyond its row of the path."""

    smallest: SmallestEigenvalue
    newton_step_norm: Any
    converged: Any


class _State(NamedTuple):
    weights: Any
    theta: Any
    optimizer: Any
    radius: Any
    count: Any
    moved: Any  # how many steps θ has made
    path: NewtonPath
    last: _Last
    done: Any


@partial(exported, arrays_only=True)
def _run(point: Point, theta, fixed, level, options):
    def at(weights, theta) -> Point:
        moved = point.at(*weights)
        if fixed is None:
            return moved
        return moved.part(jax.vmap(eqx.combine(theta, fixed))(point.X), point.X, point.y)

    def iterate(state):
        here = at(state.weights, state.theta)
        hessian, smallest = partial_hessian(here), smallest_partial_eigenvalue(here)
        gradient_W, gradient_V = here.gradient
        model = reduced_model(hessian, (gradient_W.reshape(here.rows.shape), gradient_V), jnp.linalg.norm(here.V))
        measured = here.objective, jnp.hypot(jnp.linalg.norm(gradient_W), jnp.linalg.norm(gradient_V))
        objective, grad_norm = nan_unless(all_finite(measured, smallest.lambda_min), measured)
        stationary = (grad_norm <= options.epsilon) & (smallest.lambda_min_lower >= options.threshold)
        converged = stationary & (state.moved >= options.theta_steps)
        end = converged | (state.count >= options.max_steps) | ~jnp.isfinite(grad_norm)
        theta_turn = ~end & (state.moved < options.theta_steps) & ((state.count % 2 == 1) | stationary)

        step, predicted, interior = trust_region_step(model, state.radius)
        A, B = model.directions(step)
        actual = decrease(here, A, B)
        ratio = actual / jnp.maximum(predicted, jnp.finfo(actual.dtype).tiny)
        accepted = (ratio > 1e-4) & jnp.isfinite(actual) & ~end & ~theta_turn
        length = jnp.linalg.norm(model.scale * step)
        grown = jnp.where((ratio > 0.75) & ~interior, jnp.minimum(2.0 * state.radius, 1e12), state.radius)
        radius = jnp.where(ratio > 0.25, grown, 0.25 * jnp.minimum(jnp.linalg.norm(step), state.radius))
        # The end of a run leaves radius and point as they are: its row is the last point's.
        radius = jnp.where(theta_turn | end, state.radius, radius)
        changes = A.reshape(here.W.shape), B
        weights = jax.tree.map(lambda old, change: jnp.where(accepted, old + change, old), state.weights, changes)

        curved = jnp.sum(model.eigenvalues * (model.eigenvectors.T @ step) ** 2) < 0
        kind = jnp.where(accepted, jnp.where(curved, _NEGATIVE, _NEWTON), _REJECTED)
        row = NewtonPath(
            objective=objective,
            linear_predictor_gap=objective - level,
            grad_norm=grad_norm,
            lambda_min_lower=smallest.lambda_min_lower,
            lambda_min_upper=smallest.lambda_min_upper,
            radius=state.radius,
            step_norm=jnp.where(accepted, length, 0.0),
            step=jnp.where(end, _END, jnp.where(theta_turn, _THETA, kind)),
        )
        path = jax.tree.map(lambda column, value: column.at[state.count].set(value), state.path, row)
        theta, optimizer = state.theta, state.optimizer
        if options.theta_steps:

            def move(theta, optimizer):
                gradient = jax.grad(lambda theta: at(state.weights, theta).objective)(theta)
                change, optimizer = options.theta_optimizer.update(gradient, optimizer, theta)
                return optax.apply_updates(theta, change), optimizer

            theta, optimizer = jax.lax.cond(theta_turn, move, lambda *same: same, theta, optimizer)
        moved, last = state.moved + theta_turn, _Last(smallest, model.newton_step_norm(), converged)
        return _State(weights, theta, optimizer, radius, state.count + 1, moved, path, last, end)

    rows = options.max_steps + 1
    smallest = jax.tree.map(jnp.zeros_like, jax.eval_shape(smallest_partial_eigenvalue, point))
    state = _State(
        weights=(point.W, point.V),
        theta=theta,
        optimizer=options.theta_optimizer.init(theta) if options.theta_steps else (),
        radius=jnp.asarray(options.radius, float),
        count=jnp.asarray(0),
        moved=jnp.asarray(0),
        path=NewtonPath(*(jnp.zeros(rows, int if name == "step" else float) for name in NewtonPath._fields)),
        last=_Last(smallest, jnp.zeros(()), jnp.asarray(False)),
        done=jnp.asarray(False),
    )
    state = jax.lax.while_loop(lambda state: ~state.done, iterate, state)
    return at(state.weights, state.theta), state
