"""The residual stream of a network that is elsewhere, from a file of arrays."""

from __future__ import annotations

from itertools import count, takewhile
from typing import Any

import numpy as np

from resflow.arrays import check_samples
from resflow.data.contents import DAMAGED_ARRAYS, DAMAGED_HEADER
from resflow.data.dataset import Dataset
from resflow.data.files import read_instead
from resflow.errors import InvalidInputError, nearest_file, shown
from resflow.workflow.kept_data import keep_data
from resflow.workflow.records import Run

__all__ = ["load_stream"]

_NAMES = "h_0, h_1, ..., W, b and y, and of held-out samples test_h_0, test_h_1, ... and test_y"


def load_stream(run: Run, path: str) -> dict[str, Any]:
    """The arguments of `resflow.probe` from an .npz file, such as `np.savez(path, h_0=..., ..., W=..., b=..., y=...)`.

    The samples are logged to the run by h_0 and the labels.

    Args:
        run: The notebook's run.
        path: The file: arrays h_0, ..., h_L, W, b (which may be left out) and y, and of held-out samples the same with
            test_ before their names, but for W and b.

    Raises:
        InvalidInputError: If there is no such file, it is none of arrays, or an array is missing.
    """
    file = read_instead(path)
    if not file.is_file():
        raise InvalidInputError(f"stream={shown(path)}: there is no such file{nearest_file(file, '.npz')}")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (*DAMAGED_ARRAYS, *DAMAGED_HEADER) as error:
        raise InvalidInputError(
            f"stream={shown(path)} is no .npz file of numbers: save one with the arrays {_NAMES}"
        ) from error
    held_out = _samples(path, arrays, "test_") if any(name.startswith("test_") for name in arrays) else None
    representations, y = _samples(path, arrays, "")
    if "W" not in arrays:
        raise InvalidInputError(f"stream={shown(path)} has no array W: it must have {_NAMES}")
    parts = [(representations, y, "training"), *([(*held_out, "test")] if held_out else [])]
    for hs, labels, context in parts:
        h = np.asarray(check_samples(hs[0], f"stream={shown(path)}: h_0"))
        data = Dataset(str(path), h, labels, tuple(f"h_0[{j}]" for j in range(h.shape[1])), "y", None)
        run.log_dataset(
            data.name, data.X, data.y, digest=data.digest, feature_names=data.feature_names, context=context
        )
    keep_data(run, path)
    head = (arrays["W"], arrays.get("b"))
    return {"representations": representations, "head": head, "y": y, "held_out": held_out}


def _samples(path: str, arrays: dict[str, np.ndarray], prefix: str) -> tuple[list[np.ndarray], np.ndarray]:
    layers = [arrays[name] for name in takewhile(arrays.__contains__, (f"{prefix}h_{place}" for place in count()))]
    if not layers or f"{prefix}y" not in arrays:
        missing = f"{prefix}y" if layers else f"{prefix}h_0"
        raise InvalidInputError(f"stream={shown(path)} has no array {missing}: it must have {_NAMES}")
    return layers, arrays[f"{prefix}y"]
