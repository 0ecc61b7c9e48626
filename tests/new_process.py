"""A process of its own for what depends on how JAX starts: its flags, devices and caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["python"]

ROOT = Path(__file__).parents[1]


def python(*arguments: str, **changed: str | None) -> str:
    """What Python prints, run in the project's folder; it has to succeed.

    Args:
        arguments: Of the interpreter.
        changed: Variables of the environment that are to differ from here, None for those to be left out.
    """
    environment = {name: value for name, value in (os.environ | changed).items() if value is not None}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
