"""Names that can be chosen, and checks of them that import nothing of what they name: JAX alone takes a second."""

from __future__ import annotations

import re
from typing import Any

from resflow.errors import InvalidInputError, nearest, shown

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "DATASETS",
    "FILE_SUFFIXES",
    "HESSIANS",
    "LOSSES",
    "check_loss",
    "check_table",
    "is_file_name",
]

ACTIVATIONS = ("elu", "gelu", "relu", "sigmoid", "silu", "softplus", "tanh")
"""Of `resflow.models.feature_maps.ACTIVATIONS`."""

ARCHITECTURES = ("residual_unit", "output_skip", "no_skip", "deep_residual_network")
"""Of `resflow.models.architectures.ARCHITECTURES`."""

DATASETS = ("breast_cancer", "diabetes", "digits", "teacher", "wine")
"""Of `resflow.data.catalog.DATASETS`; behind a colon they may have options."""

FILE_SUFFIXES = (".csv", ".tsv", ".parquet", ".npz")
"""Of data files."""

HESSIANS = ("auto", "last block", "network")
"""In what the Hessian of a network may be taken; "auto" is what fits."""

LOSSES = ("squared", "logistic", "pseudo_huber", "huber", "softmax")
"""Of `resflow.losses.LOSSES`."""


_OTHER_LOSSES = {
    **dict.fromkeys(("crossentropy", "ce", "categoricalcrossentropy", "nll", "multinomial"), "softmax"),
    **dict.fromkeys(("bce", "binarycrossentropy", "bcewithlogits", "binarycrossentropywithlogits"), "logistic"),
    **dict.fromkeys(("mse", "l2", "squarederror", "meansquarederror"), "squared"),
    **dict.fromkeys(("huber", "smoothl1"), "huber"),
}
"""Names of other libraries, in letters and digits alone."""


def check_loss(name: object) -> None:
    """Check that a loss has that name.

    Raises:
        InvalidInputError: If none has.
    """
    if not isinstance(name, str) or name not in LOSSES:
        words = getattr(name, "__name__", None) or (name if isinstance(name, str) else type(name).__name__)
        if (other := _OTHER_LOSSES.get(re.sub(r"[^a-z0-9]|loss", "", words.lower()))) is not None:
            raise InvalidInputError(f"loss={shown(name)} is called loss={other!r} here")
        raise InvalidInputError(
            f"loss={name!r} is unknown: nearest is {nearest(str(name), LOSSES, 1)[0]!r}; "
            f"choose one of {', '.join(LOSSES)}, or pass a resflow.Loss"
        )


def is_file_name(name: Any) -> bool:
    """Whether a data set's name is that of a file, and not of a bundled data set.

    Raises:
        InvalidInputError: If it is no text.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"dataset={name!r} must be a text: one of {', '.join(DATASETS)}, or the path of a file")
    return name.lower().endswith(FILE_SUFFIXES)


def check_table(name: str) -> None:
    """Check that a bundled data set has that name; its options are not looked at.

    Raises:
        InvalidInputError: If none has.
    """
    base = name.partition(":")[0]
    if base not in DATASETS:
        raise InvalidInputError(f"dataset={shown(name)} is unknown: {_instead(name, base)}")


def _instead(name: str, base: str) -> str:
    """What to name instead of what is no data set."""
    files = f"a {', '.join(FILE_SUFFIXES[:-1])} or {FILE_SUFFIXES[-1]} file"
    if packed := next((end for end in (".gz", ".bz2", ".xz", ".zip", ".zst") if name.lower().endswith(end)), None):
        return f"a file that is compressed is not read: unpack it, and name {files}, e.g. {shown(name[: -len(packed)])}"
    near = ", ".join(nearest(base[:80], DATASETS))
    return f"nearest are {near}; known are {', '.join(DATASETS)}, or the path of {files}"
