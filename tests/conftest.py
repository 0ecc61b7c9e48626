"""What every test needs: float64, shapes checked at run time, and programs that are quick to compile."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

# Compiling is most of the work: what one process has compiled, others and later sessions need not compile again.
ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers keep every core busy: more threads would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# New objects after which garbage is looked for: at Python's own 700 a sixth of the time for imports goes into that.
gc.set_threshold(50_000, *gc.get_threshold()[1:])

import jax
import jaxtyping
import pytest

from tests.library_files import is_of_library

jax.config.update("jax_enable_x64", True)

# The library's modules, one by one: the workflow below it has no arrays to check.
_LIBRARY = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "resflow").rglob("*.py")
    if path.stem != "__init__" and "workflow" not in path.relative_to(ROOT).parts
]
_hook = jaxtyping.install_import_hook(_LIBRARY, "beartype.beartype")


def pytest_addoption(parser):
    parser.addoption(
        "--mutants", type=int, default=100, metavar="N", help="how many mutants of each kind tests/fuzz tries"
    )
    parser.addoption(
        "--moments", type=int, default=0, metavar="N", help="at how many moments tests/test_full_disk.py fills the disk"
    )
    parser.addoption(
        "--library", action="store_true", help="only the library's tests, which need no package of the workflow's"
    )
    parser.addoption("--strikes", type=int, default=1, metavar="N", help="how many runs and sweeps tests/chaos strikes")


def pytest_ignore_collect(collection_path, config):
    is_left_out = collection_path.suffix == ".py" and config.getoption("--library")
    return True if is_left_out and not is_of_library(collection_path) else None


def pytest_configure(config):
    """Compile quickly, except what is to be timed.

    Programs here are small: left as they are, they took 60 % of the processor's time of optimised ones, compilation
    included. `XLA_FLAGS= make test` tests what is compiled by default.
    """
    if any("benchmarks" in argument for argument in config.args):
        _hook.uninstall()  # to check shapes takes a millisecond a function, at every definition within another, too
        return
    # The second is known to versions that have two code generators for CPUs.
    flags = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": "false"}
    if "XLA_FLAGS" not in os.environ:
        wanted = [f"--{name}={value}" for name, value in flags.items()]
        os.environ["XLA_FLAGS"] = " ".join(filter(known_to_xla, wanted))


def known_to_xla(flag):
    """Whether the installed build of XLA has a flag; it ends a process that names any other."""
    trial = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = os.environ | {"XLA_FLAGS": flag}
    return not subprocess.run([sys.executable, "-c", trial], env=environment, capture_output=True).returncode


_tests_done = itertools.count(1)


@pytest.fixture(autouse=True)
def few_programs():
    """Forget compiled programs in time: Linux gives a process 65,530 mappings, and each program takes about ten.

    Beyond them LLVM says "Cannot allocate memory", and the process ends by a segmentation fault.
    """
    yield
    mappings = Path("/proc/self/maps")  # where there is no such file, there is no such bound
    if next(_tests_done) % 16 == 0 and mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()  # programs are held by what refers to itself, too


@pytest.fixture(autouse=True)
def stores_of_its_own():
    """Leave no store's address, user or password of one test to the next, which would read and write that store."""
    before = of_mlflow()
    yield
    for name in of_mlflow():
        del os.environ[name]
    os.environ.update(before)


def of_mlflow():
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


@pytest.fixture(scope="session", autouse=True)
def stores_built_once(request):
    """New stores are copies of one, but where building them is what is tested."""
    if request.config.getoption("--library"):
        yield
        return
    from ready_stores import copied_stores

    with copied_stores():
        yield


@pytest.fixture
def unchecked_types():
    """Switch the run-time check of annotated shapes off, so that the library's own messages are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


LONGEST = (
    "test_sweep.py",
    "test_notebooks.py",
    "test_guide.py",
    "test_engine.py",
    "test_foreign_sweep.py",
    "test_foreign_notebooks.py",
    "test_smallest_eigenvalue.py",
    "test_readme.py",
    "test_population.py",
    "test_stationarity.py",
    "test_tracking.py",
    "test_not_finite.py",
    "test_classifiers.py",
    "test_cli.py",
    "test_rerun.py",
    "test_verification.py",
    "test_wheel.py",
    "test_resumed_runs.py",
    "test_crowd.py",
    "test_solve.py",
    "test_theorems.py",
    "test_deep_networks.py",
    "test_atlas.py",
)
"""Files from the longest on: a worker that began one of them last would keep all others waiting."""


@pytest.hookimpl(optionalhook=True)  # where xdist is
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores, as the tests of sweeps and of the engine mostly wait for other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish():
    """Look for no garbage among what stays: the modules and the tests."""
    gc.collect()
    gc.freeze()
