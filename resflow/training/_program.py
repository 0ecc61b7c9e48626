"""The compiled program of training: an optimiser's update in a loop, for one model or for several side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss
from resflow.progress import next_report
from resflow.training._orders import Orders, Schedule

__all__ = ["ObjectiveMeasure", "Setting", "check_measure", "training_program"]


class Setting(NamedTuple):
    """What a model is trained on and by; of a chunk of models, each field with a leading axis or shared.

    Attributes:
        frozen: The model's arrays that training leaves alone, with None where it has trainable ones.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        key: Random key for the minibatches.
        learning_rate: Step size of the optimiser, in the precision of the model.
        measure: The arrays of what is recorded.
        active: False for a model that is only there to fill up a chunk, and is not trained.
    """

    frozen: Any
    X: Any
    y: Any
    key: Any
    learning_rate: Any
    measure: Any
    active: Any


class _State(NamedTuple):
    dynamic: Any
    optimizer: Any
    diverged_at: jax.Array  # −1 while all is well


class ObjectiveMeasure(eqx.Module):
    """Records the objective and nothing else."""

    loss: Loss = eqx.field(static=True)

    def __call__(self, model: Any, X: Any, y: Any) -> dict[str, Any]:
        p = model(X)
        return {"objective": nan_unless(all_finite(p), jnp.mean(self.loss.value(p, y)))}


def training_program(
    dynamic: Any,
    setting: Setting,
    *,
    static: Any,
    measure: Any,
    loss: Loss,
    options: Any,
    block: int,
    axes: Setting | None = None,
    one_by_one: bool = False,
    reporter: Any = None,
    place: Any = 0,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Train and measure: a scan over measurements; inside, over blocks of steps, and over the steps of a block.

    In a block nothing is looked at but whether each objective is finite. One in which a model turned out to diverge is
    taken again for that model from where it began, with every step looked at. What is not finite remains so: steps add.

    Args:
        dynamic: The trainable arrays of the model, or of a chunk of models with a leading axis.
        setting: What it is trained on and by.
        static: What of the model is no array.
        measure: What of the measure is no array.
        loss: The loss.
        options: `TrainingOptions`; its learning rate is not used, the setting's is.
        block: Steps in a block, of `steps_in_block`.
        axes: For a chunk of models, the axis of each field of the setting: 0, or None where it is shared.
        one_by_one: For a chunk of models, measure one after another rather than side by side: on several CPU devices
            batched LAPACK calls, each of which waits for threads that the others hold, may wait for ever.
        reporter: The number by which it reports how far it is, as `resflow.progress.reported` yields it; None for a
            program without a trace of that.
        place: Which device this is, for the reports of several.

    Returns:
        The trainable arrays after the last step, or the last finite one; the number of steps before divergence, or
        −1; and, with an axis of measurements in front, the number of steps before each of them and what was measured.
        One that diverged stays where it was, and is measured there again and again. Where its start, X or y is not
        finite it diverged at 0, and NaN is what was measured.
    """
    n, size = setting.X.shape[-2], options.batch_size
    schedule = Schedule(n, size, block) if size else None

    def each(function, in_axes=(0, axes)):
        """The function of one model, for a chunk where there is one."""
        return function if axes is None else jax.vmap(function, in_axes=in_axes)

    def model_of(dynamic, setting):
        return eqx.combine(dynamic, setting.frozen, static)

    def begin(dynamic, setting):
        begun = options.transformation(setting.learning_rate).init(dynamic)
        # What is not finite need not show in the objective: where a loss or a feature map is flat far out, say.
        sound = setting.active & all_finite(dynamic, setting.frozen, setting.X, setting.y)
        return _State(dynamic, begun, jnp.where(sound, -1, 0).astype(jnp.int32))

    def update(dynamic, optimizer, setting, orders, step):
        """The objective before a step, and what is trained and the optimizer's state after it."""
        X, y = setting.X, setting.y
        if schedule is not None:
            rows = schedule.rows_at(orders, step)
            X, y = X[rows], y[rows]

        def objective(dynamic):
            return jnp.mean(loss.value(model_of(dynamic, setting)(X), y))

        value, gradient = jax.value_and_grad(objective)(dynamic)
        rule = options.transformation(setting.learning_rate)
        change, optimizer = rule.update(gradient, optimizer, dynamic)
        return value, optax.apply_updates(dynamic, change), optimizer

    def whole_block(state, setting, orders, first):
        """A block's steps, none looked at; whether all went well."""

        def advance(carry, i):
            dynamic, optimizer, fine = carry
            value, dynamic, optimizer = update(dynamic, optimizer, setting, orders, first + i)
            return (dynamic, optimizer, fine & jnp.isfinite(value)), None

        carry = state.dynamic, state.optimizer, state.diverged_at < 0
        (dynamic, optimizer, fine), _ = jax.lax.scan(advance, carry, jnp.arange(block, dtype=jnp.int32))
        fine &= all_finite(dynamic)
        return _chosen(fine, dynamic, optimizer, state), ~fine & (state.diverged_at < 0)

    def not_begun(state, setting, orders, first):
        return state, state.diverged_at < 0

    def single_step(state, pending, setting, orders, step):
        """A step of a model that is behind, left out if it leads to what is not finite."""
        value, dynamic, optimizer = update(state.dynamic, state.optimizer, setting, orders, step)
        finite, going = all_finite(value, dynamic), pending & (state.diverged_at < 0)
        state = _chosen(going & finite, dynamic, optimizer, state)
        return state._replace(diverged_at=jnp.where(going & ~finite, step, state.diverged_at))

    def advance(state, orders, first, end):
        """From one step to another, at most a block."""
        in_axes = 0, axes, Orders(0, None), None
        whole = (end - first == block) & jnp.any(state.diverged_at < 0)
        state, pending = jax.lax.cond(
            whole, each(whole_block, in_axes), each(not_begun, in_axes), state, setting, orders, first
        )

        def behind(carry):
            step, state = carry
            return (step < end) & jnp.any(pending & (state.diverged_at < 0))

        def catch_up(carry):
            step, state = carry
            return step + 1, each(single_step, (0, *in_axes))(state, pending, setting, orders, step)

        return jax.lax.while_loop(behind, catch_up, (first, state))[1]

    def record(state, setting):
        measured = eqx.combine(setting.measure, measure)(model_of(state.dynamic, setting), setting.X, setting.y)
        return nan_unless(all_finite(state.dynamic, setting.frozen, setting.X, setting.y), measured)

    def recorded(state):
        if axes is None or not one_by_one:
            return each(record)(state, setting)
        shared = {name: getattr(setting, name) for name, axis in axes._asdict().items() if axis is None}
        own = setting._replace(**dict.fromkeys(shared))
        return jax.lax.map(lambda member: record(member[0], member[1]._replace(**shared)), (state, own))

    def interval(carry, index):
        start, last = (jnp.minimum(i * options.log_every, options.steps) for i in (index, index + 1))
        state = carry[0]
        measured = recorded(state)
        reached = jnp.where(state.diverged_at < 0, start, state.diverged_at)

        def one_block(i, carry):
            state, orders, report_at = carry
            first, end = (jnp.minimum(start + j * block, last) for j in (i, i + 1))
            if reporter is not None:
                report_at = jax.lax.cond(
                    (first >= report_at) & (first < end),
                    lambda: next_report(reporter, place, first),
                    lambda: report_at,
                )
            if schedule is not None:
                orders = schedule.ahead(orders, setting.key, end, lambda draw: each(draw, 0))
            return advance(state, orders, first, end), orders, report_at

        blocks = -(-min(options.log_every, options.steps) // block)
        return jax.lax.fori_loop(0, blocks, one_block, carry), (reached, measured)

    rows = None if schedule is None else each(lambda key: schedule.none_yet(), 0)(setting.key)
    orders = Orders(rows, jnp.int32(-1))
    intervals = -(-options.steps // options.log_every) + 1
    carry = each(begin)(dynamic, setting), orders, None if reporter is None else jnp.int32(0)
    (state, *_), (reached, history) = jax.lax.scan(interval, carry, jnp.arange(intervals, dtype=jnp.int32))
    return state.dynamic, state.diverged_at, reached, history


def _chosen(new: jax.Array, dynamic: Any, optimizer: Any, state: _State) -> _State:
    """The state, or what is new in its place."""
    dynamic, optimizer = jax.tree.map(
        lambda a, b: jnp.where(new, a, b), (dynamic, optimizer), (state.dynamic, state.optimizer)
    )
    return state._replace(dynamic=dynamic, optimizer=optimizer)


def check_measure(measure: Any, X: Any, y: Any) -> None:
    """Have a measure check the samples that it is to be evaluated on, if it can.

    Raises:
        InvalidInputError: If it is of other ones.
    """
    if hasattr(measure, "check"):
        measure.check(X, y)
