"""What is where in a bundle, which names a file in it may have, and how large it may unpack."""

from __future__ import annotations

import re

__all__ = [
    "CRATE",
    "MANIFEST",
    "PACKED_LIMIT",
    "SEAL",
    "SEAL_LENGTH",
    "UNPACKED_RATIO",
    "artifact_folder",
    "fault_of",
    "metrics_place",
    "model_folder",
    "model_id_of",
    "run_folder",
    "run_id_of",
    "run_place",
]

CRATE, MANIFEST = "ro-crate-metadata.json", "manifest-sha256.txt"
"""The description by RO-Crate's rules, and the digests of all other files."""

UNPACKED_RATIO = 100
PACKED_LIMIT = 32 << 20
"""What is compressed unpacks to twice this many bytes at most, or to this many times its size in the archive. A file
that is larger is not compressed, and nothing is once half the ratio is reached: so every bundle keeps to it."""

_PLACES = re.compile(
    r"ro-crate-metadata\.json|manifest-sha256\.txt|workflows/[^/]+"
    r"|runs/(?P<run>[0-9a-f]{32})/(run\.json|metrics\.csv|artifacts/.+"
    r"|models/(?P<model>m-[0-9a-f]{32})/(model\.json|artifacts/.+))",
    re.DOTALL,
)
_LONGEST, _LONGEST_PART = 2000, 255
"""Bytes in a file's place, which is unpacked within folders that have names of their own, and in a part of it."""

SEAL = b"resflow bundle 1, sha256 "
SEAL_LENGTH = len(SEAL) + 64
"""What ends the archive: this, and the SHA-256 of every byte before it."""


def run_folder(run_id: str) -> str:
    """Where all of a run is, with a slash at the end."""
    return f"runs/{run_id}/"


def run_place(run_id: str) -> str:
    """Where a run's parameters, tags and so on are."""
    return run_folder(run_id) + "run.json"


def metrics_place(run_id: str) -> str:
    """Where every value of a run's metrics is."""
    return run_folder(run_id) + "metrics.csv"


def artifact_folder(run_id: str) -> str:
    """Where a run's artifacts are, with a slash at the end."""
    return run_folder(run_id) + "artifacts/"


def model_folder(run_id: str, model_id: str) -> str:
    """Where a model is that MLflow keeps apart from its run: model.json and artifacts/; with a slash at the end."""
    return f"{run_folder(run_id)}models/{model_id}/"


def model_id_of(place: str) -> str:
    """Which model's file it is; "" if no model's."""
    found = _PLACES.fullmatch(place)
    return (found["model"] if found else None) or ""


def run_id_of(place: str) -> str:
    """Whose run's file it is; "" if no run's."""
    found = _PLACES.fullmatch(place)
    return (found["run"] if found else None) or ""


def fault_of(place: str, *, is_folder: bool = False) -> str:
    """Why a bundle can have no file, or folder, of that name; "" if it can.

    >>> fault_of("workflows/../../x"), fault_of("/etc/passwd"), fault_of("workflows/train.ipynb")
    ('climbs out of it', 'is absolute', '')
    """
    parts = place.split("/")
    if place.startswith("/") or re.match(r"[A-Za-z]:", place):
        return "is absolute"
    if ".." in parts:
        return "climbs out of it"
    if _size(place) > _LONGEST or max(map(_size, parts)) > _LONGEST_PART:
        return "is too long"
    if "\\" in place or not place.isprintable() or not {"", "."}.isdisjoint(parts):
        return "is no plain path"
    return "" if is_folder or _PLACES.fullmatch(place) else "is none that a bundle has"


def _size(name: str) -> int:
    return len(name.encode(errors="replace"))
