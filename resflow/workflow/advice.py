"""What to do about errors of MLflow that a notebook meets because it runs in a run of resflow's."""

from __future__ import annotations

__all__ = ["advice"]

_ADVICE = {
    "active experiment ID does not match environment run ID": (
        "resflow has opened the run already, in the experiment of the notebook's name: leave out "
        "mlflow.set_experiment, and choose the experiment by the environment variable MLFLOW_EXPERIMENT_NAME"
    ),
    "Changing param values is not allowed": (
        "the run has had the notebook's parameters since it began: log another value under another name"
    ),
}


def advice(error: str) -> str:
    """What to do about an error, by its message; "" if it is none of those that resflow brings about."""
    return next((advised for message, advised in _ADVICE.items() if message in error), "")
