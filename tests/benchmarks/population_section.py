"""The section on populations in docs/benchmarks.md, from the numbers that the benchmarks left."""

from __future__ import annotations

import json
from typing import Any

from tests.benchmarks.measure import RESULTS
from tests.benchmarks.page import put_section

__all__ = ["write_section"]

HEAD = """# Speed of populations

Training of many small residual units, (d, k) = (20, 32), n = 1,000, logistic loss, Adam: runs of 2,000 steps a second,
compilation left out. Each method has a process to itself and takes turns with the others; medians of {rounds}.
The ratio is that of `train_population` to the method. The load is the number of processes that wanted a core as the
measurement began: where it is above 0, other work took part of the machine, and ratios are less sure.

`train_population` goes through its members chunk by chunk on one device a core. *Exact* gives each member the bits that
it has by itself (one at a time on each device). The PyTorch loop is one process on two threads, as
it is by default; two processes have a thread each, and half of the members. {same}

{machine}.
"""


def write_section() -> None:
    """Render what numbers there are."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / "population").glob("*.json"))}
    tables = [name for name in ("full float32", "full float64", "batches float32", "batches float64") if name in kept]
    rounds = len(next(iter(kept[tables[0]]["all_rates"].values()))) if tables else 0
    # The sweep has no peers, and so may have been measured without them installed.
    machines = sorted({numbers["machine"] for name, numbers in kept.items() if name != "sweep"})
    same = kept.get("same")
    said = (
        f"After {same['steps']} steps\nof full batches in float64, {same['methods']} methods agree in the objective to "
        f"{same['difference']:.0e} relative."
        if same
        else ""
    )
    parts = [HEAD.format(rounds=f"{rounds} round{'' if rounds == 1 else 's'}", same=said, machine="; ".join(machines))]
    parts += [_table(kept[name]) for name in tables]
    if "sweep" in kept:
        parts.append(_sweep(kept["sweep"]))
    put_section("\n".join(parts))


def _table(numbers: dict[str, Any]) -> str:
    size = numbers["batch_size"]
    what = f"Batches of {size}" if size else "Full batch"
    lines = [
        f"## {what}, {numbers['dtype']}, load {numbers['load']:.1f}",
        "",
        "| Method | Runs a second | Ratio |",
        "| --- | --: | --: |",
    ]
    rates = numbers["rates"]
    for name, rate in rates.items():
        shown = name
        if layout := numbers["layouts"].get(name):
            shown += f" ({layout['chunk']} side by side on each of {layout['devices']} devices)"
        bold = "**" if name == "population" else ""
        lines.append(f"| {bold}{shown}{bold} | {rate:.3g} | {rates['population'] / rate:.3g} |")
    return "\n".join(lines) + "\n"


def _sweep(numbers: dict[str, Any]) -> str:
    points, seconds, recording = numbers["points"], numbers["seconds"], numbers["recording_seconds"]
    single, singles = numbers["single_seconds"], ", ".join(f"{s:.1f}" for s in numbers["all_single_seconds"])
    return f"""## A sweep of {points} points, end to end

`resflow sweep` on the same problem in float64, exact, measured every 40 steps, each point a child run in MLflow with
{numbers["metrics_each"]} metrics, on SQLite, under a load of {numbers["load"]:.1f}:

- {seconds:.0f} s from the command to its exit, {seconds / points:.2f} s a run: {numbers["training_seconds"]:.0f} s of \
training and analysis, {recording:.0f} s ({recording / seconds:.0%}) of recording.
- One papermill execution of `train_residual_unit` at such a point: {single:.1f} s (median of {singles}), which makes
  {single * points / 60:.0f} minutes of all (extrapolated).
- Ratio a run: **{single / (seconds / points):.1f}**.
"""
