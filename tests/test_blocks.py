"""Steps in blocks of a fixed length: the length changes no result, and nothing else is in the loop."""

from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import resflow
from resflow.training._blocks import MOST_STEPS, steps_in_block
from resflow.training._orders import Orders, Schedule
from resflow.training._shuffle import random_order
from resflow.training.population import PopulationLayout

N, D, M = 60, 4, 4
rng = np.random.default_rng(0)
X = rng.standard_normal((N, D))
Y = np.sign(X[:, 0] + X[:, 1] ** 2 - 1 + 0.3 * rng.standard_normal(N))


@eqx.filter_vmap
def build(seed):
    keys = resflow.random_keys(seed)
    f = resflow.feature_map("mlp", D, width=6, key=keys.features)
    return resflow.build_model("residual_unit", D, f, key=keys.model), keys.batches


def population(rates, chunk=M, copies=1, **options):
    models, keys = build(jnp.arange(M))
    return resflow.train_population(
        models,
        np.tile(X, (copies, 1)),
        np.tile(Y, copies),
        loss="squared",
        options=resflow.TrainingOptions(**({"steps": 60, "log_every": 20, "optimizer": "sgd"} | options)),
        keys=keys,
        learning_rates=np.array(rates),
        layout=PopulationLayout((jax.devices()[0],), chunk, M // chunk),
    )


@pytest.mark.parametrize(
    ("steps", "log_every", "expected"),
    [(2000, 20, 20), (2000, 1000, 125), (997, 997, 125), (3, 1000, 3), (0, 20, 1), (500, 1, 1), (500, 7, 7)],
)
def test_a_block_is_an_equal_part_of_the_steps_between_two_measurements(steps, log_every, expected):
    options = resflow.TrainingOptions(steps=steps, log_every=log_every)
    assert steps_in_block(options, 100, members=1, rows=10, on_cpu=True) == expected <= MOST_STEPS


@pytest.mark.parametrize("on_cpu", [True, False])
def test_steps_that_take_long_are_blocks_of_their_own(on_cpu):
    options = resflow.TrainingOptions(steps=2000, log_every=1000)
    lengths = [
        steps_in_block(options, 10_000, members=members, rows=1000, on_cpu=on_cpu)
        for members in (1, 10, 100, 1000, 10_000, 100_000)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (33 if on_cpu else 125, 1)


@pytest.mark.parametrize(("copies", "batch_size"), [(1, None), (1, 8), (5, None)])  # of more than 256 rows, the last
@pytest.mark.parametrize("chunk", [1, M])
def test_results_are_the_same_whatever_the_length_of_a_block(chunk, copies, batch_size, monkeypatch):
    rates = [0.01, 300.0, 0.003, 50.0]
    results = []
    for most in (1, 7, 128):  # of 20 steps between two measurements, and of the 5 after the last
        monkeypatch.setattr("resflow.training._blocks.MOST_STEPS", most)
        results.append(population(rates, chunk, copies, batch_size=batch_size, steps=65))
    for result in results[1:]:
        np.testing.assert_array_equal(result.diverged_at, results[0].diverged_at)
        np.testing.assert_array_equal(result.reached, results[0].reached)
        np.testing.assert_allclose(result.history["objective"], results[0].history["objective"], rtol=1e-9)
        np.testing.assert_allclose(result.models.V, results[0].models.V, rtol=1e-9, atol=1e-12)
    assert (results[0].diverged_at[[1, 3]] > 0).all()
    assert (results[0].diverged_at[[0, 2]] == -1).all()


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_member_has_the_same_bits_whether_its_neighbour_diverges_or_not(batch_size):
    beside, alone = (population([0.01, rate, 0.003, 0.02], batch_size=batch_size) for rate in (300.0, 0.01))
    assert beside.diverged_at.tolist() == [-1, beside.diverged_at[1], -1, -1]
    assert 0 < beside.diverged_at[1] < 60
    for one, other in zip(jax.tree.leaves(beside.member(0).model), jax.tree.leaves(alone.member(0).model), strict=True):
        if eqx.is_array(one):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(beside.history["objective"][[0, 2, 3]], alone.history["objective"][[0, 2, 3]])


@pytest.mark.parametrize(("n", "size", "block"), [(60, 8, 20), (60, 8, 3), (10, 10, 7), (9, 2, 1), (50, 7, 7)])
def test_every_step_takes_its_part_of_its_epochs_order(n, size, block):
    schedule, keys = Schedule(n, size, block), jax.random.split(jax.random.key(0), 2)
    orders = Orders(jnp.stack([schedule.none_yet()] * 2), jnp.int32(-1))
    of_epoch, drawn = n // size, []
    for first in range(0, 70 - block, block):
        orders = schedule.ahead(orders, keys, jnp.int32(first + block), jax.vmap)
        drawn.append(int(orders.drawn))
        for step in range(first, first + block):
            for key, rows in zip(keys, orders.rows, strict=True):
                epoch, place = divmod(step, of_epoch)
                expected = random_order(jax.random.fold_in(key, epoch), n)[place * size : (place + 1) * size]
                found = schedule.rows_at(Orders(rows, orders.drawn), jnp.int32(step))
                np.testing.assert_array_equal(found, expected)
    assert set(np.diff(drawn)) <= {0, 1}  # each is drawn once


@pytest.mark.parametrize("batch_size", [None, 8])
def test_one_program_a_call_whose_steps_wait_for_no_condition(batch_size, monkeypatch):
    """Chunks, ticks and the steps of a model that diverged in a block are counted on the way; no other steps are."""
    programs, run = [], resflow.training.population.advance_chunks

    def seen(members, shared, training, layout, start, *state):
        programs.append(eqx.filter_make_jaxpr(run)(members, shared, training, layout, start, *state)[0])
        return run(members, shared, training, layout, start, *state)

    monkeypatch.setattr("resflow.training.population.advance_chunks", seen)
    population([0.01] * M, batch_size=batch_size)
    (program,) = programs
    loops = Counter(equation.primitive.name for equation in equations(program.jaxpr))
    assert loops["while"] == 3
    assert 20 in {each.params["length"] for each in equations(program.jaxpr) if each.primitive.name == "scan"}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
