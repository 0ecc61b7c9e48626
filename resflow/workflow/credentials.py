"""Credentials in the store's address: handed on where they are needed, written nowhere."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from resflow.workflow.addresses import without_credentials, without_secrets

__all__ = ["UnshownAddress", "complete_address", "moved_to_environment", "scrub_errors"]

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


class UnshownAddress(str):
    """An address that shows itself without credentials where values are shown, as in Dask's log of a failed task."""

    def __repr__(self) -> str:
        return repr(without_credentials(str(self)))


def moved_to_environment(address: str) -> str:
    """An address without its user and password, which this process and those it starts have in the environment instead.

    Only of a tracking server: MLflow prints its address into notebooks, and reads user and password there. Databases
    have them in their address alone.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.username or not parts.password:
        return address
    os.environ |= {USER: unquote(parts.username), PASSWORD: unquote(parts.password)}
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if os.environ.get("MLFLOW_TRACKING_URI") == address:
        os.environ["MLFLOW_TRACKING_URI"] = bare
    return bare


def complete_address(address: str) -> UnshownAddress:
    """An address with the user and password of this process's environment, for a process of another machine."""
    parts = urlsplit(address)
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if parts.scheme in ("http", "https") and user and password and "@" not in parts.netloc:
        netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"
        return UnshownAddress(urlunsplit(parts._replace(netloc=netloc)))
    return UnshownAddress(address)


def scrub_errors(nb: Any) -> None:
    """Take credentials out of a notebook's tracebacks, as those of a database that cannot be reached have them."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.evalue = without_secrets(output.evalue)
                output.traceback = [without_secrets(line) for line in output.traceback]
