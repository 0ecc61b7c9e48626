"""Short executions by `resflow run` and `resflow sweep` against plain papermill, in turns, with the same numbers.

Off by default: `make bench`. RESFLOW_BENCH_EXECUTIONS makes it smaller, to try this out.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.execution_section import write_section
from tests.benchmarks.measure import keep

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COUNT = int(os.environ.get("RESFLOW_BENCH_EXECUTIONS", "20"))
STEPS, WORKERS = 200, 2
NOTEBOOK = "notebooks/train_residual_unit.ipynb"


def make_project(folder: Path) -> Path:
    """A project of its own with the notebook and a sweep of it."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / NOTEBOOK, folder / NOTEBOOK)
    (folder / "pyproject.toml").write_text("[project]\n")
    content = {"notebook": NOTEBOOK, "parameters": {"steps": STEPS}, "axes": {"seed": {"seeds": COUNT}}}
    (folder / "seeds.yaml").write_text(json.dumps({**content, "experiment": "swept"}))
    return folder


def timed(folder: Path, *command: str, **given: str) -> float:
    """Seconds that a program of the environment takes, from start to exit."""
    own = ("MLFLOW_", "JAX_", "XLA_", "TF_", "TPU_")  # the last two are set by JAX, which this process has imported
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    began = time.perf_counter()
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"} | given,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds


def metrics_by_seed(client, experiment: str) -> dict[str, dict[str, float]]:
    """The metrics of each seed's run, but for its timings."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    runs = [run for run in found if "seed" in run.data.params]
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {
        run.data.params["seed"]: {
            name: value for name, value in run.data.metrics.items() if not name.startswith("timing/")
        }
        for run in runs
    }


def test_short_executions_against_plain_papermill(tmp_path, benchmark):
    from mlflow.tracking import MlflowClient

    folder = make_project(tmp_path / "short")
    given = ("-p", "steps", str(STEPS))

    def papermill(seed: int) -> float:
        options = ("--no-progress-bar", *given, "-p", "seed", str(seed))
        return timed(folder, "papermill", NOTEBOOK, "out.ipynb", *options, MLFLOW_EXPERIMENT_NAME="plain")

    def run(seed: int) -> float:
        options = (*given, "-p", "seed", str(seed))
        return timed(folder, "resflow", "run", NOTEBOOK, *options, MLFLOW_EXPERIMENT_NAME="run")

    run(COUNT)  # so that everything is in the caches
    papermill(COUNT)
    seconds: dict[str, list[float]] = {"papermill": [], "run": []}
    loads: dict[str, list[float]] = {"papermill": [], "run": []}
    for seed in range(COUNT):
        for name, execute in (("papermill", papermill), ("run", run)):
            seconds[name].append(execute(seed))
            loads[name].append(os.getloadavg()[0])
        if seed == COUNT // 2:
            sweep = timed(folder, "resflow", "sweep", "seeds.yaml", "--workers", str(WORKERS))
            sweep_load = os.getloadavg()[0]

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    plain, ran, swept = (metrics_by_seed(client, experiment) for experiment in ("plain", "run", "swept"))
    assert plain == ran
    differences: dict[str, float] = {}  # a sweep's workers share the cores, and other sums come of fewer threads
    for seed in map(str, range(COUNT)):
        for name, value in plain[seed].items():
            if swept[seed][name] != value:
                differences[name] = max(differences.get(name, 0.0), abs(swept[seed][name] - value))

    other = make_project(tmp_path / "demo")
    demo = [timed(other, "resflow", "run", NOTEBOOK) for _ in range(2)]
    numbers = {
        "steps": STEPS,
        "workers": WORKERS,
        "points": COUNT,
        "papermill_seconds": seconds["papermill"],
        "run_seconds": seconds["run"],
        "sweep_seconds": sweep,
        "papermill_load": statistics.median(loads["papermill"]),
        "run_load": statistics.median(loads["run"]),
        "sweep_load": sweep_load,
        "demo_first": demo[0],
        "demo_second": demo[1],
        "differences": differences,
        "metrics_each": len(plain["0"]),
    }
    keep("executions", numbers, "execution")
    benchmark.extra_info.update(numbers)
    benchmark.pedantic(write_section)
