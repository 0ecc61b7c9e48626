"""Projected SGD on a network with a skip connection to the output, and Theorem 4's bound on what it can lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Key, PRNGKeyArray, Real

from resflow.arrays import Array
from resflow.errors import InvalidInputError
from resflow.floating import all_finite, nan_unless
from resflow.labels import as_labels
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import OutputSkipNetwork, trainable

__all__ = [
    "Bootstrap",
    "SGDExcess",
    "TeacherStream",
    "Theorem4Bound",
    "excess_table",
    "projected_sgd_excess",
    "slope_table",
    "theorem4_bound",
]

_BLOCK = 64  # samples drawn at once: one by one, drawing took longer than the steps


class Bootstrap(eqx.Module):
    """Samples drawn with replacement from a data set, whose mean loss is then the population's.

    Attributes:
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
    """

    X: Float[Array, "n d"]
    y: Float[Array, "n"]

    def draw(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """One sample."""
        row = jax.random.randint(key, (), 0, self.y.shape[0])
        return self.X[row], self.y[row]

    def population(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y over which F is evaluated: the data set, whatever the key."""
        return self.X, self.y

    @property
    def input_norm(self) -> float:
        """A bound on ‖x‖."""
        return float(jnp.max(jnp.linalg.norm(self.X, axis=1)))

    @property
    def labels(self) -> Real[np.ndarray, "m"]:
        """All labels there are."""
        return np.unique(self.y)


class TeacherStream(eqx.Module):
    """Fresh samples without end: x standard normal, shortened to ‖x‖ ≤ R; y = +1 with probability σ(s), else −1.

    s = 4 (uᵀx + nonlinearity · ((vᵀx)² − 1)/√2): with nonlinearity = 0 the linear predictor 4u is the best of all
    predictors under the logistic loss, so that no network has an excess below 0.

    Attributes:
        u: Unit vector, shape (d,).
        v: Unit vector, shape (d,).
        nonlinearity: Size of the part that no linear predictor can express.
        radius: R.
        evaluated_on: Fresh samples that F is estimated by, each time.
    """

    u: Float[Array, "d"]
    v: Float[Array, "d"]
    nonlinearity: float
    radius: float
    evaluated_on: int = eqx.field(static=True, default=500)

    def draw(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """One sample."""
        x_key, y_key = jax.random.split(key)
        x = jax.random.normal(x_key, self.u.shape)
        x = x * jnp.minimum(1.0, self.radius / jnp.linalg.norm(x))
        score = 4.0 * (self.u @ x + self.nonlinearity * ((self.v @ x) ** 2 - 1.0) / math.sqrt(2.0))
        return x, jnp.where(jax.random.uniform(y_key) < jax.nn.sigmoid(score), 1.0, -1.0)

    def population(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y by which F is estimated without bias: fresh samples."""
        return self.sample(self.evaluated_on, key=key)

    def sample(self, n: int, *, key: PRNGKeyArray) -> tuple[Any, Any]:
        """X and y of n samples."""
        return jax.vmap(self.draw)(jax.random.split(key, n))

    @classmethod
    def random(cls, d: int, nonlinearity: float, *, seed: int, radius: float = 4.0) -> TeacherStream:
        """A stream whose u and v point in directions drawn at random."""
        u, v = (g / np.linalg.norm(g) for g in np.random.default_rng(seed).standard_normal((2, d)))
        return cls(jnp.asarray(u), jnp.asarray(v), nonlinearity, radius)

    @property
    def input_norm(self) -> float:
        """A bound on ‖x‖."""
        return self.radius

    @property
    def labels(self) -> Real[np.ndarray, "m"]:
        """All labels there are."""
        return np.array([-1.0, 1.0])


class Theorem4Bound(NamedTuple):
    """The bound on the mean excess of T iterates over a fixed linear predictor, and its terms.

    Attributes:
        distance: ‖(w₁, v₁) − (u, 0)‖² / (2ηT).
        gradients: ηl²/2.
        deviation: R_ℓ sqrt(2 log(1/δ) / T), with R_ℓ the range of the loss.
        total: Their sum.
    """

    distance: Float[Array, "..."]
    gradients: Float[Array, "..."]
    deviation: Float[Array, "..."]
    total: Float[Array, "..."]


def theorem4_bound(
    steps: Any, *, distance: float, step_size: Any, lipschitz: float, loss_range: float, delta: float
) -> Theorem4Bound:
    """With probability ≥ 1 − δ, mean_t F(w_t, v_t, θ_t) − F_lin(u) is at most the total, whatever θ does.

    Derivation. Write W_t = (w_t, v_t), U = (u, 0), and ℓ_t(W) = ℓ(wᵀx_t + vᵀf_{θ_t}(x_t); y_t) for the sample z_t drawn
    in step t: convex in W, with a gradient g_t of norm at most l. Projection onto a convex set that contains U brings
    W_t − ηg_t no further from U, so ‖W_{t+1} − U‖² ≤ ‖W_t − U‖² − 2η⟨g_t, W_t − U⟩ + η²l². By convexity
    ℓ_t(W_t) − ℓ_t(U) ≤ ⟨g_t, W_t − U⟩. Summed over t and divided by 2ηT,

        mean_t (ℓ_t(W_t) − ℓ_t(U)) ≤ ‖W₁ − U‖² / (2ηT) + ηl²/2 .

    U has no v, so that ℓ_t(U) = ℓ(uᵀx_t; y_t) does not depend on θ_t. W_t and θ_t are settled before z_t is drawn, and
    so D_t = (F(W_t, θ_t) − ℓ_t(W_t)) − (F_lin(u) − ℓ_t(U)) has mean 0 given the past: a martingale difference. Both of
    its random parts, −ℓ_t(W_t) and +ℓ_t(U), lie in an interval of length R_ℓ, D_t hence in one of length 2R_ℓ, and
    Azuma's inequality says P(mean_t D_t ≥ s) ≤ exp(−2Ts²/(2R_ℓ)²), which is δ at s = R_ℓ sqrt(2 log(1/δ)/T). With
    |ℓ| ≤ r the range is R_ℓ = 2r, which gives the form 2r sqrt(2 log(1/δ)/T).

    Args:
        steps: T, a number or an array.
        distance: ‖W₁ − U‖, or a bound on it.
        step_size: η, a number or an array like T.
        lipschitz: l, a bound on ‖∇_W ℓ_t‖.
        loss_range: R_ℓ.
        delta: δ, the probability that the bound is allowed to fail with, between 0 and 1.

    Raises:
        InvalidInputError: If delta is not strictly between 0 and 1.

    References:
        Shamir 2018 (arXiv:1804.06739), Theorem 4.
    """
    if not 0.0 < delta < 1.0:
        raise InvalidInputError(f"delta={delta} must lie strictly between 0 and 1, e.g. 0.05")
    steps, step_size = np.asarray(steps, float), np.asarray(step_size, float)
    first = distance**2 / (2.0 * step_size * steps)
    second = step_size * lipschitz**2 / 2.0
    third = loss_range * np.sqrt(2.0 * math.log(1.0 / delta) / steps)
    return Theorem4Bound(first, second, third, first + second + third)


class SGDExcess(NamedTuple):
    """What runs of T steps each lost to a linear predictor, one row a T (m), one column a seed (S).

    Attributes:
        steps: T, shape (m,).
        step_size: η = b/(l√T), shape (m,).
        mean_excess: mean_t F(w_t, v_t, θ_t) − F_lin(u), t drawn at random in each of many equal parts of the run: an
            unbiased estimate of the mean over all t, shape (m, S).
        best_excess: The smallest excess of these iterates, shape (m, S); of its estimates where F is estimated.
        bound: Of `theorem4_bound`, every field of shape (m,).
        lipschitz: l.
        loss_range: R_ℓ.
    """

    steps: Float[np.ndarray, "m"]
    step_size: Float[np.ndarray, "m"]
    mean_excess: Float[np.ndarray, "m S"]
    best_excess: Float[np.ndarray, "m S"]
    bound: Theorem4Bound
    lipschitz: float
    loss_range: float

    def slope(self, *, from_steps: float = 0.0, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
        """The slope of log(mean over seeds of mean_excess) against log T by least squares, with a 95 % interval.

        The interval is a bootstrap's over seeds. NaN where some mean is not positive: then there is no such slope.

        Args:
            from_steps: The smallest T that is used.
            resamples: Of the bootstrap.
            seed: Of the bootstrap.
        """
        kept = self.steps >= from_steps
        steps, excess = self.steps[kept], self.mean_excess[kept]
        rows = np.random.default_rng(seed).integers(0, excess.shape[1], (resamples, excess.shape[1]))
        means = np.vstack([excess.mean(axis=1), excess[:, rows].mean(axis=2).T])
        if len(steps) < 2 or (means <= 0).any():
            return math.nan, math.nan, math.nan
        slopes = np.polyfit(np.log(steps), np.log(means).T, 1)[0]
        low, high = np.quantile(slopes[1:], [0.025, 0.975])
        return float(slopes[0]), float(low), float(high)


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
    as_labels(source.labels, loss)
    counts = np.asarray(steps, int)
    if parts < 1 or (counts < parts).any() or (counts % parts).any():
        raise InvalidInputError(f"steps={counts.tolist()} must be positive multiples of parts={parts}")
    if not np.linalg.norm(linear_w) <= radius * (1.0 + 1e-9):
        raise InvalidInputError(
            f"radius={radius} must be at least the linear predictor's norm {np.linalg.norm(linear_w)}"
        )
    lipschitz, loss_range = loss_constants(loss, radius, math.hypot(source.input_norm, feature_norm), source.labels)
    eta = radius / (lipschitz * np.sqrt(counts))
    moving, fixed = eqx.partition(feature_maps, trainable(feature_maps))
    rates = jnp.asarray(theta_rates, float)
    linear_w = jnp.asarray(linear_w, float)
    runs = [
        _run_all(
            source, moving, fixed, keys, linear_w, jnp.asarray(length), jnp.asarray(step), rates, radius, loss, parts
        )
        for length, step in zip(counts // parts, eta, strict=True)
    ]
    bound = theorem4_bound(
        counts,
        distance=float(np.linalg.norm(linear_w)),
        step_size=eta,
        lipschitz=lipschitz,
        loss_range=loss_range,
        delta=delta,
    )
    return [
        SGDExcess(counts.astype(float), eta, of_rate.mean(axis=2), of_rate.min(axis=2), bound, lipschitz, loss_range)
        for of_rate in np.stack(runs, axis=1)
    ]


def excess_table(results: Mapping[tuple[str, str], SGDExcess]) -> pd.DataFrame:
    """What the runs of every source, way of moving θ and T lost, over seeds.

    Args:
        results: By source and way.

    Returns:
        Columns source, theta, steps; mean, lowest and highest of the mean excess, best_iterate (its mean over seeds),
        bound, and share_within: of the seeds whose mean excess is within it.
    """
    frames = [
        pd.DataFrame(
            {
                "source": source,
                "theta": theta,
                "steps": of.steps.astype(int),
                "mean": of.mean_excess.mean(axis=1),
                "lowest": of.mean_excess.min(axis=1),
                "highest": of.mean_excess.max(axis=1),
                "best_iterate": of.best_excess.mean(axis=1),
                "bound": of.bound.total,
                "share_within": (of.mean_excess <= of.bound.total[:, None]).mean(axis=1),
            }
        )
        for (source, theta), of in results.items()
    ]
    return pd.concat(frames, ignore_index=True)


def slope_table(results: Mapping[tuple[str, str], SGDExcess]) -> pd.DataFrame:
    """The slopes of log(mean excess) in log T, fitted to all T and to the upper half of them.

    Args:
        results: By source and way of moving θ, all with the same T.

    Returns:
        Columns source, theta, fit (what it was fitted to), slope, low and high, as `SGDExcess.slope` gives them.
    """
    rows = []
    for where, result in results.items():
        upper = float(result.steps[len(result.steps) // 2])
        for fit, start in (("all T", 0.0), (f"T ≥ {upper:,.0f}", upper)):
            rows.append((*where, fit, *result.slope(from_steps=start)))
    return pd.DataFrame(rows, columns=["source", "theta", "fit", "slope", "low", "high"])


def loss_constants(loss: Loss, radius: float, input_norm: float, y: Real[np.ndarray, "N"]) -> tuple[float, float]:
    """Bounds on ‖∇_W ℓ‖ and on ℓ ≥ 0 over ‖W‖ ≤ radius and ‖(x, f)‖ ≤ input_norm.

    ℓ is convex in p and |p| ≤ radius · input_norm, so that ℓ and |ℓ'| are largest at an end of that interval.
    """
    ends, labels = np.meshgrid(np.array([-1.0, 1.0]) * radius * input_norm, np.unique(y)[[0, -1]])
    return float(np.abs(loss.derivative(ends, labels)).max() * input_norm), float(loss.value(ends, labels).max())


@eqx.filter_jit
def _run_all(source, moving, fixed, keys, linear_w, length, eta, theta_rates, radius, loss, parts):
    """The excess at one iterate of every part, shape (rates, S, parts)."""

    def run(theta_rate, theta, key):
        d, k = linear_w.shape[0], jax.eval_shape(eqx.combine(theta, fixed), linear_w).shape[0]

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
            sample_key, choice_key, population_key = jax.random.split(part_key, 3)
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
            X, y = source.population(population_key)
            return carry, jnp.mean(loss.value(network(*kept)(X), y) - loss.value(X @ linear_w, y))

        start = (jnp.zeros(d), jnp.zeros(k)), theta
        excess = jax.lax.scan(part, start, jax.random.split(key, parts))[1]
        return nan_unless(all_finite(theta, fixed, source, linear_w), excess)

    over_seeds = jax.vmap(run, in_axes=(None, 0, 0))
    return jax.vmap(over_seeds, in_axes=(0, None, None))(theta_rates, moving, keys)
