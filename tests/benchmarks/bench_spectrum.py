"""λ_min of the partial Hessian against what else finds it: time, error and memory, side by side in one process.

Off by default: `make bench`. With the extra `peers` installed curvlinops takes part. Each benchmark writes its numbers
down, and the last renders the table docs/benchmarks.md from all that there are.
"""

from __future__ import annotations

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import resflow
from resflow import Point
from tests.benchmarks import peers
from tests.benchmarks.measure import in_new_process, keep, product_rate, timed
from tests.benchmarks.table import write_table
from tests.problems import point, stacked

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own deprecations

N = 2000
SIZES = [(10, 32), (50, 64), (100, 256), (784, 128), (784, 512)]
SLOW = 20_000  # parameters from which a slow peer is called once only
DENSE = 4_000  # parameters up to which the dense Hessian is formed


def on_device(at: Point) -> Point:
    return jax.tree.map(jnp.asarray, at)


def bracket(found) -> dict[str, float | int | bool]:
    return {
        "value": float(found.lambda_min),
        "width": float((found.lambda_min_upper - found.lambda_min_lower) / abs(found.lambda_min_lower)),
        "residual": float(found.lambda_min_residual),
        "rounding": float(found.rounding),
        "factorizations": int(found.factorizations),
        "converged": bool(found.converged),
    }


def compare(candidates: dict[str, tuple[peers.Peer, int]], value: float) -> dict[str, dict[str, float | int | None]]:
    rows: dict[str, dict[str, float | int | None]] = {}
    for name, (peer, rounds) in candidates.items():
        outcome, seconds, gib = timed(peer, rounds)
        error = abs(outcome.value - value) / abs(value)
        rows[name] = {"seconds": seconds, "error": error, "gib": gib, "products": outcome.products}
    return rows


@pytest.mark.parametrize(("d", "k"), SIZES)
def test_smallest_eigenvalue_of_a_random_point(d, k, benchmark):
    at = point(0, N, d, k, "logistic")
    here = on_device(at)
    rounds = 5 if d * k > SLOW else 25
    resflow.smallest_eigenvalue(here)
    found, seconds, gib = timed(lambda: resflow.smallest_eigenvalue(here), rounds)
    benchmark.pedantic(lambda: jax.block_until_ready(resflow.smallest_eigenvalue(here)), rounds=rounds)
    assert found.converged

    few = 1 if d * k > SLOW else 3
    candidates = {
        "all eigenvalues of the reduced matrix": (_all_eigenvalues(here), few),
        "eigsh, cached features": (peers.cached_features(at), 3),
        "eigsh, jvp of grad": (peers.jvp_of_grad(at), few),
        "matfree, 96 steps": (peers.matrix_free(at), few),
    }
    if d + d * k <= DENSE:
        candidates["dense jax.hessian"] = (peers.dense_hessian(at), few)
    if _has_curvlinops():
        candidates["eigsh, curvlinops"] = (peers.curvature_operators(at), few)
    rows = compare(candidates, float(found.lambda_min))
    operations = N * (d + k) ** 2 + 2 * N * d * k + int(found.factorizations) * (d + k) ** 3 / 3
    own = bracket(found) | {"seconds": seconds, "gib": gib, "floor": operations / product_rate()}
    keep(f"random {d} {k}", {"d": d, "k": k, "n": N, "ours": own, "peers": rows})
    benchmark.extra_info.update({name: row["seconds"] / seconds for name, row in rows.items()})


def _all_eigenvalues(at: Point) -> peers.Peer:
    jax.block_until_ready(resflow.spectrum(at).eigenvalues)
    return lambda: peers.Outcome(float(resflow.spectrum(at).eigenvalues[0]))


def _has_curvlinops() -> bool:
    return importlib.util.find_spec("curvlinops") is not None


def test_smallest_eigenvalue_near_stationarity(benchmark):
    (d, k), gamma, most_products = (100, 256), 2e-3, 30_000
    at = point(0, N, d, k, "logistic", gamma=gamma)
    here = on_device(at)
    resflow.smallest_eigenvalue(here)
    found, seconds, gib = timed(lambda: resflow.smallest_eigenvalue(here), 25)
    benchmark.pedantic(lambda: jax.block_until_ready(resflow.smallest_eigenvalue(here)), rounds=25)
    assert found.converged
    candidates = {
        "all eigenvalues of the reduced matrix": (_all_eigenvalues(here), 3),
        f"eigsh, cached features, stopped at {most_products:,} products": (
            peers.cached_features(at, max_products=most_products),
            1,
        ),
        "matfree, 96 steps": (peers.matrix_free(at), 3),
    }
    rows = compare(candidates, float(found.lambda_min))
    own = bracket(found) | {"seconds": seconds, "gib": gib}
    keep("near stationarity", {"d": d, "k": k, "n": N, "gamma": gamma, "ours": own, "peers": rows})


def test_population_of_small_units(benchmark):
    (d, k), n, size = (20, 32), 1000, 64
    points = [point(seed, n, d, k, "logistic") for seed in range(size)]
    population, samples = stacked(points), on_device(points[0])
    population = population.W, population.V, population.features

    def at_one(samples, unit):
        return resflow.smallest_eigenvalue(samples.at(*unit[:2]).part(unit[2], samples.X, samples.y))

    one_by_one = jax.jit(lambda units, samples: jax.lax.map(partial(at_one, samples), units))
    in_lockstep = jax.jit(lambda units, samples: jax.vmap(partial(at_one, samples))(units))
    numbers = {}
    for name, function in (("lax.map", one_by_one), ("vmap", in_lockstep)):
        found = function(population, samples)
        assert found.converged.all()
        numbers[name] = timed(lambda: function(population, samples), 5).seconds / size  # noqa: B023
    benchmark.pedantic(lambda: jax.block_until_ready(one_by_one(population, samples)), rounds=5)
    keep("population", {"d": d, "k": k, "n": n, "size": size, "seconds": numbers})


FIRST_CALL = """
import json, time, jax, numpy as np
jax.config.update("jax_enable_x64", True)
from resflow import smallest_eigenvalue
from tests.benchmarks.measure import timed
from tests.problems import point
at = jax.block_until_ready(jax.tree.map(jax.numpy.asarray, point(0, 2000, {d}, {k}, "logistic")))
first = timed(lambda: smallest_eigenvalue(at), 1)
print(json.dumps({{"seconds": first.seconds, "gib": first.gib}}))
"""


@pytest.mark.parametrize(("d", "k"), [(10, 32), (784, 512)])
def test_first_call_in_a_new_process(d, k, benchmark):
    numbers = [in_new_process(FIRST_CALL.format(d=d, k=k)) for _ in range(3)]
    numbers.sort(key=lambda row: row["seconds"])
    keep(f"first call {d} {k}", {"d": d, "k": k, "n": N} | numbers[1])
    benchmark.pedantic(lambda: None)


MANY_SAMPLES = """
import json, numpy as np
import resflow
from tests.benchmarks.measure import timed
rng = np.random.default_rng(0)
n, d, k = 10**6, 100, 256
X, features = rng.standard_normal((n, d)), np.tanh(rng.standard_normal((n, k)))
y = np.sign(rng.standard_normal(n))
w, V = rng.standard_normal(d) / 10, rng.standard_normal((d, k)) / 160
found = timed(lambda: resflow.smallest_eigenvalue(resflow.Point(w, V, features, X, y, "logistic")), 1)
numbers = {"seconds": found.seconds, "gib": found.gib, "converged": bool(found.result.converged)}
print(json.dumps(numbers | {"n": n, "d": d, "k": k, "data_gib": (X.nbytes + features.nbytes + y.nbytes) / 2**30}))
"""


def test_a_million_samples(benchmark):
    numbers = in_new_process(MANY_SAMPLES)
    assert numbers["converged"]
    keep("a million samples", numbers)
    benchmark.pedantic(lambda: None)


def test_table(benchmark):
    benchmark.pedantic(write_table)
