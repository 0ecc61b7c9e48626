"""What of the project's own store can go: runs that were deleted, and files of runs that are gone; and its removal."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from resflow.workflow.addresses import local_path
from resflow.workflow.last_word import AT_WORK
from resflow.workflow.names import OUTCOME, OWNER, PARENT, RUNNING
from resflow.workflow.project import artifact_root, database_of, database_uri
from resflow.workflow.provenance import owner_is_gone
from resflow.workflow.quiet import import_mlflow
from resflow.workflow.sqlite_check import connected

__all__ = ["Removable", "removable_in", "remove", "size_of"]

_RUN_ID = re.compile("[0-9a-f]{32}")
_DELETED = "deleted"


class Removable(NamedTuple):
    """What can go.

    Attributes:
        runs: Deleted runs by their ids, each with the folder of its files.
        experiments: Deleted experiments, by their ids, of which no run stays.
        orphans: Folders of runs that the database does not have.
        at_work: How many deleted runs stay because they may be going on.
        needed: How many because others that stay are nested in them, whose points or notebook they may have.
        elsewhere: How many because their files are not in mlruns.
    """

    runs: dict[str, Path]
    experiments: list[str]
    orphans: list[Path]
    at_work: int
    needed: int
    elsewhere: int


class _Row(NamedTuple):
    run_id: str
    experiment: str
    stage: str
    status: str
    address: str


def removable_in(root: Path) -> Removable:
    """What of the embedded store at `root` can go, as it is now."""
    folders = list(_run_folders(root))  # before the runs are read: one that begins now is there when they are
    with connected(database_of(root)) as connection:
        connection.execute("BEGIN")  # all of it as it is at one moment
        query = "SELECT run_uuid, experiment_id, lifecycle_stage, status, artifact_uri FROM runs"
        rows = {row[0]: _Row(*map(str, row)) for row in connection.execute(query)}
        tags: dict[str, dict[str, str]] = {}
        chosen = (OWNER, PARENT, OUTCOME)
        for run_id, key, value in connection.execute(
            "SELECT run_uuid, key, value FROM tags WHERE key IN (?,?,?)", chosen
        ):
            tags.setdefault(run_id, {})[key] = value or ""
        query = "SELECT experiment_id FROM experiments WHERE lifecycle_stage = ?"
        experiments = [str(row[0]) for row in connection.execute(query, (_DELETED,))]
        connection.execute("ROLLBACK")
    deleted = {run_id for run_id, row in rows.items() if row.stage == _DELETED}
    at_work = {run_id for run_id in deleted if _may_go_on(rows[run_id].status, tags.get(run_id, {}))}
    places = {run_id: _folder(root, rows[run_id]) for run_id in deleted}
    elsewhere = {run_id for run_id in deleted - at_work if places[run_id] is None}
    staying = set(rows) - deleted | at_work | elsewhere
    needed: set[str] = set()
    waiting = list(staying)
    while waiting:
        above = tags.get(waiting.pop(), {}).get(PARENT, "")
        if above in deleted - staying:
            staying.add(above)
            needed.add(above)
            waiting.append(above)
    return Removable(
        {run_id: place for run_id, place in places.items() if run_id not in staying and place is not None},
        [each for each in experiments if not any(rows[run_id].experiment == each for run_id in staying)],
        [folder for folder in folders if folder.name not in rows],
        len(at_work),
        len(needed),
        len(elsewhere),
    )


def remove(root: Path, agreed: Removable) -> None:
    """Remove for good what was agreed on and still can go, files first: who is stopped finds the rest the next time."""
    import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    now = removable_in(root)
    for folder in agreed.orphans:
        if folder in now.orphans:
            shutil.rmtree(folder)
    store = SqlAlchemyStore(database_uri(database_of(root)), artifact_root(root))
    try:
        for run_id, folder in agreed.runs.items():
            if run_id in now.runs:
                if folder.exists():
                    shutil.rmtree(folder)
                # As `mlflow gc` does it, which could be asked for no choice of experiments.
                store._hard_delete_run(run_id)
        for experiment in agreed.experiments:
            if experiment in now.experiments:
                store._hard_delete_experiment(experiment)
    finally:
        store.engine.dispose()
    for folder in {each.parent for each in (*agreed.runs.values(), *agreed.orphans)}:
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, of links those of the links."""
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # gone meanwhile
                size += os.lstat(os.path.join(place, file)).st_size
    return size


def _run_folders(root: Path) -> Iterator[Path]:
    """The folders of runs among the artifacts, by their names; beside these, mlruns may have those of other stores."""
    artifacts = root / "mlruns" / "artifacts"
    for pattern in ("*", "*/*"):
        for folder in artifacts.glob(pattern):
            if _RUN_ID.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                yield folder


def _folder(root: Path, row: _Row) -> Path | None:
    """The folder of a run's files, which are in one called artifacts; None if it is not in the store's own folder.

    Of experiments that were not made by resflow it is mlruns/NUMBER/RUN, and not in mlruns/artifacts.
    """
    place = Path(local_path(row.address))
    within = place.parent.is_relative_to(root / "mlruns") and ".." not in place.parts
    return place.parent if within and place.parent.name == row.run_id and place.name == "artifacts" else None


def _may_go_on(status: str, tags: dict[str, str]) -> bool:
    """Whether a run is not over, and its process not known to be gone."""
    is_over = status not in (RUNNING, "SCHEDULED") and tags.get(OUTCOME) != AT_WORK[OUTCOME]
    return not is_over and not owner_is_gone(tags.get(OWNER, ""))
