"""A store with sweeps that never ran: runs as the drivers and notebooks record them, with values made up here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from resflow.workflow.goal import Goal
from resflow.workflow.reports.metrics import as_recorded

STEPS = range(0, 201, 20)
LEVEL = 0.3


def fabricate(root: Path):
    """A project at `root` whose store holds the sweeps `skip`, a population, and `width`, single runs; its client."""
    from mlflow import MlflowClient

    from resflow.workflow.store import ensure_store

    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").touch()
    client = MlflowClient(ensure_store(root))
    experiment = client.create_experiment("train_population", artifact_location=(root / "mlruns/artifacts").as_uri())
    population(client, experiment)
    experiment = client.create_experiment("train_residual_unit", artifact_location=(root / "mlruns/artifacts").as_uri())
    single_runs(client, experiment)
    return client


def population(client, experiment: str, seeds: int = 6) -> None:
    """Two executions whose members are architectures × learning rates × seeds; without the skip a third gets stuck."""
    parent = make(
        client, experiment, role="sweep", sweep="skip", name="skip", axes=["architecture", "learning_rate", "seed"]
    )
    for architecture in ("residual_unit", "no_skip"):
        execution = make(
            client,
            experiment,
            role="population",
            sweep="skip",
            parent=parent,
            name=architecture,
            parameters={"architecture": architecture, "steps": 200, "width": 16},
        )
        for rate in (0.001, 0.01, 0.1):
            for seed in range(seeds):
                stuck = architecture == "no_skip" and seed % 3 == 0
                end = 0.35 if stuck else -0.05 - 0.02 * math.log10(rate / 1e-4) - 0.001 * seed
                verdict = (
                    "sopsp_above_linear" if stuck else "sopsp_at_or_below_linear" if rate > 0.01 else "not_stationary"
                )
                make(
                    client,
                    experiment,
                    role="member",
                    sweep="skip",
                    parent=execution,
                    end=end,
                    verdict=verdict,
                    name=f"gap {end:+.3f}",
                    parameters={"learning_rate": rate, "seed": seed},
                )
        client.set_terminated(execution)
    client.set_terminated(parent)


def fabricate_grid(root: Path, axes: Mapping[str, Sequence], end: Callable[..., float]):
    """A store at `root` that holds the sweep `grid`: a run for each point of it, with the gap that `end` gives it."""
    from mlflow import MlflowClient

    from resflow.workflow.store import ensure_store

    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").touch()
    client = MlflowClient(ensure_store(root))
    experiment = client.create_experiment("grid", artifact_location=(root / "mlruns/artifacts").as_uri())
    parent = make(client, experiment, role="sweep", sweep="grid", name="grid", axes=list(axes))
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        gap = end(**point)
        verdict = "sopsp_above_linear" if gap > 0 else "sopsp_at_or_below_linear"
        make(client, experiment, role="run", sweep="grid", parent=parent, end=gap, verdict=verdict,
             name=f"gap {gap:+.3f}", parameters=point)  # fmt: skip
    client.set_terminated(parent)
    return client


def single_runs(client, experiment: str) -> None:
    """Widths × seeds: one failed, one diverged, one cut off and done again, one running, one counted from elsewhere."""
    parent = make(client, experiment, role="sweep", sweep="width", name="width", axes=["width", "seed"])
    for width in (4, 16, 64):
        for seed in range(3):
            status, end, sweep, others = "FINISHED", -0.02 * math.log2(width) + 0.005 * seed, "width", {}
            if (width, seed) == (64, 2):
                status = "FAILED"
            if (width, seed) == (4, 1):
                end = math.inf
            if (width, seed) == (16, 0):
                make(
                    client,
                    experiment,
                    role="run",
                    sweep="width",
                    parent=parent,
                    status="KILLED",
                    name="cut off",
                    parameters={"width": width, "seed": seed, "steps": 200},
                )
            if (width, seed) == (4, 0):
                sweep, others = "an earlier one", {"resflow.also_in.width": "true"}
            make(
                client,
                experiment,
                role="run",
                sweep=sweep,
                parent=parent,
                status=status,
                end=end,
                name=f"gap {end:+.3f}",
                parameters={"width": width, "seed": seed, "steps": 200},
                tags=others,
            )
    make(
        client,
        experiment,
        role="run",
        sweep="width",
        parent=parent,
        status="RUNNING",
        name="under way",
        parameters={"width": 256, "seed": 0, "steps": 200},
    )
    client.set_terminated(parent)


def make(
    client,
    experiment,
    *,
    role,
    sweep,
    name,
    parent=None,
    status="FINISHED",
    end=None,
    verdict=None,
    axes=None,
    parameters=None,
    tags=None,
) -> str:
    """One run; with `end` it has a training curve that ends at that gap."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {"resflow.sweep": sweep, "resflow.role": role, "mlflow.source.name": "notebooks/some.ipynb"} | (tags or {})
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    tags |= {"resflow.axes": json.dumps(axes)} if axes else {}
    tags |= {"verdict": verdict} if verdict else {}
    tags |= Goal("linear_predictor_gap").tags if end is not None else {}
    run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    params = [Param(key, str(value)) for key, value in (parameters or {}).items()]
    metrics = []
    if end is not None and status == "FINISHED":
        start, finite = 0.5, end if math.isfinite(end) else 3.0
        gaps = finite + (start - finite) * np.exp(-np.array(STEPS) / 40)
        gaps[-1] = end
        for key, values in (("linear_predictor_gap", gaps), ("objective", gaps + LEVEL)):
            metrics += [Metric(key, float(value), 0, step) for step, value in zip(STEPS, values, strict=True)]
        further = {"best_linear_objective": LEVEL, "partial_grad_norm": 1e-3}
        spelled = str if sweep == "width" else as_recorded  # the sweep `width` is one of version 0.1.0
        metrics += [Metric(spelled(key), value, 0, 200) for key, value in further.items()]
    client.log_batch(
        run_id, metrics=metrics, params=params, tags=[RunTag("resflow.fingerprint", f"{parent} {name} {params}")]
    )
    if role in ("run", "member") and status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id
