"""The best linear predictor against scikit-learn's solvers, at equal accuracy, side by side in one process.

Off by default: `make bench`. The last writes what there is into docs/benchmarks.md.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from resflow.linear.predictor import fit_linear_predictor
from tests.benchmarks.measure import RESULTS, in_new_process, keep, timed
from tests.benchmarks.page import put_section
from tests.test_linear import features, kkt_residual, labels, least_objective

pytestmark = pytest.mark.filterwarnings("ignore")  # lbfgs says where it stops at its limit

N, D = 50_000, 100
LBFGS = [(1e-4, 100), (1e-6, 1000), (1e-8, 1000), (1e-12, 1000)]
"""tol and max_iter: scikit-learn's defaults, and tightened until nothing more is gained or a minute is over."""


def excess(w, X, y, least):
    margins = (X @ w).astype(np.longdouble) * y
    return float(np.mean(np.logaddexp(np.longdouble(0), -margins)) - least)


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_logistic_fit(condition, benchmark):
    rng = np.random.default_rng(0)
    X = features(rng, N, D, condition)
    y = labels(rng, X, "logistic")
    least = least_objective(X, y, "logistic")
    fit = fit_linear_predictor(X, y)
    bounded = fit_linear_predictor(X, y, max_norm=0.5 * float(np.linalg.norm(fit.W)))
    rows = []
    seconds = timed(lambda: fit_linear_predictor(X, y), 9).seconds
    own = {"solver": "resflow", "seconds": seconds, "steps": fit.iterations}
    rows.append(own | {"excess": excess(fit.W, X, y, least)})
    solvers = [("lbfgs", *limits) for limits in LBFGS] + [("newton-cholesky", 1e-10, 100)]
    for solver, tol, most in solvers:
        peer = LogisticRegression(C=np.inf, solver=solver, tol=tol, max_iter=most, fit_intercept=False)
        measured = timed(lambda: peer.fit(X, y), 9 if condition == 1.0 else 1)  # noqa: B023
        found = {"solver": solver, "tol": tol, "max_iter": most, "steps": int(peer.n_iter_[0])}
        rows.append(found | {"seconds": measured.seconds, "excess": excess(peer.coef_[0], X, y, least)})
    benchmark.pedantic(lambda: fit_linear_predictor(X, y), rounds=1)
    residual = float(kkt_residual(bounded, X, y, "logistic"))
    keep(f"logistic {condition:g}", {"condition": condition, "rows": rows, "kkt": residual}, subject="linear")
    assert abs(rows[0]["excess"]) <= 1e-12
    assert residual <= 1e-12


MEMORY_MAPPED = """
import ctypes, json, sys, tempfile, threading, time
from pathlib import Path
import numpy as np
from resflow.linear.predictor import fit_linear_predictor
n, d, chunk = 10**6, 784, 10**4
rng = np.random.default_rng(0)
w = rng.standard_normal(d) / 14
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**20
with tempfile.TemporaryDirectory() as folder:
    X = np.memmap(Path(folder) / "X", dtype=np.float32, mode="w+", shape=(n, d))
    y = np.empty(n)
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        X[part] = rng.standard_normal((chunk, d), dtype=np.float32)
        y[part] = np.where(rng.random(chunk) < 1 / (1 + np.exp(-(X[part] @ w))), 1.0, -1.0)
    before, peak, done = anonymous(), 0.0, threading.Event()
    def watch():
        global peak
        while not done.wait(0.02):
            peak = max(peak, anonymous())
    watching = threading.Thread(target=watch)
    watching.start()
    start = time.perf_counter()
    fit = fit_linear_predictor(X, y)
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
print(json.dumps({"n": n, "d": d, "seconds": seconds, "gib": peak - before, "data_gib": X.nbytes / 2**30,
                  "steps": fit.iterations, "residual": fit.grad_norm, "converged": fit.converged}))
"""


def test_a_million_samples_on_disk(benchmark):
    numbers = in_new_process(MEMORY_MAPPED)
    assert numbers["converged"]
    keep("on disk", numbers, subject="linear")
    benchmark.pedantic(lambda: None)


def test_section(benchmark):
    benchmark.pedantic(write_section)


HEAD = """# Speed of the best linear predictor

Logistic loss, n = 50,000, d = 100, float64, no intercept, every direction of the features explaining the labels.
F − F* is the distance from the optimum by an independent solution in extended precision; lbfgs and newton-cholesky are
scikit-learn's at their defaults and with `tol` and `max_iter` as given. Medians, all in one process on the same arrays;
ratios are to `fit_linear_predictor` in the same run. Written by `make bench`.
"""


def write_section() -> None:
    """Render what numbers there are."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "linear").glob("*.json"))}
    machines = "; ".join(sorted({numbers["machine"] for numbers in kept.values()}))
    lines = [HEAD, machines + ".", ""]
    lines += ["| Condition | Solver | tol, max_iter | Steps | Time | Ratio | F − F* |"]
    lines += ["| --: | --- | --- | --: | --: | --: | --: |"]
    residuals = []
    for numbers in sorted((each for each in kept.values() if "rows" in each), key=lambda each: each["condition"]):
        own = numbers["rows"][0]["seconds"]
        residuals.append(f"{numbers['kkt']:.0e} at condition {numbers['condition']:g}")
        for row in numbers["rows"]:
            limits = f"{row['tol']:g}, {row['max_iter']:,}" if "tol" in row else ""
            lines.append(
                f"| {numbers['condition']:g} | {row['solver']} | {limits} | {row['steps']:,} "
                f"| {1e3 * row['seconds']:,.0f} ms | {_ratio(row['seconds'] / own)} | {max(row['excess'], 0.0):.0e} |"
            )
    if residuals:
        lines += ["", f"Under the bound of half the norm the KKT residual is {', '.join(residuals)}."]
    if "on disk" in kept:
        numbers = kept["on disk"]
        lines += [
            "",
            f"n = {numbers['n']:,}, d = {numbers['d']} from a float32 `np.memmap` of {numbers['data_gib']:.2f} GiB: "
            f"{numbers['seconds']:.0f} s, {numbers['steps']} steps, gradient {numbers['residual']:.0e}; "
            f"{numbers['gib']:.2f} GiB of memory besides the file's own pages.",
        ]
    put_section("\n".join(lines))


def _ratio(value):
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"
