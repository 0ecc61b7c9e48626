"""The command `resflow sweep`: plan, run, and say in the last lines what failed and where its notebook is."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resflow.errors import InvalidInputError
from resflow.workflow.goal import goal_named, goal_options
from resflow.workflow.interruption import Terminated
from resflow.workflow.limits import duration, one_line
from resflow.workflow.names import FINISHED

if TYPE_CHECKING:
    from resflow.workflow.sweeps.driver import Conclusion
    from resflow.workflow.sweeps.plan import Result
    from resflow.workflow.sweeps.state import Sweep

__all__ = ["sweep"]

FAILURES_SHOWN = 20


@click.command(short_help="Run what is missing of a sweep.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show the plan and how much of it is finished, and run nothing.")
@click.option("--points", "every_point", is_flag=True, help="With --dry-run: show every point.")
@click.option("--again", is_flag=True, help="Repeat what is finished, too.")
@click.option(
    "--retries", type=click.IntRange(0, 100), default=2, show_default=True, metavar="N",
    help="Repeat a run up to N times whose process, kernel or worker died; never one whose notebook raised.",
)  # fmt: skip
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), metavar="S", help="End a run after S seconds.")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Worker processes on this machine.")
@click.option("--scheduler", metavar="ADDRESS", help="Use the running Dask cluster at tcp://HOST:PORT instead.")
@goal_options
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line, for machines.")
def sweep(
    file: Path,
    dry_run: bool,
    every_point: bool,
    again: bool,
    retries: int,
    time_limit: float | None,
    workers: int | None,
    scheduler: str | None,
    metric: str | None,
    maximize: bool | None,
    as_json: bool,
) -> int:
    """Run what is missing of the sweep that FILE describes; the same command goes on after any interruption."""
    if every_point and not dry_run:
        raise InvalidInputError("--points says what --dry-run shows: give both, or leave it out")
    if scheduler and workers:
        raise InvalidInputError("--workers is for this machine, and a --scheduler has its own: leave one out")
    if time_limit is not None and not math.isfinite(time_limit):
        raise InvalidInputError(f"--time-limit {time_limit} is no number of seconds: leave it out for no limit")
    from resflow.workflow.records import open_client
    from resflow.workflow.sweeps.driver import Options, run_sweep
    from resflow.workflow.sweeps.file import read_sweep_file
    from resflow.workflow.sweeps.plan import Planner
    from resflow.workflow.sweeps.progress import JsonDisplay, LineDisplay, LiveDisplay
    from resflow.workflow.sweeps.state import Sweep
    from resflow.workflow.sweeps.worker.cluster import ClusterLostError, prepare_workers
    from resflow.workflow.sweeps.worker.job import Limits

    planner = Planner(read_sweep_file(file, goal_named(metric, maximize)))
    executions = planner.executions()  # before a store is made for a file that is at fault
    if not (dry_run or scheduler):
        prepare_workers()
    planned = Sweep(planner, executions, open_client())
    if dry_run:
        _show_plan(planned, as_json, every_point)
        return 0
    kind = JsonDisplay if as_json else LiveDisplay if sys.stdout.isatty() else LineDisplay
    options = Options(again, Limits(retries, time_limit or 0.0), workers or 0, scheduler or "")
    display = kind(planned.tally)
    started = time.monotonic()
    try:
        conclusion = run_sweep(planned, options, display)
    except (KeyboardInterrupt, Terminated) as stop:
        click.echo("resflow: stopped: the same command goes on from here", err=True)
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
    except ClusterLostError as error:
        click.echo(f"resflow: {error}: the same command goes on from here", err=True)
        sys.exit(1)
    code = _conclude(planned, conclusion, time.monotonic() - started, as_json)
    if problem := conclusion.problem:
        click.echo(f"resflow: the sweep's own run is not whole: {problem}: the same command mends it", err=True)
    return int(bool(code or problem))


def _show_plan(planned: Sweep, as_json: bool, every_point: bool) -> None:
    from resflow.workflow.sweeps.plan.tables import axes_table, axis_column, plan_table

    rows = plan_table(planned.executions, planned.finished).to_dict("records")
    if as_json:
        for row in rows:
            click.echo(json.dumps({name: _in_json(value) for name, value in row.items()}, default=str))
        return
    finished = sum(point.fingerprint in planned.finished for point in planned.points)
    shown = [["axis", "values", ""], *axes_table(planned.file.axes, planned.points)]
    if every_point:
        columns = [*(axis_column(axis.name) for axis in planned.file.axes), "execution", "state", "run_id"]
        shown = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    if rows:
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        put = str.rjust if every_point else str.ljust
        click.echo("\n".join("  ".join(map(put, line, widths)).rstrip() for line in shown))
    name, executions = planned.file.name, len(planned.executions)
    if planned.is_search:
        trials = planned.file.strategy.count
        click.echo(f"{name}: {trials} trials, each chosen by Optuna from those before it; {executions} finished")
        return
    counted = f"{name}: {len(planned.points)} points in {executions} executions, {finished} finished"
    if (seconds := planned.seconds_to_do()) is not None:
        counted += f"; the rest takes about {duration(seconds)} of one worker, by what is finished"
    click.echo(counted)


def _cell(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) < 100 else one_line(text)


def _in_json(value: Any) -> Any:
    """A value as JSON can say it, which has neither infinities nor NaN: these as Python calls them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _conclude(planned: Sweep, conclusion: Conclusion, seconds: float, as_json: bool) -> int:
    """Say what came of it; the exit code."""
    results = conclusion.results
    failed = [result for result in results if result.state != FINISHED]
    if as_json:
        for result in failed:
            fields = {"values": result.point.values, "status": result.state, "run_id": result.run_id}
            notebook = _notebook(planned, result)
            click.echo(json.dumps({"event": "point_failed", **fields, "error": result.error, "notebook": notebook}))
        counts = {"points": len(results), "finished": len(results) - len(failed), "failed": len(failed)}
        ended = {"event": "ended", **counts, "seconds": round(seconds, 3), "headline": conclusion.headline}
        click.echo(json.dumps(ended))
        return int(bool(failed))
    click.echo(
        f"{planned.file.name}: {len(results) - len(failed)} of {len(results)} points finished, {len(failed)} failed, "
        f"in {duration(seconds)}"
    )
    told: set[str] = set()
    for result in failed:
        if result.run_id in told and result.run_id:
            continue  # another point of an execution that failed
        told.add(result.run_id)
        if len(told) > FAILURES_SHOWN:
            click.echo(f"        … tables/results.csv of the sweep's run has all {len(failed)}")
            break
        click.echo(f"failed  {result.point.label}: {result.state}: {result.error}")
        if result.run_id:
            click.echo(f"        {_notebook(planned, result)} (run {result.run_id})")
    for line in conclusion.headline:
        click.echo(line)
    click.echo(f"report  resflow report {shlex.quote(planned.file.name)}   writes all of it as one page")
    click.echo("look    resflow ui   opens all runs in MLflow")
    return int(bool(failed))


def _notebook(planned: Sweep, result: Result) -> str:
    """Where the executed notebook of a point is."""
    from resflow.workflow.records import Run

    if not result.run_id:
        return ""
    return f"{Run(planned.client, result.run_id).artifact_folder}/{planned.file.notebook.name}"
