"""What notebooks compute from the last point of training, by name: recorded once, and computed again to verify it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resflow.certificates.augmented import fit_augmented
from resflow.certificates.held_out import held_out_gap
from resflow.data.dataset import Dataset
from resflow.labels import one_hot
from resflow.models.residual_unit import NoSkipNetwork, OutputSkipNetwork, ResidualUnit
from resflow.networks.equinox import probe
from resflow.notebook.probed import probed
from resflow.point import ModelPoint, Point
from resflow.stationarity.analyze import analyze
from resflow.studies.deep_networks import curvature_along
from resflow.studies.rank_loss import error_rates
from resflow.training.measures import Checkpoints, GapMeasure, StationarityMeasure
from resflow.training.train import TrainingOptions, measured

__all__ = ["EVIDENCE", "LastPoint", "labels_for"]


@dataclass(frozen=True)
class LastPoint:
    """A trained model with all that is computed from it: data, linear predictor and ε.

    Attributes:
        model: The model; None where there are groups of them.
        train, test: What it was trained on, and what was held out, if anything was.
        fit: The best linear predictor of the training data, a `LinearFit`; None where nothing needs it.
        loss: The loss, by its name.
        epsilon: ε of the verdict.
        settings: What else values were computed with.
        options: How the model was trained; of no step where that is not known.
    """

    model: Any
    train: Dataset
    test: Dataset | None
    fit: Any
    loss: str
    epsilon: float | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: TrainingOptions = field(default_factory=lambda: TrainingOptions(steps=0))

    @property
    def y(self) -> np.ndarray:
        """The training labels, as the model's outputs need them."""
        return labels_for(self.train.y, self.model)

    @property
    def point(self) -> Point | ModelPoint:
        """The model on its training data."""
        return Point.of(self.model, self.train.X, self.y, self.loss)


def labels_for(y: np.ndarray, model: Any) -> np.ndarray:
    """Labels as they are, or the classes 0, ..., m − 1 as unit vectors where the model has an axis of m outputs."""
    if not isinstance(model, ResidualUnit | OutputSkipNetwork | NoSkipNetwork) or y.ndim == 2:
        return y
    weights = model.v if isinstance(model, NoSkipNetwork) else model.W
    return y if weights.ndim == 1 else one_hot(y, weights.shape[0])


def _measured(last: LastPoint, measure: Any) -> dict[str, Any]:
    """What training measures, by the program that does."""
    return measured(last.model, last.train.X, last.y, loss=last.loss, options=last.options, measure=measure)


def _gap(last: LastPoint) -> dict[str, Any]:
    return _measured(last, GapMeasure.against(last.fit, last.loss))


def _checkpoints(last: LastPoint) -> dict[str, Any]:
    found = _measured(last, Checkpoints(GapMeasure.against(last.fit, last.loss)))
    return {name: value for name, value in found.items() if name != "weights"}


def _stationarity(last: LastPoint) -> dict[str, Any]:
    return _measured(last, StationarityMeasure.against(last.fit, last.loss))


def _linear(last: LastPoint) -> dict[str, Any]:
    fit = last.fit
    return {
        "best_linear_objective": fit.objective,
        "linear_fit_grad_norm": fit.grad_norm,
        "linear_fit_converged": fit.converged,
    }


def _verdict(last: LastPoint) -> dict[str, Any]:
    assert last.epsilon is not None
    report = analyze(last.point, last.fit, epsilon=last.epsilon)
    return {**report.metrics(), "verdict": report.verdict}


def _augmented(last: LastPoint) -> dict[str, Any]:
    split = fit_augmented(last.point, last.fit)
    return {**split.metrics(), "augmented_fit_converged": split.converged}


def _held_out(last: LastPoint) -> dict[str, Any]:
    assert last.test is not None
    gap = held_out_gap(last.model(last.test.X), last.test.X, last.test.y, loss=last.loss, fit=last.fit)
    return {"test_linear_predictor_gap": gap.gap, "test_linear_predictor_gap_error": gap.standard_error}


def _curvature(last: LastPoint) -> dict[str, Any]:
    row = curvature_along([last.point]).iloc[0]  # type: ignore[list-item]
    return {name: float(row[name]) for name in ("lambda_min", "lambda_min_residual")}


def _errors(last: LastPoint) -> dict[str, Any]:
    assert last.test is not None
    return error_rates(last.model, last.fit, last.test)


def _probe(last: LastPoint) -> dict[str, Any]:
    assert last.test is not None
    net = last.model.network
    report = probe(
        net,
        last.train.X,
        last.train.y,
        blocks=net.blocks,
        head=net.head,
        held_out=(last.test.X, last.test.y),
        **last.settings,
    )
    found = probed(report)
    return {**found.metrics, **found.tags, **found.claim.values()}


EVIDENCE: dict[str, Callable[[LastPoint], dict[str, Any]]] = {
    "linear": _linear,
    "gap": _gap,
    "checkpoints": _checkpoints,
    "stationarity": _stationarity,
    "verdict": _verdict,
    "augmented": _augmented,
    "held_out": _held_out,
    "curvature": _curvature,
    "errors": _errors,
    "probe": _probe,
}
"""What is computed, by what `record` calls it: metrics by the fields of what the library returns, and tags.

    linear        the best linear predictor's objective, its gradient's norm, and whether the fit is finished
    gap           the last row of `GapMeasure`: gap, certificate and bounds
    checkpoints   the same, of training that kept its weights along the way by `Checkpoints`
    stationarity  the last row of `StationarityMeasure`: the same, and λ_min with its bracket
    verdict       `analyze` at ε
    augmented     `fit_augmented`
    held_out      the gap on samples held out, with its standard error
    curvature     λ_min of the Hessian in all parameters, with its residual
    errors        the shares of wrong classes, of the model and the linear predictor
    probe         the report of `probe` on a `PreActivationNetwork`, with samples held out, and the margin of its claim
"""
