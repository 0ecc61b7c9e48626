"""Arrays in NPZ archives: X, the target and the features' names, each looked at before it is unpacked."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resflow.data.contents import DAMAGED_ARRAYS, DAMAGED_HEADER, check_contents, check_unpacked_size, reading
from resflow.data.dataset import Dataset
from resflow.data.labels import as_exact_floats, column_and_class, labels
from resflow.data.names import plain, shown_few
from resflow.errors import InvalidInputError, shown

__all__ = ["check_archive", "load_archive"]

_NUMBERS = "biuf"
_reading = functools.partial(
    reading,
    errors=DAMAGED_ARRAYS,
    remedy="save it again with np.savez(path, X=X, y=y)",
)


def check_archive(path: Path) -> None:
    """Check what the archive says of its arrays, as `load_archive` does, without unpacking any."""
    with _opened(path) as archive:
        _members(path, archive)


def load_archive(path: Path, target: str) -> Dataset:
    """The data set in an NPZ archive of X, the target and, if there are any, feature_names; pickles are never loaded.

    Raises:
        InvalidInputError: If the archive is damaged or encrypted, holds other arrays besides, or says that one of them
            is larger than what is stored; if shapes or types are not those of samples and labels.
    """
    with _opened(path) as archive:
        members = _members(path, archive)
        choice = [name for name in members if name not in ("X", "feature_names")]
        column, positive = column_and_class(path, target, choice, what="array")
        others = [name for name in choice if name != column]
        if others:
            raise InvalidInputError(
                f"{path}: besides X and {shown(column)} the archive holds {shown_few(others)}, which nobody would "
                "read: save X, the target and feature_names alone"
            )
        n, d = members["X"].shape
        _check(path, members[column], _NUMBERS + "U", (n,), "numbers, truth values or texts, one for each row of X")
        if "feature_names" in members:
            _check(path, members["feature_names"], "U", (d,), "texts, one for each column of X")
        if not n:
            raise InvalidInputError(f"{path}: X has no rows: there must be at least two samples")
        arrays = {name: _unpacked(path, archive, member) for name, member in members.items()}
    with _reading(path):  # a text of NumPy's may hold what is no character
        names = arrays["feature_names"].tolist() if "feature_names" in arrays else [f"x{j}" for j in range(d)]
        values = arrays[column].astype(object) if arrays[column].dtype.kind == "U" else arrays[column]
    X = as_exact_floats(arrays["X"], lambda index: f"{path}: X[{index[0]}, {index[1]}]")
    y, classes = labels(path, column, values, positive, lambda row: f"row {row} (counted from 0)")
    return Dataset(str(path), X, y, tuple(names), column, classes)


class _Member(NamedTuple):
    """One array of an archive, as its header describes it."""

    name: str
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def described(self) -> str:
        return f"type {plain(str(self.dtype))} and shape {plain(str(self.shape))}"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    check_contents(path, signature=b"PK", remedy="save the arrays with np.savez(path, X=X, y=y)")
    with _reading(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    """The arrays by name, as their headers have them: X is among them, and a matrix of numbers."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    foreign = [name for name in names if not name.endswith(".npy")]
    if foreign or not names:
        found = f"holds {shown_few(foreign)}" if foreign else "is empty"
        raise InvalidInputError(
            f"{path}: the archive {found}, but must hold arrays: save them with np.savez(path, X=X, y=y)"
        )
    if len(set(names)) < len(names):
        raise InvalidInputError(f"{path}: the archive holds an array twice: it has {shown_few(sorted(names))}")
    check_unpacked_size(path, sum(entry.file_size for entry in entries))
    members = {member.name: member for member in (_member(path, archive, entry) for entry in entries)}
    if "X" not in members:
        raise InvalidInputError(f"{path}: there is no array 'X': it holds {shown_few(list(members))}")
    wanted = "numbers, one row for each sample and one column for each feature"
    _check(path, members["X"], _NUMBERS, (None, None), wanted)
    return members


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Member:
    """An array's header, which must declare as many bytes as the archive holds."""
    name = entry.filename.removesuffix(".npy")
    array = f"{path}: array {shown(name)}"
    if entry.flag_bits & 1:
        raise InvalidInputError(f"{array} is encrypted: save the archive without a password")
    with _reading(path), archive.open(entry) as file, warnings.catch_warnings(action="ignore"):  # of Python 2's headers
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise InvalidInputError(
                f"{array} is in version {version[0]}.{version[1]} of the format: save plain numbers"
            )
        try:
            shape, _, dtype = read(file)
        except DAMAGED_HEADER as error:
            raise InvalidInputError(f"{array} has a header that is not readable: save it again") from error
        stored = entry.file_size - file.tell()
    if dtype.hasobject:
        raise InvalidInputError(
            f"{array} holds Python objects, and loading those could run code: save numbers, e.g. {name}.astype(float)"
        )
    declared = math.prod(shape) * dtype.itemsize
    member = _Member(name, entry, shape, dtype)
    if declared != stored or min(shape, default=0) < 0:
        raise InvalidInputError(
            f"{array} declares {member.described}, which takes {declared:.4g} bytes, but the archive holds {stored}: "
            "save it again"
        )
    return member


def _check(path: Path, member: _Member, kinds: str, shape: tuple[int | None, ...], wanted: str) -> None:
    fits = len(member.shape) == len(shape) and all(
        want in (None, size) for want, size in zip(shape, member.shape, strict=True)
    )
    if member.dtype.kind not in kinds or not fits:
        raise InvalidInputError(f"{path}: array {shown(member.name)} is of {member.described}, but must be of {wanted}")


def _unpacked(path: Path, archive: zipfile.ZipFile, member: _Member) -> np.ndarray:
    with _reading(path), archive.open(member.info) as file, warnings.catch_warnings(action="ignore"):
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the check sum is compared
    return array
