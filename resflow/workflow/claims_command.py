"""The command `resflow claims`: which claims were put to the test, and how that came out; the page for a paper."""

from __future__ import annotations

from pathlib import Path

import click

from resflow.errors import InvalidInputError
from resflow.workflow.addresses import without_credentials
from resflow.workflow.arguments import check_output
from resflow.workflow.whole_file import written_whole

__all__ = ["claims"]


@click.command(short_help="List the claims that runs put to the test.")
@click.argument("output", required=False, type=click.Path(path_type=Path, dir_okay=False))
def claims(output: Path | None) -> None:
    """List the claims that runs put to the test: where, on what data, by how much they held, and verified when.

    All of it is read from the store. The same goes to the file OUTPUT as an HTML page, if it is named.
    """
    from resflow.plots.labels import label_of
    from resflow.workflow.claims import claims_page, tests_of_claims
    from resflow.workflow.records import open_client

    if output is not None:
        check_output(output)
    client = open_client()
    store = without_credentials(client.tracking_uri)
    if not (tested := tests_of_claims(client)):
        raise InvalidInputError(f"no finished run in {store} tested a claim: a notebook logs one by record(claim=...)")
    for claim in dict.fromkeys(each.claim for each in tested):
        click.echo(f"claim     {label_of(claim)}")
        for each in tested:
            if each.claim == claim:
                click.echo(f"  {each.came_out}, smallest margin {each.least}")
                click.echo(f"    of {each.notebook} on {each.data}, {each.when}")
                click.echo(f"    {each.verified}")
    if output is not None:
        with written_whole(output) as path:
            path.write_text(claims_page(tested), encoding="utf-8")
        click.echo(f"page      {output}")
