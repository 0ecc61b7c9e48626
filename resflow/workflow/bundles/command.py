"""The commands `resflow export` and `resflow import`: runs as one file that others can read, and back into a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resflow.errors import InvalidInputError, nearest, shown
from resflow.workflow.addresses import without_credentials
from resflow.workflow.arguments import check_output
from resflow.workflow.limits import one_line

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["export", "import_"]


@click.command(short_help="Write runs with all they recorded to one file.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--license", "license_", default="not stated", metavar="TEXT", help="The licence that the file names.")
def export(name: str, file: Path, license_: str) -> None:
    """Write the run or sweep NAME, and all that is nested in it, to FILE, a Workflow Run RO-Crate in a zip archive.

    It holds parameters, every value of every metric, tags, artifacts, the notebooks as they were written, and the
    SHA-256 of each file. The same runs make the same bytes. FILE must not be there yet, and is there whole or not at
    all.
    """
    from resflow.workflow.bundles.exporting import export as export_runs
    from resflow.workflow.records import open_client

    check_output(file)
    if file.exists():
        raise InvalidInputError(f"{file}: is there already: choose another name, or move it away")
    client = open_client()
    done = export_runs(client, _named(client, name), file, license_)
    click.echo(f"exported  {done.runs} runs, {done.files} files, {done.size / 1e6:.1f} MB")
    if done.models:
        click.echo(f"models    {done.models} that MLflow keeps apart from their runs")
    click.echo(f"kept in   {file} ({file.stat().st_size / 1e6:.1f} MB)")


@click.command("import", short_help="Write exported runs into the store.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--experiment", default="", metavar="NAME", help="Where they go; where they were without.")
def import_(file: Path, experiment: str) -> None:
    """Write the runs that `resflow export` wrote to FILE into the store in use, each once however often.

    All of FILE is checked before anything is written: one that was changed, or that is unsafe, is refused. They get
    ids of their own, and name the run that they are a copy of by a tag. Stopped on the way, the same command goes on.
    """
    from resflow.workflow.bundles.importing import import_bundle
    from resflow.workflow.records import open_client

    client = open_client()
    done = import_bundle(client, file, experiment)
    where = f" into {one_line(', '.join(done.experiments))}" if done.experiments else ""
    there = len(done.runs) - done.written
    click.echo(f"imported  {done.written} runs{where}" + (f"; {there} were there already" if there else ""))
    if experiment and there:
        click.echo("left      where they are, as --experiment says where runs go that are not there yet")
    if len(done.runs) == 1:
        click.echo(f"run       {next(iter(done.runs.values()))}")
    click.echo(f"kept in   {without_credentials(client.tracking_uri)}")


def _named(client: MlflowClient, name: str) -> StoredRun:
    """The run of that id, or the latest parent run of the sweep of that name."""
    from resflow.workflow.records import experiments, parents_of_sweeps
    from resflow.workflow.reports.comparison import RUN_ID
    from resflow.workflow.reports.run_report import find_run

    if RUN_ID.fullmatch(name) and (run := find_run(client, name)):
        return run.stored
    sweeps = parents_of_sweeps(client, list(experiments(client)))
    if name not in sweeps:
        near = f": nearest is {nearest(name, sweeps, 1)[0]}" if sweeps else ""
        raise InvalidInputError(f"{shown(name)} is neither the id of a run nor the name of a sweep{near}")
    return sweeps[name]
