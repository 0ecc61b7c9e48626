"""The library on the device that JAX finds, all subjects in one go of ten minutes: `make bench-device`.

Each measurement has a process to itself, compilation not on disk, and is written down as soon as it is there, so that
one that is cut off leaves what came before. Needs the library's dependencies only; PyTorch takes part where it is
installed. `--small` tries every measurement at a size for any machine, and leaves docs/benchmarks.md alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
RIDGE = 1e-4
TORCH_STEPS = 200
TO_THE_END = {"tolerance_grad": 1e-12, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}


def main() -> None:
    """Measure one thing and print it as JSON, or everything, each in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--small", action="store_true", help="sizes for any machine; the page is left alone")
    parser.add_argument("--seconds", type=float, default=570.0, help="after which nothing is begun, and all is ended")
    parser.add_argument("--only", metavar="NAME", help="of one measurement, which is printed")
    given = parser.parse_args()
    plan = measurements(given.small)
    if given.only:
        print(json.dumps(plan[given.only]()))
        return
    _measure_all(list(plan), given.small, time.monotonic() + given.seconds)


def measurements(small: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """What there is to measure, the most wanted first."""
    plan: dict[str, Callable[[], dict[str, Any]]] = {"device": device}
    for d, k, n in [(10, 8, 500)] if small else [(784, 512, 50_000), (2048, 1024, 50_000)]:
        plan[f"λ_min, ({d}, {k}), n = {n:,}"] = lambda d=d, k=k, n=n: eigenvalue(d, k, n)
    for batch_size in (None, 32):
        for members in (4, 8) if small else (64, 512, 4096):
            what = f"{members} members, {f'batches of {batch_size}' if batch_size else 'full batch'}"
            for method in ("population", "vmap"):
                plan[f"{method}: {what}"] = lambda m=members, b=batch_size, how=method: training(how, m, b, small)
    n, d = (2000, 16) if small else (1_000_000, 256)
    plan[f"logistic, n = {n:,}, d = {d}"] = lambda: linear(n, d, None)
    plan[f"logistic, n = {n:,}, d = {d}, torch"] = lambda: torch_linear(n, d)
    n, d, m = (2000, 16, 20) if small else (1_281_167, 768, 1000)
    plan[f"softmax, n = {n:,}, d = {d}, m = {m:,}"] = lambda: linear(n, d, m)
    return plan


def device() -> dict[str, Any]:
    """What JAX computes on."""
    kinds = sorted({each.device_kind for each in jax.devices()})
    return {"device": f"{len(jax.devices())} × {', '.join(kinds)}, jax {jax.__version__}, {os.cpu_count()} cores"}


def eigenvalue(d: int, k: int, n: int) -> dict[str, Any]:
    """λ_min of a residual unit with its bracket, float64, the first call and warm ones."""
    jax.config.update("jax_enable_x64", True)
    import resflow
    from tests.problems import point

    here = jax.block_until_ready(jax.tree.map(jnp.asarray, point(0, n, d, k, "logistic")))
    found, first = _timed(lambda: resflow.smallest_eigenvalue(here))
    warm = [_timed(lambda: resflow.smallest_eigenvalue(here))[1] for _ in range(5)]
    names = ("lambda_min", "lambda_min_lower", "lambda_min_upper", "lambda_min_residual")
    evidence = {name: float(getattr(found, name)) for name in names}
    return {"seconds": float(np.median(warm)), "first": first, **evidence, "converged": bool(found.converged)}


def training(method: str, members: int, batch_size: int | None, small: bool) -> dict[str, Any]:
    """Runs of 2,000 steps a second, float32, and the mean objective that was reached."""
    from tests.benchmarks.training_peers import METHODS, Case

    steps = 20 if small else 500
    numbers = METHODS[method](Case(members, steps, batch_size, options={"exact": False}))
    rate = members * steps / 2000 / numbers["seconds"]
    return {"seconds": numbers["seconds"], "runs a second": rate, "objective": float(np.mean(numbers["objectives"]))}


def linear(n: int, d: int, m: int | None) -> dict[str, Any]:
    """The best linear predictor of two classes, or of m, float32 samples that are on the device."""
    import resflow

    X, y = _samples(n, d, m)

    def fit() -> Any:
        return resflow.fit_linear_predictor(X, y, loss="softmax" if m else "logistic", ridge=RIDGE)

    found, first = _timed(fit)
    seconds = float(np.median([_timed(fit)[1] for _ in range(1 if m else 5)]))
    numbers = {"seconds": seconds, "first": first, "objective": found.objective, "grad_norm": found.grad_norm}
    return numbers | {"proven F − F*": found.suboptimality, "converged": found.converged}


def torch_linear(n: int, d: int) -> dict[str, Any]:
    """The same by PyTorch's L-BFGS in float64."""
    import torch

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    X, y = (torch.tensor(np.asarray(array), dtype=torch.float64, device=where) for array in _samples(n, d, None))

    def fit() -> tuple[float, float]:
        w = torch.zeros(d, dtype=torch.float64, device=where, requires_grad=True)
        steps = torch.optim.LBFGS([w], max_iter=TORCH_STEPS, **TO_THE_END)

        def objective() -> Any:
            steps.zero_grad()
            value = torch.nn.functional.softplus(-y * (X @ w)).mean() + 0.5 * RIDGE * w @ w
            value.backward()
            return value

        steps.step(objective)
        return float(objective().detach() - 0.5 * RIDGE * (w @ w).detach()), float(w.grad.norm())

    (objective, grad_norm), first = _timed(fit)
    seconds = float(np.median([_timed(fit)[1] for _ in range(5)]))
    return {"seconds": seconds, "first": first, "objective": objective, "grad_norm": grad_norm}


def _samples(n: int, d: int, m: int | None) -> tuple[jax.Array, jax.Array]:
    """Normal samples, drawn where they are used, and labels that a linear predictor explains in part."""

    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_samples, of_weights, of_noise = jax.random.split(key, 3)
        X = jax.random.normal(of_samples, (n, d), jnp.float32)
        weights = jax.random.normal(of_weights, (d, m or 1), jnp.float32) * 2.0 / np.sqrt(d)
        if m is None:
            return X, jnp.where((X @ weights)[:, 0] + jax.random.logistic(of_noise, (n,), jnp.float32) > 0, 1.0, -1.0)
        rows = X.reshape(-1, 1, d) if n % 1024 else X.reshape(-1, 1024, d)  # no (n, m) array of scores is made
        keys = jax.random.split(of_noise, len(rows))
        y = jax.lax.map(lambda part: jax.random.categorical(part[0], part[1] @ weights), (keys, rows), batch_size=64)
        return X, y.ravel().astype(jnp.int32)

    return jax.block_until_ready(draw(jax.random.key(0)))


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - began


def _measure_all(names: list[str], small: bool, end: float) -> None:
    from tests.benchmarks.device_section import keep_measured, write_section

    found: dict[str, Any] = {}
    for name in names:
        found[name] = _in_process(name, small, end - time.monotonic())
        print(f"{name}: {json.dumps(found[name], ensure_ascii=False)}", flush=True)
        keep_measured(found, small=small)
    if not small:
        write_section()


def _in_process(name: str, small: bool, seconds: float) -> dict[str, Any]:
    """What a measurement prints, or why there is nothing."""
    if seconds <= 0:
        return {"missing": "no time was left"}
    command = [sys.executable, "-m", "tests.benchmarks.on_device", "--only", name, *(["--small"] if small else [])]
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"missing": f"not done in the {seconds:.0f} s that were left"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended by {done.returncode}"]
        return {"missing": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
