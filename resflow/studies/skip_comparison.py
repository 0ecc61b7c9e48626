"""The same feature map with a skip connection and without, trained from many seeds, and what their ends are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import PRNGKeyArray, Real, Shaped

from resflow.arrays import Array
from resflow.errors import InvalidInputError
from resflow.keys import random_keys
from resflow.linear.baseline import check_baseline
from resflow.linear.predictor import LinearFit
from resflow.losses import Loss, as_loss
from resflow.models.architectures import build_model
from resflow.models.feature_maps import feature_map as named_feature_map
from resflow.point import checked_samples
from resflow.stationarity.terms import FitEvidence
from resflow.studies.ends import describe_each, end_of
from resflow.training.measures import GapMeasure
from resflow.training.population import PopulationResult, train_population
from resflow.training.train import TrainingOptions, train

__all__ = [
    "COMPARED",
    "compare_architectures",
    "starting_models",
    "table_of_ends",
    "train_from",
    "train_over",
    "training_ends",
]

COMPARED = ("residual_unit", "output_skip", "no_skip")
"""The architectures that are compared: models over one feature map, of any number of outputs."""

_ABOVE = 1e-9
"""A gap up to this, in mean loss per sample, is none."""


def starting_models(
    architecture: str,
    d: int,
    seeds: Sequence[int],
    *,
    feature_map: str = "mlp",
    activation: str = "relu",
    init_scale: float = 1.0,
    outputs: int | None = None,
    **options: Any,
) -> Any:
    """The models that training starts from, one a seed, stacked: every array has an axis of length m in front.

    A seed gives f_θ the same initial θ whatever the architecture.

    Args:
        architecture: A name of `COMPARED`.
        d: Number of inputs.
        seeds: m seeds.
        feature_map: The name of f_θ, as for `resflow.feature_map`.
        activation: Its activation.
        init_scale: Scale of the random weights around f_θ.
        outputs: m, e.g. the number of classes; None for one output, without an axis.
        options: Further arguments of `resflow.feature_map`: width, and depth.

    Raises:
        InvalidInputError: If the architecture is not one of `COMPARED`, there are no seeds, or an option is out of
            range.
    """
    if architecture not in COMPARED:
        raise InvalidInputError(f"architecture={architecture!r} must be one of {', '.join(COMPARED)}")
    if len(seeds) < 1:
        raise InvalidInputError("seeds is empty: there must be at least one")

    def build(seed):
        keys = random_keys(seed)
        f = named_feature_map(feature_map, d, activation=activation, key=keys.features, **options)
        return build_model(architecture, d, f, key=keys.model, scale=init_scale, outputs=outputs)

    return eqx.filter_jit(eqx.filter_vmap(build))(np.asarray(seeds))


def train_from(
    models: Any,
    X: Real[Array, "n d"],
    y: Shaped[Array, "n *m"],
    *,
    loss: str | Loss,
    fit: LinearFit,
    steps: int = 1000,
    learning_rate: float = 0.1,
    log_every: int = 20,
) -> PopulationResult:
    """Train a population as one compiled program: Adam on all samples, its learning rate going to 0.

    The learning rate falls along half a cosine, so that a run that ends above the linear predictor does so because it
    settled, not because it still bounces about.

    Args:
        models: As `starting_models` gives them.
        X, y: Samples as rows, shape (n, d), and their labels, as a `Point` takes them.
        loss, fit: A loss or its name, and the best linear predictor of X and y.
        steps: Of Adam.
        learning_rate: Adam's at the start.
        log_every: Steps between two measurements.

    Returns:
        The trained population, with objective and linear_predictor_gap along training.

    Raises:
        InvalidInputError: If labels do not suit the loss or an option is out of range.
    """
    loss = as_loss(loss)
    X, y = checked_samples(X, y, loss)
    check_baseline(fit, X, y, loss)
    options = TrainingOptions(steps=steps, learning_rate=learning_rate, log_every=log_every)
    falling = optax.cosine_decay_schedule(learning_rate, max(1, steps))
    m = len(jax.tree.leaves(eqx.filter(models, eqx.is_array))[0])
    return train_population(
        models,
        jnp.asarray(X, float),
        jnp.asarray(y, float),
        loss=loss,
        options=replace(options, optimizer=optax.adam(falling)),
        keys=jax.random.split(jax.random.key(0), m),  # of minibatches, of which there are none
        measure=GapMeasure.against(fit, loss, bounds=False),
        exact=False,  # a run may end elsewhere if one bit changes: it is their distribution that is looked at
    )


def training_ends(
    models: Any,
    X: Real[Array, "n d"],
    y: Shaped[Array, "n *m"],
    *,
    loss: str | Loss,
    fit: LinearFit,
    epsilon: float,
) -> pd.DataFrame:
    """What kind of point each member of a population ended at, in its weights around f_θ, θ held fixed.

    These weights are (W, V) of a residual unit, (W, v) of an output skip and v of a network without skip connection.
    In the last two F is convex, so that λ_min ≥ 0 always and a small gradient alone makes an ε-SOPSP.

    With p_i the predictions of any model and U the best linear predictor, gap ≤ mean_i ⟨ℓ'_i, p_i − Ux_i⟩ by convexity
    (`certificate`). For both skip connections that vanishes where the point is stationary in its weights; without one
    it need not. `gap_allowed` is what follows for an ε-SOPSP: Theorem 3's bound for a residual unit of
    one output, ε ‖(W − U, v)‖ for an output skip, and nothing (NaN) for other units and without a skip connection.

    Args:
        models: Models of one of the architectures `COMPARED`, stacked: every array with an axis of length m in front.
        X, y: Samples as rows, shape (n, d), and their labels, as a `Point` takes them.
        loss: A loss or its name; with finite constants for residual units.
        fit: The best linear predictor of X and y.
        epsilon: ε > 0 of the ε-SOPSP.

    Returns:
        One row a member: objective, linear_predictor_gap, certificate, partial_grad_norm, lambda_lower (no eigenvalue
        of the partial Hessian lies below), gap_allowed, verdict (one of `resflow.stationarity.terms.VERDICTS`),
        dead_units: how many features are 0 on every sample; and of residual units lambda_min and lambda_min_residual.

    References:
        Shamir 2018 (arXiv:1804.06739), Definition 1 and Theorem 3.
    """
    if not epsilon > 0:
        raise InvalidInputError(f"epsilon={epsilon} must be positive: the gradient norm that counts as stationary")
    loss = as_loss(loss)
    X, y = checked_samples(X, y, loss)
    check_baseline(fit, X, y, loss, finished=False)
    shared = jnp.asarray(X, float), jnp.asarray(y, float), FitEvidence(*map(jnp.asarray, FitEvidence.of(fit)))
    return pd.DataFrame(describe_each(_end, models, (), *shared, float(epsilon), loss)).rename_axis("member")


def compare_architectures(
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    fit: LinearFit,
    seeds: Sequence[int],
    widths: Sequence[int],
    epsilon: float,
    training: Mapping[str, Any],
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Train every architecture of every width from every seed, and look at where training ended.

    All seeds of one architecture and width are trained as one compiled program.

    Args:
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        loss, fit: A loss or its name, and the best linear predictor of X and y.
        seeds: The seeds of the initial points.
        widths: Numbers of features.
        epsilon: As for `training_ends`.
        training: How to train, as for `train_from`: steps, learning_rate, log_every.
        options: Of the initial points, as for `starting_models`.

    Returns:
        The ends, one row a run: what `training_ends` gives of it, architecture, width, diverged, above (gap > 1e-9, or
        not finite), second_order (whether it is an ε-SOPSP), slack (certificate minus gap, or gap_allowed minus gap
        where that is less and the end an ε-SOPSP) and one_signed (whether all output weights of a network without skip
        connection have one sign). And what was measured along training at the smallest width: architecture, member,
        step, objective and linear_predictor_gap. And the trained models, stacked, by "ARCHITECTURE WIDTH" in the order
        of the ends.
    """
    ends, along, models = [], [], {}
    for width in sorted(widths):
        for architecture in COMPARED:
            start = starting_models(architecture, X.shape[1], seeds, width=width, **options)
            result = train_from(start, X, y, loss=loss, fit=fit, **training)
            models[f"{architecture} {width}"] = result.models
            end = training_ends(result.models, X, y, loss=loss, fit=fit, epsilon=epsilon)
            named = {"architecture": architecture, "width": width}
            signs = np.sign(result.models.v) if architecture == "no_skip" else np.array([[-1, 1]])
            second_order = end["verdict"].str.startswith("sopsp")
            bound = np.fmin(end["certificate"], end["gap_allowed"].where(second_order))
            ends.append(
                end.assign(
                    **named,
                    diverged=result.diverged_at >= 0,
                    above=~(end["linear_predictor_gap"] <= _ABOVE),
                    second_order=second_order,
                    slack=bound - end["linear_predictor_gap"],
                    one_signed=np.broadcast_to((signs == signs[:, :1]).all(axis=1), len(end)),
                )
            )
            if width == min(widths):
                along.append(result.frame().assign(architecture=architecture))
    return pd.concat(ends, ignore_index=True), pd.concat(along, ignore_index=True), models


def train_over(
    feature_maps: Mapping[str, Any],
    X: Real[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    fit: LinearFit,
    options: TrainingOptions,
    key: PRNGKeyArray,
) -> pd.DataFrame:
    """Train a residual unit over each of several feature maps, whatever they are.

    Args:
        feature_maps: f_θ by their names.
        X, y: Samples as rows, shape (n, d), and their labels, shape (n,).
        loss, fit: A loss or its name, and the best linear predictor of X and y.
        options: How to train.
        key: Random key of the units, and of minibatches.

    Returns:
        One row a feature map: gap and certificate at the end, and the least slack between them along training.
    """
    rows = {}
    for name, feature_map in feature_maps.items():
        unit = build_model("residual_unit", X.shape[1], feature_map, key=key)
        measure = GapMeasure.against(fit, loss)
        history = train(unit, X, y, loss=loss, options=options, key=key, measure=measure).history
        gap, certificate = history["linear_predictor_gap"], history["gap_certificate"]
        rows[name] = {"gap": gap[-1], "certificate": certificate[-1], "least slack": np.min(certificate - gap)}
    return pd.DataFrame(rows).T


def table_of_ends(ends: pd.DataFrame) -> pd.DataFrame:
    """How the runs of every width and architecture ended.

    Args:
        ends: As `compare_architectures` gives them.

    Returns:
        One row a width and architecture, its index: runs, above_linear, median_gap, worst_gap, second_order_stationary,
        of_these_above, dead_units, runs_with_dead and diverged.
    """
    told = ends.assign(stationary_above=ends["second_order"] & ends["above"], with_dead=ends["dead_units"] > 0)
    return told.groupby(["width", "architecture"], sort=False).agg(
        runs=("above", "size"),
        above_linear=("above", "sum"),
        median_gap=("linear_predictor_gap", "median"),
        worst_gap=("linear_predictor_gap", "max"),
        second_order_stationary=("second_order", "sum"),
        of_these_above=("stationary_above", "sum"),
        dead_units=("dead_units", "sum"),
        runs_with_dead=("with_dead", "sum"),
        diverged=("diverged", "sum"),
    )


def _end(model, _, *shared):
    return end_of(model, *shared)
