"""A trained model as a run keeps it: its arrays, and what is needed to compute again what was computed from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax

from resflow.errors import InvalidInputError, check_known
from resflow.linear.fit import LinearFit
from resflow.models.stored import arrays_of_model, described_model, rebuilt_model
from resflow.notebook.data import Preparation
from resflow.notebook.evidence import EVIDENCE, one_hot
from resflow.point import ModelPoint, Point
from resflow.workflow import names
from resflow.workflow.records import Run, client_in_use
from resflow.workflow.stored_points import UnverifiableError, attach_points, none_kept, read_points, row_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["VERIFIER", "Trained", "keep_models", "load_model", "load_point", "preparation_of"]

VERIFIER = f"{__package__}.verification"
"""The module that computes values again from a stored point."""


@dataclass(frozen=True)
class Trained:
    """The model that a run trained, with what was computed from its last point.

    Attributes:
        model: The trained model.
        fit: The linear predictor that it is compared with.
        evidence: What was computed from both, by names of `resflow.notebook.evidence.EVIDENCE`.
        epsilon: ε of the verdict, where one is among it.
    """

    model: Any
    fit: LinearFit
    evidence: Sequence[str] = ()
    epsilon: float | None = None

    def __post_init__(self) -> None:
        for name in self.evidence:
            check_known("evidence", name, EVIDENCE)

    def keep(self, run: Run) -> None:
        """Attach the model to the run as points/final.npz and tag where it is; or tag why it is not kept."""
        if self.fit.weighted:
            run.set_tags(none_kept("samples count differently in the linear fit, and by which weights is not kept"))
            return
        description = {
            "data": json.loads(run.stored.data.tags.get(names.DATA_PREPARATION, "null")),
            "loss": self.fit.loss,
            "linear": {"max_norm": self.fit.max_norm, "ridge": self.fit.ridge},
            "evidence": list(self.evidence),
            "epsilon": self.epsilon,
        }
        run.set_tags(keep_models(run, "final", self.model, description))


def keep_models(
    run: Run, name: str, model: Any, description: Mapping[str, Any], *, stacked: bool = False
) -> dict[str, str]:
    """Attach a model, or several stacked ones, to a run as points/NAME.npz.

    Returns:
        The tags that say where it is, or why it is not kept.
    """
    one = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, model) if stacked else model
    try:
        described = described_model(one)
    except InvalidInputError as error:  # a class of the user's own, which only his code can make again
        return none_kept(str(error))
    return attach_points(run, name, arrays_of_model(model), {"verifier": VERIFIER, "model": described, **description})


def load_model(run_id: str, *, client: MlflowClient | None = None) -> Any:
    """The model that a run trained, in the precision it had.

    Args:
        run_id: MLflow's id of the run; that of a member of a population, too.
        client: Of the store that the run is in; the project's, or the one that MLFLOW_TRACKING_URI names, if None.

    Raises:
        InvalidInputError: If there is no such run, it keeps no model, or the file is not the one that was recorded.
    """
    return _load(run_id, client)[0]


def load_point(run_id: str, *, client: MlflowClient | None = None) -> Point | ModelPoint:
    """The point that a run's training ended at: its model on its training data, which is loaded and prepared again.

    Arguments and errors are those of `load_model`; besides, the data must be there, as it was.
    """
    model, description, seed = _load(run_id, client)
    preparation = preparation_of(description, seed)
    data, _ = preparation.load()
    return Point.of(model, data.X, one_hot(data.y, model), description["loss"])


def preparation_of(description: Mapping[str, Any], seed: int | None = None) -> Preparation:
    """How the data of a stored point was prepared; of a member of a population by its own seed.

    Raises:
        InvalidInputError: If the run did not say.
    """
    kept = description.get("data")
    if not kept:
        raise InvalidInputError("the run did not record how its data was prepared, as resflow.notebook.prepare does")
    return Preparation(**kept | ({} if seed is None else {"seed": seed}))


def _load(run_id: str, client: MlflowClient | None) -> tuple[Any, dict[str, Any], int | None]:
    from mlflow.exceptions import MlflowException

    client = client or client_in_use()
    try:
        stored = Run(client, run_id).stored
    except MlflowException as error:
        raise InvalidInputError(f"run_id={run_id!r} is no run of the store: {error.message}") from None
    tags, row = stored.data.tags, row_of(stored)
    holder = run_id if row is None else tags[names.PARENT]
    try:
        points = read_points(
            Run(client, holder), tags.get(names.STORED_POINT, ""), tags.get(names.STORED_POINT_DIGEST, "")
        )
    except UnverifiableError as error:
        raise InvalidInputError(f"the run {run_id}: {error}") from None
    if row is None:
        return rebuilt_model(points.description["model"], points.arrays), points.description, None
    arrays = {name: array[row] for name, array in points.arrays.items()}
    seed = points.description["members"][row]["seed"]
    return rebuilt_model(points.description["model"], arrays), points.description, seed
