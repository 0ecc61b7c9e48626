"""Tables in Parquet files: their columns as they are stored, an index with a name among them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resflow.data.contents import check_contents, check_unpacked_size, reading
from resflow.data.dataset import Dataset
from resflow.data.labels import as_exact_floats, column_and_class, labels
from resflow.data.names import MISSING, check_columns, plain
from resflow.errors import InvalidInputError, shown

__all__ = ["check_parquet", "load_parquet"]


def check_parquet(path: Path) -> None:
    """Check what the file says of itself, its names and how many rows it has, as `load_parquet` does."""
    with _opened(path) as file:
        _columns(path, file)


def load_parquet(path: Path, target: str) -> Dataset:
    """The data set in a Parquet file.

    Raises:
        InvalidInputError: If the file is not Parquet, is damaged or encrypted, says that it unpacks to far more than
            its length, or a column is not of finite numbers or truth values, or of texts for the target.
    """
    with _opened(path) as file:
        names, schema = _columns(path, file), file.schema_arrow
    column, positive = column_and_class(path, target, names)
    for name in names:
        _check_type(path, name, schema.field(name).type, is_target=name == column)
    # A text that repeats is kept once: many rows may share a long one.
    with _opened(path, read_dictionary=[column]) as file:
        table = file.read()
        table.validate(full=True)
    if not table.num_rows:
        raise InvalidInputError(f"{path}: the table has no rows: there must be at least two samples")
    for name in names:
        if table.column(name).null_count:
            row = int(np.argmax(table.column(name).is_null().to_numpy()))
            raise InvalidInputError(f"{path}: row {row} (counted from 0), column {shown(name)}: {MISSING}")
    features = tuple(name for name in names if name != column)
    X = np.empty((len(features), table.num_rows)).T
    for j, name in enumerate(features):
        X[:, j] = as_exact_floats(table.column(name).to_numpy(), _place(path, name))
    outcome = table.column(column)
    values = (outcome.dictionary_encode() if _is_text(outcome.type) else outcome).to_numpy()
    y, classes = labels(path, column, values, positive, lambda row: f"row {row} (counted from 0)")
    return Dataset(str(path), X, y, features, column, classes)


@contextlib.contextmanager
def _opened(path: Path, **options: Any) -> Iterator[Any]:
    """The file, of which pyarrow raises any of many exceptions where it is damaged."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise InvalidInputError(f"{path}: reading Parquet needs pyarrow: pip install 'resflow[parquet]'") from None
    check_contents(path, signature=b"PAR1", remedy="save the table with to_parquet")
    damage = (pa.ArrowException, OSError, ValueError, OverflowError)
    with (
        reading(path, damage, "it may be damaged or encrypted, save it again"),
        pq.ParquetFile(path, page_checksum_verification=True, **options) as file,
    ):
        yield file


def _columns(path: Path, file: Any) -> list[str]:
    """The names of the columns, but for an index that has none."""
    metadata, names = file.metadata, list(file.schema_arrow.names)
    groups = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    check_unpacked_size(path, max(metadata.num_rows * len(names) * 8, groups))
    pandas = file.schema_arrow.pandas_metadata
    index = pandas.get("index_columns") if isinstance(pandas, dict) else None
    index = index if isinstance(index, list) else []
    for entry in index:
        if isinstance(entry, dict) and entry.get("name") is not None:
            raise InvalidInputError(
                f"{path}: the index {shown(str(entry['name']))} counts rows and has a name, but no values in the file: "
                "save the table with reset_index() if it is a feature, with rename_axis(None) if it is not"
            )
    unnamed = {entry for entry in index if isinstance(entry, str) and re.fullmatch(r"__index_level_\d+__", entry)}
    names = [name for name in names if name not in unnamed]
    check_columns(str(path), names)
    return names


def _check_type(path: Path, name: str, kind: Any, *, is_target: bool) -> None:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(value) or types.is_floating(value) or types.is_boolean(value):
        return
    if is_target and _is_text(value):
        return
    wanted = "numbers, truth values or texts" if is_target else "numbers or truth values"
    raise InvalidInputError(
        f"{path}: column {shown(name)} is not numeric but of type {plain(str(kind))}: save it as {wanted}, or drop it"
    )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _place(path: Path, name: str) -> Any:
    return lambda index: f"{path}: row {index[0]} (counted from 0), column {shown(name)}"
