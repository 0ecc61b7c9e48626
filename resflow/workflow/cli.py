"""The command `resflow`: start, run and sweep notebooks, report on runs, open MLflow's UI, look after the store."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from resflow.workflow.addresses import without_credentials
from resflow.workflow.boundary import guarded
from resflow.workflow.bundles.command import export, import_
from resflow.workflow.claims_command import claims
from resflow.workflow.diff_command import diff
from resflow.workflow.project import store_in_use
from resflow.workflow.quick_imports import leave_out_formats
from resflow.workflow.reports.command import report
from resflow.workflow.run_command import run
from resflow.workflow.store_command import store
from resflow.workflow.sweeps.command import sweep
from resflow.workflow.verify_command import verify

__all__ = ["cli", "main"]


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error, and the exit code says of what kind it is."""
    leave_out_formats()
    sys.exit(guarded(lambda: cli.main(prog_name="resflow", standalone_mode=False)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resflow", message="%(package)s %(version)s")
def cli() -> None:
    """Run notebooks as tracked runs, one or a whole sweep, and look at them."""


for command in (run, sweep, report, verify, claims, diff, export, import_, store):
    cli.add_command(command)


@cli.command(short_help="Write a notebook to start from, and a sweep of it.")
@click.argument("name")
@click.option("--foreign", is_flag=True, help="One that knows nothing of residual networks: plain Python and MLflow.")
def new(name: str, foreign: bool) -> None:
    """Write NAME.ipynb, a notebook to start from, and NAME.yaml, a sweep of four runs of it; both run as they are.

    NAME may have a folder in front, which must be there. Nothing is ever replaced.
    """
    from resflow.workflow.starting import write_notebook

    written = write_notebook(name, foreign=foreign)
    click.echo(f"notebook  {written.notebook}\nsweep     {written.sweep}")
    click.echo(f"run       {shlex.join(['resflow', 'run', str(written.notebook)])}")
    _say_where(written.notebook.parent)


@cli.command(short_help="Copy the notebooks and sweeps that come with resflow.")
@click.argument("folder", type=click.Path(path_type=Path))
def examples(folder: Path) -> None:
    """Copy the notebooks and sweeps that come with resflow into FOLDER/notebooks; FOLDER is made if it is missing.

    Nothing is ever replaced. FOLDER is a project from then on: runs in it are kept in FOLDER/mlruns.
    """
    from resflow.workflow.examples import copy_examples

    paths = copy_examples(folder)
    sweeps = sum(path.suffix == ".yaml" for path in paths)
    click.echo(f"copied    {len(paths) - sweeps} notebooks and {sweeps} sweeps to {folder / 'notebooks'}")
    click.echo(f"run       cd {shlex.quote(str(folder))} && resflow run notebooks/train_residual_unit.ipynb")
    _say_where(folder)


@cli.command(short_help="Open MLflow's UI on the project's store.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Its port; a free one from 5000 on without.")
def ui(port: int | None) -> int:
    """Open MLflow's UI on the project's store, for this machine only; Ctrl-C ends it."""
    from resflow.workflow.ui import serve

    return serve(port)


def _say_where(folder: Path) -> None:
    """Say where runs of notebooks in a folder are kept."""
    click.echo(f"kept in   {without_credentials(store_in_use(folder))}")
