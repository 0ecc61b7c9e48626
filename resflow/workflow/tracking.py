"""The only writer to MLflow: what a run records, under which names, and who answers for its status."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import without_secrets
from resflow.workflow.last_word import AT_WORK, OUTCOME, last_word, word
from resflow.workflow.limits import RUN_NAME, TAG, shortened
from resflow.workflow.logged_values import as_metrics, as_params, dataset_input, loggable, not_finite, rows_of
from resflow.workflow.parameters import Parameter, brief
from resflow.workflow.plainly import told_plainly
from resflow.workflow.provenance import owner_is_gone
from resflow.workflow.quiet import import_mlflow
from resflow.workflow.remote_check import check_answers
from resflow.workflow.store import artifact_root, is_embedded, project_root, tracking_uri
from resflow.workflow.store_errors import is_busy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame

__all__ = [
    "Run",
    "client_of",
    "create_run",
    "end_children",
    "every_run",
    "experiment_id_of",
    "mark_cut_off_runs",
    "open_client",
    "open_runs",
    "patiently",
    "record_run",
    "run_name",
]

BATCH = 1000
"""Metrics in one call: MLflow's limit, and what makes logging a history take a tenth of a second and not twenty."""


def open_client() -> MlflowClient:
    """A client of the project's store, in which runs whose process is gone have been marked KILLED.

    Raises:
        InvalidInputError: If the store cannot be used as it is, and the user can mend that.
        StoreError: If it is damaged, or gives no answer.
    """
    uri = tracking_uri()
    client = client_of(uri)
    if is_embedded(uri, project_root()):
        with told_plainly(uri):
            mark_cut_off_runs(client, [experiment.experiment_id for experiment in client.search_experiments()])
    return client


def client_of(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which is there and can be used.

    Raises:
        InvalidInputError: If it cannot be used as it is, and the user can mend that.
        StoreError: If it is damaged, or gives no answer.
    """
    with told_plainly(uri):
        import_mlflow()
        check_answers(uri)
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri)


def every_run(
    client: MlflowClient, experiment_ids: list[str], condition: str = "", *, newest_first: bool = False
) -> Iterator[StoredRun]:
    """Every run of some experiments that meets MLflow's `condition`, oldest first unless asked otherwise."""
    token = None
    order = ["attributes.start_time DESC" if newest_first else "attributes.start_time ASC"]
    while True:
        page = client.search_runs(experiment_ids, condition, max_results=1000, order_by=order, page_token=token)
        yield from page
        if not (token := page.token):
            return


def open_runs(client: MlflowClient, experiment_ids: list[str], condition: str = "") -> list[StoredRun]:
    """The runs that meet `condition` and are not over: RUNNING, or ended by their notebook without the last word."""
    also = f" AND {condition}" if condition else ""
    running = every_run(client, experiment_ids, f"attributes.status = 'RUNNING'{also}")
    unsaid = every_run(client, experiment_ids, f"tags.`{OUTCOME}` = '{AT_WORK[OUTCOME]}'{also}")
    return list({run.info.run_id: run for run in (*running, *unsaid)}.values())


def mark_cut_off_runs(client: MlflowClient, experiment_ids: list[str]) -> list[str]:
    """End the runs that are not over although the process that owned them on this machine is gone: as KILLED.

    A run that was opened once more after its last word, as by `mlflow.start_run(run_id=...)`, ends as it had ended.

    Returns:
        The ids of the runs that were ended.
    """
    marked = []
    for run in open_runs(client, experiment_ids):
        if not owner_is_gone(run.data.tags.get("resflow.owner", "")):
            continue
        # Asked again once the owner is known to be gone: it may have ended its run just before it went.
        run = client.get_run(run.info.run_id)
        if run.info.status != "RUNNING" and (last_word(run) or OUTCOME not in run.data.tags):
            continue
        if said := last_word(run):
            patiently(client.set_terminated, run.info.run_id, said)
        else:
            Run(client, run.info.run_id).end("KILLED", error="cut off: the process that ran it is gone")
        marked.append(run.info.run_id)
    return marked


def end_children(client: MlflowClient, run_id: str, status: str, error: str) -> None:
    """End the runs nested in a run that are not over, at any depth: nobody is left who would."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    for child in open_runs(client, everywhere, f"tags.`mlflow.parentRunId` = '{run_id}'"):
        end_children(client, child.info.run_id, status, error)
        # one that resflow writes is whole only if whoever wrote it says so
        ended = "KILLED" if status == "FINISHED" and OUTCOME in child.data.tags else status
        Run(client, child.info.run_id).end(ended, **({"error": error} if ended != "FINISHED" else {}))


def create_run(
    client: MlflowClient, *, notebook: str, name: str, parameters: Mapping[str, Any], tags: dict[str, str]
) -> Run:
    """A new run of a notebook, RUNNING, with its parameters and tags.

    Args:
        client: A client of the store.
        notebook: The notebook's name; runs go to the experiment of that name, or to MLFLOW_EXPERIMENT_NAME.
        name: The run's name.
        parameters: The declared parameters with the values the run uses.
        tags: Further tags, as `provenance_tags` gives them.
    """
    experiment = experiment_id_of(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or notebook)
    tags = {key: shortened(without_secrets(value), TAG) for key, value in tags.items()} | AT_WORK
    created = patiently(client.create_run, experiment, tags=tags, run_name=name)
    run = Run(client, created.info.run_id)
    try:
        run.log_parameters(parameters)
    except Exception as error:  # MLflow refuses a name, or cannot write
        with suppress(Exception):  # the first error is the one to be told
            run.end("FAILED", error=f"{type(error).__name__}: {error}")
        raise
    return run


def run_name(notebook: str, values: Mapping[str, Any], parameters: Iterable[Parameter]) -> str:
    """The notebook's name and the values that differ from its defaults: `train_residual_unit width=64 seed=3`."""
    defaults = {parameter.name: parameter.default for parameter in parameters}
    changed = [
        f"{key}={shortened(' '.join(brief(value).split()), 80)}"
        for key, value in values.items()
        if key not in defaults or defaults[key] != value
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
    def experiment_id(self) -> str:
        """MLflow's id of the experiment it belongs to."""
        return self.client.get_run(self.id).info.experiment_id

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.client.get_run(self.id).info.run_name

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
                `resflow.not_finite` tells.
        """
        values, notes = loggable(rows_of(history))
        self._note_not_finite(notes)
        self._log_metrics(values)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values of the whole run, or of one step."""
        values = [(key, step or 0, float(value)) for key, value in metrics.items() if value is not None]
        for key, at, value in values:
            self._note_not_finite(not_finite(key, [(at, value)]))
        self._log_metrics(values)

    def log_claim(self, name: str, *, holds: bool, margin: float) -> None:
        """Log the claim that the run puts to the test, and how the test came out, so that runs can be found by it.

        Sets the tags `claim` and `claim_holds` ("true" or "false") and the metric `claim_margin`. One claim a run.

        Args:
            name: A short name, the same in every run that tests the claim, e.g. "vector_certificate_bounds_gap".
            holds: Whether the claim held, rounding allowed for.
            margin: By how much, in the claim's own units: positive where it held with room to spare, negative by how
                much it failed.
        """
        self.set_tags({"claim": name, "claim_holds": "true" if holds else "false"})
        self.log_metrics({"claim_margin": margin})

    def log_figure(self, figure: Figure, name: str) -> None:
        """Attach a figure as figures/NAME.png."""
        options = {"dpi": 150, "bbox_inches": "tight"}
        self.client.log_figure(self.id, figure, f"figures/{name}.png", save_kwargs=options)

    def log_table(self, frame: DataFrame, name: str) -> None:
        """Attach a data frame as tables/NAME.csv; its index only if it says something."""
        from pandas import RangeIndex

        self.log_text(frame.to_csv(index=not isinstance(frame.index, RangeIndex)), f"tables/{name}.csv")

    def log_text(self, text: str, path: str) -> None:
        """Attach text under an artifact path."""
        self.client.log_text(self.id, text, path)

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
        """Log a data set as an input of the run, and its digest as the tag `resflow.data_digest`.

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
            self.set_tags({"resflow.data_digest" + ("" if context == "training" else f".{context}"): digest})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, by which runs are found and told apart."""
        from mlflow.entities import RunTag

        logged = [RunTag(key, shortened(without_secrets(str(value)), TAG)) for key, value in tags.items()]
        patiently(self.client.log_batch, self.id, tags=logged)

    def describe(self, markdown: str) -> None:
        """Set the run's description, which MLflow shows at its top."""
        self.set_tags({"mlflow.note.content": markdown.strip()})

    def rename(self, name: str) -> None:
        """Call the run `name`."""
        patiently(self.client.update_run, self.id, name=shortened(name, RUN_NAME))

    def tag_precision(self) -> None:
        """Tag the run with the precision JAX computes in, once JAX is imported."""
        if jax := sys.modules.get("jax"):
            self.set_tags({"resflow.precision": "float64" if jax.config.jax_enable_x64 else "float32"})

    def finish(self) -> None:
        """Say that the notebook is through. The run is then FINISHED, if the notebook is what answers for it."""
        self.tag_precision()
        if self._on_finish is not None:
            self._on_finish()
            print(f"Recorded as {self.name!r}; `resflow ui` shows it.")

    def end(self, status: str, **tags: str) -> None:
        """Set the status (FINISHED, FAILED or KILLED) with tags that say why; for whoever answers for the run.

        That the run is FINISHED is the last thing to be written: whoever is killed before has not said it.
        """
        said = {f"resflow.{key}": value for key, value in tags.items()} | word(status, self.id)
        if status != "FINISHED":
            self.set_tags(said)
        patiently(self.client.set_terminated, self.id, status)
        if status == "FINISHED":
            self.set_tags(said)

    def _log_metrics(self, values: Iterable[tuple[str, int, float]]) -> None:
        metrics = as_metrics(values)
        for start in range(0, len(metrics), BATCH):
            patiently(self.client.log_batch, self.id, metrics=metrics[start : start + BATCH])

    def _note_not_finite(self, notes: Mapping[str, str]) -> None:
        """Say in a tag which values a database of finite numbers cannot tell."""
        if notes:
            self._not_finite |= notes
            self.set_tags({"resflow.not_finite": "; ".join(self._not_finite.values())})


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
        client: A client of the store.
        experiment_id: MLflow's id of the experiment.
        name: The run's name.
        parameters: Its parameters, at most a hundred.
        tags: Its tags; among them `resflow.owner`, by which it becomes KILLED if this process dies on the way.
        history: As for `Run.log_history`.
        metrics: Values of the whole run.
        inputs: Its data, of `dataset_input`.
        since: When it began, in milliseconds since 1970.

    Returns:
        MLflow's id of the run.
    """
    from mlflow.entities import RunTag

    values, notes = loggable(rows_of(history))
    for key, value in metrics.items():
        values.append((key, 0, float(value)))
        notes |= not_finite(key, [(0, float(value))])
    tags = {key: shortened(value, TAG) for key, value in tags.items()} | AT_WORK
    if notes:
        tags["resflow.not_finite"] = shortened("; ".join(notes.values()), TAG)
    created = patiently(
        client.create_run, experiment_id, start_time=since, tags=tags, run_name=shortened(name, RUN_NAME)
    )
    run_id = created.info.run_id
    logged = as_params(parameters)
    recorded = as_metrics(values)
    while len(recorded) > BATCH - 200:  # what is left goes with the parameters and the last word
        patiently(client.log_batch, run_id, metrics=recorded[: BATCH - 200])
        recorded = recorded[BATCH - 200 :]
    patiently(client.log_inputs, run_id, datasets=inputs)
    patiently(client.set_terminated, run_id, "FINISHED")
    # MLflow writes the tags of a batch last: with them the run is whole, and says so in the same call.
    said = [RunTag(key, value) for key, value in word("FINISHED", run_id).items()]
    patiently(client.log_batch, run_id, metrics=recorded, params=logged, tags=said)
    return run_id


def experiment_id_of(client: MlflowClient, name: str) -> str:
    """The id of the experiment of that name, made if there is none; other processes may be making it too."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        root = project_root()
        folder = re.sub(r"[^\w-]+", "-", name)
        location = f"{artifact_root(root)}/{folder}" if is_embedded(client.tracking_uri, root) else None
        try:
            return patiently(client.create_experiment, name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage != "active":
        raise InvalidInputError(
            f"the experiment {name!r} was deleted in MLflow: restore it, or choose another by MLFLOW_EXPERIMENT_NAME"
        )
    return found.experiment_id


def patiently(write: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a writing method of the client, again if another process was in its way; for two minutes at the longest.

    The database may have been busy for longer than MLflow waits (20 s). Or another process wrote the same row after
    MLflow had looked for it, as when several runs log one data set at once: then it is found the next time. What
    waiting won't mend, as a full disk, is raised at once.
    """
    from mlflow.exceptions import MlflowException

    for pause in (0.5, 1.0, 2.0, 4.0):
        try:
            return write(*arguments, **options)
        except MlflowException as error:
            outrun = any(name in str(error) for name in ("IntegrityError", "UniqueViolation"))
            if not is_busy(error) and not outrun:
                raise
        time.sleep(pause)
    return write(*arguments, **options)
