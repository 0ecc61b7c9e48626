"""What a population is trained on and by, checked, as its compiled program takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from resflow.arrays import as_array, in_type_of_jax
from resflow.errors import InvalidInputError
from resflow.keys import check_keys
from resflow.losses import Loss
from resflow.models.residual_unit import trainable
from resflow.point import check_prediction_shape, checked_samples, prediction_shape
from resflow.training._blocks import steps_in_block
from resflow.training._chunks import Members
from resflow.training._layout import PopulationLayout, population_layout
from resflow.training._measuring import check_measure
from resflow.training._program import ObjectiveMeasure, Setting, Training
from resflow.training.train import TrainingOptions, check_trainable, rates_for

__all__ = ["PopulationTask", "population_task"]


class PopulationTask(NamedTuple):
    """What `advance_chunks` is given first."""

    members: Members
    shared: Any
    training: Training
    layout: PopulationLayout


def population_task(
    models: Any, X: Any, y: Any, *, loss: Loss, options: TrainingOptions, keys: Any, learning_rates: Any,
    measure: Any, data_sets: Any, exact: bool, layout: PopulationLayout | None,
) -> PopulationTask:  # fmt: skip
    """What `train_population` does, of its arguments.

    Raises:
        InvalidInputError: As `train_population`.
    """
    m = check_keys(keys)
    dynamic, rest = eqx.partition(models, trainable(models))
    check_trainable(dynamic)
    frozen, static = eqx.partition(rest, eqx.is_array)
    rates = _learning_rates(learning_rates, options, m)
    _check_members(m, dynamic, frozen)
    X, y = _checked_sets(X, y, loss)
    if (X.ndim == 3) != (data_sets is not None):
        raise InvalidInputError(
            f"X has shape {X.shape}, and data_sets is {'not ' if data_sets is None else ''}given: several data sets "
            "need the index of each member's, and a single one needs none"
        )
    if data_sets is not None:
        data_sets = _checked_indices(data_sets, m, len(X))
    _check_predictions(dynamic, frozen, static, X, y, loss)
    options.check_batch(X.shape[-2])
    _check_measures(measure, X, y, data_sets)
    measured, measure, measure_axis = _stacked_measure(ObjectiveMeasure(loss) if measure is None else measure, m)
    alike = measure_axis is None
    own = Setting(
        frozen=frozen,
        X=None,
        y=None,
        key=keys,
        learning_rate=rates_for(dynamic, rates),
        measure=None if alike else measured,
        active=np.ones(m, bool),
    )
    members = Members(dynamic, own, data_sets)
    shared = X, y, measured if alike else None
    if layout is None:
        layout = population_layout(dynamic, frozen, static, X, y, loss=loss, batch_size=options.batch_size, exact=exact)
    block = steps_in_block(
        options,
        sum(leaf.size for leaf in jax.tree.leaves((dynamic, frozen))) // m,
        members=layout.chunk,
        rows=options.batch_size or X.shape[-2],
        on_cpu=layout.devices[0].platform == "cpu",
    )
    # The program is given the learning rates as values: one compilation serves all.
    of_data = None if data_sets is None else 0
    axes = Setting(frozen=0, X=of_data, y=of_data, key=0, learning_rate=0, measure=None if alike else 0, active=0)
    training = Training(
        static, measure, loss, replace(options, learning_rate=1.0), block,
        axes=None if layout.chunk == 1 else axes,
        one_by_one=layout.devices[0].platform == "cpu",
    )  # fmt: skip
    return PopulationTask(members, shared, training, layout)


def _checked_sets(X: Any, y: Any, loss: Loss) -> tuple[jax.Array, jax.Array]:
    """The samples and labels of one data set, or of several of one shape along a leading axis."""
    X, y = as_array("X", X), as_array("y", y)
    if X.ndim not in (2, 3):
        raise InvalidInputError(f"X has shape {X.shape}, but must be (n, d), or (sets, n, d)")
    if y.shape[: X.ndim - 1] != X.shape[:-1]:
        expected = X.shape[:-1] if loss.outputs == "one" else f"{X.shape[:-1]}, or one row each"
        raise InvalidInputError(f"y has shape {y.shape}, but must be {expected} to fit X {X.shape}")
    if X.ndim == 3:
        as_array("X", X, finite=True)  # which says in which set
    rows, labels = checked_samples(X.reshape(-1, X.shape[-1]), y.reshape(-1, *y.shape[X.ndim - 1 :]), loss)
    rows, labels = in_type_of_jax("X", rows), in_type_of_jax("y", labels)
    return rows.reshape(X.shape), labels.reshape(*X.shape[:-1], *labels.shape[1:])


def _check_predictions(dynamic: Any, frozen: Any, static: Any, X: jax.Array, y: jax.Array, loss: Loss) -> None:
    labels = np.asarray(y).reshape(-1, *y.shape[X.ndim - 1 :])
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (dynamic, frozen))
    leaves, structure = jax.tree.flatten((one, static))
    samples = jax.ShapeDtypeStruct((len(labels), X.shape[-1]), X.dtype)
    check_prediction_shape(_prediction_shape(tuple(leaves), structure, samples), len(labels), labels, loss)


@cache
def _prediction_shape(leaves: tuple[Any, ...], structure: Any, X: Any) -> tuple[int, ...] | None:
    """That of a model of these shapes: traced once, as tracing takes some milliseconds."""
    (dynamic, frozen), static = jax.tree.unflatten(structure, leaves)
    shape = None

    def look(dynamic: Any, frozen: Any, X: Any) -> None:
        nonlocal shape
        shape = prediction_shape(eqx.combine(dynamic, frozen, static), X)

    jax.eval_shape(look, dynamic, frozen, X)
    return shape


def _learning_rates(given: Any, options: TrainingOptions, m: int) -> np.ndarray:
    if given is None:
        return np.full(m, options.learning_rate)
    if not isinstance(options.optimizer, str):
        raise InvalidInputError(
            "learning_rates goes with an optimiser by name: the one given is an Optax gradient transformation"
        )
    rates = np.asarray(as_array("learning_rates", given), dtype=float)
    if rates.shape != (m,):
        raise InvalidInputError(f"learning_rates has shape {rates.shape}, but must be {(m,)}: one a member")
    bad = ~(np.isfinite(rates) & (rates > 0))
    if bad.any():
        raise InvalidInputError(
            f"learning_rates has {rates[bad][0]} for member {np.flatnonzero(bad)[0]}: "
            "every one must be a positive finite number"
        )
    return rates


def _check_members(m: int, *models: Any) -> None:
    shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(models)}
    if shapes - {(m,)}:
        raise InvalidInputError(
            f"models has arrays with {sorted(shapes)} in front, but must have ({m},): one entry for each key"
        )


def _checked_indices(data_sets: Any, m: int, sets: int) -> np.ndarray:
    indices = np.asarray(as_array("data_sets", data_sets))
    if indices.shape != (m,):
        raise InvalidInputError(f"data_sets has shape {indices.shape}, but must be {(m,)}: one index for each key")
    wrong = (indices != np.floor(indices)) | (indices < 0) | (indices >= sets) | (indices.dtype == bool)
    if wrong.any():
        raise InvalidInputError(
            f"data_sets has {indices[wrong][0]} for member {np.flatnonzero(wrong)[0]}, but must be whole numbers from "
            f"0 to {sets - 1}: indices into X"
        )
    return indices.astype(np.int32)


def _check_measures(measure: Any, X: Any, y: Any, data_sets: Any) -> None:
    """Have each measure check the samples of its members, each pair of both once."""
    sets = [0] if data_sets is None else data_sets.tolist()
    measures = measure if isinstance(measure, Sequence) else [measure]
    pairs = zip(cycle(measures), cycle(sets), range(max(len(sets), len(measures))), strict=False)
    for each, index in {(id(each), index): (each, index) for each, index, _ in pairs}.values():
        check_measure(each, *((X, y) if data_sets is None else (X[index], y[index])))


def _stacked_measure(measure: Any, m: int) -> tuple[Any, Any, int | None]:
    """The arrays of the measure or measures, what of them is no array, and the axis of members."""
    if not isinstance(measure, Sequence):
        return *eqx.partition(measure, eqx.is_array), None
    if len(measure) != m:
        raise InvalidInputError(f"measure has {len(measure)} entries, but must be one for all, or one for each of {m}")
    arrays, static = zip(*(eqx.partition(each, eqx.is_array) for each in measure), strict=True)
    for member, (numbers, rest) in enumerate(zip(arrays, static, strict=True)):
        shapes, first = (jax.tree.map(np.shape, each) for each in (numbers, arrays[0]))
        if not (shapes == first and eqx.tree_equal(rest, static[0])):
            raise InvalidInputError(
                f"measure has another kind for member {member} than for member 0: they must be equal but for "
                "the numbers in their arrays"
            )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(arrays)), static[0], 0
