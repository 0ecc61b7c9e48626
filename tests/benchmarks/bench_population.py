"""Training alone: a population against a PyTorch loop and plain `jax.vmap`, each in a process to itself.

Off by default: `make bench`. PyTorch takes part where it is installed (the extra `peers`). The methods take turns, so
that whatever else the machine does meets all of them, and the section in docs/benchmarks.md has medians.
"""

from __future__ import annotations

import importlib.util
import os
import statistics

import numpy as np
import pytest

from tests.benchmarks.measure import in_new_process, keep
from tests.benchmarks.population_section import write_section
from tests.benchmarks.training_peers import Case

STEPS = 2000
ROUNDS = int(os.environ.get("RESFLOW_BENCH_ROUNDS", "3"))
TORCH = {"processes": 1, "threads": 2}  # what one gets by default
SPREAD = {"processes": 2, "threads": 1}

# Members and steps that take some seconds; what is compared is runs of 2,000 steps a second.
FULL_BATCH = {
    "population": ("population", 64, 1000, {"exact": False}),
    "population, exact": ("population", 64, 1000, {"exact": True}),
    "jax.vmap of 64": ("vmap", 64, 400, {}),
    "jax.vmap of 512": ("vmap", 512, 60, {}),
    "PyTorch loop": ("torch", 2, 1000, TORCH),
    "PyTorch loop, two processes": ("torch", 4, 1000, SPREAD),
    "PyTorch loop, two processes, fused Adam": ("torch", 4, 1000, SPREAD | {"adam": {"fused": True}}),
}
BATCHES = {
    "population": ("population", 512, 1000, {"exact": False}),
    "population, exact": ("population", 512, 1000, {"exact": True}),
    "jax.vmap of 64": ("vmap", 64, 2000, {}),
    "jax.vmap of 512": ("vmap", 512, 1000, {}),
    "PyTorch loop": ("torch", 2, 2000, TORCH),
    "PyTorch loop, two processes": ("torch", 4, 2000, SPREAD),
    "PyTorch loop, two processes, fused Adam": ("torch", 4, 2000, SPREAD | {"adam": {"fused": True}}),
}
SAME = {"members": 4, "steps": 20, "dtype": "float64"}


def run(method: str, case: Case) -> dict:
    """What a method prints, in a process of its own."""
    return in_new_process("-m", "tests.benchmarks.training_peers", method, case.as_json())


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "batch_size", "methods"), [("full", None, FULL_BATCH), ("batches", 32, BATCHES)])
def test_training(name, batch_size, methods, dtype, benchmark):
    if not has_torch():
        methods = {key: value for key, value in methods.items() if value[0] != "torch"}
    load = os.getloadavg()[0]
    rounds = [
        {
            key: run(method, Case(members, steps, batch_size, dtype, options))
            for key, (method, members, steps, options) in methods.items()
        }
        for _ in range(ROUNDS)
    ]
    rates = {
        key: [members * steps / STEPS / one[key]["seconds"] for one in rounds]
        for key, (_, members, steps, _) in methods.items()
    }
    numbers = {
        "batch_size": batch_size,
        "dtype": dtype,
        "load": load,
        "rates": {key: statistics.median(values) for key, values in rates.items()},
        "all_rates": rates,
        "layouts": {key: one["layout"] for key, one in rounds[-1].items() if "layout" in one},
    }
    keep(f"{name} {dtype}", numbers, "population")
    benchmark.extra_info.update(numbers["rates"])
    benchmark.pedantic(lambda: None)


def test_methods_train_the_same(benchmark):
    """After a few steps of full batches in float64 every method is at the same point: they do the same work."""
    cases = {"population": {"exact": False}, "vmap": {}, "torch": TORCH}
    if not has_torch():
        del cases["torch"]
    reached = {method: run(method, Case(**SAME, options=options))["objectives"] for method, options in cases.items()}
    differences = [np.max(np.abs(np.divide(values, reached["vmap"]) - 1)) for values in reached.values()]
    assert max(differences) < 1e-6  # the ε of Adam stands at another place in PyTorch
    keep("same", {"methods": len(cases), "steps": SAME["steps"], "difference": max(differences)}, "population")
    benchmark.pedantic(lambda: None)


def test_section(benchmark):
    benchmark.pedantic(write_section)
