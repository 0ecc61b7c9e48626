"""Where training with a ridge term ends from many starts: which ends are minima above the linear predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, PRNGKeyArray, Real, Shaped

from resflow.arrays import Array
from resflow.certificates.gap import GapCertificate, Ridge, check_ridge, gap_certificate
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import residual_unit, trainable
from resflow.objectives import MeanLoss
from resflow.point import checked_samples, in_default_precision, point_of_unit
from resflow.stationarity.starts import random_starts

__all__ = ["RidgeMinima", "find_ridge_minima", "judge_ridge_minima", "measures_of_minima", "ridge_table"]


class RidgeMinima(NamedTuple):
    """Ends of training F + ½ ridge (‖w‖² + ‖V‖_F²), one row a ridge strength (m) and one column a start (S).

    Attributes:
        ridge: The strengths, shape (m,).
        linear_objective: min_u F_lin(u) + ½ ridge ‖u‖², the regularised linear predictor's objective, shape (m,).
        units: The residual units at the ends, stacked: every array with an axis of m S in front, those of the first
            strength first.
        certificate: The gap at each end with its certificate, every field of shape (m, S).
        grad_norm: ‖∇(F + R)‖ in all parameters that were trained, shape (m, S).
        lambda_min: The smallest eigenvalue of ∇²(F + R) in those, shape (m, S).
        minimum: Which ends are minima to second order: grad_norm ≤ tolerance and λ_min ≥ −tolerance, shape (m, S).
        spurious: Which of these lie above the regularised linear predictor by more than tolerance, shape (m, S).
    """

    ridge: Float[np.ndarray, "m"]
    linear_objective: Float[np.ndarray, "m"]
    units: Any
    certificate: GapCertificate
    grad_norm: Float[np.ndarray, "m S"]
    lambda_min: Float[np.ndarray, "m S"]
    minimum: Bool[np.ndarray, "m S"]
    spurious: Bool[np.ndarray, "m S"]

    def summary(self) -> pd.DataFrame:
        """One row a ridge strength.

        Returns:
            Columns ridge; minimum_share and spurious_share of the starts, the latter's standard error; and, among the
            spurious minima (NaN where there are none): largest_gap, its certificate, both of the regularised
            objective, and the ridge term −⟨G, ∇R⟩ there.
        """
        share = self.spurious.mean(axis=1)
        gap = np.where(self.spurious, self.certificate.regularized_gap, -np.inf)
        rows, highest = np.arange(len(gap)), gap.argmax(axis=1)

        def there(values: np.ndarray) -> np.ndarray:
            return np.where(self.spurious.any(axis=1), values[rows, highest], np.nan)

        return pd.DataFrame(
            {
                "ridge": self.ridge,
                "minimum_share": self.minimum.mean(axis=1),
                "spurious_share": share,
                "spurious_share_error": np.sqrt(share * (1.0 - share) / gap.shape[1]),
                "largest_gap": there(gap),
                "largest_certificate": there(np.asarray(self.certificate.regularized_certificate)),
                "largest_ridge_term": there(np.asarray(self.certificate.ridge_term)),
            }
        )


def find_ridge_minima(
    feature_map: Callable[[Any], Any],
    X: Real[Array, "n d"],
    y: Shaped[Array, "n"],
    *,
    loss: str | Loss,
    ridges: Real[Array, "m"],
    starts: int,
    key: PRNGKeyArray,
    steps: int = 500,
    learning_rate: float = 0.03,
    tolerance: float = 1e-7,
) -> RidgeMinima:
    """Train residual units with each ridge strength from the same random starts, and look at where they end.

    Adam, then steps −Q |Λ|⁻¹ Qᵀ∇ with the dense Hessian Q Λ Qᵀ of F + R for as long as they lower F + R or ‖∇(F + R)‖,
    which end at rounding level. Always in float64; meant for up to about 50 parameters.

    Args:
        feature_map: f_θ, from (d,) to (k,). θ is drawn and trained too, unless the map is `fixed`.
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        loss: A loss or its name.
        ridges: Ridge strengths, per mean loss.
        starts: How many starting points.
        key: Random key for the starts.
        steps: Of Adam.
        learning_rate: Of Adam.
        tolerance: In the units of the objective, and for gradient and curvature.

    Raises:
        InvalidInputError: If labels do not suit the loss, a ridge strength is negative, or there are no starts.

    References:
        Shamir 2018 (arXiv:1804.06739), section 4: one scalar example of a minimum that ridge makes spurious.
    """
    loss = as_loss(loss)
    X, y = checked_samples(X, y, loss)
    if starts < 1:
        raise InvalidInputError(f"starts={starts} must be at least 1")
    ridges = _checked_ridges(ridges)
    with jax.enable_x64(True):
        model = residual_unit(X.shape[1], feature_map, key=key)
        drawn = random_starts(model, starts, key=key, scales=(0.3, 3.0))
        moving, fixed = eqx.partition(drawn, trainable(drawn))
        samples = jnp.asarray(X, float), jnp.asarray(y, float)
        ends = _ends(moving, fixed, jnp.asarray(ridges), *samples, loss, steps, learning_rate)
        repeated = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(ridges) * starts, *leaf.shape)) if eqx.is_array(leaf) else leaf,
            fixed,
        )
    return judge_ridge_minima(eqx.combine(ends, repeated), X, y, loss=loss, ridges=ridges, tolerance=tolerance)


def judge_ridge_minima(
    units: Any,
    X: Real[Array, "n d"],
    y: Shaped[Array, "n"],
    *,
    loss: str | Loss,
    ridges: Real[Array, "m"],
    tolerance: float = 1e-7,
) -> RidgeMinima:
    """What `find_ridge_minima` says of the units that it ended at, computed from these: nothing is trained.

    Args:
        units: The units, stacked: as many for each strength, those of the first strength first.
        X, y, loss, ridges, tolerance: As for `find_ridge_minima`.

    Raises:
        InvalidInputError: If labels do not suit the loss, or a ridge strength is negative.
    """
    loss = as_loss(loss)
    X, y = checked_samples(X, y, loss)
    ridges = _checked_ridges(ridges)
    fits = [fit_linear_predictor(X, y, loss=loss, ridge=float(ridge)) for ridge in ridges]
    starts = len(units.W) // len(ridges)
    with jax.enable_x64(True):
        moving, fixed = eqx.partition(units, trainable(units))
        linear = jnp.stack([fit.W for fit in fits]), jnp.asarray([fit.objective for fit in fits])
        own = tuple(jnp.repeat(each, starts, axis=0) for each in (jnp.asarray(ridges), *linear))
        found = _judged(moving, fixed, own, jnp.asarray(X, float), jnp.asarray(y, float), loss)
        certificate, grad_norm, lambda_min = jax.tree.map(
            lambda leaf: np.asarray(leaf).reshape(len(ridges), starts), found
        )
    minimum = (grad_norm <= tolerance) & (lambda_min >= -tolerance)
    return RidgeMinima(
        ridge=ridges,
        linear_objective=np.array([fit.objective + 0.5 * fit.ridge * fit.W @ fit.W for fit in fits]),
        units=units,
        certificate=certificate,
        grad_norm=grad_norm,
        lambda_min=lambda_min,
        minimum=minimum,
        spurious=minimum & (certificate.regularized_gap > tolerance),
    )


def ridge_table(ends: Mapping[int, RidgeMinima]) -> tuple[pd.DataFrame, float]:
    """The summaries for each number of inputs, with a column inputs; and the least certificate minus gap at any end."""
    tables = [each.summary().assign(inputs=inputs) for inputs, each in ends.items()]
    slack = [
        np.min(each.certificate.regularized_certificate - each.certificate.regularized_gap) for each in ends.values()
    ]
    return pd.concat(tables, ignore_index=True), float(min(slack))


def measures_of_minima(table: pd.DataFrame) -> dict[str, float]:
    """The numbers of a run, of `ridge_table`: largest_spurious_share and smallest_minimum_share."""
    return {
        "largest_spurious_share": float(table["spurious_share"].max()),
        "smallest_minimum_share": float(table["minimum_share"].min()),
    }


def _checked_ridges(ridges: Any) -> np.ndarray:
    ridges = np.asarray(ridges, float)
    for ridge in ridges:
        check_ridge(float(ridge), float(ridge))
    return ridges


def _objective(loss, ridge, X, y, unit):
    return MeanLoss(loss)(unit, X, y) + 0.5 * ridge * (jnp.sum(unit.W**2) + jnp.sum(unit.V**2))


@partial(exported, arrays_only=True)
def _ends(moving, fixed, ridges, X, y, loss, steps, learning_rate):
    """The trained arrays of the units at the ends, with an axis of all strengths and starts in front."""
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], moving))
    flat = jax.vmap(lambda model: ravel_pytree(model)[0])(moving)
    adam = optax.adam(learning_rate)

    def end(arguments):
        start, ridge = arguments

        def objective(x):
            return _objective(loss, ridge, X, y, eqx.combine(unravel(x), fixed))

        def descend(_, carry):
            x, state = carry
            change, state = adam.update(jax.grad(objective)(x), state)
            return optax.apply_updates(x, change), state

        x, _ = jax.lax.fori_loop(0, steps, descend, (start, adam.init(start)))
        return unravel(_polish(objective, x))

    return jax.lax.map(
        end, (jnp.tile(flat, (len(ridges), 1)), jnp.repeat(ridges, len(flat), axis=0)), batch_size=_CHUNK
    )


@partial(exported, arrays_only=True)
def _judged(moving, fixed, own, X, y, loss):
    """The gap's certificate, ‖∇(F + R)‖ and the smallest eigenvalue of ∇²(F + R) at each unit."""
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], moving))
    flat = jax.vmap(lambda model: ravel_pytree(model)[0])(moving)
    still, static = eqx.partition(fixed, eqx.is_array)

    def judge(arguments):
        x, still, ridge, linear_w, linear_objective = arguments

        def objective(x):
            return _objective(loss, ridge, X, y, eqx.combine(unravel(x), still, static))

        point = in_default_precision(point_of_unit(eqx.combine(unravel(x), still, static), X, y, loss))
        terms = gap_certificate(point, linear_w, linear_objective, Ridge(ridge, ridge))
        return terms, jnp.linalg.norm(jax.grad(objective)(x)), _spectrum(objective, x)[0][0]

    return jax.lax.map(judge, (flat, still, *own), batch_size=_CHUNK)


_CHUNK = 32
"""Starts advanced together: with so few samples and parameters one start alone costs mostly dispatch."""


def _polish(objective, x):
    """Newton's method with the moduli of the eigenvalues, so that saddles repel, while it gets anywhere."""

    def step(carry):
        x, gradient, count, _ = carry
        eigenvalues, Q = _spectrum(objective, x)
        size = jnp.abs(eigenvalues)
        size = jnp.where(size > 1e-12 * jnp.max(size), size, jnp.inf)
        change = -Q @ ((Q.T @ gradient) / size)
        trials = x + jnp.asarray([1.0, 0.25, 0.02])[:, None] * change
        values = jax.vmap(objective)(trials)
        gradients = jax.vmap(jax.grad(objective))(trials)
        norms = jnp.linalg.norm(gradients, axis=1)
        value, norm = objective(x), jnp.linalg.norm(gradient)
        rounding = 1e-14 * jnp.abs(value)
        better = (values < value - rounding) | ((values <= value + rounding) & (norms < 0.9 * norm))
        chosen = jnp.argmax(better)
        moved = better[chosen]
        x, gradient = jnp.where(moved, trials[chosen], x), jnp.where(moved, gradients[chosen], gradient)
        return x, gradient, count + 1, moved

    carry = (x, jax.grad(objective)(x), jnp.asarray(0), jnp.asarray(True))
    return jax.lax.while_loop(lambda carry: carry[-1] & (carry[2] < 100), step, carry)[0]


def _spectrum(objective, x):
    """Eigenvalues and eigenvectors of the Hessian; of zero where that is not finite."""
    H = jax.hessian(objective)(x)
    return jnp.linalg.eigh(jnp.where(jnp.all(jnp.isfinite(H)), H, jnp.zeros_like(H)))
