"""Addresses of stores: which file they name, and what is secret in them, which is handed on and written nowhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

__all__ = [
    "UnshownAddress",
    "complete_address",
    "local_path",
    "moved_to_environment",
    "sqlite_file",
    "without_credentials",
    "without_secrets",
]

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>[^\s'\"<>]+)")
_SECRET_OPTION = re.compile(r"(?i)pass|pwd|token|secret|key|sig|auth|cred|user|odbc_connect")
_SHORTEST = 4
"""Characters: a shorter secret would be found by chance in any text."""


def without_credentials(text: str) -> str:
    """An address, or a text with addresses in it, without users, passwords and options that may be secret.

    Where an address can be read in two ways, as one whose password has a slash in it, more is left out rather than
    less. Addresses of files have no users: an @ in them is part of a name.

    >>> without_credentials("postgresql://me:pass/w@rd@db.example:5432/runs?sslmode=require&password=x")
    'postgresql://db.example:5432/runs?sslmode=require'
    >>> without_credentials("sqlite:////home/me@work/mlflow.db")
    'sqlite:////home/me@work/mlflow.db'
    """
    return _ADDRESS.sub(_shown, text)


def without_secrets(text: str) -> str:
    """Text from anywhere, as a traceback, without credentials in addresses and without this process's own elsewhere."""
    text = without_credentials(text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None if it has none, or is another address."""
    found = re.match(r"sqlite(\+\w+)?:///(?P<path>[^?]*)", uri)
    if not found or found["path"] in ("", ":memory:") or found["path"].startswith("file:"):
        return None
    return Path(unquote(found["path"]))


def local_path(address: str) -> str:
    """The folder that an address names, or the address itself if it is elsewhere."""
    return unquote(urlsplit(address).path) if address.startswith("file:") else address


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


def _shown(found: re.Match[str]) -> str:
    rest, _, options = found["rest"].partition("?")
    if "@" in options and not re.match(r"[^/]*/|[^/:@]+(:\d+)?$", rest):
        rest, options = found["rest"], ""  # the ? is one of the password's
    if not rest.startswith("/"):
        if re.match(r"[^:/@]*:[^@]*@", rest):  # a password may have slashes in it
            rest = rest.rpartition("@")[2]
        else:
            authority, slash, path = rest.partition("/")
            rest = authority.rpartition("@")[2] + slash + path
    rest, _, more = rest.partition("?")
    shown = [option for option in re.split("[&;]", options or more) if not _SECRET_OPTION.search(option.split("=")[0])]
    return found["scheme"] + rest + ("?" + "&".join(shown) if any(shown) else "")


def _secrets() -> set[str]:
    secrets = {os.environ.get(name, "") for name in (PASSWORD, "MLFLOW_TRACKING_TOKEN")}
    rest = os.environ.get("MLFLOW_TRACKING_URI", "").partition("://")[2]
    for option in re.split("[?&;]", rest)[1:]:
        name, _, value = option.partition("=")
        secrets |= {value, unquote(value)} if _SECRET_OPTION.search(name) else set()
    if not rest.startswith("/") and "@" in rest:
        user, _, password = rest.rpartition("@")[0].partition(":")
        secrets |= {password, unquote(password)} if password else {user}
    return {secret for secret in secrets if len(secret) >= _SHORTEST}
