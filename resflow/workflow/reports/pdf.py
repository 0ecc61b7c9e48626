"""A report as PDF, printed by the Chromium of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from resflow.errors import InvalidInputError
from resflow.workflow.scratch import temporary_folder
from resflow.workflow.whole_file import written_whole

__all__ = ["BROWSERS", "browser", "write_pdf"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120
"""What printing may take; a report of some hundred pages takes ten."""

_OPTIONS = (
    "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def browser() -> str:
    """The program that CHROMIUM names, or else the first of `BROWSERS` that there is.

    Raises:
        InvalidInputError: If there is none.
    """
    named = os.environ.get("CHROMIUM", "")
    if found := next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None):
        return found
    if named:
        raise InvalidInputError(f"CHROMIUM={named!r}: there is no such program: name a Chromium, or leave it unset")
    raise InvalidInputError(
        f"--pdf: there is no Chromium here, by none of the names {', '.join(BROWSERS)}: install one, name one in the "
        "environment variable CHROMIUM, or leave --pdf out and print the HTML file from a browser"
    )


def write_pdf(html: str, target: Path, *, seconds: float = SECONDS) -> None:
    """Print a page to the file `target`, which is whole or, if anything goes wrong, what it was before.

    Raises:
        InvalidInputError: If there is no browser, or it does not come to an end.
    """
    program = browser()
    with temporary_folder() as folder:
        page, printed = folder / "report.html", folder / "report.pdf"
        page.write_text(html, encoding="utf-8")
        options = [*_OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={printed}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # which Chromium's sandbox does not serve
        said = _run([program, *options, page.as_uri()], folder, seconds)
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF"):
            raise InvalidInputError(f"{program}: printed nothing ({said}): name another Chromium in CHROMIUM")
        with written_whole(target) as path:
            shutil.copyfile(printed, path)


def _run(command: list[str], folder: Path, seconds: float) -> str:
    """Run the browser and end all that it started; returns the last line that it said."""
    environment = os.environ | {"HOME": str(folder)}
    options: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            said = process.communicate(timeout=seconds)[1].strip().splitlines()
        except subprocess.TimeoutExpired:
            line = f"{command[0]}: did not print within {seconds:g} s: try again, or print the HTML file"
            raise InvalidInputError(line) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return said[-1] if said else f"exit code {process.returncode}"
