"""Is a SQLite file a store that this MLflow can use, and if not, why not? Cheap where it is; thorough where asked."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from resflow.workflow.limits import one_line
from resflow.workflow.store_errors import RESTORE, StoreError, UnusableStoreError

__all__ = ["check_every_page", "check_sqlite", "check_version", "connected"]

STUCK_SECONDS = 5.0
"""A store on which others finish nothing for so long is held by a program that hangs or forgot it."""

BUSY_SECONDS = 60.0
"""And one on which others keep writing is waited for no longer than this."""

CHECK_SECONDS = 5.0
"""At most, for the thorough check of a large file."""

LEAST_SIZE = 512
"""Bytes of a page: no database is smaller."""

UNFINISHED = "_alembic_tmp_"


@contextmanager
def connected(database: Path, timeout: float = 20.0) -> Iterator[sqlite3.Connection]:
    """A connection to an existing database, closed afterwards; it makes none."""
    address = f"{database.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None)) as connection:
        yield connection


def check_sqlite(database: Path, *, thorough: bool = False) -> None:
    """Check that an existing file is a whole store of this MLflow's schema that can be written now.

    Where something went wrong already, a thorough check reads every page and compares schema versions, too. The
    version is compared in any case if a table or column is missing.

    Raises:
        UnusableStoreError: If it is something else, read-only, or of another MLflow's schema.
        StoreError: If it is damaged or locked.
        sqlite3.Error: What SQLite says to it.
    """
    _check_file(database)
    try:
        with connected(database, timeout=0.0) as connection:
            _await_lock(connection, database)
            tables: dict[str, set[str]] = {}
            for table, column in connection.execute(
                "SELECT m.name, p.name FROM sqlite_master m, pragma_table_xinfo(m.name) p WHERE m.type = 'table'"
            ):
                tables.setdefault(table, set()).add(column)
            _check_schema(connection, database, tables, thorough)
            if thorough:
                _check_pages(connection, database)
    except UnicodeDecodeError as error:  # a name, perhaps within SQLite's own message
        raise StoreError(f"{database} is damaged (it holds text that is no UTF-8): {RESTORE}") from error


def check_every_page(database: Path) -> None:
    """Check all of a store, however large: its pages, its indexes, and that no row refers to one that is not there.

    Raises:
        StoreError: If it is damaged; and what `check_sqlite` raises.
        sqlite3.Error: What SQLite says to it.
    """
    check_sqlite(database, thorough=True)
    with connected(database) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found == "ok" and (row := connection.execute("PRAGMA foreign_key_check").fetchone()):
            found = f"row {row[1]} of {row[0]} refers to one of {row[2]} that is not there"
    if found != "ok":
        raise StoreError(f"{database} is damaged ({one_line(found)}): {RESTORE}")


def _check_file(database: Path) -> None:
    """Check what can be told without opening the file.

    Opening it other than by SQLite would be the end of it: closing it again would drop the locks that this process's
    own connections hold, and another process would then take the log away that they write to.
    """
    found = database.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no ordinary file"
        raise UnusableStoreError(f"{database} is {what}, where the store's database should be: move it away")
    if not os.access(database, os.R_OK):
        raise UnusableStoreError(f"{database} may not be read: give yourself the right to read and write it")
    if not os.access(database, os.W_OK) or not os.access(database.parent, os.W_OK):
        barred = database if os.access(database.parent, os.W_OK) else database.parent
        raise UnusableStoreError(
            f"{barred} is read-only: make it writable, or set MLFLOW_TRACKING_URI to another store"
        )
    if not found.st_size:
        raise UnusableStoreError(f"{database} is empty: {RESTORE}")
    if found.st_size < LEAST_SIZE:
        raise StoreError(f"{database} is damaged or cut off (it has {found.st_size} bytes): {RESTORE}")


def _await_lock(connection: sqlite3.Connection, database: Path) -> None:
    """Wait until the database can be written, as long as others that write to it get on."""
    begun = progress = time.monotonic()
    seen = None
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            now = time.monotonic()
            if (version := _data_version(connection)) not in (None, seen):
                seen, progress = version, now
            if now - progress > STUCK_SECONDS or now - begun > BUSY_SECONDS:
                raise StoreError(
                    f"{database} has been locked by another program for {now - begun:.0f} seconds: end that program "
                    f"(`fuser {database}` tells which), or try again later"
                ) from error
        time.sleep(0.05)


def _data_version(connection: sqlite3.Connection) -> int | None:
    """A number that changes whenever another connection has written; None if even that cannot be read."""
    try:
        return connection.execute("PRAGMA data_version").fetchone()[0]
    except sqlite3.OperationalError:
        return None


def _check_schema(connection: sqlite3.Connection, database: Path, tables: dict[str, set[str]], thorough: bool) -> None:
    if not tables:
        raise UnusableStoreError(f"{database} is empty: {RESTORE}")
    if tables.keys().isdisjoint({"experiments", "runs", "alembic_version"}):
        held = ", ".join(sorted(tables)[:3])
        raise UnusableStoreError(
            f"{database} belongs to another program (it holds the tables {one_line(held)}): move it away, or set "
            "MLFLOW_TRACKING_URI to another file"
        )
    versions = []
    if tables.get("alembic_version") == {"version_num"}:
        versions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version LIMIT 5")]
    wanted = _wanted()
    missing = sorted(f"{table}.{column}" for table in wanted for column in wanted[table] - tables.get(table, set()))
    if len(versions) != 1:
        raise StoreError(f"{database} does not say of which version its schema is: it was never whole; {RESTORE}")
    if missing or thorough:
        check_version(str(database), versions[0], f"sqlite:///{database}", _backup(database, tables))
    if missing:
        raise StoreError(
            f"{database} lacks {missing[0]}{' and more' if missing[1:] else ''} of MLflow's tables: it was altered or "
            f"damaged; {RESTORE}"
        )


def _wanted() -> dict[str, set[str]]:
    """The tables of the installed MLflow, each with its columns."""
    from mlflow.store.db.utils import Base

    return {name: {column.name for column in table.columns} for name, table in Base.metadata.tables.items()}


def check_version(place: str, version: object, address: str, backup: str) -> None:
    """Check that the schema of a store, `place` in messages, is of the installed MLflow's version.

    Raises:
        UnusableStoreError: If it is another's. Where it is older, the message has the command that upgrades the store
            at `address`, and what to do before, which is `backup`.
    """
    import mlflow.store.db_migrations
    from alembic.script import ScriptDirectory
    from mlflow.version import VERSION

    scripts = ScriptDirectory(str(Path(mlflow.store.db_migrations.__path__[0])))
    newest = scripts.get_heads()[0]
    if version not in {script.revision for script in scripts.walk_revisions()}:
        raise UnusableStoreError(
            f"{place} has a schema that MLflow {VERSION} does not know (version {one_line(repr(version))}): "
            "install the newer MLflow that made it (pip install --upgrade mlflow), or put a backup in its place"
        )
    if version != newest:
        raise UnusableStoreError(
            f"{place} has the schema of an older MLflow (version {version}; {VERSION} has {newest}): {backup}, "
            f"then run `mlflow db upgrade '{address}'`"
        )


def _backup(database: Path, tables: Iterable[str]) -> str:
    """What to do before an upgrade, also where one was cut off before."""
    drops = " ".join(f"DROP TABLE {table};" for table in sorted(tables) if table.startswith(UNFINISHED))
    copy = "copy the file to keep a backup"
    return f"{copy}, run `sqlite3 '{database}' '{drops}'` as an upgrade was cut off" if drops else copy


def _check_pages(connection: sqlite3.Connection, database: Path) -> None:
    deadline = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return  # too large to read it all
        raise
    if found != "ok":
        raise StoreError(f"{database} is damaged ({one_line(found)}): {RESTORE}")
