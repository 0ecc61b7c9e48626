"""Runs as they are copied from store to store: all that MLflow keeps of one, and writing that into another.

A copy gets an id of its own. Whichever store a run is in, its *origin* is the id that it had in the first, and in all
that is copied runs are named by their origins, so that a copy of a copy is the same as a copy.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.errors import shown
from resflow.workflow import names
from resflow.workflow.limits import PARAMETER, RUN_NAME
from resflow.workflow.names import ALSO_IN, DUPLICATE_OF, IMPORTED_FROM, OUTCOME, PARENT, Role, role_of
from resflow.workflow.quiet import without_progress_bars
from resflow.workflow.records.reading import every_run, experiments, history_of, tagged

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = [
    "DATASET",
    "UNFINISHED",
    "CopiedRun",
    "MetricValue",
    "copied",
    "download",
    "everything_below",
    "is_unfinished_copy",
    "origin_of",
    "values_of",
    "with_other_ids",
]

_RUN_ID = re.compile("[0-9a-f]{32}")
_NAME = re.compile(r"[/\w.\- :]{1,250}")
_LONGEST_TAG = 8000
_LARGEST = 2**63
UNFINISHED = "unfinished "
"""What stands in front of a copy's origin until it is whole."""

DATASET = ("name", "digest", "source_type", "source", "schema", "profile")
"""What MLflow keeps of a data set."""


class MetricValue(NamedTuple):
    """One value of a metric, when it was logged, in milliseconds since 1970, and at which step."""

    metric: str
    step: int
    timestamp: int
    value: float

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> MetricValue:
        """The value that a row of a table has.

        Raises:
            ValueError: If it has none that MLflow would take.
        """
        if len(texts) != 4 or not _is_name(texts[0]):
            raise ValueError(f"it has the row {shown(texts)}")
        found = cls(texts[0], int(texts[1]), int(texts[2]), float(texts[3]))
        if not (-_LARGEST <= found.step < _LARGEST and 0 <= found.timestamp < _LARGEST):
            raise ValueError(f"it has the row {shown(texts)}")
        return found


@dataclass(frozen=True)
class CopiedRun:
    """All that MLflow keeps of a run but its metrics and files, in JSON's types.

    Attributes:
        id: Its origin.
        experiment, description: The name of its experiment, and what is said of that.
        name, status: As MLflow has them.
        start_time, end_time: In milliseconds since 1970.
        params, tags: With runs in tags named by their origins.
        datasets: Its inputs, each with name, digest, source_type, source, schema, profile, and tags.
    """

    id: str
    experiment: str
    description: str
    name: str
    status: str
    start_time: int
    end_time: int
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> CopiedRun:
        """The run that `as_json` wrote.

        Raises:
            ValueError: If it is none, or one that MLflow would not take; the message goes on from the file's name.
        """
        kinds: dict[str, type] = {name: str for name in ("id", "experiment", "description", "name", "status")}
        kinds |= {"start_time": int, "end_time": int, "params": dict, "tags": dict, "datasets": list}
        if not isinstance(content, dict) or content.keys() != kinds.keys():
            raise ValueError("is no description of a run")
        for key, kind in kinds.items():
            if type(content[key]) is not kind:
                raise ValueError(f"has {key}={shown(content[key])}, which is no {kind.__name__}")
        run = cls(**content)
        if not _RUN_ID.fullmatch(run.id) or run.status not in (names.FINISHED, names.FAILED, names.KILLED):
            raise ValueError(f"has the id {shown(run.id)} and the status {shown(run.status)}, which no run has")
        if not run.experiment or not 0 <= run.start_time <= run.end_time < _LARGEST or len(run.name) > RUN_NAME:
            raise ValueError("has a name, or times, that no run has")
        for texts, longest in ((run.params, PARAMETER), (run.tags, _LONGEST_TAG)):
            for key, value in texts.items():
                if not _is_name(key) or not isinstance(value, str) or len(value) > longest:
                    raise ValueError(f"has {shown(key)}={shown(value)}, which MLflow does not take")
        for dataset in run.datasets:
            if not _is_dataset(dataset):
                raise ValueError(f"has the data set {shown(dataset)}, which is none")
        return run


def origin_of(run: StoredRun) -> str:
    """The id that a run had in the first store that it was in."""
    return run.data.tags.get(IMPORTED_FROM, "").removeprefix(UNFINISHED) or run.info.run_id


def is_unfinished_copy(run: StoredRun) -> bool:
    """Whether a run was begun to be copied, and is no whole copy."""
    return run.data.tags.get(IMPORTED_FROM, "").startswith(UNFINISHED)


def with_other_ids(tags: Mapping[str, str], ids: Mapping[str, str]) -> dict[str, str]:
    """Tags with the runs that they name called otherwise; those that place the run below an unknown one are left out.

    Args:
        tags: The tags.
        ids: What each known run is called, by what it is called in the tags.
    """
    changed = {}
    for key, value in tags.items():
        if key == OUTCOME:
            status, space, run_id = value.partition(" ")
            changed[key] = status + space + ids.get(run_id, run_id)
        elif key == PARENT or key.startswith(ALSO_IN):
            if value in ids:
                changed[key] = ids[value]
        elif key == DUPLICATE_OF:
            changed[key] = ids.get(value, value)
        elif key != IMPORTED_FROM:
            changed[key] = value
    return changed


def copied(client: MlflowClient, stored: StoredRun, ids: Mapping[str, str]) -> CopiedRun:
    """A run as it is copied, with other runs named by `ids`, which has their origins."""
    info, experiment = stored.info, client.get_experiment(stored.info.experiment_id)
    datasets = [
        {key: getattr(each.dataset, key) for key in DATASET} | {"tags": {tag.key: tag.value for tag in each.tags}}
        for each in (stored.inputs.dataset_inputs if stored.inputs else ())
    ]
    return CopiedRun(
        id=ids[info.run_id],
        experiment=experiment.name,
        description=experiment.tags.get(names.DESCRIPTION, ""),
        name=info.run_name,
        status=info.status,
        start_time=info.start_time,
        end_time=info.end_time or info.start_time,
        params=dict(sorted(stored.data.params.items())),
        tags=dict(sorted(with_other_ids(stored.data.tags, ids).items())),
        datasets=sorted(datasets, key=lambda each: (each["name"], each["digest"])),
    )


def values_of(client: MlflowClient, stored: StoredRun) -> Iterator[MetricValue]:
    """Every value of every metric of a run, metric by metric, in the order in which they were logged."""
    for metric in sorted(stored.data.metrics):
        history = history_of(client, stored.info.run_id, metric)
        values = [MetricValue(metric, each.step, each.timestamp, each.value) for each in history]
        yield from sorted(values, key=lambda each: (each.timestamp, each.step, each.value != each.value, each.value))


def everything_below(client: MlflowClient, top: StoredRun) -> list[StoredRun]:
    """A run and all that are nested in it, each after the one that it is nested in.

    Of a sweep those too that it shares with others; members of a population have none below them.
    """
    every, found = list(experiments(client)), {top.info.run_id: top}
    waiting = [top]
    while waiting:
        run = waiting.pop(0)
        if role_of(run) == Role.MEMBER:
            continue
        below = list(every_run(client, every, tagged(PARENT, run.info.run_id)))
        if run is top and role_of(run) == Role.SWEEP:
            shared = f"tags.`{ALSO_IN}{run.data.tags[names.SWEEP]}` != ''"
            below += every_run(client, [run.info.experiment_id], shared)
        new = {each.info.run_id: each for each in below if each.info.run_id not in found}
        found |= new
        waiting += new.values()
    return list(found.values())


def download(client: MlflowClient, run_id: str, folder: Path) -> list[Path]:
    """Copy a run's artifacts into a folder; the files, by their paths from there."""
    if not client.list_artifacts(run_id):
        return []  # which MLflow would tell on the terminal
    with without_progress_bars():
        client.download_artifacts(run_id, "", str(folder))
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _is_dataset(dataset: Any) -> bool:
    if not isinstance(dataset, dict) or dataset.keys() != {*DATASET, "tags"} or not isinstance(dataset["tags"], dict):
        return False
    texts = [*(dataset[key] for key in DATASET), *dataset["tags"].values()]
    return all(isinstance(text, str | None) for text in texts)


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and posixpath.normpath(name) == name and name[0] not in "/."
