"""Is a store whole: its database sound, and of every finished run all there that the run says it has?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from resflow.workflow import names
from resflow.workflow.artifact_list import unlike_list
from resflow.workflow.environment import ENVIRONMENT
from resflow.workflow.last_word import status_of
from resflow.workflow.names import Role, role_of
from resflow.workflow.records import Run, every_run, experiments, is_unfinished_copy
from resflow.workflow.stored_points import UnverifiableError, read_points

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["Fault", "Faults"]


class Fault(NamedTuple):
    """What is wrong with a run: its id, its name, and what it is."""

    run_id: str
    name: str
    what: str


class Faults:
    """Looks at all runs of a store; to be iterated over once.

    Attributes:
        finished: How many finished ones were looked at so far.
        others: How many were not finished.
    """

    def __init__(self, client: MlflowClient) -> None:
        self.finished = self.others = 0
        self._client = client
        self._points: dict[tuple[str, str, str], str] = {}

    def __iter__(self) -> Iterator[Fault]:
        seen, above = set(), {}
        for stored in every_run(self._client, list(experiments(self._client))):
            seen.add(stored.info.run_id)
            fault = "was not imported whole: import it again" if is_unfinished_copy(stored) else ""
            whats = [fault] if fault else []
            if status_of(stored) == names.FINISHED:
                self.finished += 1
                whats += self._of_finished(stored)
            else:
                self.others += 1
            if parent := stored.data.tags.get(names.PARENT):
                above[stored.info.run_id] = (stored.info.run_name, parent)
            yield from (Fault(stored.info.run_id, stored.info.run_name, what) for what in whats)
        for run_id, (name, parent) in above.items():
            if parent not in seen:
                yield Fault(run_id, name, f"is nested in the run {parent}, which is deleted or gone")

    def _of_finished(self, stored: StoredRun) -> Iterator[str]:
        """What a finished run lacks, and what of it changed."""
        found = [*self._by_rules(stored)]
        yield from found
        for path, what in unlike_list(Run(self._client, stored.info.run_id)):
            if not any(path in each for each in found):
                yield f"{path} {what}"

    def _by_rules(self, stored: StoredRun) -> Iterator[str]:
        """What is wrong with what every such run has, as far as the run itself tells."""
        run, tags = Run(self._client, stored.info.run_id), stored.data.tags
        if role_of(stored) not in (Role.SWEEP, Role.MEMBER):
            yield from _of_notebook(run, tags, run.files())
        place = tags.get(names.STORED_POINT, "")
        if digest := tags.get(names.STORED_POINT_DIGEST):
            holder = tags.get(names.PARENT, run.id) if role_of(stored) == Role.MEMBER else run.id
            if fault := self._of_point(holder, place.partition("#")[0], digest):
                yield fault
            if holder == run.id and f"{ENVIRONMENT}/environment.json" not in run.files(ENVIRONMENT):
                yield f"{ENVIRONMENT}/environment.json is missing"

    def _of_point(self, holder: str, path: str, digest: str) -> str:
        """What is wrong with a file of points, which many runs may share; "" if nothing is."""
        key = (holder, path, digest)
        if key not in self._points:
            try:
                read_points(Run(self._client, holder), path, digest)
                self._points[key] = ""
            except UnverifiableError as error:
                self._points[key] = str(error)
        return self._points[key]


def _of_notebook(run: Run, tags: dict[str, str], files: list[str]) -> Iterator[str]:
    """What is wrong with the executed notebook and the report, which every run has that was executed by resflow."""
    name = PurePosixPath(tags.get(names.SOURCE, "")).stem
    notebook, report = f"{name}.ipynb", f"{name}.html"
    if names.KERNEL not in tags and notebook not in files:
        return  # one that its own notebook recorded, as in Jupyter
    for path, what in ((notebook, "executed notebook"), (report, "report")):
        if path not in files:
            yield f"the {what} {path} is missing"
    if notebook in files and not _is_json(run.read_bytes(notebook)):
        yield f"the executed notebook {notebook} is cut off or damaged"
    if report in files and not run.read_bytes(report).rstrip().endswith(b"</html>"):
        yield f"the report {report} is cut off: write it again by `resflow report {run.id}`"


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
