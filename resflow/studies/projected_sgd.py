"""Projected SGD on a network with a skip connection to the output, whatever is done to its features meanwhile."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Key, Real

from resflow.arrays import Array, as_number
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.labels import as_labels
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import OutputSkipNetwork, trainable
from resflow.studies.sgd_excess import SGDExcess, judge_iterates, loss_constants

__all__ = ["projected_sgd_excess"]

_BLOCK = 64  # samples drawn at once: one by one, drawing took longer than the steps


def projected_sgd_excess(
    source: Any,
    feature_maps: Any,
    *,
    loss: str | Loss,
    radius: float,
    linear_w: Real[Array, "d"],
    feature_norm: float,
    steps: Real[Array, "m"],
    delta: float,
    theta_rates: Real[Array, "r"],
    keys: Key[jax.Array, "S"],
    parts: int = 50,
) -> list[SGDExcess]:
    """Projected SGD from (w, v) = 0 with η = b/(l√T), for every T, seed and way of moving θ.

    Each step draws one sample, moves (w, v) down its gradient and back into ‖(w, v)‖ ≤ b, and moves θ by
    −theta_rate · ∇_θ ℓ: down, not at all, or, to hurt, up. All seeds and rates run side by side under vmap, and one
    compiled program serves every T.

    Args:
        source: What samples come from, e.g. `Bootstrap` or `TeacherStream`.
        feature_maps: f_θ with a leading axis of length S on its arrays, one initial θ a seed.
        loss: A loss or its name.
        radius: b, the norm bound on (w, v).
        linear_w: u, the linear predictor to compare with, of norm at most b.
        feature_norm: A bound on ‖f_θ(x)‖ for every θ and x; √k where features are in [−1, 1].
        steps: The numbers of steps T, multiples of `parts`.
        delta: δ of the bound.
        theta_rates: Step sizes of θ, negative for an adversary, shape (r,).
        keys: S random keys.
        parts: Iterates of each run at which F is evaluated.

    Returns:
        One result a rate. Every rate sees the same samples.

    Raises:
        InvalidInputError: If u lies outside the ball, T is no multiple of parts, or labels do not suit the loss.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 4.
    """
    loss = as_loss(loss)
    if not np.array_equal(as_labels(source.labels, loss), source.labels):
        raise InvalidInputError(
            f"source has the labels {np.unique(source.labels).tolist()}, but the {loss.name} loss takes −1 and +1 here"
        )
    counts = np.array([as_number("steps", each, "must be whole numbers", whole=True) for each in steps])
    if parts < 1 or (counts < parts).any() or (counts % parts).any():
        raise InvalidInputError(f"steps={counts.tolist()} must be positive multiples of parts={parts}")
    if not np.linalg.norm(linear_w) <= radius * (1.0 + 1e-9):
        raise InvalidInputError(
            f"radius={radius} must be at least the linear predictor's norm {np.linalg.norm(linear_w)}"
        )
    lipschitz, _ = loss_constants(loss, radius, math.hypot(source.input_norm, feature_norm), source.labels)
    eta = radius / (lipschitz * np.sqrt(counts))
    moving, fixed = eqx.partition(feature_maps, trainable(feature_maps))
    rates = jnp.asarray(theta_rates, float)
    start = jnp.zeros(np.shape(linear_w)[0])
    runs = [
        _run_all(source, moving, fixed, keys, start, jnp.asarray(length), jnp.asarray(step), rates, radius, loss, parts)
        for length, step in zip(counts // parts, eta, strict=True)
    ]
    iterates = [
        jax.tree.map(
            lambda *leaves, rate=rate: (
                jnp.concatenate([leaf[rate].reshape(-1, *leaf.shape[3:]) for leaf in leaves])
                if eqx.is_array(leaves[0])
                else leaves[0]
            ),
            *runs,
        )
        for rate in range(len(rates))
    ]
    return judge_iterates(
        iterates,
        source,
        loss=loss,
        radius=radius,
        linear_w=linear_w,
        feature_norm=feature_norm,
        steps=counts,
        delta=delta,
        keys=keys,
        parts=parts,
    )


@partial(exported, arrays_only=True)
def _run_all(source, moving, fixed, keys, start, length, eta, theta_rates, radius, loss, parts):
    """The network at one iterate of every part, every array of shape (rates, S, parts, ...)."""

    def run(theta_rate, theta, key):
        k = jax.eval_shape(eqx.combine(theta, fixed), start).shape[0]

        def network(weights, theta):
            return OutputSkipNetwork(W=weights[0], v=weights[1], feature_map=eqx.combine(theta, fixed))

        def risk(weights, theta, x, y):
            return loss.value(network(weights, theta)(x[None])[0], y)

        def step(carry, sample):
            weights, theta = carry
            slope, theta_slope = jax.grad(risk, argnums=(0, 1))(weights, theta, *sample)
            w, v = (value - eta * change for value, change in zip(weights, slope, strict=True))
            shrink = jnp.minimum(1.0, radius / jnp.sqrt(w @ w + v @ v + jnp.finfo(w.dtype).tiny))
            theta = jax.tree.map(lambda value, change: value - theta_rate * change, theta, theta_slope)
            return (w * shrink, v * shrink), theta

        def part(carry, part_key):
            sample_key, choice_key, _ = jax.random.split(part_key, 3)  # the third is of who looks at the iterate
            chosen = jax.random.randint(choice_key, (), 0, length)

            def block(number, carry):
                first = number * _BLOCK
                indices = first + jnp.arange(_BLOCK)
                samples = jax.vmap(lambda index: source.draw(jax.random.fold_in(sample_key, index)))(indices)

                def watched(place, carry):
                    point, kept = carry
                    here = first + place == chosen
                    kept = jax.tree.map(lambda new, old: jnp.where(here, new, old), point, kept)
                    return step(point, jax.tree.map(lambda drawn: drawn[place], samples)), kept

                return jax.lax.fori_loop(0, jnp.minimum(_BLOCK, length - first), watched, carry)

            carry, kept = jax.lax.fori_loop(0, -(-length // _BLOCK), block, (carry, carry))
            return carry, kept

        first = (start, jnp.zeros(k)), theta
        kept = jax.lax.scan(part, first, jax.random.split(key, parts))[1]
        return network(*nan_unless(all_finite(theta, fixed, source), kept))

    over_seeds = eqx.filter_vmap(run, in_axes=(None, 0, 0))
    return eqx.filter_vmap(over_seeds, in_axes=(0, None, None))(theta_rates, moving, keys)
