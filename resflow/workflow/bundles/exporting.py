"""Exporting: a run, or a sweep, with everything below it, as one file that is there whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resflow.errors import InvalidInputError
from resflow.workflow import names
from resflow.workflow.bundles.crate import CrateWriter
from resflow.workflow.bundles.layout import CRATE, artifact_folder, metrics_place, model_folder, run_place
from resflow.workflow.bundles.workflow import workflow_in
from resflow.workflow.bundles.writer import BundleWriter, Packed, new_bundle
from resflow.workflow.kept_data import holder_of_data
from resflow.workflow.last_word import status_of
from resflow.workflow.names import Role, role_of
from resflow.workflow.placing import give_name
from resflow.workflow.records import (
    CopiedModel,
    Run,
    copied,
    copied_models,
    download,
    download_model,
    everything_below,
    models_of_runs,
    origin_of,
    values_of,
)
from resflow.workflow.scratch import temporary_folder

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["COLUMNS", "Exported", "export"]

COLUMNS = ("metric", "step", "timestamp", "value")
"""Of the table of a run's metrics; timestamps are in milliseconds since 1970."""


class Exported(NamedTuple):
    """How much was exported: runs, files, their bytes unpacked, and models that MLflow keeps apart from their runs."""

    runs: int
    files: int
    size: int
    models: int


def export(client: MlflowClient, top: StoredRun, file: Path, license_: str) -> Exported:
    """Write a run and everything below it to a bundle.

    It is written in a temporary folder beside the file, and then given its name. Of artifacts and metrics no more than
    one run's are held at once.

    Raises:
        InvalidInputError: If a run is not over, is one that says nothing without another, or `file` is there already.
    """
    if role_of(top) == Role.MEMBER and (above := top.data.tags.get(names.PARENT)):
        raise InvalidInputError(
            f"the run {top.info.run_id} is a member of a population, which has one notebook and its points for all: "
            f"export {above} instead"
        )
    runs = everything_below(client, top)
    for run in runs:
        if status_of(run) == names.RUNNING:
            raise InvalidInputError(
                f"the run {run.info.run_id} ({run.info.run_name}) is still running: export when it is over"
            )
    ids = {run.info.run_id: origin_of(run) for run in runs}
    models = models_of_runs(client, runs)
    with temporary_folder(file.parent) as folder:
        with new_bundle(folder / "bundle") as bundle, (folder / "crate").open("w", encoding="utf-8") as description:
            crate = CrateWriter(description)
            workflows: dict[str, str] = {}
            for run in runs:
                own = models.get(run.info.run_id, [])
                _add(client, run, ids, own, bundle, crate, folder / "run", workflows)
            name = top.data.tags[names.SWEEP] if role_of(top) == Role.SWEEP else top.info.run_name
            crate.close(name or top.info.run_id, max(run.info.end_time or 0 for run in runs), license_)
            description.flush()
            bundle.add(CRATE, folder / "crate")
        give_name(folder / "bundle", file)
    return Exported(len(runs), bundle.count, bundle.size, sum(map(len, models.values())))


def _add(
    client: MlflowClient,
    stored: StoredRun,
    ids: dict[str, str],
    models: Sequence[LoggedModel],
    bundle: BundleWriter,
    crate: CrateWriter,
    folder: Path,
    workflows: dict[str, str],
) -> None:
    """Add a run; `workflows` has the notebook of each run before, by its origin, and gets this one's."""
    (folder / "artifacts").mkdir(parents=True)
    run = copied(client, stored, ids)
    (folder / "run.json").write_text(json.dumps(run.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "metrics.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *values_of(client, stored)])
    artifacts = download(client, stored.info.run_id, folder / "artifacts")
    artifacts += _data_from_above(Run(client, stored.info.run_id), ids, folder / "artifacts")
    packed = list(_packed(run.id, artifacts, folder, bundle))
    for model, model_id in copied_models(client, stored, models):
        packed += _packed_model(client, run.id, model, model_id, folder / "model", bundle)
    workflow = workflow_in(folder / "artifacts", artifacts, run.tags.get(names.SOURCE, ""))
    place = workflows.get(run.tags.get(names.PARENT, ""), "")
    if workflow is not None:
        if workflow.place not in workflows.values():
            (folder / "workflow").write_text(workflow.text, encoding="utf-8")
            crate.add_workflow(workflow, bundle.add(workflow.place, folder / "workflow"))
        place = workflow.place
    workflows[run.id] = place
    crate.add_run(run, packed, place)
    shutil.rmtree(folder)


def _packed_model(
    client: MlflowClient, run_id: str, model: CopiedModel, model_id: str, folder: Path, bundle: BundleWriter
) -> Iterator[Packed]:
    (folder / "artifacts").mkdir(parents=True)
    place = model_folder(run_id, model.id)
    text = json.dumps(model.as_json(), indent=1, ensure_ascii=False) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")
    yield bundle.add(f"{place}model.json", folder / "model.json")
    for path in download_model(client, model_id, folder / "artifacts"):
        yield bundle.add(f"{place}artifacts/{path.as_posix()}", folder / "artifacts" / path)
    shutil.rmtree(folder)


def _data_from_above(run: Run, ids: dict[str, str], folder: Path) -> list[Path]:
    """Copy the data that a run took into a folder, if it is kept with a sweep that is not exported; its path there."""
    holder = holder_of_data(run)
    if holder is None or holder.id in ids:
        return []
    path = Path(run.stored.data.tags[names.KEPT_DATA])
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(holder.read_bytes(str(path)))
    return [path]


def _packed(run_id: str, artifacts: list[Path], folder: Path, bundle: BundleWriter) -> Iterator[Packed]:
    yield bundle.add(run_place(run_id), folder / "run.json")
    yield bundle.add(metrics_place(run_id), folder / "metrics.csv")
    for path in artifacts:
        yield bundle.add(artifact_folder(run_id) + path.as_posix(), folder / "artifacts" / path)
