"""Where every command ends: an exit code, and one line of whatever went wrong."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from resflow.errors import InvalidInputError
from resflow.workflow.extra import missing_package
from resflow.workflow.limits import one_line
from resflow.workflow.plainly import in_plain_words, with_traceback_file
from resflow.workflow.project import project_root, store_in_use
from resflow.workflow.quiet import collected_log
from resflow.workflow.store_errors import UnusableStoreError

if TYPE_CHECKING:
    from papermill.exceptions import PapermillExecutionError

__all__ = ["fail", "fail_for_cell", "guarded"]

LENGTH = 1800
"""Characters of the one line at most."""

BAD_INPUT = (InvalidInputError.__name__, UnusableStoreError.__name__, "StoreMovedError")
"""What a notebook's cell raises where the user can act."""


def guarded(command: Callable[[], Any]) -> int:
    """Call the command; its exit code, after one line on standard error of whatever went wrong.

    The codes are 0; 2 for what the user can mend; 1 for what the world did to us, and for faults of our own, which
    are called that; 130 for Ctrl-C. What isn't the user's input has its traceback in a file, which the line names.
    """
    with collected_log() as log:
        try:
            code = command()
            if sys.stdout is not None:
                sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except UnusableStoreError as error:
            return _say(with_traceback_file(str(error), error, log), 2)
        except InvalidInputError as error:
            return _say(str(error), 2)
        except NoArgsIsHelpError as error:  # its message is the help
            _write(error.format_message())
            return 2
        except click.UsageError as error:
            return _say(_with_help(error), 2)
        except click.ClickException as error:
            return _say(error.format_message(), 2)
        except (KeyboardInterrupt, click.Abort):
            return _say("interrupted", 130)
        except BrokenPipeError:
            _drop_output()  # nobody reads, as after `| head`: Click and rich say nothing either
            return 1
        except Exception as error:
            return _told(error, log)


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line on standard error and an exit code."""
    sys.exit(_say(message, code))


def fail_for_cell(error: PapermillExecutionError, notebook: Path | str, more: str = "") -> NoReturn:
    """End the command with what a cell raised: as bad input, or with the cell and what more there is to say."""
    said = one_line(error.evalue, 600)
    if error.ename in BAD_INPUT:
        fail(said, 2)
    fail(f"cell {error.cell_index + 1} of {notebook} raised {error.ename}: {said}{more}", 1)


def _with_help(error: click.UsageError) -> str:
    """What is wrong with a command line, and the command that says what is allowed."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    mark = "" if message.endswith("?") else ":"
    return f"{message}{mark} {error.ctx.command_path} -h says what is allowed" if error.ctx else message


def _told(error: Exception, log: deque[str]) -> int:
    """Tell of an error that is not the user's."""
    if isinstance(error, FileNotFoundError):
        try:
            project_root()
        except InvalidInputError as gone:  # the current folder
            return _say(str(gone), 2)
    if lacking := missing_package(error):
        return _say(with_traceback_file(lacking, error, log), 2)
    found = in_plain_words(error, store_in_use())
    if found is None:
        text = one_line(error)
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return _say(with_traceback_file(f"internal error: {what}; please report it", error, log), 1)
    if isinstance(error, OSError) and error.filename is None:  # of standard output
        _drop_output()
    code = 2 if isinstance(found, UnusableStoreError) else 1
    return _say(with_traceback_file(str(found), error, log), code)


def _say(message: str, code: int) -> int:
    _write(f"resflow: error: {one_line(message, LENGTH)}")
    return code


def _write(text: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed, or a full disk: the exit code has to do
            print(text, file=sys.stderr, flush=True)


def _drop_output() -> None:
    """Let what is still to be written to standard output go nowhere, as Python would complain of it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
