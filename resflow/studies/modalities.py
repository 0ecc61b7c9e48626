"""Features in groups, as modalities: what linear predictors and residual units make of every subset of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import equinox as eqx
import numpy as np
import pandas as pd

from resflow.data.dataset import Dataset
from resflow.errors import InvalidInputError, nearest
from resflow.keys import random_keys
from resflow.labels import count_outputs
from resflow.losses import Loss, as_loss
from resflow.models.residual_unit import residual_unit
from resflow.studies.population_problem import PopulationProblem, population_outcomes, population_problem
from resflow.training.population import train_population
from resflow.training.train import TrainingOptions

__all__ = ["compare_subsets", "ends_of_subsets", "modalities", "subsets", "supersets"]


def modalities(data: Dataset, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The features that have each word in their name, as indices of columns.

    Args:
        data: The data set.
        words: One word a modality.

    Raises:
        InvalidInputError: If there are fewer than two words, a word is in no feature's name, or a feature has two of
            them.

    >>> data = Dataset("table", np.ones((2, 3)), np.ones(2), ("text length", "image red", "image blue"))
    >>> modalities(data, ["text", "image"])
    {'text': (0,), 'image': (1, 2)}
    """
    if len(words) < 2:
        raise InvalidInputError(
            f"modalities={list(words)} must be at least two, each a word of the names of its features"
        )
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        found[word] = tuple(j for j, name in enumerate(data.feature_names) if word in name)
        if not found[word]:
            parts = {part for name in data.feature_names for part in name.split()}
            raise InvalidInputError(
                f"modality {word!r} is in the name of no feature of {data.name}: nearest are "
                f"{', '.join(nearest(word, sorted(parts)))}"
            )
    for one, other in combinations(found, 2):
        if both := set(found[one]) & set(found[other]):
            name = data.feature_names[min(both)]
            raise InvalidInputError(f"modalities {one!r} and {other!r} share the feature {name!r} of {data.name}")
    if len(found) < len(words):
        raise InvalidInputError(f"modalities={list(words)} names one of them twice")
    return found


def subsets(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset but the empty one, the smallest first.

    >>> subsets(["a", "b"])
    [('a',), ('b',), ('a', 'b')]
    """
    return [chosen for size in range(1, len(words) + 1) for chosen in combinations(words, size)]


def compare_subsets(
    data: Dataset,
    groups: Mapping[str, Sequence[int]],
    *,
    loss: str | Loss,
    max_norm: float,
    seeds: Sequence[int],
    feature_map: Callable[[int, Any], Callable[[Any], Any]],
    options: TrainingOptions,
    test_fraction: float = 0.25,
    epsilon: float = 1e-3,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit the best linear predictor and train a residual unit on every subset of the modalities and every seed.

    A seed draws the split into training and test set, the same for every subset, and the unit's initial point.
    Features are standardised by the training set, and an intercept is added.

    Args:
        data: All features, labelled for the loss.
        groups: The columns of each modality, as `modalities` gives them.
        loss: A loss or its name.
        max_norm: Norm bound on the linear predictors, intercept included: the balls of subset and superset are nested.
        seeds: Which seeds.
        feature_map: What makes f_θ, from the number of inputs and a random key.
        options: How to train the units.
        test_fraction: Share of the samples held out.
        epsilon: Of the verdict on a unit's last point, see `analyze`.

    Returns:
        A table with one row for each subset and seed: subset (the words joined by +), modalities (how many), seed,
        linear_objective and test_linear_objective, linear_suboptimality (at most how far the first is above the
        minimum), linear_converged, objective and test_objective of the unit, linear_predictor_gap,
        test_linear_predictor_gap, and verdict. And the trained units of each subset by its name, stacked.

    Raises:
        InvalidInputError: If max_norm is negative, or an option is out of range.
    """
    loss = as_loss(loss)
    outputs = count_outputs(data.y, loss)
    tables, trained = [], {}
    for chosen in subsets(list(groups)):
        problem = _problem(data, groups, chosen, loss, max_norm, seeds, test_fraction)

        def build(seed, d=problem.X.shape[2]):
            keys = random_keys(seed)
            return residual_unit(d, feature_map(d, keys.features), key=keys.model, outputs=outputs), keys.batches

        models, keys = eqx.filter_jit(eqx.filter_vmap(build))(np.asarray(seeds))
        result = train_population(
            models,
            problem.X,
            problem.y,
            keys=keys,
            loss=loss,
            options=options,
            data_sets=problem.data_sets,
            exact=False,
        )
        trained["+".join(chosen)] = result.models
        tables.append(_ends(problem, chosen, seeds, result.models, loss, epsilon))
    return pd.concat(tables, ignore_index=True), trained


def ends_of_subsets(
    data: Dataset,
    models: Mapping[str, Any],
    *,
    groups: Mapping[str, Sequence[int]],
    loss: str | Loss,
    max_norm: float,
    seeds: Sequence[int],
    test_fraction: float,
    epsilon: float,
) -> pd.DataFrame:
    """The table of `compare_subsets` of units that it trained, computed from these units: nothing is trained.

    Args:
        data: The data that it had.
        models: The trained units of each subset, as it gives them.
        groups, loss, max_norm, seeds, test_fraction, epsilon: What it was given.
    """
    loss = as_loss(loss)
    tables = []
    for chosen in subsets(list(groups)):
        problem = _problem(data, groups, chosen, loss, max_norm, seeds, test_fraction)
        tables.append(_ends(problem, chosen, seeds, models["+".join(chosen)], loss, epsilon))
    return pd.concat(tables, ignore_index=True)


def _problem(
    data: Dataset,
    groups: Mapping[str, Sequence[int]],
    chosen: Sequence[str],
    loss: Loss,
    max_norm: float,
    seeds: Sequence[int],
    test_fraction: float,
) -> PopulationProblem:
    """What the units of one subset are trained on and compared with, a member a seed."""
    columns = sorted(column for word in chosen for column in groups[word])
    part = replace(data, X=data.X[:, columns], feature_names=tuple(data.feature_names[j] for j in columns))
    members = [{"seed": int(seed), "max_norm": max_norm, "ridge": 0.0} for seed in seeds]
    return population_problem(part, members, test_fraction=test_fraction, standardize=True, intercept=True, loss=loss)


def _ends(
    problem: PopulationProblem,
    chosen: Sequence[str],
    seeds: Sequence[int],
    units: Any,
    loss: Loss,
    epsilon: float,
) -> pd.DataFrame:
    """The rows of one subset, of its trained units."""
    further = "objective", "linear_predictor_gap"
    outcomes = population_outcomes(problem, units, range(len(seeds)), loss=loss, epsilon=epsilon, further=further)
    held_out = [
        float(np.mean(loss.value(problem.test[place].X @ fit.W.T, problem.test[place].y)))
        for place, fit in zip(problem.data_sets, problem.linear_fits, strict=True)
    ]
    table = pd.DataFrame(
        {
            "subset": "+".join(chosen),
            "modalities": len(chosen),
            "seed": list(seeds),
            "linear_objective": outcomes["best_linear_objective"],
            "linear_suboptimality": [fit.suboptimality for fit in problem.linear_fits],
            "linear_converged": outcomes["linear_fit_converged"],
            "test_linear_objective": held_out,
            "objective": outcomes["objective"],
            "linear_predictor_gap": outcomes["linear_predictor_gap"],
            "test_linear_predictor_gap": outcomes["test_linear_predictor_gap"],
            "verdict": outcomes["verdict"],
        }
    )
    table["test_objective"] = table["test_linear_objective"] + table["test_linear_predictor_gap"]
    return table


def supersets(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """By how much every superset is better than each of its subsets.

    Args:
        table: Columns subset (words joined by +), seed and `column`.
        column: What to compare; smaller is better.

    Returns:
        One row for each pair and seed: subset, superset, seed and improvement, negative where the superset is worse.
    """
    wide = table.pivot(index="seed", columns="subset", values=column)
    words = {name: set(name.split("+")) for name in wide}
    rows = [
        pd.DataFrame({"subset": small, "superset": large, "seed": wide.index, "improvement": wide[small] - wide[large]})
        for small, large in permutations(wide, 2)
        if words[small] < words[large]
    ]
    return pd.concat(rows, ignore_index=True)
