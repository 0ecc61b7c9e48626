import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg  # noqa: F401, whose threads are counted
from threadpoolctl import threadpool_info, threadpool_limits

from resflow.parallel import blas_on_one_thread, free_memory, in_threads


@pytest.mark.parametrize("count", [1, 63, 64, 200, 517])
def test_threads_compute_what_one_call_does_whatever_the_count(count):
    entries = {"a": np.arange(count, dtype=float), "b": np.ones((count, 2))}
    program = lambda entries: {"sum": entries["a"] + entries["b"].sum(axis=1)}  # noqa: E731
    result = in_threads(program, entries, workers=2)
    np.testing.assert_array_equal(result["sum"], np.arange(count) + 2.0)


def test_threads_share_one_compiled_program_in_the_callers_precision():
    traced, threads = [], set()

    @jax.jit
    def program(x):
        traced.append(x.shape)
        return 2 * x

    def called(x):
        threads.add(threading.get_ident())
        return program(x)

    with jax.enable_x64(False):
        assert in_threads(called, np.arange(600.0, dtype=np.float32), workers=3).dtype == np.float32
    with jax.enable_x64(True):
        result = in_threads(called, jnp.arange(600.0), workers=3)
    assert result.dtype == np.float64
    assert len(traced) == 2
    assert len(threads) > 2


def test_an_error_in_a_thread_is_raised():
    def program(x):
        if x[0] > 100:
            raise RuntimeError("no")
        return x

    with pytest.raises(RuntimeError, match="no"):
        in_threads(program, np.arange(600.0), workers=2)


def test_blas_keeps_to_one_thread_within_and_is_back_on_its_own_after_an_error():
    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        with blas_on_one_thread():
            assert threads() == {1}
            with blas_on_one_thread():
                pass
            assert threads() == {1}
        assert threads() == {2}
        with pytest.raises(ZeroDivisionError), blas_on_one_thread():
            _ = 1 / 0
        assert threads() == {2}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 8 << 30), ("max", 8 << 30), (str(4 << 30), 2 << 30), (str(1 << 30), 0), (str(64 << 30), 8 << 30)],
    ids=["no container", "no limit", "less than the machine", "overdrawn", "more than the machine"],
)
def test_memory_is_what_linux_would_give_within_a_containers_limit(limit, expected, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemFree: 1024 kB\nMemAvailable: {8 << 20} kB\n")
    if limit is not None:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{3 << 30}\n")
        (group / "memory.stat").write_text(f"anon 17\ninactive_file {1 << 30}\nactive_file 5\n")
    assert free_memory(jax.devices("cpu")[0], root=tmp_path) == expected


def test_memory_of_this_machine_is_some_of_what_it_has():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(jax.devices("cpu")[0]) < total
