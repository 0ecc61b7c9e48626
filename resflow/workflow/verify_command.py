"""The command `resflow verify`: what runs recorded of their trained points, computed again from these points."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from resflow.errors import InvalidInputError, nearest, shown
from resflow.numerals import number_text
from resflow.workflow import names
from resflow.workflow.environment import CHANGES, ENVIRONMENT, uncommitted
from resflow.workflow.last_word import status_of
from resflow.workflow.names import Role, role_of
from resflow.workflow.project import project_root
from resflow.workflow.provenance import PACKAGES, git, versions_of

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

    from resflow.workflow.records import Run
    from resflow.workflow.verification import Verification

__all__ = ["verify"]


@click.command(short_help="Compute again what runs recorded of their trained points.")
@click.argument("name")
@click.option("--points", is_flag=True, default=True, help="From the stored points; the default, as there is no other.")
def verify(name: str, points: bool) -> int:
    """Compute again, from the stored model and the data alone, what the run NAME recorded of its last point.

    NAME is the id of a run, or the name of a sweep, of which every finished run is verified. Of each value it is said
    whether it has the same bits, lies within rounding, or differs; of each run that cannot be checked, why. The exit
    code is 0 if all came out the same up to rounding, and 1 if not.
    """
    from resflow.workflow.records import Run, open_client
    from resflow.workflow.verification import verified

    client = open_client()
    runs, found = _runs_of(client, name), []
    with _compiled_before():
        for each in verified(client, runs):
            Run(client, each.run.info.run_id).set_tags(each.tag())
            found.append(each)
            if len(runs) > 1:
                click.echo(f"{each.run.info.run_id}  {each.run.info.run_name}: {each.summary}")
    holding = sum(each.holds for each in found)
    if len(runs) > 1:
        click.echo(f"verified  {holding} of {len(runs)} runs have all values again")
    else:
        _show(client, found[0])
    return 0 if holding == len(runs) else 1


def _runs_of(client: MlflowClient, name: str) -> list[StoredRun]:
    """The run of that id, or the runs of that sweep or population, each of which may have a point."""
    from resflow.workflow.records import every_run, experiments, parents_of_sweeps, runs_of_sweep, tagged
    from resflow.workflow.reports.comparison import RUN_ID
    from resflow.workflow.reports.run_report import find_run

    run = find_run(client, name) if RUN_ID.fullmatch(name) else None
    sweeps = {} if run else parents_of_sweeps(client, list(experiments(client)))
    stored = run.stored if run else sweeps.get(name)
    if stored is None:
        near = f": nearest is {nearest(name, sweeps, 1)[0]}" if sweeps else ""
        raise InvalidInputError(f"{shown(name)} is neither the id of a run nor the name of a sweep{near}")
    experiment = stored.info.experiment_id
    if role_of(stored) == Role.SWEEP:
        sweep = stored.data.tags[names.SWEEP]
        runs = [run for run in runs_of_sweep(client, experiment, sweep) if role_of(run) in (Role.RUN, Role.MEMBER)]
        finished = [run for run in runs if status_of(run) == names.FINISHED]
        if not finished:
            raise InvalidInputError(f"the sweep {sweep} has no finished run to verify")
        return finished
    if role_of(stored) == Role.POPULATION:
        return list(every_run(client, [experiment], tagged(names.PARENT, stored.info.run_id))) or [stored]
    return [stored]


@contextmanager
def _compiled_before() -> Iterator[None]:
    """While entered, JAX finds the programs that earlier runs and verifications of the project compiled."""
    from resflow.workflow.compiled import compilation_cache, settings

    with compilation_cache(project_root()) as environment:
        if "jax" not in sys.modules:  # which reads them when it is imported
            os.environ.update({**settings(), **environment})
        yield


def _show(client: MlflowClient, verification: Verification) -> None:
    """Say what came of one run, value by value, and write its report again, which says so too."""
    from resflow.workflow.records import Run
    from resflow.workflow.reports.run_report import report_again

    stored, run = verification.run, Run(client, verification.run.info.run_id)
    click.echo(f"run       {stored.info.run_name}")
    click.echo(f"point     {stored.data.tags.get(names.STORED_POINT) or 'none'}")
    for line in _changes(run):
        click.echo(f"since     {line}")
    width = max((len(each.name) for each in verification.values), default=0)
    for each in verification.values:
        units = f", {each.units:.2g} units" if each.units else ""
        now = f", now {_text(each.again)}" if each.outcome == "differs" else ""
        click.echo(f"  {each.name:{width}}  {_text(each.recorded):>26}  {each.outcome}{units}{now}")
    if others := sorted(stored.data.metrics.keys() - {each.name for each in verification.values}):
        click.echo(f"left out  {', '.join(others)}: nothing that computes them from the point was named")
    click.echo(f"verified  {verification.summary}")
    if status_of(stored) != names.RUNNING and any(path.endswith(".ipynb") for path in run.files()):
        notebook, _ = report_again(run)
        click.echo(f"report    {run.artifact_folder}/{notebook}.html")


def _text(value: float | str) -> str:
    return number_text(value, 6) if isinstance(value, float) else value


def _changes(run: Run) -> Iterator[str]:
    """What else is different here from where the run ran: it may explain a value that differs."""
    tags, attached = run.stored.data.tags, run.files(ENVIRONMENT)
    now = {f"{names.VERSION}{package}": version for package, version in versions_of(PACKAGES).items()}
    now |= {names.PYTHON: platform.python_version(), names.PLATFORM: platform.platform()}
    now[names.COMMIT] = git(project_root(), "rev-parse", "--verify", "--quiet", "HEAD")
    for key, value in now.items():
        if key in tags and tags[key] != value:
            yield f"{key.removeprefix(names.VERSION).rpartition('.')[2]} was {tags[key]}, is {value or 'unknown'}"
    if attached and (run.read_text(CHANGES) if CHANGES in attached else "") != uncommitted(project_root()):
        yield f"uncommitted changes were {CHANGES if CHANGES in attached else 'none'}, are others"
