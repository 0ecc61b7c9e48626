"""The user's own data files among a run's artifacts, so that it can be checked when they have changed or are gone.

A file is kept once: of a sweep's runs by the sweep, of a population by the run that has its members below it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resflow.errors import InvalidInputError, shown
from resflow.workflow import names
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.stored_points import UnverifiableError

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["INSTEAD", "KEEP", "LARGEST", "check_keep", "holder_of_data", "keep_data", "kept_data"]

LARGEST = 16 << 20
"""Bytes of a file at most; what is larger is not kept, and the run's tag says so."""

KEEP = "RESFLOW_KEEP_DATA"
"""The environment variable that turns it off: yes, or no."""

INSTEAD = "RESFLOW_DATA_INSTEAD"
"""By which whoever reads data files is told to read others instead: a JSON object of their names."""

_FOLDER, _NONE = "data", "none: "


def check_keep() -> bool:
    """Whether the environment has data kept.

    Raises:
        InvalidInputError: If it says neither yes nor no.
    """
    if (said := os.environ.get(KEEP) or "yes") not in ("yes", "no"):
        raise InvalidInputError(f"{KEEP}={shown(said)} must be yes or no: whether runs keep a copy of the user's data")
    return said == "yes"


def keep_data(run: Run, name: str) -> None:
    """Keep the data file of that name, as the notebook has it, with the run, and tag where, or why not; and its digest.

    Args:
        run: The run.
        name: Of a file that is there, from the current folder on.

    Raises:
        InvalidInputError: If the environment says neither that data is to be kept nor that it is not.
    """
    file, keep = _file(name), check_keep()
    size = file.stat().st_size
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not keep:
        kept = f"{_NONE}{KEEP}=no"
    elif size > LARGEST:
        kept = f"{_NONE}it has {size / 2**20:.0f} MiB, and at most {LARGEST >> 20} are kept of a file"
    else:
        folder = f"{_FOLDER}/{digest[:16]}"
        kept = f"{folder}/{file.name}"
        holder = _above(run) or run
        if kept not in holder.files(folder):
            holder.attach(file, folder)
    run.set_tags({names.DATA_FILE: name, names.KEPT_DATA: kept, names.KEPT_DATA_DIGEST: digest})


def holder_of_data(run: Run) -> Run | None:
    """The run among whose artifacts the data of `run` is kept; None where it is nowhere."""
    kept: Run | None = run
    path = run.stored.data.tags.get(names.KEPT_DATA, _NONE)
    while kept is not None and not path.startswith(_NONE):
        if path in kept.files(path.rpartition("/")[0]):
            return kept
        kept = _nested_in(kept)
    return None


@contextmanager
def kept_data(run: Run, folder: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Where the data file of a run changed or is gone: what is to be said of it, and the variables to read the copy by.

    Args:
        run: The run.
        folder: From which its notebook reads files.

    Yields:
        A sentence, and what `changed_environment` needs; "" and nothing where the file is as it was, where the run had
        none, or where there is no copy: then whoever reads the data finds out.

    Raises:
        UnverifiableError: If the copy is not the one that was kept.
    """
    tags = run.stored.data.tags
    name, digest = tags.get(names.DATA_FILE, ""), tags.get(names.KEPT_DATA_DIGEST, "")
    changed = _change(folder / _file(name), name, digest) if name else ""
    holder = holder_of_data(run) if changed else None
    if holder is None:
        yield "", {}
        return
    path = tags[names.KEPT_DATA]
    content = holder.read_bytes(path)
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise UnverifiableError(
            f"{changed}, and the kept copy {path} is another, too: it has SHA-256 {found[:12]}…, and "
            f"{digest[:12]}… was recorded"
        )
    with temporary_folder() as scratch:
        (copy := scratch / path.rpartition("/")[2]).write_bytes(content)
        yield f"{changed}; checked on the kept copy {path}", {INSTEAD: json.dumps({name: str(copy)})}


def _change(file: Path, name: str, digest: str) -> str:
    """That a data file is not what it was; "" if it is."""
    try:
        with file.open("rb") as opened:
            now = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return f"the data file {name} is gone"
    if now == digest:
        return ""
    return f"the data file {name} changed: it has SHA-256 {now[:12]}…, and {digest[:12]}… was recorded"


def _file(name: str) -> Path:
    path = Path(json.loads(os.environ.get(INSTEAD) or "{}").get(name, name))
    with contextlib.suppress(RuntimeError):  # an unknown user's home
        path = path.expanduser()
    return path


def _above(run: Run) -> Run | None:
    """The sweep that a run is of."""
    above = _nested_in(run)
    return above if above is not None and names.role_of(above.stored) == names.Role.SWEEP else None


def _nested_in(run: Run) -> Run | None:
    from resflow.workflow.records import Run as RunIn

    parent = run.stored.data.tags.get(names.PARENT)
    return RunIn(run.client, parent) if parent else None
