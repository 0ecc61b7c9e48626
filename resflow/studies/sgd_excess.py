"""What runs of projected SGD lost to a linear predictor, Theorem 4's bound on it, and tables of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Key, Real

from resflow.arrays import Array
from resflow.errors import InvalidInputError
from resflow.exported import exported
from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss, as_loss

__all__ = [
    "SGDExcess",
    "Theorem4Bound",
    "excess_table",
    "judge_iterates",
    "loss_constants",
    "measures_of_excess",
    "slope_table",
    "theorem4_bound",
]


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
        iterates: The networks at these iterates, stacked: every array with an axis of m S parts in front, T by T and
            seed by seed.
    """

    steps: Float[np.ndarray, "m"]
    step_size: Float[np.ndarray, "m"]
    mean_excess: Float[np.ndarray, "m S"]
    best_excess: Float[np.ndarray, "m S"]
    bound: Theorem4Bound
    lipschitz: float
    loss_range: float
    iterates: Any = None

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


def judge_iterates(
    iterates: Sequence[Any],
    source: Any,
    *,
    loss: str | Loss,
    radius: float,
    linear_w: Real[Array, "d"],
    feature_norm: float,
    steps: Real[Array, "m"],
    delta: float,
    keys: Key[jax.Array, "S"],
    parts: int,
) -> list[SGDExcess]:
    """What `projected_sgd_excess` says of the iterates that it looked at, computed from these: nothing is trained.

    Args:
        iterates: The networks, for each rate stacked as `SGDExcess.iterates` has them.
        source, loss, radius, linear_w, feature_norm, steps, delta, keys, parts: As for `projected_sgd_excess`.
    """
    loss, counts = as_loss(loss), np.asarray(steps, int)
    lipschitz, loss_range = loss_constants(loss, radius, math.hypot(source.input_norm, feature_norm), source.labels)
    eta = radius / (lipschitz * np.sqrt(counts))
    linear_w = jnp.asarray(linear_w, float)
    shape = len(counts), len(keys), parts

    networks = jax.tree.map(
        lambda *leaves: (
            jnp.stack([leaf.reshape(*shape, *leaf.shape[1:]) for leaf in leaves])
            if eqx.is_array(leaves[0])
            else leaves[0]
        ),
        *iterates,
    )
    excess = np.asarray(_excess(networks, source, keys, linear_w, loss))
    bound = theorem4_bound(
        counts,
        distance=float(np.linalg.norm(linear_w)),
        step_size=eta,
        lipschitz=lipschitz,
        loss_range=loss_range,
        delta=delta,
    )
    return [
        SGDExcess(counts.astype(float), eta, each.mean(axis=2), each.min(axis=2), bound, lipschitz, loss_range, at_rate)
        for each, at_rate in zip(excess, iterates, strict=True)
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


def measures_of_excess(table: pd.DataFrame, slopes: pd.DataFrame) -> dict[str, float]:
    """The numbers of a run, of both tables, with the sources fresh and bootstrap first and second.

    Returns:
        smallest_share_within_bound, largest_final_excess, smallest_slack of the bound over the excess; slope_fresh and
        slope_bootstrap of θ left alone and all T, with _low and _high, where there are such slopes.
    """
    alone = slopes[(slopes["theta"] == "left alone") & (slopes["fit"] == "all T")]
    found = {
        f"slope_{kind}{end}": float(value)
        for row, kind in zip(alone.itertuples(), ("fresh", "bootstrap"), strict=True)
        for end, value in (("", row.slope), ("_low", row.low), ("_high", row.high))
        if math.isfinite(value)
    }
    return found | {
        "smallest_share_within_bound": float(table["share_within"].min()),
        "largest_final_excess": float(table.loc[table["steps"] == table["steps"].max(), "highest"].max()),
        "smallest_slack": float((table["bound"] - table["highest"]).min()),
    }


def loss_constants(loss: Loss, radius: float, input_norm: float, y: Real[np.ndarray, "N"]) -> tuple[float, float]:
    """Bounds on ‖∇_W ℓ‖ and on ℓ ≥ 0 over ‖W‖ ≤ radius and ‖(x, f)‖ ≤ input_norm.

    ℓ is convex in p and |p| ≤ radius · input_norm, so that ℓ and |ℓ'| are largest at an end of that interval.
    """
    ends, labels = np.meshgrid(np.array([-1.0, 1.0]) * radius * input_norm, np.unique(y)[[0, -1]])
    return float(np.abs(loss.derivative(ends, labels)).max() * input_norm), float(loss.value(ends, labels).max())


@partial(exported, arrays_only=True)
def _excess(networks, source, keys, linear_w, loss):
    """F − F_lin(u) at every iterate, shape (rates, m, S, parts), on the same samples for all rates and all T."""
    arrays, static = eqx.partition(networks, eqx.is_array)

    def at(each):
        weights, part_key = each
        X, y = source.population(jax.random.split(part_key, 3)[2])
        linear = loss.value(X @ linear_w, y)
        return jax.lax.map(lambda own: jnp.mean(loss.value(eqx.combine(own, static)(X), y) - linear), weights)

    def of_seed(weights, key):
        by_part = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), weights)
        parts = jax.tree.leaves(by_part)[0].shape[0]
        return jax.lax.map(at, (by_part, jax.random.split(key, parts))).T

    found = jax.vmap(jax.vmap(of_seed, in_axes=(1, 0), out_axes=1), in_axes=(0, None))(arrays, keys)
    return nan_unless(all_finite(source, linear_w), found)
