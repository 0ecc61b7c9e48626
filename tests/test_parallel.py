import multiprocessing
import os
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg  # noqa: F401, whose threads are counted
from threadpoolctl import threadpool_info, threadpool_limits

from resflow import parallel
from resflow.parallel import blas_on_one_thread, free_memory, in_order, in_threads


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


@pytest.mark.parametrize("count", [0, 1, 2, 3, 16])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_calls_side_by_side_come_back_in_order_each_with_one_thread_of_blas(count, workers, monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: workers)
    threads, limits = set(), set()

    def compute(i):
        threads.add(threading.get_ident())
        limits.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        time.sleep(0.01)
        return i * i

    with threadpool_limits(2, user_api="blas"):
        assert in_order(compute, count) == [i * i for i in range(count)]
    if workers > 1 < count:
        assert len(threads) > 1
        assert limits == {1}


def test_of_several_errors_the_first_in_order_is_raised_when_all_calls_have_ended(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    ended = []

    def compute(i):
        if i in (1, 3):
            raise ValueError(f"call {i}")
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(ValueError, match="call 1"):
        in_order(compute, 4)
    assert sorted(ended) == [0, 2]
    assert in_order(lambda i: i, 3) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own():
    assert in_order(lambda i: i, 4) == [0, 1, 2, 3]
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has threads is the point
        child = context.Process(target=lambda: os._exit(sum(in_order(lambda i: i, 4))))
        child.start()
    child.join(60)
    assert child.exitcode == 6
