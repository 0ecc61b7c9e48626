"""The section on executions in docs/benchmarks.md, from the numbers that the benchmark left."""

from __future__ import annotations

import json
import statistics

from tests.benchmarks.measure import RESULTS
from tests.benchmarks.page import put_section

__all__ = ["write_section"]

SECTION = """# Speed of executions

What a short notebook costs: `train_residual_unit` at {steps} steps with another seed each time, from the command to its
exit. Plain papermill and `resflow run` take turns, {count} executions of each; the sweep has the same seeds and
{workers} workers, and its time is that of the whole command by its {points} points. What they import is compiled and in
the file cache, and the programs in the project's cache, which plain papermill does not use. Medians, with the range;
ratios are to plain papermill. The load is the number of processes that wanted a core, this benchmark's own among them.

| | Seconds | Ratio | Load |
| --- | --: | --: | --: |
| plain papermill | {papermill} | 1 | {papermill_load:.1f} |
| **`resflow run`** | {run} | **{run_ratio:.2f}** | {run_load:.1f} |
| **a point of `resflow sweep`** | {point:.1f} | **{point_ratio:.2f}** | {sweep_load:.1f} |

{same}

`make demo`, which trains for 2,000 steps, took {demo_first:.1f} s the first time and {demo_second:.1f} s the second.

{machine}.
"""


def write_section() -> None:
    """Render what numbers there are."""
    kept = json.loads((RESULTS / "execution" / "executions.json").read_text())
    papermill, run = kept["papermill_seconds"], kept["run_seconds"]
    usual, point = statistics.median(papermill), kept["sweep_seconds"] / kept["points"]
    said = f"All {kept['metrics_each']} metrics but the timings agree in every bit between papermill and `resflow run`"
    if differences := kept["differences"]:
        said += f"""; in the sweep,
whose workers have fewer threads, all but {len(differences)} do, and those ({", ".join(differences)})
to {max(differences.values()):.0e}."""
    else:
        said += ", and in the sweep."
    put_section(
        SECTION.format(
            **{name: kept[name] for name in ("steps", "workers", "points", "demo_first", "demo_second", "machine")},
            **{name: kept[name] for name in ("papermill_load", "run_load", "sweep_load")},
            count=len(papermill),
            papermill=_seconds(papermill),
            run=_seconds(run),
            point=point,
            same=said,
            run_ratio=statistics.median(run) / usual,
            point_ratio=point / usual,
        )
    )


def _seconds(found: list[float]) -> str:
    return f"{statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})"
