"""What is compiled of a population: each device goes through its share of the members, chunk after chunk."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from resflow.training._layout import PopulationLayout
from resflow.training._program import Course, Setting, Training

__all__ = ["Members", "advance_chunks", "room_for_chunks"]


class Members(NamedTuple):
    """What differs from member to member, each with an axis of members in front; None in the setting is shared."""

    dynamic: Any
    setting: Setting
    data_sets: Any


@eqx.filter_jit
def room_for_chunks(members: Members, shared: Any, training: Training, layout: PopulationLayout) -> Any:
    """Room for what calls of `advance_chunks` hand on: the course of each device, and the results of all chunks."""
    chunk = jax.tree.map(lambda leaf: leaf[: layout.chunk], members)
    course = jax.eval_shape(lambda: training.begun(*_of_chunk(chunk, shared, training)))
    results = jax.eval_shape(lambda course: _by_member(course, training), course)
    devices = len(layout.devices)
    sharding = jax.sharding.NamedSharding(_mesh(layout), _BY_MEMBER)

    def room(tree: Any, times: int) -> Any:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((times, *leaf.shape), leaf.dtype), tree)
        return zeros if devices == 1 else jax.lax.with_sharding_constraint(zeros, sharding)

    return room(course, devices), room(results, devices * layout.chunks)


@eqx.filter_jit
def advance_chunks(
    members: Members, shared: Any, training: Training, layout: PopulationLayout, start: Any,
    carry: Any, first: Any, last: Any,
) -> Any:  # fmt: skip
    """Of a block of members, that from `start` on, some ticks: each device its share, there chunk after chunk."""
    m = len(members.setting.key)
    rows = start + jnp.arange(layout.block)
    if layout.block != m:  # at the end of the population a block is filled up with some that are not trained
        members = jax.tree.map(lambda leaf: leaf[jnp.minimum(rows, m - 1)], members)
    members = members._replace(setting=members.setting._replace(active=members.setting.active & (rows < m)))

    def share(carry, members, shared, first, last):
        courses, results = carry
        chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, layout.chunk, *leaf.shape[1:]), members)

        def advance(chunk, carry):
            course, results = carry
            dynamic, setting = _of_chunk(jax.tree.map(lambda leaf: leaf[chunk], chunks), shared, training)
            before = chunk * training.ticks
            start, stop = jnp.maximum(first - before, 0), jnp.minimum(last - before, training.ticks)
            course = jax.lax.cond(start == 0, lambda: training.begun(dynamic, setting), lambda: course)
            course = jax.lax.fori_loop(start, stop, lambda tick, course: training.tick(tick, course, setting), course)
            results = jax.tree.map(
                lambda all_, own: jax.lax.dynamic_update_index_in_dim(all_, own, chunk, 0),
                results, _by_member(course, training),
            )  # fmt: skip
            return course, results

        course = jax.tree.map(lambda leaf: leaf[0], courses)
        course, results = jax.lax.fori_loop(
            first // training.ticks, -(-last // training.ticks), advance, (course, results)
        )
        return jax.tree.map(lambda leaf: leaf[None], course), results

    if len(layout.devices) > 1:
        whole = jax.sharding.PartitionSpec()
        share = jax.shard_map(
            share, mesh=_mesh(layout), in_specs=(_BY_MEMBER, _BY_MEMBER, whole, whole, whole), out_specs=_BY_MEMBER,
            check_vma=False,
        )  # fmt: skip
    return share(carry, members, shared, first, last)


_BY_MEMBER = jax.sharding.PartitionSpec("members")


def _mesh(layout: PopulationLayout) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(layout.devices), ("members",))


def _of_chunk(chunk: Members, shared: Any, training: Training) -> tuple[Any, Setting]:
    """The trainable arrays and the setting of a chunk of members, or of the only one in it."""
    if training.axes is None:
        chunk = jax.tree.map(lambda leaf: leaf[0], chunk)
    X, y, measured = shared
    if chunk.data_sets is not None:
        X, y = X[chunk.data_sets], y[chunk.data_sets]
    setting = chunk.setting._replace(X=X, y=y)
    return chunk.dynamic, setting if chunk.setting.measure is not None else setting._replace(measure=measured)


def _by_member(course: Course, training: Training) -> Any:
    """The results of a chunk of members, theirs as the first axis."""
    if training.axes is None:
        return jax.tree.map(lambda leaf: leaf[None], course.results)
    final, diverged_at, *rows = course.results
    return final, diverged_at, *jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), rows)
