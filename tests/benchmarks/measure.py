"""Time and memory of one call, and the machine they were measured on."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tests.new_process import python

RESULTS = Path(__file__).parents[2] / ".benchmarks"
"""Where every benchmark leaves its numbers, a folder a subject, for the page to be written from in parts."""


class Measured(NamedTuple):
    """The last result, the median time in seconds, and by how many GiB a call raises the process's peak memory."""

    result: Any
    seconds: float
    gib: float


def timed(function: Callable[[], Any], rounds: int) -> Measured:
    """Call `function` so many times. Memory that JAX or malloc keep in hand from earlier is not seen to be used."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds, result = _status("VmRSS"), [], None
    for _ in range(rounds):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return Measured(result, statistics.median(seconds), _status("VmHWM") - before)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**20


def in_new_process(*arguments: str) -> dict[str, Any]:
    """What Python prints as JSON, in a process that has nothing compiled, not on disk either, and no memory in hand.

    Args:
        arguments: A script, or several arguments of the interpreter.
    """
    command = arguments if len(arguments) > 1 else ("-c", *arguments)
    return json.loads(python(*command, JAX_COMPILATION_CACHE_DIR=None))


def product_rate(size: int = 1500) -> float:
    """Floating-point operations per second in a float64 matrix product, the best of ten."""
    A = np.random.default_rng(0).standard_normal((size, size))
    multiply = jax.jit(lambda A, B: A @ B)
    A = jax.block_until_ready(jax.numpy.asarray(A))
    jax.block_until_ready(multiply(A, A))
    return 2.0 * size**3 / min(timed(lambda: multiply(A, A), 1).seconds for _ in range(10))


def keep(name: str, numbers: dict[str, Any], subject: str = "spectrum") -> None:
    """Leave numbers for the section on a subject."""
    (RESULTS / subject).mkdir(parents=True, exist_ok=True)
    (RESULTS / subject / f"{name}.json").write_text(json.dumps(numbers | {"machine": machine()}, indent=1))


def machine() -> str:
    """Processor, cores and versions in one line."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].split(":")[1].strip() if models else platform.machine()
    packages = []
    for name in ("jax", "scipy", "scikit-learn", "matfree", "torch", "curvlinops-for-pytorch"):
        try:
            packages.append(f"{name} {version(name).split('+')[0]}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(packages)}"
