"""What a notebook measured in runs of its own below the engine's run, as metrics of the engine's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resflow.workflow.tracking import Run, every_run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["adopt_metrics"]


def adopt_metrics(client: MlflowClient, run_id: str) -> None:
    """Log what exactly one of the runs below a run recorded, and it did not itself.

    MLflow's autologging ends the run that it finds once a model is fitted, and what the notebook logs after that goes
    to a second run, below the first. It is all the same execution, by whose metrics it is compared with others. What
    several of the runs below recorded belongs to each of them, and members of a population are points of their own.
    """
    run = client.get_run(run_id)
    below = every_run(client, [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    found: dict[str, list[float]] = {}
    for child in below:
        if "resflow.role" not in child.data.tags:
            for name, value in child.data.metrics.items():
                found.setdefault(name, []).append(value)
    Run(client, run_id).log_metrics(
        {name: values[0] for name, values in found.items() if len(values) == 1 and name not in run.data.metrics}
    )
