"""The command `resflow`: run a notebook or a sweep, report on many runs, open MLflow's UI, look after the store."""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    import click
except ModuleNotFoundError:
    sys.exit("resflow: error: the command needs the workflow's packages: pip install 'resflow[workflow]'")

from resflow.errors import InvalidInputError
from resflow.workflow.boundary import fail, guarded
from resflow.workflow.sweeps.command import sweep

__all__ = ["cli", "main"]

SHOWN = ("objective", "best_linear_objective", "linear_predictor_gap", "gap_certificate", "test_linear_predictor_gap")


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error, and the exit code says of what kind it is."""
    # nbformat's jsonschema would spend a second on the grammar of internationalised links, which nobody here checks.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    sys.exit(guarded(lambda: cli.main(standalone_mode=False)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Run notebooks as tracked runs, one or a whole sweep, and look at them."""


cli.add_command(sweep)


@cli.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.argument("output", required=False, type=click.Path(path_type=Path))
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter; may be repeated.")
def run(notebook: Path, output: Path | None, pairs: tuple[tuple[str, str], ...]) -> int:
    """Execute NOTEBOOK in an MLflow run; the executed notebook is attached to it, and written to OUTPUT if given."""
    values = _checked_values(notebook, pairs)
    if output is not None:
        _check_folder(output)
        return _execute(notebook, output, values)
    with tempfile.TemporaryDirectory(prefix="resflow-") as folder:
        return _execute(notebook, Path(folder) / notebook.name, values)


@cli.command()
@click.argument("sweep")
@click.argument("output", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a parameter of the notebook.")
def report(sweep: str, output: Path | None, pairs: tuple[tuple[str, str], ...]) -> int:
    """Compare the runs of SWEEP in one HTML file, attached to the sweep's run, and written to OUTPUT if given.

    SWEEP may also be the name of an experiment, whose report is written to OUTPUT, or else to NAME.html here.
    """
    from resflow.workflow.reports import comparison_report
    from resflow.workflow.tracking import open_client

    if output is not None:
        _check_folder(output)
    values = _checked_values(comparison_report.comparing_notebook(), pairs)
    if "source" in values:
        raise InvalidInputError(f"source={values['source']!r}: what is compared is named by SWEEP, not by -p")
    return _write_report(open_client(), sweep, output, values)


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
    from resflow.workflow.addresses import without_credentials
    from resflow.workflow.store import tracking_uri

    click.echo(without_credentials(tracking_uri()))


@store.command()
def relocate() -> None:
    """After the project folder was moved or copied: let the store's locations follow."""
    from resflow.workflow import store as embedded

    count = embedded.relocate(embedded.project_root())
    click.echo(f"{count} locations rewritten" if count else "nothing to do: the store was not moved")


def _check_folder(output: Path) -> None:
    if not output.parent.is_dir():
        raise InvalidInputError(f"{output}: there is no folder {output.parent}: make it first")


def _checked_values(path: Path, pairs: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The parameters to inject, checked as far as they can be without a kernel."""
    from resflow.workflow.parameters import check_values, declared_in_notebook, parse_overrides, read_notebook

    declared = declared_in_notebook(read_notebook(path))
    values = parse_overrides(declared, pairs)
    check_values({parameter.name: parameter.default for parameter in declared} | values)
    return values


def _execute(notebook: Path, output: Path, values: dict[str, Any]) -> int:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.interruption import Terminated
    from resflow.workflow.outcome import said_of

    # What papermill has to say of parameters was checked here already, and better.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    quiet = not sys.stderr.isatty()
    try:
        executed = papermill.execute_notebook(
            str(notebook), str(output), values, engine_name="resflow", progress_bar=not quiet
        )
    except PapermillExecutionError as error:
        if error.ename == InvalidInputError.__name__:
            fail(error.evalue, 2)
        run_id = _run_id(output)
        place = "attached to the run" if "resflow-" in str(output.parent) else f"in {output}"
        message = f"cell {error.cell_index + 1} of {notebook} raised {error.ename}: {error.evalue}"
        fail(f"{message} (run {run_id}, FAILED; the executed notebook is {place})", 1)
    except Terminated as stop:
        fail(f"{stop.signal.name}: the run is recorded as KILLED", int(stop.code or 143))
    except KeyboardInterrupt:  # before click, which would start another line
        fail("SIGINT: the run is recorded as KILLED", 130)
    except Exception as error:
        if not (said := said_of(error)):
            raise  # of no run
        fail(said, 1)
    _report(executed.metadata["resflow"]["run_id"], notebook.stem)
    return 0


def _write_report(client: Any, sweep: str, output: Path | None, values: dict[str, Any]) -> int:
    from papermill.exceptions import PapermillExecutionError

    from resflow.workflow.reports.comparison_report import REPORT, write_report

    try:
        comparison, text = write_report(client, sweep, values)
    except PapermillExecutionError as error:
        if error.ename == InvalidInputError.__name__:
            fail(error.evalue, 2)
        fail(f"cell {error.cell_index + 1} of the comparing notebook raised {error.ename}: {error.evalue}", 1)
    if output is None and comparison.parent_id is None:
        output = Path(re.sub(r"[^\w.-]+", "-", comparison.name) + ".html")
    if output is not None:
        output.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{count} {status}" for status, count in comparison.statuses.items())
    click.echo(f"{comparison.kind:<7} {comparison.name}: {counts}")
    click.echo(f"report  {output or _local(client.get_run(comparison.parent_id).info.artifact_uri) + '/' + REPORT}")
    return 0


def _run_id(output: Path) -> str:
    import nbformat

    return nbformat.read(output, as_version=4).metadata.get("resflow", {}).get("run_id", "unknown")


def _report(run_id: str, stem: str) -> None:
    """Say what came out of a finished run, and where to look."""
    from resflow.workflow.last_word import status_of
    from resflow.workflow.tracking import open_client

    run = open_client().get_run(run_id)
    click.echo(f"run     {run.info.run_name}\nstatus  {status_of(run)}   id {run_id}")
    for name in SHOWN:
        if name in run.data.metrics:
            click.echo(f"  {name:<28} {run.data.metrics[name]:+.6g}")
    if verdict := run.data.tags.get("verdict"):
        click.echo(f"verdict {verdict}")
    if "claim_margin" in run.data.metrics:
        outcome = "holds" if run.data.tags.get("claim_holds") == "true" else "FAILS"
        click.echo(f"claim   {run.data.tags.get('claim')} {outcome}, margin {run.data.metrics['claim_margin']:+.3g}")
    folder = _local(run.info.artifact_uri)
    click.echo(f"report  {folder}/{stem}.html\nlook    resflow ui   (make ui) opens all runs in MLflow")


def _local(artifacts: str) -> str:
    """The folder that an artifact address names, or the address itself if it is elsewhere."""
    from urllib.parse import unquote, urlsplit

    address = urlsplit(artifacts)
    return unquote(address.path) if address.scheme in ("", "file") else artifacts
