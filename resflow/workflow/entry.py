"""The command's way in, which is there without the workflow's packages, too."""

from __future__ import annotations

import sys

from resflow.workflow.extra import missing_package

__all__ = ["main"]


def main() -> None:
    """Run the command, or say in one line which package it lacks."""
    try:
        from resflow.workflow.cli import main as command
    except ModuleNotFoundError as error:
        if not (said := missing_package(error)):
            raise
        print(f"resflow: error: {said}", file=sys.stderr)
        sys.exit(2)
    command()
