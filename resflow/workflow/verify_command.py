"""The command `resflow verify`: what runs recorded, computed again from their trained points or by executing them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from resflow.errors import InvalidInputError, nearest, shown
from resflow.numerals import number_text
from resflow.workflow import names
from resflow.workflow.beside import called_beside
from resflow.workflow.boundary import fail
from resflow.workflow.interruption import Interruptions, Terminated
from resflow.workflow.last_word import status_of
from resflow.workflow.names import Role, role_of
from resflow.workflow.project import project_root
from resflow.workflow.stored_points import VERIFIER

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

    from resflow.workflow.verification import Verification

__all__ = ["verify"]


@click.command(short_help="Compute again what runs recorded.")
@click.argument("name")
@click.option(
    "--points/--rerun", default=True, help="From the stored points, in seconds; or by executing the notebooks again."
)
@click.option("--at-commit", is_flag=True, help="Of --rerun: from the source that each run had, out of git.")
@click.option(
    "--tolerance", type=float, metavar="T", help="Of --rerun: by how much values may differ, relatively; 1e-6 without."
)
def verify(name: str, points: bool, at_commit: bool, tolerance: float | None) -> int:
    """Compute again what the run NAME recorded: from its stored model and the data alone, or by executing it again.

    NAME is the id of a run, or the name of a sweep, of which every finished run is verified. Of each value it is said
    whether it has the same bits, lies within rounding, or differs; of each run that cannot be checked, why. With
    --rerun the notebook that is attached to the run is executed with the run's parameters, in a store that is gone
    afterwards, and every metric is compared at every step, and every table and file. With --at-commit that is done in
    a scratch folder with the commit that the run recorded, and what was uncommitted then: by the project's own code,
    and the library's where the project has it, as they were. The exit code is 0 if all came out the same up to rounding
    or the tolerance, and 1 if not.
    """
    if tolerance is not None and (points or not 0 <= tolerance < 1):
        allowed = (
            "is for --rerun" if points else "must be at least 0 and below 1: 1e-6 is a millionth of a value's size"
        )
        raise InvalidInputError(f"--tolerance={tolerance:g} {allowed}")
    if at_commit and points:
        raise InvalidInputError("--at-commit is for --rerun: stored points are looked at by the code that is here")
    if not points:
        return _verified(name, False, lambda client, runs: _executed(client, runs, tolerance, at_commit))
    from resflow.workflow.verification import verified

    several = False

    def meanwhile() -> None:
        if not several:  # of which no pages are written
            _prepare_pages()

    with _compiled_before(), called_beside(VERIFIER, meanwhile) as call:

        def look(client: MlflowClient, runs: list[StoredRun]) -> Iterator[Verification]:
            nonlocal several
            several = len(runs) > 1
            return verified(client, runs, call)

        return _verified(name, True, look)


def _verified(
    name: str, members: bool, verify: Callable[[MlflowClient, list[StoredRun]], Iterable[Verification]]
) -> int:
    """Verify what has that name, say what came of it, and tag it; the exit code."""
    from resflow.workflow.records import Run, open_client

    client = open_client()
    runs, found = _runs_of(client, name, members=members), []
    several = len(runs) > 1
    for each in verify(client, runs):
        Run(client, each.run.info.run_id).set_tags(each.tag())
        found.append(each)
        if several or len(found) > 1:
            at = f", at {each.source}" if each.source else ""
            click.echo(f"{each.run.info.run_id}  {each.run.info.run_name}{at}: {each.summary}")
        else:
            _show(client, each)
    holding = sum(each.holds for each in found)
    if len(found) > 1:
        click.echo(f"verified  {holding} of {len(found)} runs have all values again")
    return 0 if holding == len(found) else 1


def _prepare_pages() -> None:
    """Import what writes reports while the point is looked at."""
    from resflow.workflow.reports.notebook_html import prepare

    prepare()


def _executed(
    client: MlflowClient, runs: list[StoredRun], tolerance: float | None, at_commit: bool
) -> Iterator[Verification]:
    """Each of the runs, and those below it, after its notebook was executed again."""
    from resflow.workflow.records import Run
    from resflow.workflow.rerun import scratch_store
    from resflow.workflow.rerun_comparison import TOLERANCE, rerun
    from resflow.workflow.source_trees import SourceTrees
    from resflow.workflow.variables import changed_environment

    tolerance = TOLERANCE if tolerance is None else tolerance
    with _told_of_signals(), scratch_store() as variables, ExitStack() as stack:
        trees = SourceTrees(stack) if at_commit else None
        for stored in runs:
            began = time.monotonic()
            with changed_environment(variables):
                found = list(rerun(Run(client, stored.info.run_id), tolerance, trees))
            click.echo(f"executed  {stored.info.run_name}, in {time.monotonic() - began:.0f} s", err=len(runs) > 1)
            yield from found


@contextmanager
def _told_of_signals() -> Iterator[None]:
    """While entered, a signal ends the command once what it made is gone."""
    try:
        with Interruptions() as interruptions, interruptions.raised():
            yield
    except Terminated as stop:
        fail(f"{stop.signal.name}: nothing of what was executed is kept", int(stop.code or 143))


def _runs_of(client: MlflowClient, name: str, *, members: bool) -> list[StoredRun]:
    """The run of that id, or the runs of that sweep or population, each of which may have a point.

    Args:
        client: A client of the store.
        name: The id or the sweep's name.
        members: Whether members of a population are verified one by one, or else the population that computed them.
    """
    from resflow.workflow.records import Run, every_run, experiments, parents_of_sweeps, runs_of_sweep, tagged
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
        roles = (Role.RUN, Role.MEMBER if members else Role.POPULATION)
        runs = [run for run in runs_of_sweep(client, experiment, sweep) if role_of(run) in roles]
        finished = [run for run in runs if status_of(run) == names.FINISHED]
        if not finished:
            raise InvalidInputError(f"the sweep {sweep} has no finished run to verify")
        return finished
    if role_of(stored) == Role.POPULATION and members:
        return list(every_run(client, [experiment], tagged(names.PARENT, stored.info.run_id))) or [stored]
    if role_of(stored) == Role.MEMBER and not members:
        return [Run(client, stored.data.tags[names.PARENT]).stored]
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
    from resflow.workflow.changes import changes
    from resflow.workflow.records import Run
    from resflow.workflow.reports.run_report import report_again

    stored, run = verification.run, Run(client, verification.run.info.run_id)
    click.echo(f"run       {stored.info.run_name}")
    if not verification.executed:
        click.echo(f"point     {stored.data.tags.get(names.STORED_POINT) or 'none'}")
    if verification.source:
        click.echo(f"commit    {verification.source}")
    for line in verification.since if verification.executed else changes(run):
        click.echo(f"since     {line}")
    if verification.data:
        click.echo(f"data      {verification.data}")
    width = max((len(each.name) for each in verification.values), default=0)
    for each in verification.values:
        units = f", {each.units:.2g} units" if each.units else ""
        now = f", now {_text(each.again)}" if each.outcome == "differs" else ""
        where = f" {each.where}" if each.where else ""
        click.echo(f"  {each.name:{width}}  {_text(each.recorded):>26}  {each.outcome}{where}{units}{now}")
    for line in _left_out(verification):
        click.echo(f"left out  {line}")
    click.echo(f"verified  {verification.summary}")
    if status_of(stored) != names.RUNNING and any(path.endswith(".ipynb") for path in run.files()):
        notebook, _ = report_again(run)
        click.echo(f"report    {run.artifact_folder}/{notebook}.html")


def _left_out(verification: Verification) -> Iterable[str]:
    """What was recorded and not compared."""
    if verification.executed:
        return verification.left_out
    others = sorted(verification.run.data.metrics.keys() - {each.name for each in verification.values})
    return [f"{', '.join(others)}: nothing that computes them from the point was named"] if others else []


def _text(value: float | str) -> str:
    return number_text(value, 6) if isinstance(value, float) else value
