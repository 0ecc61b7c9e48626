"""A trained model as a run keeps it: its arrays, and what is needed to compute again what was computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax

from resflow.errors import InvalidInputError, check_known
from resflow.linear.fit import LinearFit
from resflow.models.stored import arrays_of_model, described_model, rebuilt_model
from resflow.notebook.data import Preparation
from resflow.notebook.evidence import EVIDENCE, labels_for
from resflow.notebook.evidence_of_groups import OF_GROUPS
from resflow.notebook.kept import described_options, preparation_tag
from resflow.point import ModelPoint, Point
from resflow.training.train import TrainingOptions
from resflow.workflow import names
from resflow.workflow.records import Run, client_in_use
from resflow.workflow.stored_points import (
    VERIFIER,
    StoredPoints,
    UnverifiableError,
    attach_points,
    none_kept,
    read_points,
    row_of,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = [
    "Trained",
    "TrainedGroups",
    "keep_models",
    "load_model",
    "load_models",
    "load_point",
    "preparation_of",
    "rebuilt_groups",
]


@dataclass(frozen=True)
class Trained:
    """The model that a run trained, with what was computed from its last point.

    Attributes:
        model: The trained model.
        fit: The linear predictor that it is compared with; None if what was computed needs none.
        evidence: What was computed from both, by names of `resflow.notebook.evidence.EVIDENCE`.
        epsilon: ε of the verdict, where one is among it.
        settings: What else it was computed with, in JSON's types; the loss by its name among it where there is no fit.
        options: How it was trained, so that its last point is measured again by the program that trained it.
    """

    model: Any
    fit: LinearFit | None
    evidence: Sequence[str] = ()
    epsilon: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: TrainingOptions | None = None

    def __post_init__(self) -> None:
        for name in self.evidence:
            check_known("evidence", name, EVIDENCE)

    def keep(self, run: Run) -> None:
        """Attach the model to the run as points/final.npz and tag where it is; or tag why it is not kept."""
        if self.fit is not None and self.fit.weighted:
            run.set_tags(none_kept("samples count differently in the linear fit, and by which weights is not kept"))
            return
        run.set_tags(keep_models(run, "final", self.model, _described(run, self)))


@dataclass(frozen=True)
class TrainedGroups:
    """Many models that a run trained, in groups of one shape each, with what was computed from all of them.

    Attributes:
        groups: The models of each group by its name, stacked: every array with an axis of them in front.
        fit: The linear predictor that they are compared with; None if each has its own.
        evidence: What was computed, by names of `resflow.notebook.evidence_of_groups.OF_GROUPS`.
        epsilon: ε of the verdicts, where there are some.
        settings: What else it was computed with, in JSON's types; the loss by its name among it where there is no fit.
    """

    groups: Mapping[str, Any]
    fit: LinearFit | None
    evidence: Sequence[str] = ()
    epsilon: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.evidence:
            check_known("evidence", name, OF_GROUPS)

    def keep(self, run: Run) -> None:
        """Attach the models to the run as points/final.npz and tag where they are; or tag why they are not kept."""
        try:
            described = {name: described_model(_first(models)) for name, models in self.groups.items()}
        except InvalidInputError as error:
            run.set_tags(none_kept(str(error)))
            return
        arrays = {
            f"{name}/{place}": array
            for name, models in self.groups.items()
            for place, array in arrays_of_model(models).items()
        }
        description = {"verifier": VERIFIER, "groups": described, **_described(run, self)}
        run.set_tags(attach_points(run, "final", arrays, description))


def rebuilt_groups(description: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of models that `TrainedGroups` kept, each stacked."""
    return {
        name: rebuilt_model(
            described,
            {key.removeprefix(f"{name}/"): each for key, each in arrays.items() if key.startswith(f"{name}/")},
            stacked=True,
        )
        for name, described in description["groups"].items()
    }


def _described(run: Run, trained: Trained | TrainedGroups) -> dict[str, Any]:
    """What is needed beside the models to compute again what was computed from them."""
    fit = trained.fit
    return {
        "data": preparation_tag(run),
        "loss": fit.loss if fit else trained.settings["loss"],
        "linear": {"max_norm": fit.max_norm, "ridge": fit.ridge} if fit else None,
        "settings": dict(trained.settings),
        "options": described_options(trained.options) if isinstance(trained, Trained) else None,
        "evidence": list(trained.evidence),
        "epsilon": trained.epsilon,
    }


def _first(models: Any) -> Any:
    """The first of several stacked models."""
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, models)


def keep_models(
    run: Run, name: str, model: Any, description: Mapping[str, Any], *, stacked: bool = False
) -> dict[str, str]:
    """Attach a model, or several stacked ones, to a run as points/NAME.npz.

    Returns:
        The tags that say where it is, or why it is not kept.
    """
    try:
        described = described_model(_first(model) if stacked else model)
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


def load_models(run_id: str, *, client: MlflowClient | None = None) -> dict[str, Any]:
    """The groups of models that a run trained, by their names, those of each stacked, as from `TrainedGroups`.

    Arguments and errors are those of `load_model`.
    """
    points, _ = _read(run_id, client)
    if "groups" not in points.description:
        raise InvalidInputError(f"the run {run_id} keeps one model, or is a member of a population: use load_model")
    return rebuilt_groups(points.description, points.arrays)


def load_point(run_id: str, *, client: MlflowClient | None = None) -> Point | ModelPoint:
    """The point that a run's training ended at: its model on its training data, which is loaded and prepared again.

    Arguments and errors are those of `load_model`; besides, the data must be there, as it was.
    """
    model, description, seed = _load(run_id, client)
    preparation = preparation_of(description, seed)
    data, _ = preparation.load()
    return Point.of(model, data.X, labels_for(data.y, model), description["loss"])


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
    points, row = _read(run_id, client)
    if "groups" in points.description:
        raise InvalidInputError(f"the run {run_id} keeps groups of models: load_models gives them all")
    if "model" not in points.description:
        raise InvalidInputError(f"the run {run_id} keeps a network's residual stream, and no model of resflow's")
    if row is None:
        return rebuilt_model(points.description["model"], points.arrays), points.description, None
    arrays = {name: array[row] for name, array in points.arrays.items()}
    seed = points.description["members"][row]["seed"]
    return rebuilt_model(points.description["model"], arrays), points.description, seed


def _read(run_id: str, client: MlflowClient | None) -> tuple[StoredPoints, int | None]:
    """The file that has a run's models, and its row in it if it is a member of a population."""
    from mlflow.exceptions import MlflowException

    client = client or client_in_use()
    try:
        stored = Run(client, run_id).stored
    except MlflowException as error:
        raise InvalidInputError(f"run_id={run_id!r} is no run of the store: {error.message}") from None
    tags, row = stored.data.tags, row_of(stored)
    holder = run_id if row is None else tags[names.PARENT]
    place, digest = tags.get(names.STORED_POINT, ""), tags.get(names.STORED_POINT_DIGEST, "")
    try:
        return read_points(Run(client, holder), place, digest), row
    except UnverifiableError as error:
        raise InvalidInputError(f"the run {run_id}: {error}") from None
