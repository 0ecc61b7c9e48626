"""A second-order solver that drives a residual unit to an ε-second-order stationary point in (w, V)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, Real

from resflow.arrays import Array, check_labels, check_point, check_samples
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses.scalar import Loss, as_loss
from resflow.models.residual_unit import ResidualUnit, trainable
from resflow.spectrum.partial_hessian import partial_hessian
from resflow.spectrum.smallest_eigenvalue import SmallestEigenvalue, smallest_partial_eigenvalue
from resflow.stationarity._newton_step import decrease, reduced_model, trust_region_step

__all__ = ["STEPS", "NewtonOptions", "NewtonPath", "NewtonResult", "solve_partial", "solve_residual_unit"]

STEPS = ("newton", "negative_curvature", "theta", "rejected", "end")
"""What an iteration did, in the order in which `NewtonPath.step` counts."""

_NEWTON, _NEGATIVE, _THETA, _REJECTED, _END = range(5)


@dataclass(frozen=True)
class NewtonOptions:
    """How to solve.

    Attributes:
        epsilon: The run ends at an ε-second-order partial stationary point: ‖∇F‖ ≤ ε and λ_min ≥ −sqrt(μ₂ ε).
        hessian_lipschitz: μ₂, in the units of the objective per cubed unit of the weights.
        max_steps: Iterations, θ steps included, after which the run ends without having converged.
        radius: First radius of the trust region, relative to the size of w and V.
        theta_steps: Optimiser steps of θ. One follows every iteration in (w, V) until they are used up; after the
            last θ stays where it is and the run ends in (w, V) alone.
        theta_optimizer: An Optax transformation for θ.

    Raises:
        InvalidInputError: If a value is out of range.
    """

    epsilon: float = 1e-10
    hessian_lipschitz: float = 1.0
    max_steps: int = 200
    radius: float = 1.0
    theta_steps: int = 0
    theta_optimizer: optax.GradientTransformation = optax.adam(1e-2)  # noqa: RUF009 (a pair of pure functions)

    def __post_init__(self) -> None:
        for name in ("epsilon", "hessian_lipschitz", "radius"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name}={value} must be a positive finite number")
        if self.max_steps < 1:
            raise InvalidInputError(f"max_steps={self.max_steps} must be at least 1")
        if self.theta_steps < 0:
            raise InvalidInputError(f"theta_steps={self.theta_steps} must be at least 0")


class NewtonPath(NamedTuple):
    """What was measured at each of the m points of a run, before the step that it names.

    Attributes:
        objective: F, shape (m,).
        gap: F − F_lin(w*), shape (m,); NaN without a linear fit.
        grad_norm: ‖∇F‖ in (w, V), shape (m,).
        lambda_min_lower: No eigenvalue of the partial Hessian lies below, shape (m,).
        lambda_min_upper: An eigenvalue lies at or below, shape (m,).
        radius: Of the trust region, relative to the size of w and V, shape (m,).
        step_norm: ‖(Δw, ΔV)‖ of the step, 0 if it was rejected or θ's, shape (m,).
        step: An index into `STEPS`, shape (m,).
    """

    objective: Float[Array, "m"]
    gap: Float[Array, "m"]
    grad_norm: Float[Array, "m"]
    lambda_min_lower: Float[Array, "m"]
    lambda_min_upper: Float[Array, "m"]
    radius: Float[Array, "m"]
    step_norm: Float[Array, "m"]
    step: Int[Array, "m"]


class NewtonResult(NamedTuple):
    """Where the solver ended, and the evidence.

    Attributes:
        w: Output weights, shape (d,).
        V: Mixing matrix, shape (d, k).
        objective: F there.
        gap: F − F_lin(w*); NaN without a linear fit.
        grad_norm: ‖∇F‖ in (w, V).
        lambda_min: λ_min of the partial Hessian with its bracket and direction.
        epsilon: What was asked for.
        curvature_threshold: −sqrt(μ₂ ε).
        converged: True if ‖∇F‖ ≤ ε and the bracket's lower end is not below −sqrt(μ₂ ε). A run ends at once at a point
            that is not finite, without having converged and with NaN for all numbers.
        norm_running_away: True if no minimum is near, however small ‖∇F‖: a Newton step from here would still be longer
            than a thousandth of the point's norm, or the features classify every sample rightly under a loss for
            binary labels, so that F falls to its infimum along t ↦ (tw, V) for ever. A run can also end in the valley
            w → 0, V → ∞ with Vᵀw fixed; at d = 1, where w cannot go round 0, even at its side without a minimum.
        newton_step_norm: ‖H⁺∇F‖ over the positive eigenvalues: how far away a minimum would be, to first order.
        model: The residual unit, θ included; None if `solve_partial` was called with arrays.
        path: What was measured on the way.
    """

    w: Float[Array, "d"]
    V: Float[Array, "d k"]
    objective: float
    gap: float
    grad_norm: float
    lambda_min: SmallestEigenvalue
    epsilon: float
    curvature_threshold: float
    converged: bool
    norm_running_away: bool
    newton_step_norm: float
    model: ResidualUnit | None
    path: NewtonPath


def solve_partial(
    w: Real[Array, "d"],
    V: Real[Array, "d k"],
    features: Real[Array, "n k"],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit | None = None,
    options: NewtonOptions | None = None,
) -> NewtonResult:
    """Minimise F(w, V) = mean ℓ(wᵀ(x_i + V f_i); y_i) from (w, V) to an ε-second-order stationary point.

    A trust-region Newton method in units of the size of w and of V. The subproblem is solved exactly, the hard case
    included, in the 2d + k − 1 coordinates outside which the gradient vanishes and the Hessian is zero. Always in
    float64. By Corollary 1 it ends no higher than the best linear predictor, wherever it starts. Decreases too small
    to be seen in F are computed from ℓ' along the step, so that a step's success means something until ‖∇F‖ itself is
    rounding.

    Args:
        w: Output weights to start from, shape (d,).
        V: Mixing matrix, shape (d, k).
        features: f_θ(x_i) as rows, shape (n, k).
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,): −1 or +1 for the logistic loss.
        loss: A loss or its name.
        linear_fit: The linear predictor that the path's gap refers to.
        options: How to solve.

    Returns:
        The point reached, whether it is what was asked for, and the path.

    Raises:
        InvalidInputError: If shapes disagree, labels do not suit the loss, or θ steps are asked of fixed features.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 3 and Corollary 1; Conn, Gould and Toint, Trust-Region Methods,
        2000, section 7.3, for the subproblem.
    """
    loss, options = as_loss(loss), NewtonOptions() if options is None else options
    check_point(w, V, features, X, y, loss)
    if options.theta_steps:
        raise InvalidInputError(
            f"theta_steps={options.theta_steps} must be 0 here: features are fixed; use solve_residual_unit to move θ"
        )
    if linear_fit is not None:
        check_baseline(linear_fit, X, y, loss)
    with jax.enable_x64(True):
        point = jnp.asarray(w, float), jnp.asarray(V, float)
        return _solve(point, None, _Fixed(jnp.asarray(features, float)), X, y, loss, linear_fit, options)


def solve_residual_unit(
    model: ResidualUnit,
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    linear_fit: LinearFit | None = None,
    options: NewtonOptions | None = None,
) -> NewtonResult:
    """`solve_partial` from a residual unit's (w, V), θ moved by an Optax optimiser between the steps if asked.

    Args:
        model: The residual unit to start from.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss or its name.
        linear_fit: The linear predictor that the path's gap refers to.
        options: How to solve.

    Raises:
        InvalidInputError: If labels do not suit the loss.
    """
    loss, options = as_loss(loss), NewtonOptions() if options is None else options
    check_labels(y, loss)
    if linear_fit is not None:
        check_baseline(linear_fit, check_samples(X), y, loss)
    with jax.enable_x64(True):
        moving, fixed = eqx.partition(model.feature_map, trainable(model.feature_map))
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), moving)
        point = jnp.asarray(model.w, float), jnp.asarray(model.V, float)
        return _solve(point, theta, _Mapped(fixed), X, y, loss, linear_fit, options)


class _Fixed(eqx.Module):
    features: Any

    def __call__(self, theta: Any, X: Any) -> Any:
        return self.features


class _Mapped(eqx.Module):
    fixed: Any

    def __call__(self, theta: Any, X: Any) -> Any:
        return jax.vmap(eqx.combine(theta, self.fixed))(X)


def _solve(point, theta, feature_map, X, y, loss, linear_fit, options) -> NewtonResult:
    X, y = jnp.asarray(X, float), jnp.asarray(y, float)
    level = jnp.asarray(jnp.nan if linear_fit is None else linear_fit.objective, float)
    run = _run(point, theta, feature_map, X, y, loss, level, options)
    w, V, theta, features, count, history, last = jax.tree.map(np.asarray, run)
    path = NewtonPath(**{name: column[: int(count)] for name, column in history.items()})
    with np.errstate(invalid="ignore", over="ignore"):
        margins = y * ((X + features @ V.T) @ w)
    mean_right = loss.binary_labels and bool((np.isfinite(margins) & (margins > 0)).all())
    far = float(last["newton_step_norm"]) > 1e-3 * math.hypot(np.linalg.norm(w), np.linalg.norm(V))
    lambda_min = SmallestEigenvalue(*(np.asarray(value)[()] for value in last["lambda_min"]))
    fixed = isinstance(feature_map, _Fixed)
    return NewtonResult(
        w=w,
        V=V,
        objective=float(path.objective[-1]),
        gap=float(path.gap[-1]),
        grad_norm=float(path.grad_norm[-1]),
        lambda_min=lambda_min,
        epsilon=options.epsilon,
        curvature_threshold=-math.sqrt(options.hessian_lipschitz * options.epsilon),
        converged=bool(last["converged"]),
        norm_running_away=mean_right or far,
        newton_step_norm=float(last["newton_step_norm"]),
        model=None if fixed else ResidualUnit(w, V, eqx.combine(theta, feature_map.fixed)),
        path=path,
    )


class _State(NamedTuple):
    point: Any
    theta: Any
    optimizer: Any
    radius: Any
    count: Any
    moved: Any  # how many steps θ has made
    history: Any
    last: Any
    done: Any


@eqx.filter_jit
def _run(point, theta, feature_map, X, y, loss, level, options):
    threshold = -math.sqrt(options.hessian_lipschitz * options.epsilon)
    transformation = options.theta_optimizer

    def measure(point, features):
        w, V = point
        hessian = partial_hessian(w, V, features, X, y, loss=loss)
        bracket = smallest_partial_eigenvalue(w, V, features, X, y, loss=loss)
        p = (X + features @ V.T) @ w
        gradient_w = loss.derivative(p, y) @ (X + features @ V.T) / len(y)
        model = reduced_model(hessian, gradient_w, jnp.linalg.norm(V))
        grad_norm = jnp.hypot(jnp.linalg.norm(gradient_w), hessian.w_norm * jnp.linalg.norm(hessian.g))
        value = jnp.mean(loss.value(p, y))
        finite = all_finite(p, value, grad_norm, bracket[0])
        return *nan_unless(finite, (value, grad_norm)), model, tuple(bracket)

    def iterate(state):
        features = feature_map(state.theta, X)
        objective, grad_norm, model, bracket = measure(state.point, features)
        stationary = (grad_norm <= options.epsilon) & (bracket[1] >= threshold)
        converged = stationary & (state.moved >= options.theta_steps)
        end = converged | (state.count >= options.max_steps) | ~jnp.isfinite(grad_norm)
        theta_turn = (state.moved < options.theta_steps) & ((state.count % 2 == 1) | stationary)

        step, predicted, interior = trust_region_step(model, state.radius)
        a, B = model.directions(step)
        w, V = state.point
        actual = decrease(loss, w, V, a, B, features, X, y)
        ratio = actual / jnp.maximum(predicted, jnp.finfo(actual.dtype).tiny)
        accepted = (ratio > 1e-4) & jnp.isfinite(actual) & ~end & ~theta_turn
        length = jnp.linalg.norm(model.scale * step)
        grown = jnp.where((ratio > 0.75) & ~interior, jnp.minimum(2.0 * state.radius, 1e12), state.radius)
        radius = jnp.where(ratio > 0.25, grown, 0.25 * jnp.minimum(jnp.linalg.norm(step), state.radius))
        radius = jnp.where(theta_turn | end, state.radius, radius)
        point = jax.tree.map(lambda old, change: jnp.where(accepted, old + change, old), state.point, (a, B))

        curved = step @ (model.apply(step)) < 0
        kind = jnp.where(accepted, jnp.where(curved, _NEGATIVE, _NEWTON), _REJECTED)
        kind = jnp.where(end, _END, jnp.where(theta_turn, _THETA, kind))
        row = NewtonPath(
            objective=objective,
            gap=objective - level,
            grad_norm=grad_norm,
            lambda_min_lower=bracket[1],
            lambda_min_upper=bracket[2],
            radius=state.radius,
            step_norm=jnp.where(accepted, length, 0.0),
            step=kind,
        )
        history = {name: state.history[name].at[state.count].set(value) for name, value in row._asdict().items()}
        last = {"lambda_min": bracket, "converged": converged, "newton_step_norm": model.newton_step_norm()}
        theta, optimizer = state.theta, state.optimizer
        if options.theta_steps:

            def move(theta, optimizer):
                def F(theta):
                    p = (X + feature_map(theta, X) @ state.point[1].T) @ state.point[0]
                    return jnp.mean(loss.value(p, y))

                change, optimizer = transformation.update(jax.grad(F)(theta), optimizer, theta)
                return optax.apply_updates(theta, change), optimizer

            theta, optimizer = jax.lax.cond(
                theta_turn & ~end, move, lambda theta, optimizer: (theta, optimizer), theta, optimizer
            )
        # The end of a run leaves radius and point as they are: its row is the last point's.
        moved = state.moved + jnp.where(theta_turn & ~end, 1, 0)
        return _State(point, theta, optimizer, radius, state.count + 1, moved, history, last, end)

    rows = options.max_steps + 1
    history = {name: jnp.zeros(rows, int if name == "step" else float) for name in NewtonPath._fields}
    features = feature_map(theta, X)
    shapes = jax.eval_shape(measure, point, features)[3]
    last = {
        "lambda_min": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        "converged": jnp.asarray(False),
        "newton_step_norm": jnp.zeros(()),
    }
    state = _State(
        point,
        theta,
        transformation.init(theta) if options.theta_steps else (),
        jnp.asarray(options.radius, float),
        jnp.asarray(0),
        jnp.asarray(0),
        history,
        last,
        jnp.asarray(False),
    )
    state = jax.lax.while_loop(lambda state: ~state.done, iterate, state)
    features = feature_map(state.theta, X)
    return *state.point, state.theta, features, state.count, state.history, state.last
