"""Training of one model: Optax under one scan, with measurements at a chosen interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray, Real
from tqdm import tqdm

from resflow.arrays import Array
from resflow.errors import InvalidInputError, nearest
from resflow.losses import Loss, as_loss
from resflow.model import trainable

__all__ = ["OPTIMIZERS", "TrainResult", "TrainingOptions", "train"]

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "momentum": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9),
    "nesterov": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
"""Optimisers that can be named, each a function of the learning rate."""

Measure = Callable[[Any, Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        steps: Number of optimiser steps.
        learning_rate: Step size of the optimiser.
        optimizer: A name of `OPTIMIZERS`, or any Optax gradient transformation (learning_rate is then its own affair).
        batch_size: Samples a step, drawn without replacement within an epoch, whose last incomplete batch is left
            out; None for all samples in every step.
        log_every: Steps between two measurements; the first and the last point are always measured.

    Raises:
        InvalidInputError: If a value is out of range or the optimiser unknown.
    """

    steps: int = 2000
    learning_rate: float = 0.01
    optimizer: str | optax.GradientTransformation = "adam"
    batch_size: int | None = None
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InvalidInputError(f"steps={self.steps} must be at least 0")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidInputError(f"learning_rate={self.learning_rate} must be a positive finite number, e.g. 0.01")
        if isinstance(self.optimizer, str) and self.optimizer not in OPTIMIZERS:
            raise InvalidInputError(
                f"optimizer={self.optimizer!r} is unknown: nearest is {nearest(self.optimizer, OPTIMIZERS, 1)[0]!r}; "
                f"choose one of {', '.join(OPTIMIZERS)}"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidInputError(f"batch_size={self.batch_size} must be at least 1, or None for all samples")
        if self.log_every < 1:
            raise InvalidInputError(f"log_every={self.log_every} must be at least 1")

    def transformation(self) -> optax.GradientTransformation:
        """The Optax gradient transformation."""
        if isinstance(self.optimizer, str):
            return OPTIMIZERS[self.optimizer](self.learning_rate)
        return self.optimizer


class TrainResult(NamedTuple):
    """A trained model and what was measured on the way.

    Attributes:
        model: The model after the last step; after the last finite one if training diverged.
        history: One array a measurement, each of length m, and "step": how many steps came before it.
        diverged_at: The number of steps that went well before objective or parameters were no longer finite, or None;
            the last row of the history is measured there.
    """

    model: Any
    history: dict[str, np.ndarray]
    diverged_at: int | None


def train(
    model: Any,
    X: Float[Array, "n d"],
    y: Real[Array, "n"],
    *,
    loss: str | Loss,
    options: TrainingOptions,
    key: PRNGKeyArray,
    measure: Measure | None = None,
    progress: bool = False,
) -> TrainResult:
    """Minimise mean_i ℓ(model(X)_i; y_i) over the model's trainable arrays, as one compiled program.

    Args:
        model: Any pytree that maps X to predictions (n,), e.g. a `ResidualUnit`. Its arrays' precision is kept.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        loss: A loss or its name.
        options: How to train.
        key: Random key for the minibatches; full-batch training does not use it.
        measure: What to record: a function (or Equinox module) of model, X and y to a dict of scalars, evaluated on
            the whole of X inside the compiled program. The mean loss, as "objective", if None.
        progress: Show a progress bar, advanced at every measurement. When off, the program contains no trace of it.

    Returns:
        The trained model and its history. A run that diverges stops there and says so in `diverged_at`.

    Raises:
        InvalidInputError: If batch_size exceeds the number of samples.
    """
    loss = as_loss(loss)
    if options.batch_size is not None and options.batch_size > len(y):
        raise InvalidInputError(
            f"batch_size={options.batch_size} must be at most the number of training samples, {len(y)}, or None for all"
        )
    if measure is None:
        measure = _MeanLoss(loss)
    dynamic, static = eqx.partition(model, trainable(model))
    with tqdm(total=options.steps, unit="step", disable=not progress) as bar:
        _progress_bars.append(bar)
        try:
            final, diverged_at, reached, history = _program(
                dynamic, static, jnp.asarray(X), jnp.asarray(y), key, measure, loss, options, progress
            )
            jax.block_until_ready(final)
        finally:
            _progress_bars.pop()
    # A run that diverged stays where it was for the rest of the scan: only the first measurement there counts.
    steps, rows = np.unique(np.asarray(reached), return_index=True)
    recorded = {"step": steps} | {name: np.asarray(column)[rows] for name, column in history.items()}
    return TrainResult(eqx.combine(final, static), recorded, None if diverged_at < 0 else int(diverged_at))


class _MeanLoss(eqx.Module):
    loss: Loss = eqx.field(static=True)

    def __call__(self, model: Any, X: Any, y: Any) -> dict[str, Any]:
        return {"objective": jnp.mean(self.loss.value(model(X), y))}


@eqx.filter_jit
def _program(dynamic, static, X, y, key, measure, loss, options, progress):
    """An outer scan over measurements; inside, a loop over the steps up to the next one, which divergence ends."""
    transformation = options.transformation()
    n, size = len(y), options.batch_size
    per_epoch = n // size if size else 1

    def objective(dynamic, X, y):
        return jnp.mean(loss.value(eqx.combine(dynamic, static)(X), y))

    def batch(step, order):
        if size is None:
            return X, y, order
        epoch, position = step // per_epoch, step % per_epoch
        order = jax.lax.cond(
            position == 0, lambda _: jax.random.permutation(jax.random.fold_in(key, epoch), n), lambda old: old, order
        )
        rows = jax.lax.dynamic_slice_in_dim(order, position * size, size)
        return X[rows], y[rows], order

    def update(carry):
        step, dynamic, state, order, _ = carry
        X_batch, y_batch, order = batch(step, order)
        value, gradient = jax.value_and_grad(objective)(dynamic, X_batch, y_batch)
        change, new_state = transformation.update(gradient, state, dynamic)
        new = optax.apply_updates(dynamic, change)
        finite = jnp.isfinite(value) & jnp.all(
            jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(new)])
        )
        new, new_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), (new, new_state), (dynamic, state))
        return jnp.where(finite, step + 1, step), new, new_state, order, jnp.where(finite, -1, step)

    def interval(carry, index):
        reached = carry[0]
        measured = measure(eqx.combine(carry[1], static), X, y)
        if progress:
            jax.debug.callback(_advance, reached, ordered=True)
        end = jnp.minimum((index + 1) * options.log_every, options.steps)
        carry = jax.lax.while_loop(lambda c: (c[0] < end) & (c[-1] < 0), update, carry)
        return carry, (reached, measured)

    intervals = -(-options.steps // options.log_every) + 1
    start = (jnp.int32(0), dynamic, transformation.init(dynamic), jnp.arange(n if size else 0), jnp.int32(-1))
    carry, (reached, history) = jax.lax.scan(interval, start, jnp.arange(intervals))
    return carry[1], carry[-1], reached, history


_progress_bars: list[tqdm] = []


def _advance(step: Any) -> None:
    bar = _progress_bars[-1]
    bar.update(int(step) - bar.n)
