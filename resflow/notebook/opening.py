"""A notebook's first line: the run that it records to, and the precision that it computes in."""

from __future__ import annotations

from typing import Any

import jax

from resflow.plots.svg import show_well
from resflow.workflow import session
from resflow.workflow.compiled import tell_hit
from resflow.workflow.progress import tell_steps
from resflow.workflow.records import Run

__all__ = ["start_run", "tell_steps"]


def start_run(namespace: dict[str, Any], *, notebook: str) -> Run:
    """The run that a notebook records to; from here on JAX computes in float64, and figures are shown as SVG.

    To be called once the parameters are set, and before anything is computed.

    Args:
        namespace: The notebook's `globals()`.
        notebook: The notebook's name: that of its file, without .ipynb.

    Raises:
        InvalidInputError: If MLFLOW_RUN_ID names no run of the store.
    """
    jax.config.update("jax_enable_x64", True)
    show_well()
    return session.start_run(namespace, notebook=notebook)


def _tell(event: str, **_: object) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        tell_hit()


jax.monitoring.register_event_listener(_tell)  # here and not where a run is opened, as a notebook may open several
