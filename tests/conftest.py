"""What every test needs: float64, and shapes checked at run time."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

# The library's modules, one by one: the workflow below it has no arrays to check.
_LIBRARY = [
    f"resflow.{path.stem}"
    for path in (Path(__file__).parents[1] / "resflow").glob("*.py")
    if path.stem not in ("__init__", "__main__")
]
_hook = jaxtyping.install_import_hook(_LIBRARY, "beartype.beartype")


@pytest.fixture
def unchecked_types():
    """Switch the run-time check of annotated shapes off, so that the library's own messages are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
