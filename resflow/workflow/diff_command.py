"""The command `resflow diff`: in what two runs differ, in the terminal."""

from __future__ import annotations

import click

from resflow.errors import InvalidInputError, shown
from resflow.workflow.limits import one_line

__all__ = ["diff"]


@click.command(short_help="Say in what two runs differ.")
@click.argument("first")
@click.argument("second")
def diff(first: str, second: str) -> int:
    """Say in what the runs with the ids FIRST and SECOND differ: parameters, environment, data, notebook, outcome.

    Values that are the same are counted only; metrics that differ by rounding alone are marked. The exit code is 0 if
    nothing differs and 1 if something does.
    """
    from resflow.workflow.records import open_client
    from resflow.workflow.reports.run_report import find_run
    from resflow.workflow.run_differences import differences

    client, runs = open_client(), []
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
        width = max((len(each.name) for each in section.differences), default=0)
        for name, one, other, remark in section.differences:
            told = f" ({remark})" if remark else ""
            click.echo(f"  {name:{width}}  {one_line(one, 100)} | {one_line(other, 100)}{told}")
    return 1 if any(section.differences for section in sections) else 0
