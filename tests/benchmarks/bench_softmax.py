"""Softmax regression with a ridge term against scikit-learn's solvers, F − F* beside the time, in one process.

Off by default: `make bench`. The last writes what there is into docs/benchmarks.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from resflow.linear.predictor import fit_linear_predictor
from tests.benchmarks.measure import RESULTS, Measured, keep, timed
from tests.benchmarks.page import put_section
from tests.test_linear import features
from tests.test_linear_many_classes import RIDGE, classes, digits, objective

pytestmark = pytest.mark.filterwarnings("ignore")  # lbfgs says where it stops at its limit

ACCURATE = 1e-10
TOLERANCES = {
    "lbfgs": (1e-6, 1e-7, 1e-8),
    "newton-cg": (1e-5, 1e-6, 1e-8),
    "newton-cholesky": (1e-4, 1e-6, 1e-8),
    "torch L-BFGS": (1e-5, 1e-6, 1e-7, 1e-8),
}
SIZES = [(1797, 65, 10), (10_000, 128, 10), (50_000, 512, 10)]
if os.environ.get("RESFLOW_BENCH_LARGE"):
    SIZES.append((50_000, 512, 100))  # of which lbfgs takes minutes
THREADS = os.environ.get("OPENBLAS_NUM_THREADS", str(os.cpu_count()))
MOST_STEPS = 5000
MOST_GIB = 0.5
CLOSE, HOPELESS = 4.0, 20.0
"""Ratios up to which a peer is measured again, and beyond which it is not tried at a tighter tolerance."""

DENSE = 2000
"""newton-cholesky forms the Hessian of m d rows: beyond that it is left out."""


def problem(n, d, m, condition):
    """The digits with an intercept, their columns from 1 to 1/condition, or features of that condition."""
    if n == 1797:
        X, y = digits()
        return X * np.geomspace(1.0, 1.0 / condition, d), y
    rng = np.random.default_rng(0)
    X = features(rng, n, d, condition)
    return X, classes(rng, X, m)


class Turns(NamedTuple):
    """What a peer found last, the medians of its time and of its ratio to ours, and the most memory of a call."""

    result: Any
    seconds: float
    ratio: float
    gib: float


def in_turns(own, peer) -> Turns:
    """Time both in turns: 3 pairs, or one if that says enough."""
    pairs: list[tuple[float, Measured]] = []
    while len(pairs) < (3 if not pairs or pairs[0][1].seconds <= CLOSE * pairs[0][0] else 1):
        pairs.append((timed(own, 1).seconds, timed(peer, 1)))
    ratio = statistics.median(theirs.seconds / ours for ours, theirs in pairs)
    seconds = statistics.median(theirs.seconds for _, theirs in pairs)
    return Turns(pairs[-1][1].result, seconds, ratio, max(theirs.gib for _, theirs in pairs))


def solvers(n, d, m):
    """Peers by name, each a function of samples and a tolerance that gives weights and a number of steps."""
    names = [name for name in TOLERANCES if name != "newton-cholesky" or d * m <= DENSE]
    peers = {name: lambda X, y, tol, name=name: by_sklearn(X, y, name, tol) for name in names if "torch" not in name}
    if importlib.util.find_spec("torch") is not None:
        by_torch(np.eye(4), np.arange(4), 1e-2)  # loads what the first call does
        peers["torch L-BFGS"] = by_torch
    return peers


def by_sklearn(X, y, solver, tol):
    fit = LogisticRegression(
        C=1.0 / (len(X) * RIDGE), solver=solver, tol=tol, max_iter=MOST_STEPS, fit_intercept=False
    ).fit(X, y)
    return fit.coef_, int(fit.n_iter_[0])


def by_torch(X, y, tol):
    """torch's L-BFGS on the same arrays and as many threads as BLAS, until no entry of the gradient is above tol."""
    import torch

    torch.set_num_threads(int(THREADS))
    samples, labels = torch.from_numpy(X), torch.from_numpy(y)
    W = torch.zeros(int(y.max()) + 1, X.shape[1], dtype=torch.float64, requires_grad=True)
    method = torch.optim.LBFGS(
        [W],
        max_iter=MOST_STEPS,
        history_size=10,
        tolerance_grad=tol,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        method.zero_grad()
        value = torch.nn.functional.cross_entropy(samples @ W.T, labels) + 0.5 * RIDGE * (W * W).sum()
        value.backward()
        return value

    method.step(closure)
    return W.detach().numpy(), int(method.state[W]["n_iter"])


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize(("n", "d", "m"), SIZES)
def test_softmax_fit(n, d, m, condition, benchmark):
    X, y = problem(n, d, m, condition)
    best = fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE).W
    enough = ACCURATE / np.log(m)  # in units of the objective at 0
    own = lambda: fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE, tolerance=enough)  # noqa: E731
    measured = timed(own, 3)
    fit = measured.result
    rows = [{"solver": "resflow", "seconds": measured.seconds, "steps": fit.iterations, "gib": measured.gib}]
    found = [fit.W]
    for solver, peer in solvers(n, d, m).items():
        for tol in TOLERANCES[solver]:
            turns = in_turns(own, lambda: peer(X, y, tol))  # noqa: B023
            W, steps = turns.result
            found.append(W)
            rows.append({"solver": solver, "tol": tol, "steps": steps} | turns._asdict())
            del rows[-1]["result"]
            accurate = objective(W, X, y, RIDGE) - objective(best, X, y, RIDGE) <= ACCURATE
            if accurate or turns.ratio > HOPELESS:
                break
    benchmark.pedantic(own, rounds=1)
    values = [objective(W, X, y, RIDGE) for W in [*found, best]]
    for row, value in zip(rows, values[:-1], strict=True):
        row["excess"] = float(value - min(values))
    numbers = {"size": [n, d, m], "condition": condition, "rows": rows, "proven": fit.suboptimality}
    numbers |= {"threads": THREADS, "load": os.getloadavg()[0]}
    keep(f"{n} {d} {m} {condition:g}", numbers, subject="softmax")
    assert fit.converged
    assert rows[0]["excess"] <= fit.suboptimality
    assert measured.gib <= MOST_GIB


def test_section(benchmark):
    benchmark.pedantic(write_section)


HEAD = f"""# Speed of softmax regression

Ridge {RIDGE:g}, float64, no intercept but for the digits (n = 1,797), whose columns have sizes from 1 to 1/condition.
All are to come within F − F* ≤ {ACCURATE:g}: `fit_linear_predictor` is asked for that by its `tolerance`, and proves
what stands behind its F − F*; of each peer the runs up to the first that comes so near are shown, or to the first that
takes {HOPELESS:g} times as long. F* is the least objective of all these and of `fit_linear_predictor` at its own
tolerance, in extended precision.
newton-cholesky is left out where m d > {DENSE:,}. All in one process on the same arrays. Ratios are to
`fit_linear_predictor`: it and the peer take turns, and the median of 3 pairs is shown, or the one pair where the peer
takes {CLOSE:g} times as long. Memory is by how much a call raises the process's peak beyond the data, in GiB. torch's
L-BFGS, where torch is installed, has a strong Wolfe line search and runs until no entry of the gradient is above tol.
RESFLOW_BENCH_LARGE=1 adds the largest size. Under a load of more processes than cores times are longer and ratios less
sure. Written by `make bench`.
"""


def write_section() -> None:
    """Render what numbers there are."""
    kept = [json.loads(path.read_text()) for path in (RESULTS / "softmax").glob("*.json")]
    threads, loads = sorted({each["threads"] for each in kept}), [each["load"] for each in kept]
    how = f"{' or '.join(threads)} BLAS threads, under a load of {min(loads):.0f} to {max(loads):.0f} processes"
    has_torch = any("torch" in row["solver"] for numbers in kept for row in numbers["rows"])
    without = "" if has_torch else " torch was not installed: its L-BFGS is left out."
    lines = [HEAD, f"{'; '.join(sorted({numbers['machine'] for numbers in kept}))}; {how}.{without}", ""]
    lines += ["| (n, d, m) | Condition | Solver | tol | Steps | Time | Ratio | Memory | F − F* |"]
    lines += ["| --- | --: | --- | --: | --: | --: | --: | --: | --: |"]
    for numbers in sorted(kept, key=lambda each: (each["size"], each["condition"])):
        size = ", ".join(f"{each:,}" for each in numbers["size"])
        for row in numbers["rows"]:
            proven = "" if "tol" in row else f" (proven: {numbers['proven']:.0e})"
            tol = f"{row['tol']:g}" if "tol" in row else ""
            accuracy = f"{max(row['excess'], 0.0):.0e}{proven}"
            lines.append(
                f"| ({size}) | {numbers['condition']:g} | {row['solver']} | {tol} | {row['steps']:,} "
                f"| {1e3 * row['seconds']:,.0f} ms | {row.get('ratio', 1.0):.2g} | {row['gib']:.2f} | {accuracy} |"
            )
    put_section("\n".join(lines))
