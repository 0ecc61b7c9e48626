"""A sweep's plan and its results as tables, for its parent run and for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from resflow.workflow.limits import one_line
from resflow.workflow.sweeps.file.axes import Axis
from resflow.workflow.sweeps.plan.points import Execution, Point, Result

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

__all__ = ["axes_table", "axis_column", "plan_table", "results_table"]

WIDEST = 50
"""Characters of the values of an axis, so that 80 columns hold a line."""

_COLUMNS = frozenset({"execution", "state", "run_id", "fingerprint", "error"})


def axis_column(axis: str) -> str:
    """The column of an axis, apart from those that say what became of the points."""
    return f"{axis} (parameter)" if axis in _COLUMNS else axis


def axes_table(axes: Sequence[Axis], points: Sequence[Point]) -> list[list[str]]:
    """A line an axis: its name, how many values the points have of it, and those values, or the first and the last."""
    lines = []
    for axis in axes:
        found = {repr(value): value for point in points for name, value in point.values.items() if name == axis.name}
        values = [one_line(f"{value:g}" if isinstance(value, float) else str(value)) for value in found.values()]
        said = ", ".join(values)
        if len(said) > WIDEST:
            numbers = all(isinstance(value, int | float) for value in found.values())
            said = f"{values[0]}{' to ' if numbers else ', …, '}{values[-1]}"
        lines.append([axis.name, str(len(values)), said])
    return lines


def plan_table(executions: Sequence[Execution], finished: Mapping[str, StoredRun]) -> DataFrame:
    """The plan as a data frame: one row a point, its axes, its execution, and whether it is finished."""
    rows = []
    for number, execution in enumerate(executions, 1):
        for point in execution.points:
            run = finished.get(point.fingerprint)
            state, run_id = ("finished", run.info.run_id) if run else ("to do", "")
            row = {"execution": number, "state": state, "run_id": run_id, "fingerprint": point.fingerprint}
            rows.append(_values(point) | row)
    return _as_written(rows)


def results_table(results: Sequence[Result]) -> DataFrame:
    """The results as a data frame: one row a point, its axes, state and run, and every metric."""
    rows = []
    for result in results:
        row = _values(result.point) | {"state": result.state, "run_id": result.run_id, "error": result.error}
        metrics = result.run.data.metrics if result.run else {}
        rows.append(row | {f"{name} (metric)" if name in row else name: value for name, value in metrics.items()})
    return _as_written(rows)


def _values(point: Point) -> dict[str, Any]:
    return {axis_column(name): value for name, value in point.values.items()}


def _as_written(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Rows whose values stay what they are: beside None, 3 would else become 3.0, and None NaN."""
    return DataFrame(rows, dtype=object)
