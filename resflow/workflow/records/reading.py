"""Which runs there are: by experiment, by tag, by sweep and by fingerprint."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from resflow.errors import InvalidInputError
from resflow.workflow.last_word import AT_WORK, is_finished
from resflow.workflow.names import ALSO_IN, FINGERPRINT, FORMER_SWEEP, OUTCOME, PARENT, ROLE, SWEEP, Role, role_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

__all__ = [
    "every_run",
    "experiments",
    "finished_points",
    "finished_runs",
    "history_of",
    "open_runs",
    "parent_of_sweep",
    "parents_of_sweeps",
    "points_of_sweep",
    "runs_of_sweep",
    "tagged",
]

_FINISHED = "attributes.status = 'FINISHED'"


def experiments(client: MlflowClient, name: str = "") -> dict[str, str]:
    """The experiments by their ids, each with its name; only the one of that name if one is given."""
    if name:
        found = client.get_experiment_by_name(name)
        return {found.experiment_id: found.name} if found else {}
    return {each.experiment_id: each.name for each in client.search_experiments()}


def history_of(client: MlflowClient, run_id: str, metric: str) -> list[Metric]:
    """Every value of a run's metric, with its step."""
    return client.get_metric_history(run_id, metric)


def tagged(key: str, value: str) -> str:
    """MLflow's condition that a tag has a value.

    Raises:
        InvalidInputError: If the value has both kinds of quotes, which MLflow's filter language cannot say.
    """
    if "'" in value and '"' in value:
        raise InvalidInputError(f"{value!r} has both kinds of quotes, and MLflow can search for no such name")
    quote = '"' if "'" in value else "'"
    return f"tags.`{key}` = {quote}{value}{quote}"


def every_run(
    client: MlflowClient, experiment_ids: list[str], *conditions: str, newest_first: bool = False
) -> Iterator[Run]:
    """Every run of some experiments that meets all of MLflow's `conditions`, oldest first unless asked otherwise."""
    token = None
    order = ["attributes.start_time DESC" if newest_first else "attributes.start_time ASC"]
    condition = " AND ".join(filter(None, conditions))
    while True:
        page = client.search_runs(experiment_ids, condition, max_results=1000, order_by=order, page_token=token)
        yield from page
        if not (token := page.token):
            return


def open_runs(client: MlflowClient, experiment_ids: list[str], *conditions: str) -> list[Run]:
    """The runs that meet the conditions and are not over: RUNNING, or ended by their notebook without the last word."""
    running = every_run(client, experiment_ids, "attributes.status = 'RUNNING'", *conditions)
    unsaid = every_run(client, experiment_ids, tagged(OUTCOME, AT_WORK[OUTCOME]), *conditions)
    return list({run.info.run_id: run for run in (*running, *unsaid)}.values())


def parents_of_sweeps(client: MlflowClient, experiment_ids: list[str]) -> dict[str, Run]:
    """The parent run of each sweep by its name, the latest first."""
    parents: dict[str, Run] = {}
    for run in every_run(client, experiment_ids, tagged(ROLE, Role.SWEEP), newest_first=True):
        parents.setdefault(run.data.tags.get(SWEEP, ""), run)
    return parents


def parent_of_sweep(client: MlflowClient, experiment_id: str, name: str) -> Run | None:
    """The parent run of the sweep of that name; None if it was never started."""
    conditions = tagged(SWEEP, name), tagged(ROLE, Role.SWEEP)
    return next(every_run(client, [experiment_id], *conditions, newest_first=True), None)


def runs_of_sweep(client: MlflowClient, experiment_id: str, name: str, *conditions: str) -> list[Run]:
    """The runs that were made for a sweep, oldest first, and then those that it shares with other sweeps."""
    own = every_run(client, [experiment_id], tagged(SWEEP, name), *conditions)
    shared = every_run(client, [experiment_id], f"tags.`{ALSO_IN}{name}` != ''", *conditions)
    return list({run.info.run_id: run for run in (*own, *shared)}.values())


def points_of_sweep(client: MlflowClient, experiment_id: str, name: str) -> dict[str, Run]:
    """The finished points of a sweep by their fingerprints: runs and members, also of an earlier plan.

    A member's parameters are completed by those of the execution it is nested in.
    """
    former = every_run(client, [experiment_id], tagged(FORMER_SWEEP, name), _FINISHED)
    every = itertools.chain(former, runs_of_sweep(client, experiment_id, name, _FINISHED))
    found = [run for run in every if FINGERPRINT in run.data.tags and is_finished(run)]
    above: dict[str, dict[str, str]] = {}
    for run in found:
        if role_of(run) == Role.MEMBER and (parent := run.data.tags.get(PARENT)):
            if parent not in above:
                above[parent] = client.get_run(parent).data.params
            run.data.params.update(above[parent] | run.data.params)
    return {run.data.tags[FINGERPRINT]: run for run in found}


def finished_points(client: MlflowClient, experiment_id: str, fingerprints: Collection[str]) -> dict[str, Run]:
    """The finished run of each of the fingerprints in an experiment: the first one, should there be several."""
    return {key: runs[0] for key, runs in finished_runs(client, experiment_id, fingerprints).items()}


def finished_runs(client: MlflowClient, experiment_id: str, fingerprints: Collection[str]) -> dict[str, list[Run]]:
    """The finished runs of each of the fingerprints, the one that ended first in front."""
    wanted = set(fingerprints)
    condition = tagged(FINGERPRINT, *wanted) if len(wanted) == 1 else f"tags.`{FINGERPRINT}` != ''"
    found: dict[str, list[Run]] = {}
    for run in every_run(client, [experiment_id], _FINISHED, condition):
        fingerprint = run.data.tags[FINGERPRINT]
        if fingerprint in wanted and is_finished(run):
            found.setdefault(fingerprint, []).append(run)
    for runs in found.values():
        runs.sort(key=lambda run: (run.info.end_time or 0, run.info.run_id))
    return found
