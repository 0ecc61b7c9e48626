"""Training of one model: Optax under one scan, with measurements at a chosen interval."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray, Shaped

from resflow.arrays import Array, as_number, in_type_of_jax
from resflow.errors import InvalidInputError, check_known
from resflow.exported import exported
from resflow.keys import check_key
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import trainable
from resflow.point import check_predictions, checked_samples
from resflow.progress import Progress, in_turns, reported
from resflow.training._blocks import steps_in_block
from resflow.training._checkpoints import checkpoints_of
from resflow.training._measuring import check_measure
from resflow.training._program import Course, ObjectiveMeasure, Setting, Training

__all__ = ["OPTIMIZERS", "TrainResult", "TrainingOptions", "measured", "train"]

OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "momentum": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9),
    "nesterov": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}
"""Optimisers that can be named, each a function of the learning rate; all else is Optax's default or ours.

    adam      β₁ = 0.9, β₂ = 0.999, ε = 1e-8 added to the root, as in PyTorch.
    adamw     The same, with a decoupled weight decay of 1e-4; PyTorch's default is 1e-2.
    momentum  Momentum 0.9 without dampening; PyTorch's SGD has none by default.
    nesterov  The same in Nesterov's form.
    rmsprop   Decay 0.9 of the mean square, ε = 1e-8 within the root; PyTorch's are 0.99, and added to it.
    sgd       Plain gradient descent, without momentum or decay.

Others are given as an Optax gradient transformation.
"""

Measure = Callable[[Any, Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        steps: Number of optimiser steps.
        learning_rate: Step size of the optimiser.
        optimizer: A name of `OPTIMIZERS`, which says what each is, or any Optax gradient transformation
            (learning_rate is then its own affair).
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
        allowed = "must be a positive finite number, e.g. 0.01"
        as_number("learning_rate", self.learning_rate, allowed, lambda rate: 0 < rate < math.inf)
        if isinstance(self.optimizer, str):
            check_known("optimizer", self.optimizer, OPTIMIZERS)
        elif not all(callable(getattr(self.optimizer, name, None)) for name in ("init", "update")) or isinstance(
            self.optimizer, Mapping
        ):
            raise InvalidInputError(
                f"optimizer={self.optimizer!r} must be one of {', '.join(OPTIMIZERS)}, or an Optax transformation"
            )
        for name, least in (("steps", 0), ("log_every", 1), ("batch_size", 1)):
            value, otherwise = getattr(self, name), ", or None for all samples" if name == "batch_size" else ""
            if value is not None or not otherwise:
                number = as_number(
                    name, value, f"must be at least {least}{otherwise}", partial(operator.le, least), whole=True
                )
                object.__setattr__(self, name, number)

    def check_batch(self, n: int) -> None:
        """Check that n samples are enough for a batch.

        Raises:
            InvalidInputError: If they are not.
        """
        if self.batch_size is not None and self.batch_size > n:
            raise InvalidInputError(
                f"batch_size={self.batch_size} must be at most the number of training samples, {n}, or None for all"
            )

    def transformation(self, learning_rate: Any) -> optax.GradientTransformation:
        """The Optax gradient transformation; one that was given has a learning rate of its own."""
        return OPTIMIZERS[self.optimizer](learning_rate) if isinstance(self.optimizer, str) else self.optimizer


class TrainResult(NamedTuple):
    """A trained model and what was measured on the way.

    Attributes:
        model: The model after the last step; after the last finite one if training diverged.
        history: One array a measurement, each of length m, and "step": how many steps came before it.
        diverged_at: The number of steps that went well before parameters, or the objective that a step begins with,
            were no longer finite, or None; the last row of the history is measured there. 0, and NaN for all that was
            measured, where the start or the data is not finite.
    """

    model: Any
    history: dict[str, np.ndarray]
    diverged_at: int | None

    @property
    def outcome(self) -> str:
        """A sentence for whoever reads on where training diverged; empty where all went well."""
        if self.diverged_at is None:
            return ""
        return f"Training diverged after {self.diverged_at} steps. What follows describes that point."


def train(
    model: Any,
    X: Float[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss,
    options: TrainingOptions,
    key: PRNGKeyArray,
    measure: Measure | None = None,
    progress: bool | Progress = False,
) -> TrainResult:
    """Minimise mean_i ℓ(model(X)_i; y_i) over the model's trainable arrays, as one compiled program.

    Where the environment variable RESFLOW_CHECKPOINTS names a folder, the state is kept there every ten seconds (or
    RESFLOW_CHECKPOINT_SECONDS), and the same training, in a process that does the same up to it, goes on from there: to
    the same bits.

    Args:
        model: Any pytree that maps X to predictions (n,), e.g. a `ResidualUnit`, or to (n, m) for
            several outputs. Its arrays' precision is kept.
        X: Samples as rows, shape (n, d).
        y: Labels, as a `Point` takes them.
        loss: A loss or its name.
        options: How to train.
        key: Random key for the minibatches; full-batch training does not use it.
        measure: What to record: a function (or Equinox module) of model, X and y to a dict of scalars or arrays,
            evaluated on the whole of X inside the compiled program. The mean loss, as "objective", if None.
        progress: Called with how many steps are done and how many there are: at the beginning, a few times a second
            and at the end; True for a progress bar. It changes no bit of the result: the program is the same, and
            pauses.

    Returns:
        The trained model and its history. A run that diverges stops there and says so in `diverged_at`.

    Raises:
        InvalidInputError: If samples or labels are no finite numbers, do not fit together or do not suit the loss, or
            batch_size exceeds their number, or the model's predictions have another shape than the loss and y need,
            or measure is against a linear fit to other samples.
    """
    task = _task(model, X, y, as_loss(loss), options, key, measure)
    course, advance, training = task.begun(), task.advance, task.training
    with reported(progress, options.steps) as tell:
        keep = checkpoints_of(training, task.dynamic, task.setting)
        course = in_turns(advance, course, training.ticks, tell, training.steps_before, keep)
    final, diverged_at, reached, history = course.results
    model = eqx.combine(final, task.setting.frozen, training.static)
    return TrainResult(model, recorded(reached, history), None if diverged_at < 0 else int(diverged_at))


def measured(
    model: Any,
    X: Float[Array, "n d"],
    y: Shaped[Array, "n ..."],
    *,
    loss: str | Loss,
    options: TrainingOptions,
    measure: Measure | None = None,
) -> dict[str, Any]:
    """What `train` with the same arguments records of the point it begins at, by the same compiled program.

    So a trained model has the very numbers that its training ended with, and nothing is compiled where that training's
    program is in JAX's cache. No step is taken.

    Returns:
        One number or array a measurement.

    Raises:
        InvalidInputError: As `train`.
    """
    task = _task(model, X, y, as_loss(loss), options, jax.random.key(0), measure)
    task = task._replace(setting=task.setting._replace(active=jnp.asarray(False)))
    *_, history = task.advance(task.begun(), np.int32(0), np.int32(1)).results
    return {name: np.asarray(column)[0] for name, column in history.items()}


class _Task(NamedTuple):
    """What is to be trained, on what and how, checked."""

    dynamic: Any
    setting: Setting
    training: Training

    def begun(self) -> Course:
        return _begin(self.dynamic, self.setting, self.training)

    def advance(self, course: Course, first: Any, last: Any) -> Course:
        return _advance(course, first, last, self.setting, self.training)


def _task(model: Any, X: Any, y: Any, loss: Loss, options: TrainingOptions, key: Any, measure: Any) -> _Task:
    X, y = checked_samples(X, y, loss)
    check_predictions(model, X, y, loss)
    options.check_batch(len(y))
    if options.batch_size is not None:
        check_key(key)
    check_measure(measure, X, y)
    dynamic, rest = eqx.partition(model, trainable(model))
    check_trainable(dynamic)
    frozen, static = eqx.partition(rest, eqx.is_array)
    arrays, measure = eqx.partition(ObjectiveMeasure(loss) if measure is None else measure, eqx.is_array)
    rate = jnp.asarray(rates_for(dynamic, options.learning_rate))
    setting = Setting(frozen, in_type_of_jax("X", X), in_type_of_jax("y", y), key, rate, arrays, jnp.asarray(True))
    on_cpu, rows = jax.default_backend() == "cpu", options.batch_size or len(y)
    parameters = sum(leaf.size for leaf in jax.tree.leaves((dynamic, frozen)))
    block = steps_in_block(options, parameters, members=1, rows=rows, on_cpu=on_cpu)
    # The program is given the learning rate as a value: one compilation serves all.
    return _Task(dynamic, setting, Training(static, measure, loss, replace(options, learning_rate=1.0), block))


def recorded(reached: Array, history: dict[str, Any]) -> dict[str, np.ndarray]:
    """The history of one run: rows measured at a point that was measured before are left out.

    Args:
        reached: The number of steps before each measurement; a run that diverged stays where it was.
        history: What was measured.
    """
    steps, rows = np.unique(np.asarray(reached), return_index=True)
    return {"step": steps} | {name: np.asarray(column)[rows] for name, column in history.items()}


def check_trainable(dynamic: Any) -> None:
    """Check that there is something to train.

    Raises:
        InvalidInputError: If the trainable part of a model has no array.
    """
    if not jax.tree.leaves(dynamic):
        raise InvalidInputError(
            "model has nothing to train: there must be at least one floating-point array among its leaves, so wrap "
            "Python's numbers in jnp.asarray, and functions of parameters in jax.tree_util.Partial"
        )


def rates_for(dynamic: Any, rates: float | np.ndarray) -> np.ndarray:
    """Learning rates in the precision that does not change that of the trainable arrays.

    Raises:
        InvalidInputError: If one of them is no positive finite number there.
    """
    leaves = jax.tree.leaves(dynamic)
    with np.errstate(over="ignore"):
        kept = np.asarray(rates, jnp.result_type(*leaves))
    if (wrong := ~(np.isfinite(kept) & (kept > 0))).any():
        given = np.asarray(rates)[wrong].ravel()[0]
        raise InvalidInputError(
            f"learning_rate={given:g} is {kept[wrong].ravel()[0]:g} in {kept.dtype}, the type of the model's weights: "
            "choose one that this type has, or give the model weights in float64"
        )
    return kept


@partial(exported, arrays_only=True)
def _begin(dynamic: Any, setting: Setting, training: Training) -> Course:
    return training.begun(dynamic, setting)


@partial(exported, arrays_only=True)
def _advance(course: Course, first: Any, last: Any, setting: Setting, training: Training) -> Course:
    return jax.lax.fori_loop(first, last, lambda tick, course: training.tick(tick, course, setting), course)
