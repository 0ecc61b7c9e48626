"""How a population of residual units is trained elsewhere: `python -m tests.benchmarks.training_peers METHOD JSON`.

Each method has a process to itself, with threads and devices as suit it, trains the same members from the same initial
points on the same data, and prints as JSON what it took, compilation left out, and the objectives it reached.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Case", "Start", "start"]


@dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes:
        members: How many residual units.
        steps: Of Adam.
        batch_size: Samples a step, or None for all.
        dtype: float32 or float64.
        options: What is particular to the method.
    """

    members: int
    steps: int
    batch_size: int | None = None
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    n: int = 1000
    d: int = 20
    k: int = 32
    learning_rate: float = 0.003

    def as_json(self) -> str:
        """The case as an argument of a process."""
        return json.dumps(asdict(self))


class Start(NamedTuple):
    """Data, and the initial points of all members with an axis of members in front: f(x) = tanh(Ax + b)."""

    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    V: np.ndarray
    A: np.ndarray
    b: np.ndarray


def start(case: Case) -> Start:
    """The same numbers for every method."""
    from resflow.data.catalog import teacher

    data = teacher(n=case.n, d=case.d, labels="binary")
    rng = np.random.default_rng(0)
    m, d, k = case.members, case.d, case.k
    w, V, A = rng.standard_normal((m, d)), rng.standard_normal((m, d, k)), rng.standard_normal((m, k, d))
    arrays = data.X, data.y, w / np.sqrt(d), V / np.sqrt(k), A / np.sqrt(d), np.zeros((m, k))
    return Start(*(array.astype(case.dtype) for array in arrays))


def population(case: Case) -> dict[str, Any]:
    """`train_population`, one device a core."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import resflow
    from resflow.models.residual_unit import ResidualUnit

    resflow.one_device_per_core()
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    X, y, w, V, A, b = map(jnp.asarray, start(case))
    shape = resflow.feature_map("mlp", case.d, width=case.k, key=jax.random.key(0))
    layers = [shape.layers[0].layers[0].weight, shape.layers[0].layers[0].bias]
    assert [layer.shape for layer in layers] == [A.shape[1:], b.shape[1:]]

    def build(w, V, A, b):
        place = lambda f: (f.layers[0].layers[0].weight, f.layers[0].layers[0].bias)  # noqa: E731
        return ResidualUnit(w, V, eqx.tree_at(place, shape, (A, b)))

    models = eqx.filter_vmap(build)(w, V, A, b)
    train = partial(
        resflow.train_population,
        models,
        X,
        y,
        loss="logistic",
        options=resflow.TrainingOptions(
            steps=case.steps, learning_rate=case.learning_rate, batch_size=case.batch_size, log_every=case.steps
        ),
        keys=jax.random.split(jax.random.key(0), case.members),
        exact=case.options["exact"],
    )
    layout = train().layout  # compiled, and run once
    began = time.perf_counter()
    result = train()
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "objectives": result.history["objective"][:, -1].tolist(),
        "layout": {"devices": len(layout.devices), "chunk": layout.chunk, "chunks": layout.chunks},
    }


def vmap(case: Case) -> dict[str, Any]:
    """What one writes in JAX: vmap of a scan over the steps."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    X, y, *initial = map(jnp.asarray, start(case))
    optimizer = optax.adam(case.learning_rate)
    size = case.batch_size

    def objective(parameters, X, y):
        w, V, A, b = parameters
        p = X @ w + jnp.tanh(X @ A.T + b) @ (V.T @ w)
        return jnp.mean(jnp.logaddexp(0.0, -y * p))

    @jax.jit
    def train_all(initial, keys, X, y):
        def train_one(initial, key):
            def epoch(key):
                return jax.random.permutation(key, case.n)[: case.n // size * size].reshape(-1, size)

            def step(state, rows):
                parameters, moments = state
                at = (X, y) if rows is None else (X[rows], y[rows])
                change, moments = optimizer.update(jax.grad(objective)(parameters, *at), moments)
                return (optax.apply_updates(parameters, change), moments), None

            state = initial, optimizer.init(initial)
            if size is None:
                state, _ = jax.lax.scan(step, state, None, length=case.steps)
            else:
                epochs = -(-case.steps // (case.n // size))
                rows = jax.vmap(epoch)(jax.random.split(key, epochs)).reshape(-1, size)[: case.steps]
                state, _ = jax.lax.scan(step, state, rows)
            return objective(state[0], X, y)

        return jax.vmap(train_one)(initial, keys)

    keys = jax.random.split(jax.random.key(0), case.members)
    compiled = train_all.lower(tuple(initial), keys, X, y).compile()
    began = time.perf_counter()
    objectives = jax.block_until_ready(compiled(tuple(initial), keys, X, y))
    return {"seconds": time.perf_counter() - began, "objectives": objectives.tolist()}


def torch_loop(case: Case) -> dict[str, Any]:
    """What one writes in PyTorch: a loop over steps, in as many processes as are asked for, each with its threads."""
    processes = case.options["processes"]
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    shares = [list(range(place, case.members, processes)) for place in range(processes)]
    workers = [context.Process(target=_torch_share, args=(case, share, barrier, answers)) for share in shares]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=1800) for _ in workers]
    for worker in workers:
        worker.join()
    objectives = {member: value for _, _, part in found for member, value in part.items()}
    seconds = max(ended for _, ended, _ in found) - min(began for began, _, _ in found)
    return {"seconds": seconds, "objectives": [objectives[member] for member in sorted(objectives)]}


def _torch_share(case: Case, members: list[int], barrier: Any, answers: Any) -> None:
    import torch

    torch.set_num_threads(case.options["threads"])
    initial = start(case)
    X, y = torch.tensor(initial.X), torch.tensor(initial.y)

    def train_one(member: int, steps: int) -> float:
        parameters = [torch.tensor(array[member], requires_grad=True) for array in initial[2:]]
        w, V, A, b = parameters
        optimizer = torch.optim.Adam(parameters, lr=case.learning_rate, **case.options.get("adam", {}))

        def objective(X, y):
            p = X @ w + torch.tanh(X @ A.T + b) @ (V.T @ w)
            return torch.nn.functional.softplus(-y * p).mean()

        size = case.batch_size
        generator = torch.Generator().manual_seed(member)
        rows, place = torch.randperm(case.n, generator=generator), 0
        for _ in range(steps):
            if size is None:
                value = objective(X, y)
            else:
                if place + size > case.n:
                    rows, place = torch.randperm(case.n, generator=generator), 0
                batch = rows[place : place + size]
                place += size
                value = objective(X[batch], y[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        with torch.no_grad():
            return float(objective(X, y))

    train_one(members[0], 20)  # warm
    barrier.wait()
    began = time.time()
    reached = {member: train_one(member, case.steps) for member in members}
    answers.put((began, time.time(), reached))


METHODS = {"population": population, "vmap": vmap, "torch": torch_loop}

if __name__ == "__main__":
    print(json.dumps(METHODS[sys.argv[1]](Case(**json.loads(sys.argv[2])))))
