"""A store's client, the experiments in it, and writing when it is busy."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resflow.errors import InvalidInputError
from resflow.workflow.limits import EXPERIMENT, is_experiment, one_line
from resflow.workflow.names import DESCRIPTION
from resflow.workflow.plainly import told_plainly
from resflow.workflow.project import artifact_root, project_root
from resflow.workflow.quiet import import_mlflow
from resflow.workflow.remote_check import check_answers
from resflow.workflow.store import is_embedded, tracking_uri
from resflow.workflow.store_errors import is_busy

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

__all__ = ["client_in_use", "client_of", "experiment_id_of", "patiently", "usable_experiment"]


def client_in_use() -> MlflowClient:
    """A client of the project's store, or of the one that MLFLOW_TRACKING_URI names, which is there and can be used.

    Raises:
        InvalidInputError: If it cannot be used as it is, and the user can mend that.
        StoreError: If it is damaged, or gives no answer.
    """
    uri = tracking_uri()
    if os.environ.get("MLFLOW_TRACKING_URI"):  # at the project's own store it has looked
        with told_plainly(uri):
            import_mlflow()
            check_answers(uri)
    return client_of(uri)


def client_of(uri: str) -> MlflowClient:
    """A client of the store at `uri`, at which somebody has looked; raises as `client_in_use` does."""
    with told_plainly(uri):
        import_mlflow()
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri)


def experiment_id_of(client: MlflowClient, name: str, question: str = "") -> str:
    """The id of the experiment of that name, made if there is none; other processes may be making it too.

    Args:
        client: A client of the store.
        name: The experiment's name.
        question: What its runs are to answer, in Markdown. It becomes the experiment's description, where nobody has
            given it one, or emptied it.

    Raises:
        InvalidInputError: If it was deleted, or there is none of that name and none can be made.
    """
    from mlflow.exceptions import MlflowException

    found = usable_experiment(client, name)
    if found is None:
        root = project_root()
        folder = re.sub(r"[^\w-]+", "-", name)
        location = f"{artifact_root(root)}/{folder}" if is_embedded(client.tracking_uri, root) else None
        try:
            said = {DESCRIPTION: question} if question else {}
            return patiently(client.create_experiment, name, artifact_location=location, tags=said)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := usable_experiment(client, name)) is None:
                raise
    if question and DESCRIPTION not in found.tags:
        patiently(client.set_experiment_tag, found.experiment_id, DESCRIPTION, question)
    return found.experiment_id


def usable_experiment(client: MlflowClient, name: str) -> Experiment | None:
    """The experiment of that name, to which runs can go; None if there is none yet, and one can be made.

    Raises:
        InvalidInputError: If it was deleted, or there is none of that name and none can be made.
    """
    where = "by MLFLOW_EXPERIMENT_NAME, `experiment:` in a sweep's file, or --experiment of an import"
    is_text = name.encode(errors="replace").decode() == name
    found = client.get_experiment_by_name(name) if is_text else None
    if found is None and not is_experiment(name):
        raise InvalidInputError(
            f"the experiment's name {one_line(repr(name), 80)} must be one line of at most {EXPERIMENT} bytes, as a "
            f"folder gets it: choose another {where}"
        )
    if found is not None and found.lifecycle_stage != "active":
        raise InvalidInputError(f"the experiment {name!r} was deleted in MLflow: restore it, or choose another {where}")
    return found


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
