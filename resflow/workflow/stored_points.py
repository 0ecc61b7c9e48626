"""Files of trained models among a run's artifacts: arrays without pickle, a description beside them, and a digest."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow import names
from resflow.workflow.scratch import temporary_folder

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run as StoredRun

    from resflow.workflow.records import Run

__all__ = [
    "LARGEST",
    "VERIFIER",
    "StoredPoints",
    "UnverifiableError",
    "attach_points",
    "none_kept",
    "read_points",
    "row_of",
]

LARGEST = 256 << 20
"""Bytes of arrays in one file at most; what is larger is not kept, and the run's tag says so."""

VERIFIER = f"{__name__.partition('.')[0]}.notebook.verification"
"""The module that computes again what this package's own functions for notebooks recorded of a point."""

_FOLDER, _DESCRIPTION, _NONE = "points", "description", "none: "


class UnverifiableError(Exception):
    """A run's values cannot be computed again; the message is one line that says why."""


class StoredPoints(NamedTuple):
    """What a file of trained models holds.

    Attributes:
        description: What they are, of which data, and what was computed from them; in JSON's types.
        arrays: Their arrays by name; of a population's members stacked.
    """

    description: dict[str, Any]
    arrays: dict[str, np.ndarray]


def attach_points(
    run: Run, name: str, arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]
) -> dict[str, str]:
    """Attach points/NAME.npz to a run, with the description as its entry `description`; NumPy reads it without pickle.

    Returns:
        The tags by which it is found, to be set once it is there: a run that has them has all of the file.
    """
    import numpy as np

    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST:
        return none_kept(f"its arrays have {size / 2**20:.0f} MiB, and at most {LARGEST >> 20} are kept of a point")
    entries: dict[str, Any] = {**arrays, _DESCRIPTION: np.array(json.dumps(description))}
    path = f"{name}.npz"
    with temporary_folder() as folder:
        np.savez(file := folder / path, **entries)
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        run.attach(file, _FOLDER)
    return {names.STORED_POINT: f"{_FOLDER}/{path}", names.STORED_POINT_DIGEST: digest}


def none_kept(why: str) -> dict[str, str]:
    """The tag of a run whose point is not kept."""
    return {names.STORED_POINT: _NONE + why}


def read_points(run: Run, place: str, digest: str) -> StoredPoints:
    """The points that a run's tag says are kept in the artifacts of `run`: it, or the population it is a member of.

    Raises:
        UnverifiableError: If none are kept, the file is gone, or it is not the one that was recorded.
    """
    import numpy as np

    if not place or place.startswith(_NONE):
        raise UnverifiableError(f"no point is stored: {place.removeprefix(_NONE) or 'the run recorded none'}")
    path, _, _ = place.partition("#")
    if path not in run.files(_FOLDER):
        raise UnverifiableError(f"the stored point is gone: {path} is not among the artifacts of the run {run.id}")
    content = run.read_bytes(path)
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise UnverifiableError(
            f"the stored point changed: {path} has SHA-256 {found[:12]}…, and {digest[:12]}… was recorded"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return StoredPoints(json.loads(str(arrays.pop(_DESCRIPTION))), arrays)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:  # of another hand, digest included
        raise UnverifiableError(f"the stored point {path} is no file of points: {error}") from None


def row_of(stored: StoredRun) -> int | None:
    """Which row of the file a member of a population is; None for a run of its own."""
    row = stored.data.tags.get(names.STORED_POINT, "").partition("#")[2]
    return int(row) if row.isdecimal() else None
