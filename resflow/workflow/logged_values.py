"""Parameters, histories and data sets as MLflow's own objects; nothing is written here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resflow.workflow.limits import PARAMETER, parameter_name, shortened
from resflow.workflow.names import DATA_CONTEXT, SOURCE_TYPE
from resflow.workflow.parameters import brief

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param

__all__ = ["as_metrics", "as_params", "dataset_input", "finite", "is_finite", "loggable", "not_finite", "rows_of"]

_INFINITE = 1.79e308  # MLflow's database keeps ±inf as the largest finite float64


def as_params(values: Mapping[str, Any]) -> list[Param]:
    """Parameters by their names and, as text, their values; what is too long for MLflow is shortened."""
    from mlflow.entities import Param

    return [Param(parameter_name(key), shortened(brief(value), PARAMETER)) for key, value in values.items()]


def as_metrics(values: Iterable[tuple[str, int, float]]) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, value, now, step) for key, step, value in values]


def loggable(rows: list[tuple[int, dict[str, float]]]) -> tuple[list[tuple[str, int, float]], dict[str, str]]:
    """The values that a database of finite numbers can tell, and what is to be said of the others."""
    points: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in rows:
        for key, value in metrics.items():
            points.setdefault(key, []).append((step, value))
    notes: dict[str, str] = {}
    for key, values in points.items():
        notes |= not_finite(key, values)
    told = [
        (key, step, value)
        for key, values in points.items()
        for step, value in values
        if abs(value) != float("inf") or step == values[-1][0]
    ]
    return told, notes


def is_finite(value: float | None) -> bool:
    """Whether a metric read back from MLflow is there, and was finite when it was logged."""
    return value is not None and abs(value) < _INFINITE


def finite(value: float | None) -> float | None:
    """A metric's value, or None if there is none or it isn't finite."""
    return value if is_finite(value) else None


def not_finite(key: str, values: list[tuple[int, float]]) -> dict[str, str]:
    """What is to be said of a metric's values that are not finite; nothing if there are none."""
    steps = [(step, value) for step, value in values if value != value or abs(value) == float("inf")]
    if not steps:
        return {}
    kinds = "/".join(sorted({str(value) for _, value in steps}))
    return {key: f"{key} is {kinds} at {len(steps)} of {len(values)} steps, first at {steps[0][0]}"}


def rows_of(history: Any) -> list[tuple[int, dict[str, float]]]:
    """A history as (step, metrics) in the order of steps, with missing values left out."""
    import pandas as pd

    if isinstance(history, pd.DataFrame):
        if "step" in history.columns:
            history = history.set_index("step")
        history = {step: row for step, row in zip(history.index, history.to_dict("records"), strict=True)}
    return sorted(
        (
            int(step),
            {str(key): float(value) for key, value in metrics.items() if value is not None and value is not pd.NA},
        )
        for step, metrics in history.items()
    )


def dataset_input(
    name: str, X: Any, y: Any, digest: str | None, feature_names: Iterable[str] | None, context: str
) -> DatasetInput:
    """A data set as the input of a run; the arguments are those of `Run.log_dataset`."""
    from mlflow.entities import DatasetInput, InputTag

    dataset = _dataset(name, X, y, digest, feature_names)
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag(DATA_CONTEXT, context)])


def _dataset(name: str, X: Any, y: Any, digest: str | None, feature_names: Iterable[str] | None) -> Any:
    import numpy as np
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.numpy_dataset import NumpyDataset
    from mlflow.data.pandas_dataset import PandasDataset
    from pandas import DataFrame

    source = CodeDatasetSource(tags={SOURCE_TYPE: "NOTEBOOK"})
    digest = digest[:36] if digest else None  # MLflow's limit; the tag has all of it
    X, y = np.asarray(X), None if y is None else np.asarray(y)
    if feature_names is None:
        return NumpyDataset(X, source, targets=y, name=name, digest=digest)
    frame = DataFrame(X, columns=list(feature_names))
    target = "y" if "y" not in frame.columns else "target of the prediction"
    if y is not None:
        frame[target] = y
    floats = {column: float for column in frame.select_dtypes("integer").columns}  # MLflow warns of integers: no NaN
    return PandasDataset(frame.astype(floats), source, targets=None if y is None else target, name=name, digest=digest)
