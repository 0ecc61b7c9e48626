"""The command `resflow report`: compare runs on one page, and say where it is."""

from __future__ import annotations

import re
from pathlib import Path

import click

from resflow.errors import InvalidInputError
from resflow.workflow.arguments import check_output, checked_values
from resflow.workflow.boundary import fail_for_cell
from resflow.workflow.goal import goal_named, goal_options
from resflow.workflow.notebook_file import read_notebook

__all__ = ["report"]


@click.command(short_help="Compare the runs of a sweep or an experiment on one page.")
@click.argument("sweep")
@click.argument("output", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter of the notebook.")
@click.option("--pdf", is_flag=True, help="Write OUTPUT, or else NAME.pdf here, as PDF, printed by Chromium.")
@goal_options
def report(
    sweep: str,
    output: Path | None,
    pairs: tuple[tuple[str, str], ...],
    pdf: bool,
    metric: str | None,
    maximize: bool | None,
) -> None:
    """Compare the runs of SWEEP in one HTML file, attached to the sweep's run, and written to OUTPUT if given.

    SWEEP may also be the name of an experiment, whose report is written to OUTPUT, or else to NAME.html here.
    """
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.records import Run, open_client
    from resflow.workflow.reports.comparison_report import REPORT, comparing_notebook, write_report
    from resflow.workflow.reports.pdf import browser, write_pdf

    if output is not None:
        check_output(output)
    if pdf:
        browser()  # or nothing is begun
    values = checked_values(read_notebook(comparing_notebook()), pairs)
    if "source" in values:
        raise InvalidInputError(f"source={values['source']!r}: what is compared is named by SWEEP, not by -p")
    if goal := goal_named(metric, maximize):
        values |= {"metric": goal.metric, "direction": goal.direction}
    client = open_client()
    try:
        comparison, text = write_report(client, sweep, values)
    except PapermillExecutionError as error:
        fail_for_cell(error, "the comparing notebook")
    if output is None and (pdf or comparison.parent_id is None):
        output = Path(re.sub(r"[^\w.-]+", "-", comparison.name) + (".pdf" if pdf else ".html"))
        check_output(output)
    if output is not None and pdf:
        write_pdf(text, output)
    elif output is not None:
        output.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{count} {status.lower()}" for status, count in comparison.statuses.items())
    click.echo(f"{comparison.kind:<7} {comparison.name}: {counts}")
    click.echo(f"report  {output or Run(client, comparison.parent_id or '').artifact_folder + '/' + REPORT}")
