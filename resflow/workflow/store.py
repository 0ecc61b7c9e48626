"""The embedded tracking store: SQLite at mlruns/mlflow.db and artifacts beside it, made once, noticed when moved."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import local_path, moved_to_environment
from resflow.workflow.names import TRACE_LOCATION
from resflow.workflow.plainly import told_plainly
from resflow.workflow.project import artifact_root, database_of, database_uri, project_root
from resflow.workflow.quiet import import_mlflow
from resflow.workflow.remote_check import check_address
from resflow.workflow.sqlite_check import check_sqlite, connected

# Before MLflow is imported anywhere: it reports home unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Logging a batch takes two connections at once. Of the 15 that there are by default, 15 threads can take one each, and
# then all of them wait for the second until they fail.
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW", "-1")
# MLflow says so, and that it makes tables, in every notebook.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: record.levelno > logging.INFO)
# and it makes tqdm complain, in every notebook, of a widget that no notebook here uses.
warnings.filterwarnings("ignore", message="IProgress not found")

__all__ = ["StoreMovedError", "check_not_moved", "ensure_store", "is_embedded", "relocate", "tracking_uri"]

LOCK_SECONDS = 120.0
"""How long to wait for another process that is making the store; it takes about two seconds."""

LOCATIONS = (
    ("experiments", "artifact_location", None),
    ("runs", "artifact_uri", None),
    ("logged_models", "artifact_location", None),
    ("model_versions", "source", None),
    ("model_versions", "storage_location", None),
    ("workspaces", "default_artifact_root", None),
    ("workspaces", "trace_archival_location", None),
    ("trace_tags", "value", TRACE_LOCATION),
)
"""Where MLflow's schema keeps absolute locations: table, column, and the key of the rows meant (None: every row)."""


class StoreMovedError(InvalidInputError):
    """The project folder was moved or copied, so that the store still points to the old place."""


def tracking_uri() -> str:
    """MLflow's tracking URI: MLFLOW_TRACKING_URI if it is set, else the embedded store, made if it isn't there yet.

    Raises:
        StoreMovedError: If the embedded store points to another place than where it is.
        InvalidInputError: If no embedded store can be made here, or the one here or MLFLOW_TRACKING_URI is of no use.
        StoreError: If the embedded store is damaged or locked.
    """
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        check_address(given)
        return moved_to_environment(given)
    root = project_root()
    with told_plainly(f"sqlite:///{database_of(root)}"):
        uri = ensure_store(root)
        check_sqlite(database_of(root))
        check_not_moved(root)
    return uri


def is_embedded(uri: str, root: Path) -> bool:
    """True if `uri` addresses the embedded store of the project at `root`."""
    return uri == database_uri(database_of(root))


def ensure_store(root: Path) -> str:
    """Make the embedded store of the project at `root` unless it exists; its tracking URI.

    Any number of processes may try at once. The database is built under another name and renamed when it is whole, so
    that being killed on the way leaves nothing broken.
    """
    database = database_of(root)
    uri = database_uri(database)
    if database.exists():
        return uri
    if database.is_symlink():
        raise InvalidInputError(f"{database} is a link that leads nowhere: remove it, or make what it leads to")
    if database.parent.exists() and not database.parent.is_dir():
        raise InvalidInputError(f"{database.parent} is no folder, which the store needs there: move it away")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock", timeout=LOCK_SECONDS):
            if not database.is_file():
                _build(database, artifact_root(root))
    except Timeout:
        raise InvalidInputError(
            f"{database}.lock has been held for {LOCK_SECONDS:.0f} seconds by a process making the store: end it"
        ) from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise InvalidInputError(
            f"{database} cannot be made ({error.strerror}): make {database.parent} writable, or set MLFLOW_TRACKING_URI"
        ) from None
    return uri


def check_not_moved(root: Path) -> None:
    """Check that the embedded store at `root` keeps its artifacts at `root`.

    Raises:
        StoreMovedError: If it points to the place the project was moved or copied from.
    """
    with connected(database_of(root)) as connection:
        former = _former_roots(connection, root)
    if former:
        raise StoreMovedError(
            f"{database_of(root)} keeps its artifacts under {former[0]}, where this project was before it was moved or "
            f"copied to {root}: run `resflow store relocate` here"
        )


def relocate(root: Path) -> int:
    """Make every location that the embedded store at `root` holds point to `root`, in one transaction.

    Returns how many were rewritten: none if the store was not moved.

    Raises:
        InvalidInputError: If there is no embedded store.
    """
    database = database_of(root)
    if not database.exists():
        raise InvalidInputError(f"{database} does not exist: there is no store to relocate")
    with told_plainly(f"sqlite:///{database}"):
        check_sqlite(database)
        with connected(database) as connection:
            connection.execute("BEGIN IMMEDIATE")
            count = sum(
                _replace_prefix(connection, old, new)
                for former in _former_roots(connection, root)
                for old, new in ((f"{former}/", f"{root}/"), (f"{former.as_uri()}/", f"{root.as_uri()}/"))
            )
            connection.execute("COMMIT")
    return count


def _build(database: Path, artifacts: str) -> None:
    """Build MLflow's database whole, with write-ahead logging set, and put it in place; the caller holds the lock."""
    import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = database.with_name("mlflow.db.unfinished")
    for remnant in unfinished.parent.glob(f"{unfinished.name}*"):  # of a process that was killed here
        remnant.unlink()
    store = SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts)
    store.engine.dispose()
    # Readers then never wait for a writer, and many processes can log at once. Closing folds the log into the file.
    with connected(unfinished) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    os.replace(unfinished, database)


def _former_roots(connection: sqlite3.Connection, root: Path) -> list[Path]:
    """The other places whose mlruns/artifacts the store's experiments point to, oldest first."""
    rows = connection.execute("SELECT artifact_location FROM experiments ORDER BY experiment_id").fetchall()
    roots: dict[Path, None] = {}
    for (location,) in rows:
        path = local_path(location or "")
        before, found, _ = path.rpartition("/mlruns/artifacts/")
        if found and not (os.path.exists(before) and os.path.samefile(before, root)):  # by whichever name
            roots[Path(before)] = None
    return list(roots)


def _replace_prefix(connection: sqlite3.Connection, old: str, new: str) -> int:
    count = 0
    for table, column, key in LOCATIONS:
        if (column,) not in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall():
            continue  # MLflow's schema of another version
        condition, values = (" AND key = ?", [key]) if key else ("", [])
        count += connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?{condition}",
            [new, len(old) + 1, len(old), old, *values],
        ).rowcount
    return count
