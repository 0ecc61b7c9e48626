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
from resflow.training._shuffle import random_order

__all__ = ["ObjectiveMeasure", "Setting", "training_program"]


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
    order: jax.Array  # of the samples in this epoch
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
    axes: Setting | None = None,
    one_by_one: bool = False,
    reporter: Any = None,
    place: Any = 0,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Train and measure: a scan over measurements; inside, a loop over the steps up to the next one.

    Args:
        dynamic: The trainable arrays of the model, or of a chunk of models with a leading axis.
        setting: What it is trained on and by.
        static: What of the model is no array.
        measure: What of the measure is no array.
        loss: The loss.
        options: `TrainingOptions`; its learning rate is not used, the setting's is.
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
    per_epoch = n // size if size else 1

    def each(function):
        """The function of one model's state and setting and of the step, for a chunk where there is one."""
        return function if axes is None else jax.vmap(function, in_axes=(0, axes, None))

    def model_of(dynamic, setting):
        return eqx.combine(dynamic, setting.frozen, static)

    def start(dynamic, setting, _):
        order = jnp.arange(n if size else 0, dtype=jnp.int32)
        begun = options.transformation(setting.learning_rate).init(dynamic)
        # What is not finite need not show in the objective: where a loss or a feature map is flat far out, say.
        sound = setting.active & all_finite(dynamic, setting.frozen, setting.X, setting.y)
        return _State(dynamic, begun, order, jnp.where(sound, -1, 0).astype(jnp.int32))

    def shuffle(order, setting, step):
        return random_order(jax.random.fold_in(setting.key, step // per_epoch), n)

    def batch(order, setting, step):
        if size is None:
            return setting.X, setting.y
        rows = jax.lax.dynamic_slice_in_dim(order, (step % per_epoch) * size, size)
        return setting.X[rows], setting.y[rows]

    def update(state, setting, step):
        X, y = batch(state.order, setting, step)

        def objective(dynamic):
            return jnp.mean(loss.value(model_of(dynamic, setting)(X), y))

        value, gradient = jax.value_and_grad(objective)(state.dynamic)
        rule = options.transformation(setting.learning_rate)
        change, optimizer = rule.update(gradient, state.optimizer, state.dynamic)
        new = optax.apply_updates(state.dynamic, change)
        finite, going = all_finite(value, new), state.diverged_at < 0
        dynamic, optimizer = jax.tree.map(
            lambda a, b: jnp.where(going & finite, a, b), (new, optimizer), (state.dynamic, state.optimizer)
        )
        return _State(dynamic, optimizer, state.order, jnp.where(going & ~finite, step, state.diverged_at))

    def advance(carry):
        step, state = carry
        if size is not None:
            # Outside the chunk, whose members are all at the same step: else every step would pay for a permutation.
            order = jax.lax.cond(
                step % per_epoch == 0, each(shuffle), lambda order, setting, step: order, state.order, setting, step
            )
            state = state._replace(order=order)
        return step + 1, each(update)(state, setting, step)

    def record(state, setting):
        measured = eqx.combine(setting.measure, measure)(model_of(state.dynamic, setting), setting.X, setting.y)
        return nan_unless(all_finite(state.dynamic, setting.frozen, setting.X, setting.y), measured)

    def recorded(state):
        if axes is None:
            return record(state, setting)
        if not one_by_one:
            return jax.vmap(record, in_axes=(0, axes))(state, setting)
        shared = {name: getattr(setting, name) for name, axis in axes._asdict().items() if axis is None}
        own = setting._replace(**dict.fromkeys(shared))
        return jax.lax.map(lambda member: record(member[0], member[1]._replace(**shared)), (state, own))

    def interval(carry, index):
        state, report_at = carry
        step, end = (jnp.minimum(i * options.log_every, options.steps) for i in (index, index + 1))
        measured = recorded(state)
        reached = jnp.where(state.diverged_at < 0, step, state.diverged_at)
        if reporter is None:
            _, state = until(end, (step, state))
        else:
            _, state, report_at = jax.lax.while_loop(going_before(end), reporting(end), (step, state, report_at))
        return (state, report_at), (reached, measured)

    def until(end, carry):
        return jax.lax.while_loop(going_before(end), advance, carry)

    def going_before(end):
        return lambda carry: (carry[0] < end) & jnp.any(carry[1].diverged_at < 0)

    def reporting(end):
        """On to the next report, or to the end if that comes first: the steps themselves know nothing of reports."""

        def stretch(carry):
            step, state, report_at = carry
            report_at = jax.lax.cond(step >= report_at, lambda: next_report(reporter, place, step), lambda: report_at)
            return *until(jnp.minimum(end, report_at), (step, state)), report_at

        return stretch

    begin = each(start)(dynamic, setting, None)
    intervals = -(-options.steps // options.log_every) + 1
    carry = begin, None if reporter is None else jnp.int32(0)
    (state, _), (reached, history) = jax.lax.scan(interval, carry, jnp.arange(intervals, dtype=jnp.int32))
    return state.dynamic, state.diverged_at, reached, history
