"""One seed, and the keys that everything in a notebook draws from."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resflow
from resflow import InvalidInputError
from tests.new_process import python

SEEDS = np.array([0, 1, 7, 2**31 - 1])


def bits(keys):
    return np.stack([np.asarray(jax.random.key_data(key)) for key in keys])


@pytest.mark.parametrize(
    "transformed", [jax.vmap, jax.jit, lambda f: jax.jit(jax.vmap(f))], ids=["vmap", "jit", "both"]
)
def test_keys_of_a_traced_seed_are_those_of_the_number(transformed):
    expected = np.stack([bits(resflow.random_keys(int(seed))) for seed in SEEDS], axis=1)
    if transformed is jax.jit:
        found = np.stack([bits(jax.jit(resflow.random_keys)(seed)) for seed in SEEDS], axis=1)
    else:
        found = bits(transformed(resflow.random_keys)(jnp.asarray(SEEDS)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7), np.array(7), jnp.asarray(7)])
def test_a_whole_number_of_any_type_is_a_seed(seed):
    np.testing.assert_array_equal(bits(resflow.random_keys(seed)), bits(resflow.random_keys(7)))


def test_keys_of_all_purposes_and_seeds_differ():
    keys = [tuple(key) for seed in range(50) for key in bits(resflow.random_keys(seed))]
    assert len(set(keys)) == len(keys) == 200
    draws = [jax.random.normal(key, (1000,)) for key in resflow.random_keys(0)]
    for one, other in combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(1000)


def test_first_three_are_the_splits_of_the_seed_s_key():
    keys = resflow.random_keys(3)
    expected = jax.random.key_data(jax.random.split(jax.random.key(3), 3))
    np.testing.assert_array_equal(bits((keys.model, keys.features, keys.batches)), expected)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("seed", [-1, np.int64(-3), 0.5, 1e300, float("nan"), "0", None, True, [1]])
def test_what_is_no_seed_gets_one_clear_line(seed):
    with pytest.raises(InvalidInputError, match=r"^seed=.* must be a whole number, at least 0$"):
        resflow.random_keys(seed)


def test_seeds_beyond_32_bits_give_the_same_keys_whatever_the_precision():
    told = "import jax, resflow; print(jax.random.key_data(resflow.random_keys(2**33 + 5).data))"
    assert python("-c", told, JAX_ENABLE_X64="0") == python("-c", told, JAX_ENABLE_X64="1")
