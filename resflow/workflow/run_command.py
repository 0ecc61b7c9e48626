"""The command `resflow run`: execute a notebook, and say what came out and where to look."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resflow.errors import InvalidInputError
from resflow.workflow.arguments import check_output, checked_values
from resflow.workflow.boundary import fail, fail_for_cell
from resflow.workflow.goal import Goal, goal_named, goal_options
from resflow.workflow.interruption import Interruptions, Terminated
from resflow.workflow.last_word import status_of
from resflow.workflow.limits import one_line
from resflow.workflow.notebook_file import path_for_papermill, read_notebook
from resflow.workflow.outcome import advice, said_of
from resflow.workflow.plainly import with_traceback_file
from resflow.workflow.scratch import temporary_folder

if TYPE_CHECKING:
    from resflow.workflow.records import Run

__all__ = ["run"]


@click.command(short_help="Execute a notebook in an MLflow run.")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.argument("output", required=False, type=click.Path(path_type=Path))
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; may be repeated.")
@click.option("-k", "--kernel", metavar="NAME", help="Use this kernel, whichever the notebook names.")
@goal_options
def run(
    notebook: Path,
    output: Path | None,
    pairs: tuple[tuple[str, str], ...],
    kernel: str | None,
    metric: str | None,
    maximize: bool | None,
) -> None:
    """Execute NOTEBOOK in an MLflow run; the executed notebook is attached to it, and written to OUTPUT if given."""
    node = read_notebook(notebook)
    values = checked_values(node, pairs, lambda: _start_kernels(node, kernel))
    if goal := goal_named(metric, maximize):
        goal.write_to(node)
    Goal.in_metadata(node)  # checked before a run is made
    if output is not None:
        check_output(output, notebook)
        _execute(node, notebook, output, values, kernel)
        return
    with Interruptions() as interruptions, interruptions.raised(), temporary_folder() as folder:
        _execute(node, notebook, folder / notebook.name, values, kernel, kept=False)


def _execute(
    node: Any, notebook: Path, output: Path, values: dict[str, Any], kernel: str | None, *, kept: bool = True
) -> None:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    kernel = _chosen_kernel(node, kernel)
    prepared = _prepared(node, values, kernel)
    # What went wrong is said here, in one line; what papermill has to say of parameters was checked already.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    place = f"in {output}" if kept else "attached to the run"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executed = papermill.execute_notebook(
                prepared,
                path_for_papermill(output),
                engine_name="resflow",
                kernel_name=kernel,
                request_save_on_cell_execute=kept,  # else nobody sees the file before the end
                autosave_cell_every=30 if kept else 0,
                begun=_say_begun,
                source=str(notebook),
            )
    except PapermillExecutionError as error:
        run_id = nbformat.read(output, as_version=4).metadata.get("resflow", {}).get("run_id", "unknown")
        advised = advice(error.evalue, run_id)
        more = f": {advised}" * bool(advised) + f" (run {run_id}, FAILED; the executed notebook is {place})"
        fail_for_cell(error, notebook, more)
    except Terminated as stop:
        fail(f"{stop.signal.name}: the run is recorded as KILLED", int(stop.code or 143))
    except KeyboardInterrupt:  # before click, which would start another line
        fail("SIGINT: the run is recorded as KILLED", 130)
    except Exception as error:
        if not (said := said_of(error)):
            raise  # of no run
        message = f"{notebook}: {one_line(said, 900)}; the executed notebook is {place}"
        fail(message if isinstance(error, DeadKernelError) else with_traceback_file(message, error), 1)
    _report(executed.metadata["resflow"]["run_id"], notebook.stem)


def _say_begun(run: Run) -> None:
    click.echo(f"run     {run.id} in experiment {run.experiment_name}")
    sys.stdout.flush()


def _start_kernels(node: Any, kernel: str | None) -> None:
    """Start what forks the kernel, which imports while this process does."""
    from resflow.workflow.kernel_environment import start_server

    start_server(node, _chosen_kernel(node, kernel))


def _chosen_kernel(node: Any, kernel: str | None) -> str:
    """The kernel that is named, or else the notebook's, which can be started."""
    from resflow.workflow.kernels import check_kernel, kernel_name

    kernel = kernel or kernel_name(node)
    check_kernel(kernel)
    return kernel


def _prepared(node: Any, values: dict[str, Any], kernel: str) -> Any:
    """The notebook with a cell that sets these values, as papermill writes it for that kernel."""
    from papermill.exceptions import PapermillException
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    node = load_notebook_node(node)
    if not values:
        return node
    try:
        return parameterize_notebook(node, values, kernel_name=kernel, engine_name="resflow")
    except PapermillException as error:  # papermill knows the kernel's language not
        raise InvalidInputError(f"parameters cannot be set in this notebook: {one_line(error, 300)}") from None


def _report(run_id: str, stem: str) -> None:
    """Say what came out of a finished run, and where to look."""
    from resflow.workflow.records import Run, open_client
    from resflow.workflow.reports.facts import claim_of, facts_of

    recorded = Run(open_client(), run_id)
    run = recorded.stored
    click.echo(f"name    {run.info.run_name}\nstatus  {status_of(run)}")
    facts = facts_of(run)
    width = max((len(fact.about) for fact in facts), default=0)
    for fact in facts:
        click.echo(f"  {fact.about:<{width}}  {fact.outcome}")
    if claim := claim_of(run):
        click.echo(f"claim   {claim.about}: {claim.outcome}")
    click.echo(f"report  {recorded.artifact_folder}/{stem}.html")
    click.echo("look    resflow ui   opens all runs in MLflow")
