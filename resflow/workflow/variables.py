"""The environment variables of this process and of those it starts: changed for a while, and changed by nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["changed_environment", "unchanged_environment"]


@contextmanager
def changed_environment(others: Mapping[str, str | None]) -> Iterator[None]:
    """While entered, variables of this process, and of those it starts, have other values, or none."""
    former = {name: os.environ.get(name) for name in others}
    try:
        _set(others)
        yield
    finally:
        _set(former)


@contextmanager
def unchanged_environment() -> Iterator[None]:
    """What is done within leaves the variables as they were.

    JAX, among others, sets some as it is imported. Kernels of the server that was started before would then have
    another environment than is asked for, and it would be started again.
    """
    former = dict(os.environ)
    try:
        yield
    finally:
        _set({name: former.get(name) for name in {*former, *os.environ} if former.get(name) != os.environ.get(name)})


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
