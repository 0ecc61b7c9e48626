"""The command `resflow diff`: in what two runs differ, in the terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from resflow.errors import InvalidInputError, shown
from resflow.workflow.arguments import check_output
from resflow.workflow.limits import one_line
from resflow.workflow.whole_file import written_whole

if TYPE_CHECKING:
    from resflow.workflow.notebook_differences import CellDifference
    from resflow.workflow.records import Run

__all__ = ["diff"]

LINES = 20
"""Of a cell's source, or of its outputs, that are shown on the terminal."""


@click.command(short_help="Say in what two runs differ.")
@click.argument("first")
@click.argument("second")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write all of it to this file, as a page."
)
def diff(first: str, second: str, html: Path | None) -> int:
    """Say in what the runs with the ids FIRST and SECOND differ: parameters, environment, data, notebook, outcome.

    Values that are the same are counted only; metrics that differ by rounding alone are marked. Of executed notebooks
    the lines are shown in which sources and outputs differ, cell by cell. The exit code is 0 if nothing differs and 1
    if something does.
    """
    from resflow.workflow.records import open_client
    from resflow.workflow.reports.run_report import find_run
    from resflow.workflow.run_differences import differences

    if html is not None:
        check_output(html)
    client = open_client()
    runs: list[Run] = []
    for name in (first, second):
        if (run := find_run(client, name)) is None:
            raise InvalidInputError(
                f"{shown(name)} is no run's id: a run says its own when it begins, and `resflow ui` has all"
            )
        runs.append(run)
    click.echo(f"first   {first}  {runs[0].name}\nsecond  {second}  {runs[1].name}")
    sections = differences(*runs)
    for section in sections:
        click.echo(f"{section.name}: {len(section.differences) or 'none'} differ, {section.same} the same")
        width = max((len(each.name) for each in section.differences if not each.cell), default=0)
        for name, one, other, remark, cell in section.differences:
            if cell is not None:
                click.echo(f"  {name}: {remark}")
                _show(cell)
                continue
            told = f" ({remark})" if remark else ""
            click.echo(f"  {name:{width}}  {one_line(one, 100)} | {one_line(other, 100)}{told}")
    if html is not None:
        from resflow.workflow.differences_page import differences_page

        with written_whole(html) as path:
            path.write_text(differences_page(runs[0], runs[1], sections), encoding="utf-8")
        click.echo(f"page    {html}")
    return 1 if any(section.differences for section in sections) else 0


def _show(cell: CellDifference) -> None:
    """Say which lines of a cell differ."""
    for head, lines in (("", cell.source), ("put out:", cell.outputs)):
        if lines and head:
            click.echo(f"    {head}")
        for line in lines[:LINES]:
            mark, indented = line[:1], line[1:].expandtabs(4)
            indent = " " * (len(indented) - len(indented.lstrip(" ")))
            click.echo(f"    {mark} {indent}{one_line(indented, 200)}".rstrip())
        if len(lines) > LINES:
            click.echo(f"    … {len(lines) - LINES} more lines, which --html FILE writes")
