"""The command `resflow`: start, run and sweep notebooks, report on runs, open MLflow's UI, look after the store."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from resflow.errors import InvalidInputError, shown
from resflow.workflow.addresses import without_credentials
from resflow.workflow.boundary import fail, guarded
from resflow.workflow.goal import Goal, goal_named, goal_options
from resflow.workflow.interruption import Interruptions, Terminated
from resflow.workflow.last_word import status_of
from resflow.workflow.limits import one_line
from resflow.workflow.notebook_file import read_notebook
from resflow.workflow.outcome import advice, said_of
from resflow.workflow.parameters import declared_in_notebook, parse_overrides, undeclared_names
from resflow.workflow.plainly import with_traceback_file
from resflow.workflow.project import project_root, store_in_use
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.store_errors import UnusableStoreError
from resflow.workflow.sweeps.command import sweep

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.records import Run

__all__ = ["cli", "main"]

BAD_INPUT = (InvalidInputError.__name__, UnusableStoreError.__name__, "StoreMovedError")
"""What a notebook's cell raises where the user can act."""


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error, and the exit code says of what kind it is."""
    # nbformat's jsonschema would spend a second on the grammar of internationalised links, which nobody here checks.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    sys.exit(guarded(lambda: cli.main(standalone_mode=False)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="resflow", message="%(package)s %(version)s")
def cli() -> None:
    """Run notebooks as tracked runs, one or a whole sweep, and look at them."""


cli.add_command(sweep)


@cli.command()
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


@cli.command()
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


@cli.command()
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
    values = _checked_values(node, pairs)
    if goal := goal_named(metric, maximize):
        goal.write_to(node)
    Goal.in_metadata(node)  # checked before a run is made
    if output is not None:
        _check_output(output, notebook)
        _execute(node, notebook, output, values, kernel)
        return
    with Interruptions() as interruptions, interruptions.raised(), temporary_folder() as folder:
        _execute(node, notebook, folder / notebook.name, values, kernel, kept=False)


@cli.command()
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
        _check_output(output)
    if pdf:
        browser()  # or nothing is begun
    values = _checked_values(read_notebook(comparing_notebook()), pairs)
    if "source" in values:
        raise InvalidInputError(f"source={values['source']!r}: what is compared is named by SWEEP, not by -p")
    if goal := goal_named(metric, maximize):
        values |= {"metric": goal.metric, "direction": goal.direction}
    client = open_client()
    try:
        comparison, text = write_report(client, sweep, values)
    except PapermillExecutionError as error:
        _fail_for_cell(error, "the comparing notebook")
    if output is None and (pdf or comparison.parent_id is None):
        output = Path(re.sub(r"[^\w.-]+", "-", comparison.name) + (".pdf" if pdf else ".html"))
        _check_output(output)
    if output is not None and pdf:
        write_pdf(text, output)
    elif output is not None:
        output.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{count} {status}" for status, count in comparison.statuses.items())
    click.echo(f"{comparison.kind:<7} {comparison.name}: {counts}")
    click.echo(f"report  {output or Run(client, comparison.parent_id or '').artifact_folder + '/' + REPORT}")


@cli.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port on this machine; a free one from 5000 on if not given."
)
def ui(port: int | None) -> int:
    """Open MLflow's UI on the project's store, for this machine only; Ctrl-C ends it."""
    from resflow.workflow.ui import serve

    return serve(port)


@cli.group()
def store() -> None:
    """Look after the embedded store."""


@store.command()
def where() -> None:
    """Say where runs are kept."""
    from resflow.workflow.store import tracking_uri

    click.echo(without_credentials(tracking_uri()))


@store.command()
def relocate() -> None:
    """After the project folder was moved or copied: let the store's locations follow."""
    from resflow.workflow.store import relocate as relocate_store

    count = relocate_store(project_root())
    click.echo(f"{count} locations rewritten" if count else "nothing to do: the store was not moved")


def _say_where(folder: Path) -> None:
    """Say where runs of notebooks in a folder are kept."""
    click.echo(f"kept in   {without_credentials(store_in_use(folder))}")


def _check_output(output: Path, notebook: Path | None = None) -> None:
    """Check that a file can be written there, other than the notebook itself."""
    try:
        str(output).encode()
        if not output.parent.is_dir():
            raise InvalidInputError(f"{output}: there is no folder {output.parent}: make it first")
        if output.exists() and not output.is_file():
            kind = "a folder" if output.is_dir() else "no ordinary file"
            raise InvalidInputError(f"{output}: this is {kind}: name a file")
        if notebook is not None and output.exists() and output.samefile(notebook):
            raise InvalidInputError(f"{output}: this is the notebook itself: name another file, or leave it out")
        if not os.access(output if output.exists() else output.parent, os.W_OK):
            raise InvalidInputError(f"{output}: cannot be written here: the file or its folder is read-only")
    except UnicodeEncodeError:
        raise InvalidInputError(f"{shown(str(output))}: the name is not UTF-8: choose another") from None
    except OSError as error:  # such as a name that is too long
        raise InvalidInputError(f"{shown(str(output))}: cannot be written: {error.strerror}") from None


def _checked_values(notebook: Any, pairs: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The parameters to inject, checked as far as they can be without a kernel."""
    declared = declared_in_notebook(notebook)
    values = parse_overrides(declared, pairs, undeclared_names(notebook))
    for parameter in declared:
        parameter.check(values.get(parameter.name, parameter.default))
    return values


def _execute(
    node: Any, notebook: Path, output: Path, values: dict[str, Any], kernel: str | None, *, kept: bool = True
) -> None:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    prepared, kernel = _prepared(node, values, kernel)
    # What went wrong is said here, in one line; what papermill has to say of parameters was checked already.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    place = f"in {output}" if kept else "attached to the run"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executed = papermill.execute_notebook(
                prepared,
                re.sub("[{}]", r"\g<0>\g<0>", str(output)),  # papermill would put parameters in place of braces
                engine_name="resflow",
                kernel_name=kernel,
                begun=_say_begun,
                source=str(notebook),
            )
    except PapermillExecutionError as error:
        run_id = nbformat.read(output, as_version=4).metadata.get("resflow", {}).get("run_id", "unknown")
        advised = advice(error.evalue, run_id)
        more = f": {advised}" * bool(advised) + f" (run {run_id}, FAILED; the executed notebook is {place})"
        _fail_for_cell(error, notebook, more)
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


def _prepared(node: Any, values: dict[str, Any], kernel: str | None) -> tuple[Any, str]:
    """The notebook with a cell that sets these values, as papermill writes it, and the kernel that it is to get."""
    from papermill.exceptions import PapermillException
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    from resflow.workflow.engine import ResflowEngine
    from resflow.workflow.kernels import check_kernel

    kernel = ResflowEngine.nb_kernel_name(node, kernel)
    check_kernel(kernel)
    node = load_notebook_node(node)
    if not values:
        return node, kernel
    try:
        return parameterize_notebook(node, values, kernel_name=kernel, engine_name="resflow"), kernel
    except PapermillException as error:  # papermill knows the kernel's language not
        raise InvalidInputError(f"parameters cannot be set in this notebook: {one_line(error, 300)}") from None


def _fail_for_cell(error: PapermillExecutionError, notebook: Path | str, more: str = "") -> NoReturn:
    said = one_line(error.evalue, 600)
    if error.ename in BAD_INPUT:
        fail(said, 2)
    fail(f"cell {error.cell_index + 1} of {notebook} raised {error.ename}: {said}{more}", 1)


def _report(run_id: str, stem: str) -> None:
    """Say what came out of a finished run, and where to look."""
    from resflow.workflow.records import Run, open_client
    from resflow.workflow.reports.result import claim_of, facts_of

    recorded = Run(open_client(), run_id)
    run = recorded.stored
    click.echo(f"run     {run.info.run_name}\nstatus  {status_of(run)}   id {run_id}")
    facts = facts_of(run)
    width = max((len(fact.about) for fact in facts), default=0)
    for fact in facts:
        click.echo(f"  {fact.about:<{width}}  {fact.outcome}")
    if claim := claim_of(run):
        click.echo(f"claim   {claim.about}: {claim.outcome}")
    click.echo(f"report  {recorded.artifact_folder}/{stem}.html")
    click.echo("look    resflow ui   opens all runs in MLflow")
