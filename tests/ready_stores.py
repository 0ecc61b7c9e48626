"""New stores that are copies of one: MLflow takes about two seconds to build one, and the tests use a hundred."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resflow.workflow import store
from resflow.workflow.sqlite_check import connected

__all__ = ["build", "copied_stores"]

build = store._build
"""What builds a store as it is built for users."""


@contextmanager
def copied_stores() -> Iterator[None]:
    """While entered, this process builds one new store, the first; all others are copies of it."""
    ready: list[tuple[bytes, str]] = []

    def build_or_copy(database: Path, artifacts: str) -> None:
        if not ready:
            build(database, artifacts)
            ready.append((database.read_bytes(), artifacts))
            return
        ((content, former),) = ready
        unfinished = database.with_name("mlflow.db.unfinished")
        unfinished.write_bytes(content)
        with connected(unfinished) as connection:
            store._replace_prefix(connection, f"{former}/", f"{artifacts}/")
        os.replace(unfinished, database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_build", build_or_copy)
        yield
