"""What a file holds, whatever it is called: told from its first bytes."""

from __future__ import annotations

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from resflow.data.names import plain
from resflow.errors import InvalidInputError

__all__ = ["DAMAGED_ARRAYS", "DAMAGED_HEADER", "check_contents", "check_unpacked_size", "reading"]

DAMAGED_ARRAYS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError),
    *(ValueError, OverflowError),
)
"""What unpacking a damaged archive of arrays raises, and NumPy on what is unpacked."""
DAMAGED_HEADER = (SyntaxError, TypeError, RecursionError, MemoryError)
"""What NumPy lets through of its parser for an array's header."""

_SIGNATURES = {
    b"\x1f\x8b": "data compressed by gzip",
    b"BZh": "data compressed by bzip2",
    b"\xfd7zXZ\x00": "data compressed by xz",
    b"\x28\xb5\x2f\xfd": "data compressed by zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"PAR1": "a Parquet table",
    b"PARE": "an encrypted Parquet table",
    b"\x93NUMPY": "one NumPy array, as .npy files do",
    b"\x80\x04\x95": "a Python pickle, which is never loaded",
    b"\x80\x05\x95": "a Python pickle, which is never loaded",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow (Feather) table",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\xff\xfe\x00\x00": "text in UTF-32",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}

_MOST_UNPACKED = 256
"""How many times a file's own size its data may take in memory, beyond 64 MiB that any file may."""


def check_contents(path: Path, *, signature: bytes | None, remedy: str) -> None:
    """Check that a file begins with these bytes; None for text, which must not begin as any other kind does.

    Raises:
        InvalidInputError: If the file is empty or holds something else, with what it is if that is known, and a remedy.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not start:
        raise InvalidInputError(f"{path}: the file is empty (0 bytes): {remedy}")
    found = next((what for begin, what in _SIGNATURES.items() if start.startswith(begin)), "something else")
    fine = found == "something else" or _is_text(start) if signature is None else start.startswith(signature)
    if not fine:
        raise InvalidInputError(f"{path}: not a readable {path.suffix[1:].upper()} file: it holds {found}: {remedy}")


def check_unpacked_size(path: Path, size: int) -> None:
    """Check that the bytes a file says it unpacks to are no more than any table of that file's length would take."""
    length = path.stat().st_size
    if size > _MOST_UNPACKED * length + 2**26:
        raise InvalidInputError(
            f"{path}: says that it unpacks to {size:.3g} bytes, over {_MOST_UNPACKED} times its own {length}: if it is "
            "meant, save it uncompressed, as np.savez(path, X=X, y=y) does"
        )


@contextlib.contextmanager
def reading(path: Path, errors: tuple[type[Exception], ...], remedy: str) -> Iterator[None]:
    """Say whose fault it is when a library raises one of these errors, as it does on damaged files."""
    try:
        yield
    except InvalidInputError:
        raise
    except errors as error:
        reason = plain(str(error).strip().partition("\n")[0] or type(error).__name__)
        raise InvalidInputError(f"{path}: not a readable {path.suffix[1:].upper()} file: {reason}: {remedy}") from error


def _is_text(start: bytes) -> bool:
    """True if the first bytes could be a line of text: a table's first column may well be called PAR1."""
    text = start.decode(errors="replace")[:-4]  # the last character may be cut off
    return (
        all(character.isprintable() or character in "\t\r\n" for character in text)
        and "\N{REPLACEMENT CHARACTER}" not in text
    )
