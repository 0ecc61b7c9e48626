"""Copies of runs in a store: which there are, and writing one that is not, so that who is stopped can go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from resflow.workflow import names
from resflow.workflow.last_word import AT_WORK
from resflow.workflow.names import IMPORTED_FROM, OUTCOME, OWNER
from resflow.workflow.provenance import owner_tag
from resflow.workflow.quiet import without_links, without_progress_bars
from resflow.workflow.records.client import patiently
from resflow.workflow.records.copying import (
    DATASET,
    UNFINISHED,
    CopiedRun,
    MetricValue,
    is_unfinished_copy,
    origin_of,
    with_other_ids,
)
from resflow.workflow.records.logged_models import CopiedModel, restore_models
from resflow.workflow.records.reading import every_run, experiments
from resflow.workflow.records.run import BATCH, Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Copy", "copies_of", "restore"]

T = TypeVar("T")


class Copy(NamedTuple):
    """A copy of a run in a store: its id there, and whether it is whole."""

    run_id: str
    is_whole: bool


def copies_of(client: MlflowClient, origins: Iterable[str]) -> dict[str, Copy]:
    """What a store has of runs, by their origins: themselves, or copies, those that were only begun included."""
    wanted = set(origins)
    found: dict[str, Copy] = {}
    for run in every_run(client, list(experiments(client)), f"tags.`{IMPORTED_FROM}` != ''"):
        if (origin := origin_of(run)) in wanted and not (origin in found and found[origin].is_whole):
            is_whole = not is_unfinished_copy(run)
            found[origin] = Copy(run.info.run_id, is_whole)
    for origin in wanted - found.keys():
        if _is_there(client, origin):
            found[origin] = Copy(origin, is_whole=True)
    return found


def restore(
    client: MlflowClient,
    run: CopiedRun,
    experiment_id: str,
    *,
    ids: Mapping[str, str],
    values: Iterable[MetricValue],
    artifacts: Path,
    models: Mapping[Path, CopiedModel],
    begun: str = "",
) -> str:
    """Write a copied run into a store; until it is whole it is RUNNING, and owned by this process.

    Args:
        client: A client of the store.
        run: The run.
        experiment_id: MLflow's id of the experiment that it goes to.
        ids: What the runs that it names are called there, by their origins.
        values: All values of its metrics.
        artifacts: A folder with its files, and nothing else.
        models: The models that are copied with it, by the folders that have their files.
        begun: What it is called there if somebody began to copy it; what was written then is written again.

    Returns:
        MLflow's id of it there.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    at_work = AT_WORK | {OWNER: owner_tag(), IMPORTED_FROM: UNFINISHED + run.id}
    if begun:
        patiently(client.update_run, begun, status=names.RUNNING)
        _set_tags(client, begun, at_work)
    else:
        created = patiently(client.create_run, experiment_id, run.start_time, tags=at_work, run_name=run.name)
        begun = created.info.run_id
    for params in _in_parts(run.params.items(), 100):
        patiently(client.log_batch, begun, params=[Param(*each) for each in params])
    for batch in _in_parts(values, BATCH):
        metrics = [Metric(each.metric, each.value, each.timestamp, each.step) for each in batch]
        patiently(client.log_batch, begun, metrics=metrics)
    if run.datasets:
        inputs = [
            DatasetInput(
                Dataset(**{key: each[key] for key in DATASET}),
                [InputTag(key, value) for key, value in each["tags"].items()],
            )
            for each in run.datasets
        ]
        patiently(client.log_inputs, begun, datasets=inputs)
    if any(artifacts.iterdir()):
        with without_progress_bars():
            client.log_artifacts(begun, str(artifacts))
    restore_models(client, begun, experiment_id, models)
    with without_links():
        patiently(client.set_terminated, begun, run.status, run.end_time)
    tags = with_other_ids(run.tags, {**ids, run.id: begun})
    Run(client, begun).remove_tags(client.get_run(begun).data.tags.keys() - tags.keys() - {IMPORTED_FROM, OUTCOME})
    said = {key: tags.pop(key) for key in (OUTCOME,) if key in tags}
    _set_tags(client, begun, tags)
    if not said:
        Run(client, begun).remove_tags([OUTCOME])
    _set_tags(client, begun, said | {IMPORTED_FROM: run.id})
    return begun


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    for some in _in_parts(tags.items(), 100):
        patiently(client.log_batch, run_id, tags=[RunTag(*each) for each in some])


def _is_there(client: MlflowClient, run_id: str) -> bool:
    """Whether a run of that id is in the store, and not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _in_parts(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(entries)
    while part := list(islice(remaining, size)):
        yield part
