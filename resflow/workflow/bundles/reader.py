"""Reading a bundle: nothing of it is used before all of it was looked at, and every fault names the file it is in."""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resflow.errors import InvalidInputError, shown
from resflow.workflow.bundles.layout import (
    CRATE,
    MANIFEST,
    PACKED_LIMIT,
    SEAL,
    SEAL_LENGTH,
    UNPACKED_RATIO,
    artifact_folder,
    fault_of,
)
from resflow.workflow.bundles.writer import seal_of
from resflow.workflow.limits import one_line

__all__ = ["Bundle", "BundleError", "opened"]

LARGEST_TEXT = 64 << 20
"""Bytes of a file that is read whole."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, OverflowError, ValueError)
"""What Python says to an archive that is none, or not whole."""


class BundleError(InvalidInputError):
    """The file is no bundle, or not as it was exported."""


class Bundle:
    """A bundle whose files are all there, as they were exported, and lie in it.

    Attributes:
        file: Where it is.
        places: The places of its files, in their order.
    """

    def __init__(self, file: Path, archive: zipfile.ZipFile) -> None:
        self.file = file
        self._archive = archive
        self._entries = {entry.filename: entry for entry in self._checked_entries()}
        self.places = list(self._entries)
        self._digests = self._checked_manifest()
        for place in self._digests:
            for _ in self.chunks(place):
                pass
        self._check_seal()

    def fault(self, place: str, what: str) -> BundleError:
        """The error that says what is wrong with a file of the bundle, or with the bundle itself."""
        where = f"{shown(place, 300)} in it " if place else ""
        return BundleError(f"{self.file} is refused: {where}{what}: have it exported or sent again")

    def text(self, place: str) -> str:
        """The whole of a file that is text."""
        size = self._entries[place].file_size
        if size > LARGEST_TEXT:
            raise self.fault(place, f"has {size:,} bytes, and at most {LARGEST_TEXT:,} are read of such a file")
        try:
            return b"".join(self.chunks(place)).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(place, "is no UTF-8") from None

    def chunks(self, place: str) -> Iterator[bytes]:
        """What is in a file, piece by piece; at the end it is compared with what the manifest says.

        Raises:
            BundleError: If it is damaged, or another than was exported.
        """
        digest = hashlib.sha256()
        with self._opened(place) as source:
            while chunk := self._read(source, place):
                digest.update(chunk)
                yield chunk
        if place != MANIFEST and digest.hexdigest() != self._digests[place]:
            raise self.fault(place, f"changed: it has SHA-256 {digest.hexdigest()[:12]}…, and another was exported")

    def unpack(self, place: str, file: Path) -> Path:
        """Write a file of the bundle to `file`, whose folder is made."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as target:
            for chunk in self.chunks(place):
                target.write(chunk)
        return file

    def artifacts(self, run_id: str) -> list[str]:
        """The places of a run's artifacts."""
        return [place for place in self.places if place.startswith(artifact_folder(run_id))]

    def _checked_entries(self) -> list[zipfile.ZipInfo]:
        """The archive's entries, each a file of its own with a name that a bundle has."""
        entries, names, packed, unpacked = [], set(), 0, 0
        for entry in self._archive.infolist():
            name, is_folder = entry.orig_filename, entry.is_dir() and not entry.file_size
            if fault := fault_of(name.removesuffix("/") if is_folder else name, is_folder=is_folder):
                raise self.fault(name, f"has a name that {fault}")
            if is_folder:
                continue  # which others may pack, too
            if name in names:
                raise self.fault(name, "is there twice")
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise self.fault(name, "is a link or another thing that is no file")
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self.fault(name, "is encrypted, or compressed in a way that bundles are not")
            if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
                raise self.fault(name, "has two sizes")
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                packed, unpacked = packed + entry.compress_size, unpacked + entry.file_size
            if unpacked > max(2 * PACKED_LIMIT, UNPACKED_RATIO * packed):
                raise self.fault(name, f"would unpack to {entry.file_size:,} bytes, out of {entry.compress_size:,}")
            names.add(name)
            entries.append(entry)
        self._check_apart(entries)
        for name in names:
            for end, letter in enumerate(name):
                if letter == "/" and name[:end] in names:
                    raise self.fault(name[:end], "is a file and a folder at once")
        return entries

    def _check_apart(self, entries: list[zipfile.ZipInfo]) -> None:
        """Check that no two entries share bytes, by which a small archive could unpack to a large one."""
        end = 0
        for entry in sorted(entries, key=lambda each: each.header_offset):
            if entry.header_offset < end:
                raise self.fault(entry.filename, "lies within another file")
            end = entry.header_offset + 30 + len(entry.orig_filename) + entry.compress_size

    def _checked_manifest(self) -> dict[str, str]:
        """The digest of every file but the manifest's own."""
        for place in (MANIFEST, CRATE):
            if place not in self._entries:
                raise self.fault("", f"it is no bundle of runs, as it lacks {place}")
        digests: dict[str, str] = {}
        for line in self.text(MANIFEST).splitlines():
            found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
            if not found or found[2] in digests:
                raise self.fault(MANIFEST, f"has the line {shown(line)}")
            digests[found[2]] = found[1]
        if missing := digests.keys() - self._entries.keys():
            raise self.fault(min(missing), "is missing")
        if unknown := self._entries.keys() - digests.keys() - {MANIFEST}:
            raise self.fault(min(unknown), f"is none of those that were exported, by {MANIFEST}")
        return digests

    def _check_seal(self) -> None:
        """Check that no byte changed at all, unless others packed the files anew."""
        with self.file.open("rb") as file:
            file.seek(-min(SEAL_LENGTH, self.file.stat().st_size), 2)
            end = file.read()
        sealed = self._archive.comment or end.startswith(SEAL)
        if sealed and not self._archive.comment == end == seal_of(self.file):
            raise self.fault("", "its bytes are not those that were exported")

    @contextmanager
    def _opened(self, place: str) -> Iterator[IO[bytes]]:
        try:
            source = self._archive.open(self._entries[place])
        except _DAMAGED as error:
            raise self.fault(place, f"is damaged ({one_line(error)})") from None
        with source:
            yield source

    def _read(self, source: IO[bytes], place: str) -> bytes:
        try:
            return source.read(1 << 20)
        except _DAMAGED as error:
            raise self.fault(place, f"is damaged ({one_line(error)})") from None


@contextmanager
def opened(file: Path) -> Iterator[Bundle]:
    """A bundle, once all of it was read and found whole.

    Raises:
        BundleError: If it is no bundle, or was changed since it was exported.
    """
    if not file.is_file():
        kind = "it is a folder" if file.is_dir() else "it is no ordinary file"
        what = kind if file.exists() else "there is no such file"
        raise InvalidInputError(f"{file} cannot be imported: {what}: name a file that `resflow export` wrote")
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGED as error:
        what = f"no zip archive, or not a whole one ({one_line(error)})"
        raise BundleError(f"{file} is refused: it is {what}: name a file that `resflow export` wrote") from None
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}") from None
    with archive:
        yield Bundle(file, archive)
