"""Data sets from the user's own files: CSV, Parquet and NPZ, with a named target column."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resflow.data.dataset import Dataset
from resflow.errors import InvalidInputError, nearest

__all__ = ["FILE_SUFFIXES", "existing_file", "is_file_name", "load_file"]

FILE_SUFFIXES = (".csv", ".parquet", ".npz")


def is_file_name(name: str) -> bool:
    """True if a data set's name is that of a file."""
    return name.lower().endswith(FILE_SUFFIXES)


def existing_file(path: Path) -> Path:
    """The path itself, if there is a file.

    Raises:
        InvalidInputError: If there is none, with the place that was looked at.
    """
    if not path.is_file():
        raise InvalidInputError(f"dataset={str(path)!r}: there is no such file (looked for {path.absolute()})")
    return path


def load_file(path: Path, target: str | None) -> Dataset:
    """The data set in a file, as `resflow.load_dataset` describes.

    Raises:
        InvalidInputError: If the file or the target is missing, a feature is not numeric, or a value is missing.
    """
    path = existing_file(path.expanduser())
    if path.suffix.lower() == ".npz":
        return _load_npz(path, target or "y")
    if target is None:
        raise InvalidInputError(f"{path}: name the column to predict, e.g. target=y")
    return _from_table(path, _read_table(path), target)


def _read_table(path: Path) -> Any:
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow as pa
        except ModuleNotFoundError:
            raise InvalidInputError(f"{path}: reading Parquet needs pyarrow: pip install 'resflow[parquet]'") from None
        unreadable: tuple[type[Exception], ...] = (pa.ArrowException,)
        read: Callable[[Path], Any] = pd.read_parquet
    else:
        unreadable = (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError)
        read = pd.read_csv
    try:
        return read(path)
    except unreadable as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInputError(f"{path}: not a readable {path.suffix[1:].upper()} file: {reason}") from error


def _from_table(path: Path, table: Any, target: str) -> Dataset:
    import pandas as pd

    table.columns = [str(column) for column in table.columns]
    column, positive = (target, None) if target in table.columns or "=" not in target else target.rsplit("=", 1)
    if column not in table.columns:
        raise InvalidInputError(
            f"{path}: there is no column {column!r}: nearest are {', '.join(nearest(column, table.columns))}"
        )
    if table.empty:
        raise InvalidInputError(f"{path}: the table has no rows: there must be at least one sample")
    features = table.drop(columns=column)
    for feature in features.columns:
        if not (pd.api.types.is_numeric_dtype(features[feature]) or pd.api.types.is_bool_dtype(features[feature])):
            example = features[feature].dropna().astype(str).head(1).tolist()
            raise InvalidInputError(
                f"{path}: column {feature!r} is not numeric ({f'e.g. {example[0]!r}' if example else 'it is empty'}): "
                "encode it as numbers or drop it"
            )
    y, classes = _labels(path, table[column], column, positive)
    X = features.to_numpy(dtype=float, na_value=np.nan)
    return Dataset(str(path), X, y, tuple(features.columns), column, classes)


def _labels(path: Path, column: Any, name: str, positive: str | None) -> tuple[np.ndarray, tuple[str, str] | None]:
    import pandas as pd

    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise InvalidInputError(f"{path}: target {name!r} is missing in row {row} (counted from 0): drop that row")
    if positive is not None:
        texts = column.astype(str)
        known = sorted(set(texts))
        if positive not in known:
            near = ", ".join(nearest(positive, known))
            raise InvalidInputError(f"{path}: column {name!r} has no class {positive!r}: nearest are {near}")
        return np.where(texts == positive, 1.0, -1.0), ("the rest", positive)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=float), None
    classes = sorted(column.astype(str).unique())
    if len(classes) != 2:
        raise InvalidInputError(
            f"{path}: target {name!r} is text with {len(classes)} classes ({', '.join(classes[:4])}): "
            f"choose one against the rest with target={name}={classes[0]}"
        )
    return np.where(column.astype(str) == classes[1], 1.0, -1.0), (classes[0], classes[1])


def _load_npz(path: Path, target: str) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise InvalidInputError(f"{path}: not a readable NPZ file: {error}") from error
    for key in ("X", target):
        if key not in arrays:
            raise InvalidInputError(f"{path}: there is no array {key!r}: it holds {', '.join(arrays) or 'nothing'}")
        if not np.issubdtype(arrays[key].dtype, np.number) and arrays[key].dtype != bool:
            raise InvalidInputError(f"{path}: array {key!r} is of type {arrays[key].dtype}, but must be numeric")
    X, y = arrays["X"].astype(float), arrays[target].astype(float)
    names = arrays.get("feature_names", [f"x{j}" for j in range(X.shape[-1])])
    return Dataset(str(path), X, y, tuple(str(name) for name in names), target)
