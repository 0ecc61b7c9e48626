import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from resflow.training._shuffle import random_order


@pytest.mark.parametrize("n", [1, 2, 3, 32, 1000, 40_000, 400_000])
def test_an_order_has_every_position_once(n):
    order = random_order(jax.random.key(n), n)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    again, other = random_order(jax.random.key(n), n), random_order(jax.random.key(n + 1), n)
    np.testing.assert_array_equal(order, again)
    assert n < 32 or not np.array_equal(order, other)


def test_all_orders_of_four_are_equally_likely():
    orders = jax.vmap(lambda key: random_order(key, 4))(jax.random.split(jax.random.key(0), 24_000))
    counts = np.unique(np.asarray(orders) @ 4 ** np.arange(4), return_counts=True)[1]
    assert counts.size == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_orders_of_many_have_no_position_and_no_neighbour_that_comes_first():
    draws, n = 3000, 1000
    orders = np.asarray(jax.vmap(lambda key: random_order(key, n))(jax.random.split(jax.random.key(1), draws)))
    for position in (0, 1, n // 2, n - 1):
        counts = np.bincount(orders[:, position] * 10 // n, minlength=10)
        assert stats.chisquare(counts).pvalue > 1e-4
    place = np.argsort(orders, axis=1)
    earlier = np.sum(place[:, :-1] < place[:, 1:])  # ties left as they were would make these more than half
    # Descents of a random permutation have variance (n + 1)/12.
    assert abs(earlier - draws * (n - 1) / 2) < 4.5 * np.sqrt(draws * (n + 1) / 12)
