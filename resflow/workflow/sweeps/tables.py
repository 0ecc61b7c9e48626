"""A sweep's plan and its results as tables, for its parent run and for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

from pandas import DataFrame

from resflow.workflow.sweeps.sweep import Result, Sweep

__all__ = ["plan_table", "results_table"]


def plan_table(sweep: Sweep) -> DataFrame:
    """The plan as a data frame: one row a point, its axes, its execution, and whether it is finished."""
    return DataFrame(
        [
            point.values
            | {
                "execution": number,
                "state": "finished" if point.fingerprint in sweep.finished else "to do",
                "run_id": sweep.finished[point.fingerprint].info.run_id if point.fingerprint in sweep.finished else "",
                "fingerprint": point.fingerprint,
            }
            for number, execution in enumerate(sweep.executions, 1)
            for point in execution.points
        ]
    )


def results_table(results: Sequence[Result]) -> DataFrame:
    """The results as a data frame: one row a point, its axes, state and run, and every metric."""
    return DataFrame(
        [
            result.point.values
            | {"state": result.state, "run_id": result.run_id, "error": result.error}
            | (result.run.data.metrics if result.run else {})
            for result in results
        ]
    )
