"""Parameters, histories and data sets as MLflow's own objects; nothing is written here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resflow.workflow.limits import PARAMETER, parameter_name, shortened
from resflow.workflow.names import DATA_CONTEXT, SOURCE_TYPE
from resflow.workflow.parameters import brief

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param

__all__ = ["as_metrics", "as_params", "dataset_input", "finite", "is_finite"]

_INFINITE = 1.79e308  # MLflow's database keeps ±inf as the largest finite float64


def as_params(values: Mapping[str, Any]) -> list[Param]:
    """Parameters by their names and, as text, their values; what is too long for MLflow is shortened."""
    from mlflow.entities import Param

    return [Param(parameter_name(key), shortened(brief(value), PARAMETER)) for key, value in values.items()]


def as_metrics(history: Any) -> tuple[list[Metric], dict[str, str]]:
    """What a database of finite numbers can tell of a history, and what is to be said of the rest of each metric."""
    from mlflow.entities import Metric

    points: dict[str, list[tuple[int, float]]] = {}
    for step, row in _rows_of(history):
        for key, value in row.items():
            points.setdefault(key, []).append((step, value))
    now = int(time.time() * 1000)
    metrics, notes = [], {}
    for key, values in points.items():
        if others := [(step, value) for step, value in values if not math.isfinite(value)]:
            kinds = "/".join(sorted({str(value) for _, value in others}))
            notes[key] = f"{key} is {kinds} at {len(others)} of {len(values)} steps, first at {others[0][0]}"
        last, _ = values[-1]
        metrics += [Metric(key, value, now, step) for step, value in values if not math.isinf(value) or step == last]
    return metrics, notes


def is_finite(value: float | None) -> bool:
    """Whether a metric read back from MLflow is there, and was finite when it was logged."""
    return value is not None and abs(value) < _INFINITE


def finite(value: float | None) -> float | None:
    """A metric's value, or None if there is none or it isn't finite."""
    return value if is_finite(value) else None


def _rows_of(history: Any) -> list[tuple[int, dict[str, float]]]:
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
    import numpy as np
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset import Dataset
    from mlflow.data.numpy_dataset import NumpyDataset
    from mlflow.data.pandas_dataset import PandasDataset
    from mlflow.entities import DatasetInput, InputTag
    from pandas import DataFrame

    source = CodeDatasetSource(tags={SOURCE_TYPE: "NOTEBOOK"})
    told = {"name": name, "digest": digest[:36] if digest else None}  # MLflow's limit; the tag has all of it
    X, y = np.asarray(X), None if y is None else np.asarray(y)
    dataset: Dataset
    if feature_names is None:
        dataset = NumpyDataset(X, source, targets=y, **told)
    else:
        frame = DataFrame(X, columns=list(feature_names))
        target = "y" if "y" not in frame.columns else "target of the prediction"
        if y is not None:
            frame[target] = y
        floats = dict.fromkeys(frame.select_dtypes("integer"), float)  # MLflow warns of integers: no NaN
        dataset = PandasDataset(frame.astype(floats), source, targets=None if y is None else target, **told)
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag(DATA_CONTEXT, context)])
