"""The commands `resflow store`: where runs are kept, whether all of them is there, and what can go."""

from __future__ import annotations

import sys

import click

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import sqlite_file, without_credentials
from resflow.workflow.limits import one_line
from resflow.workflow.project import project_root

__all__ = ["store"]


@click.group()
def store() -> None:
    """Look after the embedded store."""


@store.command()
def where() -> None:
    """Say where runs are kept."""
    from resflow.workflow.store import tracking_uri

    click.echo(without_credentials(tracking_uri()))


@store.command(short_help="Let locations follow a project that was moved or copied.")
def relocate() -> None:
    """After the project folder was moved or copied: let the store's locations follow."""
    from resflow.workflow.store import relocate as relocate_store

    count = relocate_store(project_root())
    click.echo(f"{count} locations rewritten" if count else "nothing to do: the store was not moved")


@store.command(short_help="Say whether the store is sound and every finished run whole.")
def check() -> int:
    """Say whether the database is sound, and of every finished run whether all is there and as it was when it ended.

    Every page of the database is read, and every file of such runs. The exit code is 0 if nothing is wrong, and 1 if
    something is.
    """
    from resflow.workflow.plainly import told_plainly
    from resflow.workflow.records import open_client
    from resflow.workflow.sqlite_check import check_every_page
    from resflow.workflow.store import tracking_uri
    from resflow.workflow.store_check import Faults

    uri = tracking_uri()
    if database := sqlite_file(uri):
        with told_plainly(uri):
            check_every_page(database)
        click.echo(f"database  sound, {database.stat().st_size / 1e6:.1f} MB")
    else:
        click.echo("database  not looked into: it belongs to a server")
    faults, found = Faults(open_client()), 0
    for fault in faults:
        found += 1
        click.echo(f"run       {fault.run_id}  {one_line(fault.name, 80)}: {one_line(fault.what)}")
    click.echo(f"checked   {faults.finished} finished runs: {found or 'nothing'} wrong; {faults.others} did not finish")
    return 1 if found else 0


@store.command(short_help="Remove deleted runs, and files of runs that are gone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(yes: bool) -> None:
    """Remove for good the runs that were deleted in MLflow, and the files of runs that the store no longer has.

    It says how much that is, and asks. What may still be going on stays, and what others are nested in.
    """
    from resflow.workflow.plainly import told_plainly
    from resflow.workflow.store import is_embedded, tracking_uri
    from resflow.workflow.store_cleaning import removable_in, remove, size_of

    root, uri = project_root(), tracking_uri()
    if not is_embedded(uri, root):
        raise InvalidInputError(
            f"only the project's own store can be cleaned, and {without_credentials(uri)} is in use: "
            "`mlflow gc` cleans others"
        )
    with told_plainly(uri):
        found = removable_in(root)
        for count, why in ((found.at_work, "may be going on"), (found.needed, "have others nested in them"),
                           (found.elsewhere, "have files elsewhere")):  # fmt: skip
            if count:
                click.echo(f"kept      {count} deleted runs that {why}")
        if not (found.runs or found.orphans or found.experiments):
            click.echo("nothing to remove")
            return
        sizes = [sum(map(size_of, folders)) / 1e6 for folders in (found.runs.values(), found.orphans)]
        click.echo(f"deleted   {len(found.runs)} runs, {len(found.experiments)} experiments, {sizes[0]:.1f} MB")
        click.echo(f"orphans   {len(found.orphans)} folders of runs that the store does not have, {sizes[1]:.1f} MB")
        if not yes:
            if not sys.stdin.isatty():
                raise InvalidInputError("nothing is removed, as nobody can be asked here: say --yes")
            click.confirm("Remove them for good?", abort=True)
        remove(root, found)
    click.echo("removed   all of it")
