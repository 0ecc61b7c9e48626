"""What is compiled of training: an optimiser's update in a loop, for one model or for several side by side.

The loop goes in ticks: a block of steps each, before it a measurement where one is due. One call of a compiled program
may do all of them, or some, and the next call go on from there: whoever wants to know how far training is asks between
two calls. (A call to the host from within would keep JAX from caching the program.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from resflow.floating import all_finite, nan_unless
from resflow.losses import Loss
from resflow.training._measuring import by_name
from resflow.training._orders import Orders, Schedule

__all__ = ["Course", "ObjectiveMeasure", "Setting", "Training"]

_FEW_ROWS = 256
"""In a step of at most so many, each loss is looked at and not their mean: on an accelerator a sum stands alone."""


class Setting(NamedTuple):
    """What a model is trained on and by; of a chunk of models, each field with a leading axis or shared.

    Attributes:
        frozen: The model's arrays that training leaves alone, with None where it has trainable ones.
        X: Samples as rows, shape (n, d).
        y: Labels, shape (n,).
        key: Random key for the minibatches.
        learning_rate: Step size of the optimiser, in the precision of the model.
        measure: The arrays of what is recorded.
        active: False for a model that is not trained: it only fills up a chunk, or is only measured.
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


class Course(NamedTuple):
    """How far training is.

    Attributes:
        state: The trainable arrays, the optimiser's, and where a model diverged.
        orders: The samples of the next steps.
        reached: The number of steps before each measurement.
        history: What was measured; measurements as the first axis, that of models after it.
    """

    state: Any
    orders: Orders
    reached: Any
    history: Any

    @property
    def results(self) -> tuple[Any, Any, Any, Any]:
        """The trainable arrays, the number of steps before divergence or −1, and the two fields of measurements."""
        return self.state.dynamic, self.state.diverged_at, self.reached, self.history


class ObjectiveMeasure(eqx.Module):
    """Records the objective and nothing else."""

    loss: Loss = eqx.field(static=True)

    def __call__(self, model: Any, X: Any, y: Any) -> dict[str, Any]:
        p = model(X)
        return {"objective": nan_unless(all_finite(p), jnp.mean(self.loss.value(p, y)))}


class Training(NamedTuple):
    """Training of a model, or of several side by side, tick by tick: a pytree without arrays.

    In a block of steps nothing is looked at but whether each objective is finite. One in which a model turned out to
    diverge is taken again for that model from where it began, with every step looked at. What is not finite remains so:
    steps add. A model that diverged stays where it was, and is measured there again and again. Where its start, X or y
    is not finite it diverged at 0, and NaN is what was measured.

    Attributes:
        static: What of the model is no array.
        measure: What of the measure is no array.
        loss: The loss.
        options: `TrainingOptions`; its learning rate is not used, the setting's is.
        block: Steps in a block, of `steps_in_block`.
        axes: For several models, the axis of each field of the setting: 0, or None where it is shared.
        one_by_one: For several models, measure one after another rather than side by side: on several CPU devices
            batched LAPACK calls, each of which waits for threads that the others hold, may wait for ever.
    """

    static: Any
    measure: Any
    loss: Loss
    options: Any
    block: int
    axes: Setting | None = None
    one_by_one: bool = False

    @property
    def measurements(self) -> int:
        """How often it is measured, the first and the last point included."""
        return -(-self.options.steps // self.options.log_every) + 1

    @property
    def _blocks(self) -> int:
        """From one measurement to the next."""
        return max(1, -(-min(self.options.log_every, self.options.steps) // self.block))

    @property
    def ticks(self) -> int:
        """How many there are."""
        return (self.measurements - 1) * self._blocks + 1

    def steps_before(self, tick: Any, minimum: Any = min) -> Any:
        """How many steps are done before a tick."""
        index, block = tick // self._blocks, tick % self._blocks
        within = minimum(block * self.block, self.options.log_every)
        return minimum(index * self.options.log_every + within, self.options.steps)

    def begun(self, dynamic: Any, setting: Setting) -> Course:
        """Before the first tick.

        Args:
            dynamic: The trainable arrays of the model, or of several with a leading axis.
            setting: What it is trained on and by.
        """
        state = self._each(self._begin)(dynamic, setting)
        rows = None
        if schedule := self._schedule(setting):
            rows = self._each(lambda key: schedule.none_yet(), 0)(setting.key)
        measured = jax.eval_shape(self._recorded, state, setting)
        reached, history = jax.tree.map(
            lambda one: jnp.zeros((self.measurements, *one.shape), one.dtype), (state.diverged_at, measured)
        )
        return Course(state, Orders(rows, jnp.int32(-1)), reached, history)

    def tick(self, tick: Any, course: Course, setting: Setting) -> Course:
        """Measure if that is due, and take a block of steps."""
        index = tick // self._blocks
        first, end = (self.steps_before(each, jnp.minimum) for each in (tick, tick + 1))
        state, orders, *columns = course

        def now():
            return jnp.where(state.diverged_at < 0, first, state.diverged_at), self._recorded(state, setting)

        def as_before():
            return jax.tree.map(lambda column: column[index], tuple(columns))

        row = jax.lax.cond(tick % self._blocks == 0, now, as_before)
        columns = jax.tree.map(
            lambda column, one: jax.lax.dynamic_update_index_in_dim(column, one, index, 0), tuple(columns), row
        )
        schedule = self._schedule(setting)
        if schedule is not None:
            orders = schedule.ahead(orders, setting.key, end, lambda draw: self._each(draw, 0))
        return Course(self._advance(schedule, state, setting, orders, first, end), orders, *columns)

    def _each(self, function: Any, in_axes: Any = None) -> Any:
        """The function of one model, for several where there are several."""
        if self.axes is None:
            return function
        return jax.vmap(function, in_axes=(0, self.axes) if in_axes is None else in_axes)

    def _schedule(self, setting: Setting) -> Schedule | None:
        size = self.options.batch_size
        return Schedule(setting.X.shape[-2], size, self.block) if size else None

    def _model(self, dynamic: Any, setting: Setting) -> Any:
        return eqx.combine(dynamic, setting.frozen, self.static)

    def _begin(self, dynamic: Any, setting: Setting) -> _State:
        begun = self.options.transformation(setting.learning_rate).init(dynamic)
        # What is not finite need not show in the objective: where a loss or a feature map is flat far out, say.
        sound = setting.active & all_finite(dynamic, setting.frozen, setting.X, setting.y)
        return _State(dynamic, begun, jnp.where(sound, -1, 0).astype(jnp.int32))

    def _record(self, state: _State, setting: Setting) -> Any:
        measure = eqx.combine(setting.measure, self.measure)
        measured = by_name(measure(self._model(state.dynamic, setting), setting.X, setting.y))
        return nan_unless(all_finite(state.dynamic, setting.frozen, setting.X, setting.y), measured)

    def _recorded(self, state: _State, setting: Setting) -> Any:
        if self.axes is None or not self.one_by_one:
            return self._each(self._record)(state, setting)
        shared = {name: getattr(setting, name) for name, axis in self.axes._asdict().items() if axis is None}
        own = setting._replace(**dict.fromkeys(shared))
        return jax.lax.map(lambda member: self._record(member[0], member[1]._replace(**shared)), (state, own))

    def _update(self, schedule, dynamic, optimizer, setting, orders, step):
        """The losses before a step, and what is trained and the optimizer's state after it."""
        X, y = setting.X, setting.y
        if schedule is not None:
            rows = schedule.rows_at(orders, step)
            X, y = X[rows], y[rows]

        def objective(dynamic):
            losses = self.loss.value(self._model(dynamic, setting)(X), y)
            return jnp.mean(losses), losses

        gradient, losses = jax.grad(objective, has_aux=True)(dynamic)
        rule = self.options.transformation(setting.learning_rate)
        value, known = jnp.mean(losses), optax.with_extra_args_support(rule)  # some ask for more than the gradient
        change, optimizer = known.update(
            gradient, optimizer, dynamic, value=value, grad=gradient, value_fn=lambda dynamic: objective(dynamic)[0]
        )
        return losses, optax.apply_updates(dynamic, change), optimizer

    def _advance(self, schedule, state, setting, orders, first, end):
        """From one step to another, at most a block."""

        def whole_block(state, setting, orders, first):
            """A block's steps, none looked at; whether all went well."""
            rows = self.options.batch_size or setting.X.shape[-2]
            few = rows <= _FEW_ROWS

            def advance(carry, i):
                dynamic, optimizer, fine = carry
                losses, dynamic, optimizer = self._update(schedule, dynamic, optimizer, setting, orders, first + i)
                if few:  # whose sum is finite for certain; where it may not be, single steps say whether it is
                    fine &= jnp.abs(losses) < jnp.finfo(losses.dtype).max / rows
                else:
                    fine &= jnp.isfinite(jnp.mean(losses))
                return (dynamic, optimizer, fine), None

            fine = jnp.broadcast_to(state.diverged_at < 0, (rows,) if few else ())
            carry = state.dynamic, state.optimizer, fine
            (dynamic, optimizer, fine), _ = jax.lax.scan(advance, carry, jnp.arange(self.block, dtype=jnp.int32))
            fine = jnp.all(fine) & all_finite(dynamic)
            return _chosen(fine, dynamic, optimizer, state), ~fine & (state.diverged_at < 0)

        def not_begun(state, setting, orders, first):
            return state, state.diverged_at < 0

        def single_step(state, pending, setting, orders, step):
            """A step of a model that is behind, left out if it leads to what is not finite."""
            losses, dynamic, optimizer = self._update(schedule, state.dynamic, state.optimizer, setting, orders, step)
            finite, going = all_finite(jnp.mean(losses), dynamic), pending & (state.diverged_at < 0)
            state = _chosen(going & finite, dynamic, optimizer, state)
            return state._replace(diverged_at=jnp.where(going & ~finite, step, state.diverged_at))

        in_axes = 0, self.axes, Orders(0, None), None
        whole = (end - first == self.block) & jnp.any(state.diverged_at < 0)
        state, pending = jax.lax.cond(
            whole, self._each(whole_block, in_axes), self._each(not_begun, in_axes), state, setting, orders, first
        )

        def behind(carry):
            step, state = carry
            return (step < end) & jnp.any(pending & (state.diverged_at < 0))

        def catch_up(carry):
            step, state = carry
            return step + 1, self._each(single_step, (0, *in_axes))(state, pending, setting, orders, step)

        return jax.lax.while_loop(behind, catch_up, (first, state))[1]


def _chosen(new: jax.Array, dynamic: Any, optimizer: Any, state: _State) -> _State:
    """The state, or what is new in its place."""
    dynamic, optimizer = jax.tree.map(
        lambda a, b: jnp.where(new, a, b), (dynamic, optimizer), (state.dynamic, state.optimizer)
    )
    return state._replace(dynamic=dynamic, optimizer=optimizer)
