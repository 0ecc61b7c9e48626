"""What a run records: parameters, metrics, data, tags, files, and how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resflow.workflow import names
from resflow.workflow.addresses import local_path, without_secrets
from resflow.workflow.artifact_list import attach_list
from resflow.workflow.environment import attach_environment
from resflow.workflow.last_word import AT_WORK, word
from resflow.workflow.limits import RUN_NAME, TAG, shortened
from resflow.workflow.logged_values import as_metrics, as_params, dataset_input
from resflow.workflow.names import FAILED, FINISHED
from resflow.workflow.parameters import Parameter, brief
from resflow.workflow.quiet import without_progress_bars
from resflow.workflow.records.client import experiment_id_of, patiently
from resflow.workflow.run_parameters import changed_values
from resflow.workflow.scratch import temporary_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame

__all__ = ["Run", "create_run", "record_run", "run_name"]

BATCH = 1000
"""Metrics in one call: MLflow's limit, and what makes logging a history take a tenth of a second and not twenty."""


def create_run(
    client: MlflowClient,
    *,
    notebook: str,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    experiment_id: str = "",
    question: str = "",
) -> Run:
    """A new run, RUNNING, with the values that its notebook's parameters have in it, and tags as `provenance_tags` has.

    It goes to the experiment of the id, or else of the name in MLFLOW_EXPERIMENT_NAME, or else of the notebook's name,
    whose description the question becomes if it has none.
    """
    if not experiment_id:
        experiment_id = experiment_id_of(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or notebook, question)
    tags = {key: shortened(without_secrets(value), TAG) for key, value in tags.items()} | AT_WORK
    created = patiently(client.create_run, experiment_id, tags=tags, run_name=name)
    run = Run(client, created.info.run_id)
    try:
        run.log_parameters(parameters)
    except Exception as error:  # MLflow refuses a name, or cannot write
        with suppress(Exception):  # the first error is the one to be told
            run.end(FAILED, error=f"{type(error).__name__}: {error}")
        raise
    return run


def run_name(notebook: str, values: Mapping[str, Any], parameters: Iterable[Parameter]) -> str:
    """The notebook's name and the values that differ from its defaults: `train_residual_unit width=64 seed=3`."""
    changed = [
        f"{key}={shortened(' '.join(brief(value).split()), 80)}"
        for key, value in changed_values(parameters, values).items()
    ]
    return shortened(" ".join([notebook, *changed]), RUN_NAME)


class Run:
    """One run in MLflow, and everything that may be recorded in it.

    Attributes:
        client: The client it is written through.
        id: MLflow's id of the run.
        owned: True if the notebook itself opened it and answers for its status.
    """

    def __init__(self, client: MlflowClient, run_id: str, *, on_finish: Callable[[], None] | None = None) -> None:
        self.client = client
        self.id = run_id
        self.owned = on_finish is not None
        self._on_finish = on_finish
        self._not_finite: dict[str, str] = {}

    @property
    def stored(self) -> StoredRun:
        """The run as it is in the store now."""
        return self.client.get_run(self.id)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment it belongs to."""
        return self.stored.info.experiment_id

    @property
    def experiment_name(self) -> str:
        """What that experiment is called."""
        return self.client.get_experiment(self.experiment_id).name

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.stored.info.run_name

    @property
    def artifact_folder(self) -> str:
        """The folder that its artifacts are in, or its address if that is elsewhere."""
        return local_path(self.stored.info.artifact_uri)

    @property
    def tracking_uri(self) -> str:
        """The store it is recorded in."""
        return self.client.tracking_uri

    def log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters, each of which keeps the value it is logged with first."""
        logged = as_params(values)
        for start in range(0, len(logged), 100):
            patiently(self.client.log_batch, self.id, params=logged[start : start + 100])

    def log_history(self, history: DataFrame | Mapping[int, Mapping[str, float]]) -> None:
        """Log metrics along training.

        Args:
            history: A data frame with a column `step`, or else the step as its index, and one column a metric; or
                steps with the metrics of each. NaN is a value; None is none. An infinite value, which MLflow's
                database would replace by ±1.8e308, is left out, except at a metric's last step; the tag
                `names.NOT_FINITE` tells.
        """
        logged, notes = as_metrics(history)
        if notes:
            self._not_finite |= notes
            self.set_tags({names.NOT_FINITE: "; ".join(self._not_finite.values())})
        for start in range(0, len(logged), BATCH):
            patiently(self.client.log_batch, self.id, metrics=logged[start : start + BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values of the whole run, or of one step."""
        self.log_history({step or 0: metrics})

    def log_claim(self, name: str, *, holds: bool, margin: float) -> None:
        """Log the claim that the run puts to the test, and how the test came out, so that runs can be found by it.

        Sets the tags `claim` and `claim_holds` ("true" or "false") and the metric `claim_margin`. One claim a run.

        Args:
            name: A short name, the same in every run that tests the claim, e.g. "vector_certificate_bounds_gap".
            holds: Whether the claim held, rounding allowed for.
            margin: By how much, in the claim's own units; negative where it failed.
        """
        self.set_tags({names.CLAIM: name, names.CLAIM_HOLDS: "true" if holds else "false"})
        self.log_metrics({names.CLAIM_MARGIN: margin})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Attach a figure as figures/NAME.png and figures/NAME.pdf."""
        layout = figure.get_layout_engine()
        options = {"dpi": 150, "bbox_inches": None if layout else "tight"}
        if layout:
            if figure.stale:
                figure.draw_without_rendering()  # lays it out, once for both
            figure.set_layout_engine(None)
        try:
            for kind in ("png", "pdf"):
                self.client.log_figure(self.id, figure, f"figures/{name}.{kind}", save_kwargs=options)
        finally:
            figure.set_layout_engine(layout)

    def log_table(self, frame: DataFrame, name: str) -> None:
        """Attach a data frame as tables/NAME.csv; its index only if it says something."""
        from pandas import RangeIndex

        self.log_text(frame.to_csv(index=not isinstance(frame.index, RangeIndex)), f"tables/{name}.csv")

    def log_text(self, text: str, path: str) -> None:
        """Attach text under an artifact path."""
        self.client.log_text(self.id, text, path)

    def attach(self, file: Path, folder: str = "") -> None:
        """Attach a file as FOLDER/NAME."""
        self.client.log_artifact(self.id, str(file), folder or None)

    def files(self, folder: str = "") -> list[str]:
        """The artifact paths of the files that are attached in a folder, those of folders in it left out."""
        return [entry.path for entry in self.client.list_artifacts(self.id, folder or None) if not entry.is_dir]

    def every_file(self) -> list[str]:
        """The artifact paths of all attached files, those in folders included."""
        return list(self.sizes())

    def executed_notebook(self) -> str:
        """The artifact path of the notebook as it was executed; "" if none is attached, or several of other names."""
        attached = [path for path in self.files() if path.endswith(".ipynb")]
        own = Path(self.stored.data.tags.get(names.SOURCE, "")).name
        return own if own in attached else attached[0] if len(attached) == 1 else ""

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every attached file by its artifact path, those in folders included."""
        if (local := Path(self.artifact_folder)).is_dir():  # a fiftieth of the time
            return {str(file.relative_to(local)): file.stat().st_size for file in local.rglob("*") if file.is_file()}
        found, folders = {}, [""]
        while folders:
            for entry in self.client.list_artifacts(self.id, folders.pop() or None):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    found[entry.path] = entry.file_size or 0
        return found

    def read_text(self, path: str) -> str:
        """The text of an attached file."""
        return self.read_bytes(path).decode("utf-8")

    def read_bytes(self, path: str) -> bytes:
        """What is in an attached file."""
        with temporary_folder() as folder, without_progress_bars():
            return Path(self.client.download_artifacts(self.id, path, str(folder))).read_bytes()

    def log_dataset(
        self,
        name: str,
        X: Any,
        y: Any = None,
        *,
        digest: str | None = None,
        feature_names: Iterable[str] | None = None,
        context: str = "training",
    ) -> None:
        """Log a data set as an input of the run, and its digest as the tag `names.DATA_DIGEST`.

        Args:
            name: What the data set is called.
            X: Samples as rows.
            y: Labels.
            digest: A digest of the content; MLflow makes one of its own if it isn't given.
            feature_names: The names of X's columns.
            context: What the data is for: training, test, ... Other than for training the tag's name ends in it.
        """
        dataset = dataset_input(name, X, y, digest, feature_names, context)
        patiently(self.client.log_inputs, self.id, datasets=[dataset])
        if digest:
            self.set_tags({names.DATA_DIGEST + ("" if context == "training" else f".{context}"): digest})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, by which runs are found and told apart."""
        from mlflow.entities import RunTag

        logged = [RunTag(key, shortened(without_secrets(str(value)), TAG)) for key, value in tags.items()]
        if len(logged) == 1:  # a third of a batch's statements
            patiently(self.client.set_tag, self.id, logged[0].key, logged[0].value)
        else:
            patiently(self.client.log_batch, self.id, tags=logged)

    def remove_tags(self, keys: Collection[str]) -> None:
        """Remove those of the tags that the run has, in this order; another process may be removing them, too."""
        from mlflow.exceptions import MlflowException

        tags = self.stored.data.tags
        for key in keys:
            if key in tags:
                try:
                    patiently(self.client.delete_tag, self.id, key)
                except MlflowException:
                    if key in self.stored.data.tags:
                        raise

    def describe(self, markdown: str) -> None:
        """Set the run's description, which MLflow shows at its top."""
        self.set_tags({names.DESCRIPTION: markdown.strip()})

    def rename(self, name: str) -> None:
        """Call the run `name`."""
        patiently(self.client.update_run, self.id, name=shortened(name, RUN_NAME))

    def tag_precision(self) -> None:
        """Tag the run with the precision JAX computes in, once JAX is imported."""
        if jax := sys.modules.get("jax"):
            self.set_tags({names.PRECISION: "float64" if jax.config.jax_enable_x64 else "float32"})

    def finish(self) -> None:
        """Say that the notebook is through. The run is then FINISHED, if the notebook is what answers for it."""
        self.tag_precision()
        attach_environment(self)
        if self._on_finish is not None:
            attach_list(self)
            self._on_finish()
            print(f"Recorded as {self.name!r}; `resflow ui` shows it.")

    def end(self, status: str, *, error: str = "", failed_cell: str = "", attachment_error: str = "") -> None:
        """Set the status (FINISHED, FAILED or KILLED) and say why; for whoever answers for the run.

        That the run is FINISHED is the last thing to be written: whoever is killed before has not said it.
        """
        why = {names.ERROR: error, names.FAILED_CELL: failed_cell, names.ATTACHMENT_ERROR: attachment_error}
        said = {key: value for key, value in why.items() if value} | word(status, self.id)
        if status != FINISHED:
            self.set_tags(said)
        self.set_status(status)
        if status == FINISHED:
            self.set_tags(said)

    def set_status(self, status: str) -> None:
        """Set MLflow's own status, which is not the last word."""
        if status == names.RUNNING:
            patiently(self.client.update_run, self.id, status=status)
        else:
            patiently(self.client.set_terminated, self.id, status)


def record_run(
    client: MlflowClient,
    experiment_id: str,
    *,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    history: Any,
    metrics: Mapping[str, float],
    inputs: list[DatasetInput],
    since: int,
) -> str:
    """Record a run that is over already, in as few calls as MLflow has; it is FINISHED once it is whole.

    Args:
        parameters: At most a hundred.
        tags: Among them `names.OWNER`, by which the run becomes KILLED if this process dies on the way.
        history: As for `Run.log_history`.
        metrics: Values of the whole run.
        inputs: Its data, of `dataset_input`.
        since: When it began, in milliseconds since 1970.

    Returns:
        MLflow's id of the run.
    """
    from mlflow.entities import RunTag

    recorded, notes = as_metrics(history)
    of_the_whole, further = as_metrics({0: metrics})
    recorded += of_the_whole
    notes |= further
    if notes:
        tags = {**tags, names.NOT_FINITE: "; ".join(notes.values())}
    tags = {key: shortened(value, TAG) for key, value in tags.items()} | AT_WORK
    created = patiently(
        client.create_run, experiment_id, start_time=since, tags=tags, run_name=shortened(name, RUN_NAME)
    )
    run_id = created.info.run_id
    logged = as_params(parameters)
    while len(recorded) > BATCH - 200:  # what is left goes with the parameters and the last word
        patiently(client.log_batch, run_id, metrics=recorded[: BATCH - 200])
        recorded = recorded[BATCH - 200 :]
    patiently(client.log_inputs, run_id, datasets=inputs)
    patiently(client.set_terminated, run_id, FINISHED)
    # MLflow writes the tags of a batch last: with them the run is whole, and says so in the same call.
    said = [RunTag(key, value) for key, value in word(FINISHED, run_id).items()]
    patiently(client.log_batch, run_id, metrics=recorded, params=logged, tags=said)
    return run_id
