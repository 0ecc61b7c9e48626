"""Training of a population: many models of one shape in one compiled program, on whatever devices there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Key, Shaped

from resflow.arrays import Array
from resflow.losses import Loss, as_loss
from resflow.progress import Progress, in_turns, reported
from resflow.training._checkpoints import checkpoints_of
from resflow.training._chunks import advance_chunks, room_for_chunks
from resflow.training._layout import PopulationLayout, ask_for_cpu_devices, one_device_per_core
from resflow.training._population_task import population_task
from resflow.training.train import Measure, TrainingOptions, TrainResult, recorded

__all__ = [
    "PopulationLayout",
    "PopulationResult",
    "ask_for_cpu_devices",
    "measured_population",
    "one_device_per_core",
    "train_population",
]


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
        """All histories below each other, with the columns member, step and one a measurement, arrays whole in it."""
        frames = [
            pd.DataFrame({name: list(column) if column.ndim > 1 else column for name, column in history.items()})
            for history in map(self.history_of, range(len(self.reached)))
        ]
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
    task = population_task(
        models, X, y, loss=as_loss(loss), options=options, keys=keys, learning_rates=learning_rates, measure=measure,
        data_sets=data_sets, exact=exact, layout=layout,
    )  # fmt: skip
    m, training, layout, frozen = len(keys), task.training, task.layout, task.members.setting.frozen

    def result(part: Any, rows: range) -> PopulationResult:
        final, diverged_at, reached, history = part
        fixed = frozen if len(rows) == m else jax.tree.map(lambda leaf: leaf[rows.start : rows.stop], frozen)
        return PopulationResult(eqx.combine(final, fixed, training.static), reached, history, diverged_at, layout)

    parts, keep = [], checkpoints_of((training, layout.told()), task.members, task.shared)
    with reported(progress, options.steps * m) as tell:
        for start in range(0, m, layout.block):
            rows = range(start, min(start + layout.block, m))
            advance = partial(advance_chunks, *task, np.int32(start))

            def done(tick: int, start: int = start) -> int:
                chunks, tick = divmod(tick, training.ticks)
                each = chunks * options.steps + training.steps_before(tick)
                return start * options.steps + each * layout.chunk * len(layout.devices)

            begun = room_for_chunks(*task)
            kept = None if keep is None else keep.part(start, of_many=layout.block < m)
            _, trained = in_turns(advance, begun, layout.chunks * training.ticks, tell, done, kept)
            parts.append(_fetched(trained, len(rows), layout))
            if on_block is not None:
                on_block(rows, result(parts[-1], rows))
    return result(_joined(parts), range(m))


def measured_population(
    models: Any,
    X: Float[Array, "n d"] | Float[Array, "sets n d"],
    y: Shaped[Array, "n *m"] | Shaped[Array, "sets n *m"],
    *,
    loss: str | Loss,
    options: TrainingOptions,
    measure: Measure | Sequence[Measure] | None = None,
    data_sets: Int[Array, "m"] | None = None,
    exact: bool = True,
) -> dict[str, np.ndarray]:
    """What `train_population` with the same arguments records of the points it begins at, by the same program.

    Arguments and errors are those of `train_population`.

    Returns:
        One array (m, ...) a measurement.

    See also:
        `resflow.training.train.measured`, which does that for one model.
    """
    m = len(jax.tree.leaves(eqx.filter(models, eqx.is_array))[0])
    task = population_task(
        models, X, y, loss=as_loss(loss), options=options, keys=jax.random.split(jax.random.key(0), m),
        learning_rates=None, measure=measure, data_sets=data_sets, exact=exact, layout=None,
    )  # fmt: skip
    # A tick measures and goes on by a block of steps, but not of a member that is not trained.
    inactive = task.members.setting._replace(active=np.zeros(m, bool))
    task = task._replace(members=task.members._replace(setting=inactive))
    layout, ticks, parts = task.layout, task.training.ticks, []
    for start in range(0, m, layout.block):
        carry = room_for_chunks(*task)
        for chunk in range(layout.chunks):
            first = np.int32(chunk * ticks)
            carry = advance_chunks(*task, np.int32(start), carry, first, first + np.int32(1))
        parts.append(_fetched(carry[1], min(layout.block, m - start), layout))
    *_, history = _joined(parts)
    return {name: column[:, 0] for name, column in history.items()}


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


def _joined(parts: Sequence[Any]) -> Any:
    """The results of all blocks, one after another."""
    return parts[0] if len(parts) == 1 else jax.tree.map(_concatenated, *parts)


def _concatenated(*leaves: Any) -> Any:
    return (jnp if isinstance(leaves[0], jax.Array) else np).concatenate(leaves)
