"""Models that MLflow keeps apart from the runs that logged them, as they are copied from store to store with these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.errors import shown
from resflow.workflow.names import IMPORTED_FROM
from resflow.workflow.quiet import without_progress_bars
from resflow.workflow.records.client import patiently
from resflow.workflow.records.reading import history_of

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["CopiedModel", "copied_models", "download_model", "models_of_runs", "restore_models"]

_MODEL_ID = re.compile("m-[0-9a-f]{32}")
_READY, _FAILED = "READY", "FAILED"
_PAGE = 100
_METRIC = ("key", "value", "timestamp", "step", "dataset_name", "dataset_digest")


@dataclass(frozen=True)
class CopiedModel:
    """All that MLflow keeps of a logged model but its files, in JSON's types.

    Attributes:
        id: The id that it had in the first store that it was in.
        name, model_type, status: As MLflow has them.
        is_of_run: Whether the run that it is copied with made it, or else only names it among its outputs.
        step: At which step that run names it so; None where it does not.
        params, tags: By their names.
        metrics: Each with key, value as text, timestamp, step, dataset_name and dataset_digest.
    """

    id: str
    name: str
    model_type: str | None
    status: str
    is_of_run: bool
    step: int | None
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> CopiedModel:
        """The model that `as_json` wrote.

        Raises:
            ValueError: If it is none; the message goes on from the file's name.
        """
        kinds: dict[str, type | tuple[type, ...]] = {"id": str, "name": str, "model_type": (str, type(None))}
        kinds |= {
            "status": str,
            "is_of_run": bool,
            "step": (int, type(None)),
            "params": dict,
            "tags": dict,
            "metrics": list,
        }
        if not isinstance(content, dict) or content.keys() != kinds.keys():
            raise ValueError("is no description of a model")
        for key, kind in kinds.items():
            if not isinstance(content[key], kind):
                raise ValueError(f"has {key}={shown(content[key])}, which no model has")
        model = cls(**content)
        texts = [*model.params.items(), *model.tags.items()]
        if not _MODEL_ID.fullmatch(model.id) or not all(isinstance(text, str) for pair in texts for text in pair):
            raise ValueError(f"has the id {shown(model.id)}, or a parameter or tag that is no text")
        if isinstance(model.step, bool) or not all(map(_is_metric, model.metrics)):
            raise ValueError("has a step or a metric that is none")
        return model


def models_of_runs(client: MlflowClient, runs: Iterable[StoredRun]) -> dict[str, list[LoggedModel]]:
    """The models of each of some runs, by its id: those it made, and others that it names among its outputs."""
    known = {run.info.run_id: run for run in runs}
    found: dict[str, dict[str, LoggedModel]] = {run_id: {} for run_id in known}
    for model in _search(client, sorted({run.info.experiment_id for run in known.values()})):
        if (source := model.source_run_id or "") in known:
            found[source][model.model_id] = model
    made = {model_id for models in found.values() for model_id in models}
    for run_id, run in known.items():
        for output in run.outputs.model_outputs if run.outputs else ():
            if output.model_id not in made and (named := _get(client, output.model_id)) is not None:
                found[run_id][output.model_id] = named
                made.add(output.model_id)
    return {run_id: list(models.values()) for run_id, models in found.items() if models}


def copied_models(
    client: MlflowClient, run: StoredRun, models: Sequence[LoggedModel]
) -> Iterator[tuple[CopiedModel, str]]:
    """The models of a run as they are copied, in the order of their first ids, each with its id in this store."""
    steps = {output.model_id: output.step for output in (run.outputs.model_outputs if run.outputs else ())}
    for model in sorted(models, key=_origin_of):
        metrics = [
            {key: getattr(each, key) for key in _METRIC} | {"value": _value(client, run, each)}
            for each in model.metrics or ()
            if each.run_id == run.info.run_id
        ]
        copied = CopiedModel(
            id=_origin_of(model),
            name=model.name,
            model_type=model.model_type or None,
            status=_status(model),
            is_of_run=model.source_run_id == run.info.run_id,
            step=steps.get(model.model_id),
            params=dict(sorted(model.params.items())),
            tags=dict(sorted((key, value) for key, value in model.tags.items() if key != IMPORTED_FROM)),
            metrics=sorted(metrics, key=lambda each: [str(each[key]) for key in _METRIC]),
        )
        yield copied, model.model_id


def _value(client: MlflowClient, run: StoredRun, metric: Metric) -> str:
    """The value of a model's metric as the run has it: of NaN MLflow keeps 0 with the model."""
    of_run = {
        each.value
        for each in history_of(client, run.info.run_id, metric.key)
        if (each.timestamp, each.step) == (metric.timestamp, metric.step)
    }
    return repr(float(metric.value if metric.value in of_run else next(iter(of_run), metric.value)))


def download_model(client: MlflowClient, model_id: str, folder: Path) -> list[Path]:
    """Copy a model's files into a folder; the files, by their paths from there."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if client.list_logged_model_artifacts(model_id):
        with without_progress_bars():
            location = client.get_logged_model(model_id).artifact_location  # models:/ID would be looked up elsewhere
            get_artifact_repository(location, tracking_uri=client.tracking_uri).download_artifacts("", str(folder))
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def restore_models(client: MlflowClient, run_id: str, experiment_id: str, models: Mapping[Path, CopiedModel]) -> None:
    """Write the models of a copied run into a store, each once, whoever was stopped on the way.

    Args:
        client: A client of the store.
        run_id: MLflow's id of the run there.
        experiment_id: And of its experiment.
        models: The models by the folders that have their files.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    outputs = client.get_run(run_id).outputs
    named = {each.model_id for each in (outputs.model_outputs if outputs else ())}
    there = {_origin_of(model): model for model in _search(client, [experiment_id])} if models else {}
    for folder, model in models.items():
        stored = there.get(model.id) or patiently(
            client.create_logged_model,
            experiment_id,
            name=model.name,
            source_run_id=run_id if model.is_of_run else None,
            tags=model.tags | {IMPORTED_FROM: model.id},
            params=model.params,
            model_type=model.model_type,
        )
        if _status(stored) not in (_READY, _FAILED):
            if any(folder.iterdir()):
                with without_progress_bars():
                    client.log_model_artifacts(stored.model_id, str(folder))
            if model.status in (_READY, _FAILED):
                patiently(client.finalize_logged_model, stored.model_id, model.status)
        if model.step is not None and stored.model_id not in named:
            patiently(client.log_outputs, run_id, [LoggedModelOutput(stored.model_id, model.step)])
        metrics = [
            Metric(**each | {"value": float(each["value"]), "model_id": stored.model_id}) for each in model.metrics
        ]
        for start in range(0, len(metrics), _PAGE):
            patiently(client.log_batch, run_id, metrics=metrics[start : start + _PAGE])


def _search(client: MlflowClient, experiment_ids: list[str]) -> Iterator[LoggedModel]:
    token: str | None = None
    while True:
        page = client.search_logged_models(experiment_ids, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _get(client: MlflowClient, model_id: str) -> LoggedModel | None:
    """The model of that id; None if it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _status(model: LoggedModel) -> str:
    from mlflow.entities import LoggedModelStatus

    return LoggedModelStatus(model.status).value


def _origin_of(model: LoggedModel) -> str:
    return model.tags.get(IMPORTED_FROM) or model.model_id


def _is_metric(metric: Any) -> bool:
    if not isinstance(metric, dict) or metric.keys() != set(_METRIC):
        return False
    try:
        float(metric["value"])
    except (TypeError, ValueError):
        return False
    texts = isinstance(metric["key"], str) and all(
        isinstance(metric[key], str | None) for key in ("dataset_name", "dataset_digest")
    )
    return texts and all(type(metric[key]) is int for key in ("timestamp", "step"))
