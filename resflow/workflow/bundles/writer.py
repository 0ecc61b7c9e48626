"""Writing a bundle, file by file, with the digest of each: the same files make the same bytes."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from resflow.errors import InvalidInputError, shown
from resflow.workflow.bundles.layout import (
    MANIFEST,
    PACKED_LIMIT,
    SEAL,
    SEAL_LENGTH,
    UNPACKED_RATIO,
    fault_of,
    run_folder,
    run_id_of,
)

__all__ = ["BundleWriter", "Packed", "new_bundle", "seal_of"]

_WHEN = (1980, 1, 1, 0, 0, 0)
"""No file has a date of its own, which would make two bundles of the same runs differ."""


class Packed(NamedTuple):
    """A file in a bundle: its place there, its size in bytes, and its SHA-256."""

    place: str
    size: int
    digest: str


class BundleWriter:
    """Adds files to a bundle that is being written.

    Attributes:
        count: How many there are.
        size: Bytes of all of them, unpacked.
    """

    def __init__(self, archive: zipfile.ZipFile, manifest: Path) -> None:
        self.count = self.size = 0
        self._archive = archive
        self._manifest = manifest
        self._folders: set[str] = set()
        self._compressed = self._unpacked = 0

    def add(self, place: str, file: Path) -> Packed:
        """Add a file.

        Raises:
            InvalidInputError: If a bundle can have no file of that name.
        """
        if fault := fault_of(place):
            raise InvalidInputError(f"{shown(place, 300)} cannot be exported, as the name {fault}: rename it")
        if run_id := run_id_of(place):
            self._add_folder(run_folder(run_id))
        entry = zipfile.ZipInfo(place, _WHEN)
        entry.external_attr = (stat.S_IFREG | 0o644) << 16
        entry.file_size = file.stat().st_size
        ratio_left = self._unpacked < PACKED_LIMIT or self._unpacked <= UNPACKED_RATIO // 2 * self._compressed
        if entry.file_size <= PACKED_LIMIT and ratio_left:
            entry.compress_type = zipfile.ZIP_DEFLATED
        digest = hashlib.sha256()
        with file.open("rb") as source, self._archive.open(entry, "w") as target:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            self._compressed += entry.compress_size
            self._unpacked += entry.file_size
        self.count += 1
        self.size += entry.file_size
        if place != MANIFEST:
            with self._manifest.open("a", encoding="utf-8") as manifest:
                manifest.write(f"{digest.hexdigest()}  {place}\n")
        return Packed(place, entry.file_size, digest.hexdigest())

    def _add_folder(self, place: str) -> None:
        """Let a run's folder be an entry of its own, as readers look for what the description has as a data set."""
        if place not in self._folders:
            self._folders.add(place)
            folder = zipfile.ZipInfo(place, _WHEN)
            folder.external_attr = (stat.S_IFDIR | 0o755) << 16 | 0x10
            self._archive.writestr(folder, b"")


@contextmanager
def new_bundle(path: Path) -> Iterator[BundleWriter]:
    """Write a bundle at `path`, in a folder of its own; it is whole once this is left without an exception."""
    manifest = path.with_name("manifest")
    with zipfile.ZipFile(path, "x") as archive:
        writer = BundleWriter(archive, manifest)
        yield writer
        writer.add(MANIFEST, manifest)
        archive.comment = bytes(SEAL_LENGTH)
    with path.open("r+b") as file:
        file.seek(-SEAL_LENGTH, 2)
        file.write(seal_of(path))


def seal_of(path: Path) -> bytes:
    """What ends a bundle that has all the bytes before its end."""
    digest, left = hashlib.sha256(), path.stat().st_size - SEAL_LENGTH
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
    return SEAL + digest.hexdigest().encode()
