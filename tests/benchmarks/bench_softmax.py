"""Softmax regression with a ridge term against scikit-learn's solvers, F − F* beside the time, in one process.

Off by default: `make bench`. The last writes what there is into docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import statistics

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from resflow.linear.predictor import fit_linear_predictor
from tests.benchmarks.measure import RESULTS, keep, timed
from tests.benchmarks.page import put_section
from tests.test_linear import features
from tests.test_linear_many_classes import RIDGE, classes, digits, objective

pytestmark = pytest.mark.filterwarnings("ignore")  # lbfgs says where it stops at its limit

ACCURATE = 1e-10
TOLERANCES = {"lbfgs": (1e-6, 1e-7, 1e-8), "newton-cg": (1e-5, 1e-6, 1e-8), "newton-cholesky": (1e-4, 1e-6, 1e-8)}
SIZES = [(1797, 65, 10), (10_000, 128, 10), (50_000, 512, 10), (50_000, 512, 100)]
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


def in_turns(own, peer):
    """The median time of the peer, and of its ratio to ours: of 3 pairs in turns, or of one if that says enough."""
    pairs = []
    while len(pairs) < (3 if not pairs or pairs[0][1] <= CLOSE * pairs[0][0] else 1):
        pairs.append((timed(own, 1).seconds, timed(peer, 1).seconds))
    return statistics.median(time for _, time in pairs), statistics.median(time / ours for ours, time in pairs)


@pytest.mark.parametrize("condition", [1.0, 1e4])
@pytest.mark.parametrize(("n", "d", "m"), SIZES)
def test_softmax_fit(n, d, m, condition, benchmark):
    X, y = problem(n, d, m, condition)
    own = lambda: fit_linear_predictor(X, y, loss="softmax", ridge=RIDGE)  # noqa: E731
    measured = timed(own, 3)
    fit = measured.result
    rows = [{"solver": "resflow", "seconds": measured.seconds, "steps": fit.iterations, "gib": measured.gib}]
    found = [fit.W]
    for solver, tolerances in TOLERANCES.items():
        for tol in tolerances if solver != "newton-cholesky" or d * m <= DENSE else ():
            peer = LogisticRegression(C=1.0 / (n * RIDGE), solver=solver, tol=tol, max_iter=5000, fit_intercept=False)
            seconds, ratio = in_turns(own, lambda: peer.fit(X, y))  # noqa: B023
            found.append(peer.coef_)
            steps = int(peer.n_iter_[0])
            rows.append({"solver": solver, "tol": tol, "seconds": seconds, "ratio": ratio, "steps": steps})
            accurate = objective(found[-1], X, y, RIDGE) - objective(fit.W, X, y, RIDGE) <= ACCURATE
            if accurate or ratio > HOPELESS:
                break
    benchmark.pedantic(own, rounds=1)
    values = [objective(W, X, y, RIDGE) for W in found]
    for row, value in zip(rows, values, strict=True):
        row["excess"] = float(value - min(values))
    numbers = {"size": [n, d, m], "condition": condition, "rows": rows, "proven": fit.suboptimality}
    numbers |= {"threads": os.environ.get("OPENBLAS_NUM_THREADS", str(os.cpu_count())), "load": os.getloadavg()[0]}
    keep(f"{n} {d} {m} {condition:g}", numbers, subject="softmax")
    assert fit.converged
    assert rows[0]["excess"] <= fit.suboptimality


def test_section(benchmark):
    benchmark.pedantic(write_section)


HEAD = f"""# Speed of softmax regression

Ridge {RIDGE:g}, float64, no intercept but for the digits (n = 1,797), whose columns have sizes from 1 to 1/condition.
F − F* is the distance from the least objective that any of the solvers found, in extended precision; what
`fit_linear_predictor` proves of itself stands behind it. Of each solver of scikit-learn the runs up to the first within
{ACCURATE:g} of that are shown, or to the first that takes {HOPELESS:g} times as long as `fit_linear_predictor`.
newton-cholesky is left out where m d > {DENSE:,}. All in one process on the same arrays. Ratios are to
`fit_linear_predictor`: it and the peer take turns, and the median of 3 pairs is shown, or the one pair where the peer
takes {CLOSE:g} times as long. Under a load of more processes than cores times are longer and ratios less sure. Written
by `make bench`.
"""


def write_section() -> None:
    """Render what numbers there are."""
    kept = [json.loads(path.read_text()) for path in (RESULTS / "softmax").glob("*.json")]
    threads, loads = sorted({each["threads"] for each in kept}), [each["load"] for each in kept]
    how = f"{' or '.join(threads)} BLAS threads, under a load of {min(loads):.0f} to {max(loads):.0f} processes"
    lines = [HEAD, f"{'; '.join(sorted({numbers['machine'] for numbers in kept}))}; {how}.", ""]
    lines += ["| (n, d, m) | Condition | Solver | tol | Steps | Time | Ratio | F − F* |"]
    lines += ["| --- | --: | --- | --: | --: | --: | --: | --: |"]
    for numbers in sorted(kept, key=lambda each: (each["size"], each["condition"])):
        size = ", ".join(f"{each:,}" for each in numbers["size"])
        for row in numbers["rows"]:
            proven = "" if "tol" in row else f" (proven: {numbers['proven']:.0e})"
            tol = f"{row['tol']:g}" if "tol" in row else ""
            accuracy = f"{max(row['excess'], 0.0):.0e}{proven}"
            lines.append(
                f"| ({size}) | {numbers['condition']:g} | {row['solver']} | {tol} | {row['steps']:,} "
                f"| {1e3 * row['seconds']:,.0f} ms | {row.get('ratio', 1.0):.2g} | {accuracy} |"
            )
    put_section("\n".join(lines))
