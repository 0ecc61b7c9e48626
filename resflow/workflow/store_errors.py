"""What an error of the store means, in one line that says what to do: told by types and codes, not by texts."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import sqlite_file, without_secrets
from resflow.workflow.limits import one_line

__all__ = ["REFUSALS", "RESTORE", "StoreError", "UnusableStoreError", "VagueStoreError", "explained", "is_busy"]

LEAST_SPACE = 64 * 1024
"""Bytes: SQLite's log and its index need as much before anything is written."""

RESTORE = "put a backup in its place, or move it away, and a new one is made"


class StoreError(RuntimeError):
    """The store, or the world around it, failed. The message is one line: what, where, and what to do."""


class UnusableStoreError(InvalidInputError):
    """The store cannot be used as it is, and whoever reads this can mend that: exit code 2 of the command."""


class VagueStoreError(StoreError):
    """The store failed, and a closer look at it may say more."""


def explained(error: BaseException, store: str) -> StoreError | UnusableStoreError | None:
    """What `error` means if the store at the address `store` or the world around us is behind it; else None."""
    chain = list(_chain(error))
    for known in chain:
        if isinstance(known, StoreError | UnusableStoreError):
            return known
    if isinstance(error, InvalidInputError):
        return None
    place = f"the store {without_secrets(store)}"
    if any(isinstance(one, sqlite3.Error | OSError) for one in chain) and _is_full(store):
        return StoreError(f"no space is left where {place} is kept: make some, and repeat the command")
    for tell in (_of_sqlite, _of_database, _of_server, _of_the_system, _of_mlflow):
        for one in chain:
            if told := tell(one, place):
                return told
    return None


def is_busy(error: BaseException) -> bool:
    """True if a database was only in use by others for too long, or out of reach for now: worth trying again."""
    for one in _chain(error):
        if isinstance(one, sqlite3.Error):
            return getattr(one, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and the driver's error within one of SQLAlchemy; each once."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            within = [getattr(one, name, None) for name in ("orig", "reason")]
            waiting += [*within, *(one.args[:1] if isinstance(one, OSError) else ()), one.__cause__, one.__context__]


def _is_full(store: str) -> bool:
    """True if the disk of a SQLite store is full, which SQLite tells in many ways."""
    database = sqlite_file(store)
    try:
        return database is not None and shutil.disk_usage(database.parent).free < LEAST_SPACE
    except OSError:
        return False


def _of_sqlite(error: BaseException, place: str) -> StoreError | UnusableStoreError | None:
    if not isinstance(error, sqlite3.Error):
        return None
    said = one_line(error)
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(f"{place} is locked ({said}): another program keeps it so; end that one, or try later")
        case sqlite3.SQLITE_FULL:
            return StoreError(f"no space is left where {place} is kept ({said}): make some, and repeat the command")
        case sqlite3.SQLITE_READONLY:
            return UnusableStoreError(f"{place} is read-only ({said}): make the file and its folder writable")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return UnusableStoreError(f"{place} cannot be opened ({said}): check that it is there and may be written")
        case sqlite3.SQLITE_NOTADB:
            return UnusableStoreError(f"{place} is no SQLite database, or its beginning is damaged: {RESTORE}")
        case sqlite3.SQLITE_CORRUPT:
            return StoreError(f"{place} is damaged or cut off ({said}): {RESTORE}")
        case sqlite3.SQLITE_IOERR:
            return StoreError(f"{place} could not be read or written ({said}): check the disk it is on")
        case sqlite3.SQLITE_NOMEM:
            return StoreError(f"no memory was left to read {place}: end other programs, and repeat the command")
    return VagueStoreError(f"{place} is not as MLflow left it ({said}): it was altered or damaged; {RESTORE}")


_LOGIN = "check user and password"
_SQLSTATES = {
    "28": (2, "refuses the login", _LOGIN),
    "3D": (2, "has no such database", "create it, or correct the address"),
    "42501": (2, "refuses what MLflow needs", "give the user rights on its tables"),
    "42": (1, "lacks tables or columns", "it was altered or damaged: restore a backup of it"),
    "53100": (1, "has no space left", "make some on its server"),
    "53": (1, "has too few resources", "end other programs that use it, or try later"),
    "57": (1, "was shut down", "try again when it is up"),
    "08": (1, "cannot be reached", "check that it is up, and the address"),
    "25006": (2, "is read-only", "use the database that may be written"),
}
"""PostgreSQL's classes and codes: exit code, what is wrong, what to do."""

_MYSQL = {1044: "28", 1045: "28", 1049: "3D", 1146: "42", 1054: "42", 1021: "53100", 1040: "53"}
"""MySQL's numbers, by the code that means the same."""


def _of_database(error: BaseException, place: str) -> StoreError | UnusableStoreError | None:
    from sqlalchemy import exc

    if isinstance(error, ModuleNotFoundError) and error.name in _DRIVERS:
        return UnusableStoreError(f"{place} needs the driver {error.name}: pip install {_DRIVERS[error.name]}")
    if isinstance(error, exc.NoSuchModuleError | exc.ArgumentError):
        return UnusableStoreError(f"{place} has an address that no database has ({one_line(error)}): correct it")
    if isinstance(error, exc.TimeoutError):
        return StoreError(f"{place} had no connection free ({one_line(error)}): use fewer threads")
    if not isinstance(error, exc.DBAPIError) or error.orig is None or isinstance(error.orig, sqlite3.Error):
        return None
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
    if not code and error.orig.args and isinstance(error.orig.args[0], int):
        code = _MYSQL.get(error.orig.args[0], "")
    said = one_line(error.orig)
    for known in (code, code[:2]):
        if known in _SQLSTATES:
            exit_code, what, todo = _SQLSTATES[known]
            return (UnusableStoreError if exit_code == 2 else StoreError)(f"{place} {what} ({said}): {todo}")
    if isinstance(error, exc.OperationalError | exc.InterfaceError) and not code:
        return _unreachable(place, said)
    return StoreError(f"{place} failed ({said}): check the database")


_DRIVERS = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
}


def _unreachable(place: str, said: str) -> StoreError:
    return StoreError(f"{place} cannot be reached ({said}): check that it is up, and MLFLOW_TRACKING_URI")


def _of_server(error: BaseException, place: str) -> StoreError | UnusableStoreError | None:
    from requests import exceptions as http
    from urllib3.exceptions import ReadTimeoutError

    if not isinstance(error, http.RequestException):
        return None
    said = one_line(next((one.strerror for one in _chain(error) if isinstance(one, OSError) and one.strerror), error))
    if isinstance(error, http.SSLError):
        return UnusableStoreError(
            f"{place} speaks no TLS that is trusted here ({said}): use http:// if it has none, or see "
            "MLFLOW_TRACKING_SERVER_CERT_PATH"
        )
    if isinstance(error, http.InvalidURL | http.MissingSchema | http.InvalidSchema | http.InvalidHeader):
        return UnusableStoreError(f"{place} has an address that no server has ({said}): correct MLFLOW_TRACKING_URI")
    if isinstance(error, http.TooManyRedirects):
        return UnusableStoreError(f"{place} leads from address to address ({said}): correct MLFLOW_TRACKING_URI")
    if isinstance(error, http.Timeout) or any(
        isinstance(one, TimeoutError | ReadTimeoutError) for one in _chain(error)
    ):
        return StoreError(f"{place} did not answer in time ({said}): try again when it is less busy")
    return _unreachable(place, said)


_CONDITIONS = {
    errno.ENOSPC: "make space there, and repeat the command",
    errno.EDQUOT: "make space there, and repeat the command",
    errno.EIO: "check the disk it is on",
    errno.EROFS: "make it writable",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "end other programs, and repeat the command",
    errno.ENOMEM: "end other programs, and repeat the command",
    errno.EAGAIN: "end other programs, and repeat the command",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ESTALE: "check the file server it is on",
    errno.ENOTDIR: "make a folder of what is in its place",
    errno.EISDIR: "move the folder away that is in its place",
}
"""Errors that the system gives programs that did nothing wrong, and what to do."""


def _of_the_system(error: BaseException, place: str) -> StoreError | None:
    if isinstance(error, MemoryError):
        return StoreError("no memory is left: end other programs, or do with less data")
    if not isinstance(error, OSError) or error.errno not in _CONDITIONS:
        return None
    where = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else ""
    what = one_line(f"{os.fsdecode(where)}: {error.strerror}" if where else error.strerror or error)
    return StoreError(f"{what}: {_CONDITIONS[error.errno]}")


REFUSALS = {
    401: "does not know who asks (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    403: "does not let this user in (403): ask whoever runs it, or log in as another",
    404: "is no MLflow server (404): correct MLFLOW_TRACKING_URI",
    407: "does not let this user in (407): ask whoever runs it, or log in as another",
}
"""What a server's answers mean that whoever asks can mend."""

_MLFLOW_CODES = {
    "UNAUTHENTICATED": 401,
    "CUSTOMER_UNAUTHORIZED": 401,
    "PERMISSION_DENIED": 403,
    "ENDPOINT_NOT_FOUND": 404,
    "NOT_FOUND": 404,
}


def _of_mlflow(error: BaseException, place: str) -> StoreError | UnusableStoreError | None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    if isinstance(error, UnsupportedModelRegistryStoreURIException):
        schemes = ", ".join(sorted(scheme for scheme in error.supported_uri_schemes if scheme not in ("", "file")))
        return UnusableStoreError(f"{place} has an address that MLflow does not know: it knows {schemes}")
    if not isinstance(error, MlflowException):
        return None
    if place.startswith("the store databricks"):
        return UnusableStoreError(f"{place} needs Databricks' credentials and its SDK: {one_line(error.message)}")
    if error.error_code in _MLFLOW_CODES:
        return UnusableStoreError(f"{place} {REFUSALS[_MLFLOW_CODES[error.error_code]]}")
    if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
        return None  # what was asked of it is wrong, which is the program's fault
    return VagueStoreError(f"{place} failed: {one_line(error.message)}")
