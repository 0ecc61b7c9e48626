"""Does the server or database at an address answer as a store that can be used? Asked once, within seconds."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import sqlite_file, without_credentials, without_secrets
from resflow.workflow.limits import one_line
from resflow.workflow.names import RUN_TAGS
from resflow.workflow.sqlite_check import check_sqlite, check_version
from resflow.workflow.store_errors import REFUSALS, StoreError, UnusableStoreError

__all__ = ["check_address", "check_answers"]

FIRST_ANSWER_SECONDS = 6.0
"""MLflow itself tries for minutes, which is right within a run and wrong before anything has begun."""

DATABASES = ("postgresql", "mysql", "mssql", "sqlite")

BUSY_SECONDS = 60.0
"""For a server that is up, and may be busy with what many ask at once; or where a sweep's driver has asked before."""


def check_address(uri: str) -> None:
    """Check that MLFLOW_TRACKING_URI is written as an address of a store that resflow can use; nothing is contacted.

    Raises:
        InvalidInputError: If it isn't.
    """
    shown, name = one_line(uri), "MLFLOW_TRACKING_URI"
    if not uri.isprintable() or uri != uri.strip() or (" " in uri and not uri.startswith("sqlite")):
        raise InvalidInputError(
            f"{name} has spaces or other characters that no address has: {without_secrets(uri)[:200]!a}"
        )
    scheme = re.match(r"([a-z][\w.-]*)(\+[\w.-]+)?:", uri.lower())
    if uri == "databricks":
        return
    if uri.split(":")[0] in ("uc", "databricks-uc"):
        raise InvalidInputError(f"{name}={shown} is a catalog, which keeps models and no runs: name a tracking server")
    if scheme is None or scheme[1] == "file" or len(scheme[1]) == 1:
        raise InvalidInputError(
            f"{name}={shown} names a folder, and MLflow no longer keeps runs in plain files: unset it for the "
            "project's own store, or use sqlite:////FOLDER/mlflow.db"
        )
    if scheme[1] in DATABASES:
        import sqlalchemy

        try:
            sqlalchemy.make_url(uri)
        except (ValueError, sqlalchemy.exc.ArgumentError) as error:
            said = one_line(str(error).split(" from string ")[0])  # which would show it whole
            raise InvalidInputError(f"{name}={shown} is no address of a database ({said}): correct it") from None
    if scheme[1] in ("http", "https"):
        try:
            address = urlsplit(uri)
            host, _ = address.hostname, address.port
        except ValueError as error:
            raise InvalidInputError(f"{name}={shown} is no address ({one_line(error)}): correct it") from None
        if not host:
            raise InvalidInputError(f"{name}={shown} names no host: write {scheme[1]}://HOST:PORT")
    if scheme[1] == "sqlite" and sqlite_file(uri) is None:
        raise InvalidInputError(
            f"{name}={shown} names no file, and a store in memory is gone with its process: use "
            "sqlite:////FOLDER/mlflow.db"
        )


def check_answers(uri: str) -> None:
    """Check that the store at `uri` is there and of use, if it is one that can be asked.

    Raises:
        UnusableStoreError: If it is of another schema, lets nobody in, or is no store.
        StoreError: If it gives no answer.
        Exception: What the driver or MLflow says to it.
    """
    scheme = uri.split(":")[0].split("+")[0].lower()
    if scheme in ("http", "https"):
        import mlflow.utils.rest_utils  # on a busy machine that takes seconds, which are not the store's

        if RUN_TAGS not in os.environ:
            _within(FIRST_ANSWER_SECONDS, lambda: _request(uri, "GET", "/health"), uri)  # which needs no database
        _within(BUSY_SECONDS, lambda: _ask_server(uri), uri)
    elif scheme in DATABASES and scheme != "sqlite":
        import mlflow.store.db.utils  # noqa: F401 (nor are these)

        seconds = BUSY_SECONDS if RUN_TAGS in os.environ else FIRST_ANSWER_SECONDS
        _within(seconds, lambda: _ask_database(uri), uri)
    elif (database := sqlite_file(uri)) is not None and database.exists():
        check_sqlite(database)


def _within(seconds: float, ask: Callable[[], object], uri: str) -> None:
    """Ask in a thread, as names that don't resolve and answers that trickle in know no time limit."""
    trouble: list[BaseException] = []

    def target() -> None:
        try:
            ask()
        except BaseException as error:
            trouble.append(error)

    asking = threading.Thread(target=target, daemon=True)
    asking.start()
    asking.join(seconds)
    if asking.is_alive():
        raise StoreError(
            f"the store {without_credentials(uri)} did not answer within {seconds:.0f} seconds: check that it is up, "
            "and MLFLOW_TRACKING_URI"
        )
    if trouble:
        raise trouble[0]


def _request(uri: str, method: str, endpoint: str, **content: Any) -> Any:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(
        get_default_host_creds(uri),
        endpoint,
        method,
        max_retries=0,
        timeout=BUSY_SECONDS,  # whoever waits for this thread waits for no more
        raise_on_status=False,
        **content,
    )


def _ask_server(uri: str) -> None:
    answer = _request(uri, "POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1})
    place = f"the store {without_credentials(uri)}"
    status = answer.status_code
    if status in (401, 403, 407):
        raise UnusableStoreError(f"{place} {REFUSALS[status]}")
    if status == 429 or status >= 500:
        raise StoreError(f"{place} cannot answer now ({status} {one_line(answer.reason)}): try later")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if status != 200 or not isinstance(found, dict):
        kind = answer.headers.get("Content-Type", "no type").split(";")[0]
        raise UnusableStoreError(
            f"{place} is no MLflow server (it answers {status}, {one_line(kind)}): correct MLFLOW_TRACKING_URI"
        )


def _ask_database(uri: str) -> None:
    import mlflow.store.db.utils  # noqa: F401 (MLflow's own settings of SQLAlchemy)
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        if "alembic_version" not in tables:
            return  # MLflow makes its tables
        versions = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalars().all()
    shown = without_credentials(uri)
    login = " (with user and password in the address)" if shown != uri else ""
    check_version(f"the store {shown}", versions[0] if len(versions) == 1 else versions, shown, f"make a backup{login}")
