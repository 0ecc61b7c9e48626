"""What every test needs: float64, shapes checked at run time, and a store of its own."""

from __future__ import annotations

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

LIBRARY = [
    f"resflow.{module}"
    for module in (
        "arrays certificate data errors escape linear losses model newton plots search spectrum stationarity train".split()
    )
]
_hook = jaxtyping.install_import_hook(LIBRARY, "beartype.beartype")


@pytest.fixture
def unchecked_types():
    """Switch the run-time check of annotated shapes off, so that the library's own messages are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
