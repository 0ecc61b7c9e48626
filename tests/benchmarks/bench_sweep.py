"""A population sweep of 512 points end to end, against plain papermill executions of single runs.

Off by default: `make bench`. The sweep is the command `resflow sweep`, from start to exit, with 512 child runs in
MLflow. Of the single runs a few are timed, one after another, with everything they import compiled and in the file
cache; what 512 of them would take is extrapolated. RESFLOW_BENCH_SEEDS makes the sweep smaller, to try this out.
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

from tests.benchmarks.measure import keep
from tests.benchmarks.population_section import write_section

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SEEDS = int(os.environ.get("RESFLOW_BENCH_SEEDS", "64"))
RATES = [1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 1e-2, 3e-2, 1e-1]
SAME = {
    "dataset": "teacher:n=1250,d=20,labels=binary",
    "test_fraction": 0.2,
    "intercept": False,
    "width": 32,
    "steps": 2000,
    "log_every": 40,
}
SINGLE_RUNS = 3


def make_project(folder: Path) -> Path:
    """A project of its own with the notebooks and the sweep file."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*", "sweeps"))
    (folder / "pyproject.toml").write_text("[project]\n")
    content = {
        "notebook": "notebooks/train_population.ipynb",
        "parameters": SAME,
        "axes": {
            "learning_rate": {"values": RATES, "run": "population"},
            "seed": {"seeds": SEEDS, "run": "population"},
        },
    }
    (folder / "crowd.yaml").write_text(json.dumps(content))
    return folder


def timed(folder: Path, *command: str) -> tuple[float, str]:
    """Seconds that a program of the environment takes, from start to exit, and what it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "JAX_"))}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    program, *arguments = command
    began = time.perf_counter()
    done = subprocess.run([BIN / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    return seconds, done.stdout


def test_population_sweep_against_single_runs(tmp_path, benchmark):
    from mlflow.tracking import MlflowClient

    folder = make_project(tmp_path)
    points = SEEDS * len(RATES)
    parameters = [part for name, value in SAME.items() for part in ("-p", name, str(value))]

    def single_run(seed: int) -> float:
        own = ["-p", "seed", str(seed), "-p", "learning_rate", str(RATES[seed % len(RATES)]), "--no-progress-bar"]
        return timed(folder, "papermill", "notebooks/train_residual_unit.ipynb", "out.ipynb", *parameters, *own)[0]

    single_run(0)
    singles = [single_run(seed) for seed in range(SINGLE_RUNS)]
    seconds, said = timed(folder, "resflow", "sweep", "crowd.yaml", "--json")

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("train_population").experiment_id
    runs = client.search_runs([experiment], "tags.`resflow.role` = 'member'", max_results=50_000)
    (execution,) = client.search_runs([experiment], "tags.`resflow.role` = 'population'")
    assert json.loads(said.splitlines()[-1])["finished"] == points
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {execution.info.run_id}
    assert len(runs) == len({run.data.tags["resflow.fingerprint"] for run in runs}) == points
    numbers = {
        "load": os.getloadavg()[0],
        "points": points,
        "seconds": seconds,
        "training_seconds": execution.data.metrics["timing/training_seconds"],
        "recording_seconds": execution.data.metrics["timing/recording_seconds"],
        "single_seconds": statistics.median(singles),
        "all_single_seconds": singles,
        "metrics_each": len(client.get_run(runs[0].info.run_id).data.metrics),
    }
    numbers["ratio"] = numbers["single_seconds"] / (seconds / points)
    keep("sweep", numbers, "population")
    benchmark.extra_info.update(numbers)
    benchmark.pedantic(write_section)
