"""What the members of a population are trained on and compared with, and how they came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from resflow.certificates.held_out import held_out_gap
from resflow.data.dataset import Dataset, Standardization
from resflow.exported import exported
from resflow.linear.predictor import LinearFit, fit_linear_predictor
from resflow.losses import Loss, as_loss
from resflow.stationarity.terms import FitEvidence
from resflow.studies.ends import describe_each, end_of

__all__ = ["PopulationProblem", "population_outcomes", "population_problem"]


@dataclass(frozen=True)
class PopulationProblem:
    """The data and the best linear predictors of m members; those with the same seed share their data.

    Attributes:
        train: The distinct training sets, all of one shape.
        test: Their test sets.
        data_sets: Which of them each member has, shape (m,).
        linear_fits: The best linear predictor of each member on its training set.
    """

    train: tuple[Dataset, ...]
    test: tuple[Dataset, ...]
    data_sets: np.ndarray
    linear_fits: tuple[LinearFit, ...]

    @cached_property
    def X(self) -> np.ndarray:
        """The training samples, shape (sets, n, d)."""
        return np.stack([part.X for part in self.train])

    @cached_property
    def y(self) -> np.ndarray:
        """The training labels, shape (sets, n)."""
        return np.stack([part.y for part in self.train])

    def summary(self) -> pd.DataFrame:
        """What is trained on and compared with, and whether the linear fits can be relied on."""
        unsure = sum(not fit.converged for fit in self.linear_fits)
        rows = {
            "training samples": self.X.shape[1],
            "test samples": len(self.test[0].y),
            "features": self.X.shape[2],
            "distinct splits": len(self.train),
            "best linear objective, mean": f"{np.mean([fit.objective for fit in self.linear_fits]):.6g}",
            "linear fits": f"{unsure} DID NOT CONVERGE: no statement about these gaps can rest on them"
            if unsure
            else f"all {len(self.linear_fits)} converged",
        }
        return pd.Series(rows, name="problem").to_frame()


def population_problem(
    data: Dataset,
    members: Sequence[Mapping[str, Any]],
    *,
    test_fraction: float,
    standardize: bool,
    intercept: bool,
    loss: str | Loss,
) -> PopulationProblem:
    """Split, standardise and fit for each member what differs between them, and that once only.

    Args:
        data: All samples, labelled for the loss.
        members: The seed of each one's split, and the max_norm and ridge of its linear fit.
        test_fraction: Share of the samples held out.
        standardize: Whether to standardise, by the training set.
        intercept: Whether to add a constant feature.
        loss: The loss of the linear fits.
    """

    @cache
    def split(seed: int) -> tuple[Dataset, Dataset]:
        parts = data.split(test_fraction, seed=seed)
        if standardize:
            scaling = Standardization.fit(parts[0])
            parts = scaling.apply(parts[0]), scaling.apply(parts[1])
        return (parts[0].with_intercept(), parts[1].with_intercept()) if intercept else parts

    @cache
    def linear_fit(seed: int, max_norm: float | None, ridge: float) -> LinearFit:
        train, _ = split(seed)
        return fit_linear_predictor(train.X, train.y, loss=loss, max_norm=max_norm, ridge=ridge)

    fits = tuple(linear_fit(member["seed"], member["max_norm"], member["ridge"]) for member in members)
    seeds = list(dict.fromkeys(member["seed"] for member in members))
    train, test = zip(*map(split, seeds), strict=True)
    return PopulationProblem(train, test, np.array([seeds.index(member["seed"]) for member in members]), fits)


def population_outcomes(
    problem: PopulationProblem,
    models: Any,
    members: Sequence[int],
    *,
    loss: str | Loss,
    epsilon: float,
    further: Sequence[str] = (),
) -> pd.DataFrame:
    """How members came out: on test samples, against the linear predictor, and by the verdict on their last point.

    Args:
        problem: Their data and linear fits.
        models: The trained models of these members, stacked.
        members: Which members these are.
        loss: The loss.
        epsilon: Of the verdict, see `analyze`; it is on the weights around f_θ, θ held fixed, as `end_of` says.
        further: What else of that which `end_of` returns is wanted.

    Returns:
        One row a member: best_linear_objective, linear_fit_grad_norm, linear_fit_converged, test_linear_predictor_gap,
        test_linear_predictor_gap_error and verdict; for residual units lambda_min and lambda_min_residual, and for
        other models partial_grad_norm; and what further was wanted.
    """
    loss = as_loss(loss)
    sets = problem.data_sets[np.asarray(members)]
    fits = [problem.linear_fits[member] for member in members]
    X_test = np.stack([part.X for part in problem.test])
    predictions = np.asarray(_predictions(models, jnp.asarray(X_test), jnp.asarray(sets)))
    gaps = [
        held_out_gap(p, problem.test[place].X, problem.test[place].y, loss=loss, fit=fit)
        for p, place, fit in zip(predictions, sets, fits, strict=True)
    ]
    outcomes = {
        "best_linear_objective": [fit.objective for fit in fits],
        "linear_fit_grad_norm": [fit.grad_norm for fit in fits],
        "linear_fit_converged": [fit.converged for fit in fits],
        "test_linear_predictor_gap": [gap.gap for gap in gaps],
        "test_linear_predictor_gap_error": [gap.standard_error for gap in gaps],
    }
    linear = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *map(FitEvidence.of, fits))
    shared = jnp.asarray(problem.X), jnp.asarray(problem.y), epsilon, loss, tuple(further)
    outcomes |= describe_each(_outcome, models, (jnp.asarray(sets), linear), *shared)
    return pd.DataFrame(outcomes, index=pd.Index(members, name="member"))


def _outcome(model, own, X, y, epsilon, loss, further):
    place, fit = own
    end = end_of(model, X[place], y[place], fit, epsilon, loss)
    # The gradient of a residual unit is measured along training.
    wanted = ("lambda_min", "lambda_min_residual") if "lambda_min" in end else ("partial_grad_norm",)
    return {name: end[name] for name in (*wanted, "verdict", *further)}


@partial(exported, arrays_only=True)
def _predictions(models, X, sets):
    return eqx.filter_vmap(lambda model, place: model(X[place]))(models, sets)
