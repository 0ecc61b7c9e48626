"""Training of a population: many models of one shape in one compiled program, on whatever devices there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import cycle
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Key, Shaped

from resflow.arrays import Array, as_array, check_samples
from resflow.errors import InvalidInputError
from resflow.labels import as_labels
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import trainable
from resflow.point import check_prediction_shape, prediction_shape
from resflow.progress import Progress, in_turns, reported
from resflow.training._blocks import steps_in_block
from resflow.training._checkpoints import checkpoints_of
from resflow.training._chunks import Members, advance_chunks, room_for_chunks
from resflow.training._layout import PopulationLayout, one_device_per_core, population_layout
from resflow.training._program import ObjectiveMeasure, Setting, Training, check_measure
from resflow.training.train import Measure, TrainingOptions, TrainResult, precision_of, recorded

__all__ = ["PopulationLayout", "PopulationResult", "one_device_per_core", "train_population"]


class PopulationResult(NamedTuple):
    """The m trained models of a population and what was measured on the way.

    Attributes:
        models: The models after the last step, stacked: every array has an axis of length m in front. One that
            diverged is the last finite one.
        reached: The number of steps before each measurement, shape (m, rows); one that diverged stays where it was.
        history: One array (m, rows) a measurement.
        diverged_at: The number of steps that went well before a member diverged, or −1, shape (m,).
        layout: How the members were laid out on the devices.
    """

    models: Any
    reached: Int[np.ndarray, "m rows"]
    history: dict[str, np.ndarray]
    diverged_at: Int[np.ndarray, "m"]
    layout: PopulationLayout

    def member(self, index: int) -> TrainResult:
        """One member as `train` returns it."""
        model = jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, self.models)
        diverged_at = int(self.diverged_at[index])
        return TrainResult(model, self.history_of(index), None if diverged_at < 0 else diverged_at)

    def history_of(self, index: int) -> dict[str, np.ndarray]:
        """The history of one member, as `train` returns it."""
        return recorded(self.reached[index], {name: column[index] for name, column in self.history.items()})

    def frame(self) -> pd.DataFrame:
        """All histories below each other, with the columns member, step and one a measurement."""
        frames = [pd.DataFrame(self.history_of(index)) for index in range(len(self.reached))]
        return pd.concat(frames, keys=range(len(frames)), names=["member", "row"]).reset_index("member")


def train_population(
    models: Any,
    X: Float[Array, "n d"] | Float[Array, "sets n d"],
    y: Shaped[Array, "n *m"] | Shaped[Array, "sets n *m"],
    *,
    loss: str | Loss,
    options: TrainingOptions,
    keys: Key[jax.Array, "m"],
    learning_rates: Float[Array, "m"] | None = None,
    measure: Measure | Sequence[Measure] | None = None,
    data_sets: Int[Array, "m"] | None = None,
    exact: bool = True,
    layout: PopulationLayout | None = None,
    on_block: Callable[[range, PopulationResult], None] | None = None,
    progress: bool | Progress = False,
) -> PopulationResult:
    """Train m models of one shape as `train` would each of them, in one compiled program.

    Members may differ in their initial point, learning rate, minibatches, data and measure: in everything that leaves
    shapes unchanged. One that diverges stops, is marked, and hurts no other. Cut off, training goes on as `train` does.

    Args:
        models: m models stacked into one, every array with an axis of length m in front, as `equinox.filter_vmap`
            of a constructor makes it.
        X: Samples as rows, shape (n, d) for all members, or (sets, n, d) for several data sets of one shape.
        y: Labels, as a `Point` takes them, shape (n, ...) or (sets, n, ...).
        loss: A loss or its name.
        options: How to train.
        keys: One random key a member for its minibatches, shape (m,).
        learning_rates: One a member, shape (m,); that of the options for all if None. Not with an Optax gradient
            transformation, whose learning rate is its own affair.
        measure: What to record, as for `train`: one for all members, or a sequence of m of one kind.
        data_sets: The data set of each member, as an index into X and y, shape (m,); needed if these hold several.
        exact: On a CPU, give each member the very bits that `train` gives it, by training one at a time on each
            device. Otherwise they stand side by side, with sums in another order: up to three times as fast where
            networks are small or in float32, but where training is chaotic, as Adam is near a minimum, the last bit
            decides the later course.
        layout: How to lay the members out on the devices; chosen for these devices, shapes and memory if None.
        on_block: Called with the indices of some members and their result, as soon as these are trained.
        progress: As for `train`; every member's steps count.

    Returns:
        The trained models and their histories, in the order given.

    Raises:
        InvalidInputError: If an argument does not have one entry a member, if a learning rate is not positive, if
            batch_size exceeds the number of samples, or as `train`.
    """
    loss = as_loss(loss)
    m = len(keys)
    dynamic, rest = eqx.partition(models, trainable(models))
    frozen, static = eqx.partition(rest, eqx.is_array)
    rates = _learning_rates(learning_rates, options, m)
    _check_members(m, models=(dynamic, frozen), data_sets=data_sets)
    X, y = _checked_sets(X, y, loss)
    if (X.ndim == 3) != (data_sets is not None):
        raise InvalidInputError(
            f"X has shape {X.shape}, and data_sets is {'not ' if data_sets is None else ''}given: several data sets "
            "need the index of each member's, and a single one needs none"
        )
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
        learning_rate=np.asarray(rates, precision_of(dynamic)),
        measure=None if alike else measured,
        active=None,
    )
    members = Members(dynamic, own, None if data_sets is None else np.asarray(data_sets))
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
    given = (members, shared, training, layout)

    def result(part: Any, rows: range) -> PopulationResult:
        final, diverged_at, reached, history = part
        fixed = frozen if len(rows) == m else jax.tree.map(lambda leaf: leaf[rows.start : rows.stop], frozen)
        return PopulationResult(eqx.combine(final, fixed, static), reached, history, diverged_at, layout)

    parts, keep = [], checkpoints_of((training, layout), members, shared)
    with reported(progress, options.steps * m) as tell:
        for start in range(0, m, layout.block):
            rows = range(start, min(start + layout.block, m))
            advance = partial(advance_chunks, *given, np.int32(start))

            def done(tick: int, start: int = start) -> int:
                chunks, tick = divmod(tick, training.ticks)
                each = chunks * options.steps + training.steps_before(tick)
                return start * options.steps + each * layout.chunk * len(layout.devices)

            begun = room_for_chunks(*given)
            kept = None if keep is None else keep.part(start, of_many=layout.block < m)
            _, trained = in_turns(advance, begun, layout.chunks * training.ticks, tell, done, kept)
            parts.append(_fetched(trained, len(rows), layout))
            if on_block is not None:
                on_block(rows, result(parts[-1], rows))
    whole = parts[0] if len(parts) == 1 else jax.tree.map(_joined, *parts)
    return result(whole, range(m))


def _fetched(trained: Any, count: int, layout: PopulationLayout) -> Any:
    """The results of so many members, without what fills up the last block; models stay on a single accelerator."""
    models, *measured = trained
    if layout.devices[0].platform == "cpu" or len(layout.devices) > 1:
        models = jax.device_get(models)
        models = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], models)
    else:
        models = _flat(models, count)
    measured = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], jax.device_get(measured))
    return models, *measured


@partial(jax.jit, static_argnums=1)
def _flat(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], tree)


def _joined(*leaves: Any) -> Any:
    return (jnp if isinstance(leaves[0], jax.Array) else np).concatenate(leaves)


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
    rows = check_samples(X.reshape(-1, X.shape[-1]))
    labels = as_labels(y.reshape(len(rows), *y.shape[X.ndim - 1 :]), loss)
    return jnp.asarray(X), jnp.asarray(labels.reshape(*X.shape[:-1], *labels.shape[1:]))


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


def _check_members(m: int, **arguments: Any) -> None:
    for name, tree in arguments.items():
        shapes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
        if shapes - {(m,)}:
            raise InvalidInputError(
                f"{name} has arrays with {sorted(shapes)} in front, but must have ({m},): one entry for each key"
            )


def _check_measures(measure: Any, X: Any, y: Any, data_sets: Any) -> None:
    """Have each measure check the samples of its members, each pair of both once."""
    sets = [0] if data_sets is None else np.asarray(data_sets).tolist()
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
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(arrays)), static[0], 0
