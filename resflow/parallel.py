"""Who uses which core: small problems side by side, and one library's threads out of another's way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["blas_on_one_thread", "cores", "in_threads"]

_SHARES = 16
_SMALLEST_SHARE = 32


def in_threads(program: Callable[[Any], Any], entries: Any, *, workers: int | None = None) -> Any:
    """program(entries), computed in equal shares of the leading axis by several threads.

    XLA runs a loop over small matrices on one core. Several host devices would have to be asked for before JAX starts.

    Args:
        program: A compiled function of entries to a pytree of arrays with the same leading axis, each entry of which
            depends on its own entry alone.
        entries: A pytree of arrays with a common leading axis.
        workers: Threads; by default one for every core this process may use, and one alone where JAX computes on an
            accelerator.

    Returns:
        What `program` returned, as NumPy arrays.
    """
    count = len(jax.tree.leaves(entries)[0])
    if workers is None:
        workers = cores() if jax.default_backend() == "cpu" else 1
    shares = max(1, min(_SHARES, count // _SMALLEST_SHARE)) if workers > 1 else 1
    size = -(-count // shares)
    # Shares of one size, so that one program serves all: the last is filled up with entries that are there already.
    rows = [np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size)]
    x64 = jnp.result_type(float) == jnp.float64

    def compute(share: np.ndarray) -> Any:
        with jax.enable_x64(x64):  # a setting of the thread
            result = program(jax.tree.map(lambda leaf: jnp.asarray(leaf)[share], entries))
            return jax.tree.map(np.asarray, result)

    first = compute(rows[0])  # compiles, once for all
    with ThreadPoolExecutor(workers) as pool:
        results = [first, *pool.map(compute, rows[1:])]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Within, BLAS and LAPACK compute on the thread that calls them; afterwards as before.

    XLA has threads of its own for products, but leaves factorisations to SciPy's OpenBLAS, whose threads wait for
    more work by turning in a loop, and so take the cores that XLA's next product needs. Of several threads within at
    the same time the first decides for all.
    """
    with _blas_controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas_controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401, whose library JAX calls: one that is not loaded would not be found

    return ThreadpoolController()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
