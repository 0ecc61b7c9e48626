"""Who uses which core: small problems side by side, and one library's threads out of another's way."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["blas_on_one_thread", "cores", "free_memory", "in_order", "in_threads"]

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


def in_order(compute: Callable[[int], Any], count: int) -> list[Any]:
    """[compute(0), ..., compute(count − 1)], by threads that each take a run of them, BLAS on the one that calls it.

    For functions whose time goes to NumPy's products and loops, which leave Python to the others meanwhile, and which
    call this one no further.

    Raises:
        Exception: What a call raised, of several the first in order.
    """
    workers = min(cores(), count)
    if workers < 2:
        return [compute(i) for i in range(count)]

    def run(worker: int) -> list[Any]:
        return [compute(i) for i in range(count * worker // workers, count * (worker + 1) // workers)]

    with blas_on_one_thread():
        others = [_threads().submit(run, worker) for worker in range(1, workers)]
        try:
            found = run(0)
        finally:
            wait(others)
        for other in others:
            found += other.result()
    return found


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads that stay, as starting some takes as long as a small pass over the samples."""
    return ThreadPoolExecutor(cores())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child process has none of them


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


def free_memory(device: jax.Device, *, root: Path = Path("/")) -> int:
    """Bytes that a computation on a device can still take.

    On an accelerator what JAX may take and has not; on a CPU what Linux counts as available, the files that it would
    drop from memory included, within the limit of a container. Elsewhere half of the machine's memory.

    Args:
        device: The device.
        root: Where Linux tells of itself.
    """
    if statistics := device.memory_stats():
        return max(0, int(statistics["bytes_limit"]) - int(statistics["bytes_in_use"]))
    try:
        told = re.search(r"^MemAvailable:\s*(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        told = None
    if told is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 2**30
    return int(min(int(told[1]) * 1024, _free_in_container(root / "sys/fs/cgroup")))


def _free_in_container(group: Path) -> float:
    """What a container's limit leaves, where there is one: its pages of files not used lately can be dropped."""
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        dropped = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return math.inf
    if not limit.isdigit():
        return math.inf
    return max(0.0, float(limit) - used + (int(dropped[1]) if dropped else 0))
