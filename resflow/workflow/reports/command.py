"""The command `resflow report`: compare runs on one page, or report on one again, and say where that is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resflow.errors import InvalidInputError
from resflow.workflow.arguments import check_output, checked_values
from resflow.workflow.boundary import fail_for_cell
from resflow.workflow.goal import goal_named, goal_options
from resflow.workflow.names import SWEEP, Role, role_of
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.whole_file import written_whole

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from resflow.workflow.records import Run

__all__ = ["report"]


@click.command(short_help="Compare the runs of a sweep or an experiment on one page, or report on one run.")
@click.argument("name")
@click.argument("output", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter of the comparison.")
@click.option("--pdf", is_flag=True, help="Write OUTPUT, or else NAME.pdf here, as PDF, printed by Chromium.")
@goal_options
def report(
    name: str,
    output: Path | None,
    pairs: tuple[tuple[str, str], ...],
    pdf: bool,
    metric: str | None,
    maximize: bool | None,
) -> None:
    """Compare the runs of the sweep NAME in one HTML file, attached to the sweep's run, and written to OUTPUT if given.

    NAME may also be that of an experiment, whose report is written to OUTPUT, or else to NAME.html here; or the id of a
    run, whose own report is then written again from its executed notebook.
    """
    from resflow.workflow.records import open_client
    from resflow.workflow.reports.comparison import RUN_ID
    from resflow.workflow.reports.comparison_report import comparing_notebook
    from resflow.workflow.reports.pdf import browser
    from resflow.workflow.reports.run_report import find_run

    if output is not None:
        check_output(output)
    if pdf:
        browser()  # or nothing is begun
    values = checked_values(read_notebook(comparing_notebook()), pairs)
    if "source" in values:
        raise InvalidInputError(f"source={values['source']!r}: what is compared is named by NAME, not by -p")
    goal = goal_named(metric, maximize)
    client = open_client()
    run = find_run(client, name) if RUN_ID.fullmatch(name) else None
    if run is None:
        chosen = {"metric": goal.metric, "direction": goal.direction} if goal else {}
        _compare(client, name, output, values | chosen, pdf=pdf)
    elif role_of(run.stored) == Role.SWEEP:
        sweep = run.stored.data.tags.get(SWEEP, "")
        raise InvalidInputError(f"the run {name} is that of a sweep: report it by the sweep's name, {sweep}")
    elif pairs or goal:
        raise InvalidInputError(f"{name} is one run: -p, --metric and --maximize are for comparisons: leave them out")
    else:
        _report_again(run, output, pdf=pdf)


def _compare(client: MlflowClient, name: str, output: Path | None, values: dict[str, Any], *, pdf: bool) -> None:
    """Compare a sweep's or an experiment's runs, and say where the page is."""
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.records import Run
    from resflow.workflow.reports.comparison_report import REPORT, write_report

    try:
        comparison, text = write_report(client, name, values)
    except PapermillExecutionError as error:
        fail_for_cell(error, "the comparing notebook")
    if output is None and (pdf or comparison.parent_id is None):
        output = _here(comparison.name, pdf=pdf)
    _write(text, output, pdf=pdf)
    counts = ", ".join(f"{count} {status.lower()}" for status, count in comparison.statuses.items())
    click.echo(f"{comparison.kind:<7} {comparison.name}: {counts}")
    click.echo(f"report  {output or Run(client, comparison.parent_id or '').artifact_folder + '/' + REPORT}")


def _report_again(run: Run, output: Path | None, *, pdf: bool) -> None:
    """Write a run's own report again, and say where it is."""
    from resflow.workflow.reports.run_report import report_again

    notebook, text = report_again(run)
    output = output or (_here(run.id, pdf=True) if pdf else None)
    _write(text, output, pdf=pdf)
    click.echo(f"run     {run.name}")
    click.echo(f"report  {output or f'{run.artifact_folder}/{notebook}.html'}")


def _here(name: str, *, pdf: bool) -> Path:
    """A file of that name in the current folder, which can be written."""
    output = Path(re.sub(r"[^\w.-]+", "-", name) + (".pdf" if pdf else ".html"))
    check_output(output)
    return output


def _write(text: str, output: Path | None, *, pdf: bool) -> None:
    from resflow.workflow.reports.pdf import write_pdf

    if output is not None and pdf:
        write_pdf(text, output)
    elif output is not None:
        with written_whole(output) as path:
            path.write_text(text, encoding="utf-8")
