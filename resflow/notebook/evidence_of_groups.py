"""What notebooks compute from many models together, by name: recorded once, and computed again to verify it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pandas as pd

from resflow.keys import random_keys
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Loss, as_loss
from resflow.notebook.claim import Claim
from resflow.notebook.evidence import LastPoint
from resflow.studies import scalar_example as example
from resflow.studies.modalities import ends_of_subsets
from resflow.studies.ridge_minima import judge_ridge_minima, measures_of_minima, ridge_table
from resflow.studies.sgd_excess import SGDExcess, excess_table, judge_iterates, measures_of_excess, slope_table
from resflow.studies.sgd_sources import fresh_and_bootstrap
from resflow.studies.skip_comparison import training_ends

__all__ = ["OF_GROUPS"]


def _ends(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    assert last.epsilon is not None
    ends = [
        training_ends(models, last.train.X, last.train.y, loss=last.loss, fit=last.fit, epsilon=last.epsilon)
        for models in groups.values()
    ]
    return {}, {"ends": pd.concat(ends, ignore_index=True)}


def _mean_gaps(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    loss, gaps = as_loss(last.loss), {}
    for name, models in groups.items():
        values = _objectives(models, last.train.X, last.train.y, loss)
        gaps[f"linear_predictor_gap_{name}"] = float(np.mean(np.asarray(values) - last.fit.objective))
    return gaps, {}


@eqx.filter_jit
def _objectives(models: Any, X: Any, y: Any, loss: Loss) -> jax.Array:
    """The mean loss of each of several stacked models, compiled, as that of a training is."""
    return eqx.filter_vmap(lambda model: loss.value(model(X), y).mean())(models)


def _subsets(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    table = ends_of_subsets(last.train, groups, **last.settings)
    return {"best_linear_objective": table["linear_objective"].max()}, {"subsets": table}


def _example(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    saddles = example.flat_saddles(np.asarray(last.settings["epsilons"]))
    in_panels = [np.reshape(points, (-1, 2)) for points in last.settings["in_panels"]]
    points = example.landscape_points(in_panels, ridge=last.settings["picture_ridge"])
    return example.measures(saddles, points), {"landscape_points": points}


def _ridge_minima(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    ridges, ends = np.asarray(last.settings["ridges"]), {}
    for inputs, units in groups.items():
        X = last.train.X[:, last.settings["columns"][: int(inputs)]]
        ends[int(inputs)] = judge_ridge_minima(units, X, last.train.y, loss=last.loss, ridges=ridges)
    table, slack = ridge_table(ends)
    return measures_of_minima(table) | Claim.of_bound("", slack).values(), {"ridge_minima": table}


def _excess(groups: Mapping[str, Any], last: LastPoint) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    settings = last.settings
    keys, loss, radius = random_keys(settings["seed"]), last.loss, settings["radius"]
    of_sources = {name: settings[name] for name in ("inputs", "nonlinearity", "seed")}
    of_runs = {name: settings[name] for name in ("feature_norm", "delta", "parts")}
    steps, results = np.asarray(settings["steps"]), dict[tuple[str, str], SGDExcess]()
    for kind, (source, X, y) in fresh_and_bootstrap(last.train, **of_sources, key=keys.data).items():
        fit = fit_linear_predictor(X, y, loss=loss, max_norm=radius)
        ways = {name.partition(" ")[2]: each for name, each in groups.items() if name.startswith(f"{kind} ")}
        seeds = jax.random.split(keys.batches, settings["seeds"])
        how = {"loss": loss, "radius": radius, "linear_w": fit.W, "keys": seeds, "steps": steps, **of_runs}
        found = judge_iterates(list(ways.values()), source, **how)
        results |= {(settings["titles"][kind], way): each for way, each in zip(ways, found, strict=True)}
    table, slopes = excess_table(results), slope_table(results)
    margin = float(table["share_within"].min() - (1.0 - settings["delta"]))
    values = measures_of_excess(table, slopes) | Claim("", margin >= 0, margin).values()
    return values, {"excess": table, "slopes": slopes}


OF_GROUPS: dict[str, Callable[[Mapping[str, Any], LastPoint], tuple[dict[str, Any], dict[str, pd.DataFrame]]]] = {
    "ends": _ends,
    "excess": _excess,
    "example": _example,
    "mean_gaps": _mean_gaps,
    "ridge_minima": _ridge_minima,
    "subsets": _subsets,
}
"""What is computed of groups of models: metrics, tags, and tables as they were recorded.

    ends          table `ends`: what `training_ends` says of each model, in the order of the groups
    excess        tables `excess` and `slopes` of the iterates of projected SGD, and what they say of Theorem 4's bound
    example       table `landscape_points`, and the measures of Shamir's scalar example, which needs no models
    mean_gaps     linear_predictor_gap_GROUP: the mean gap of each group's models
    ridge_minima  table `ridge_minima` of the units that training with each ridge strength ended at, and its measures
    subsets       table `subsets`: what `compare_subsets` says of each unit, against a linear predictor of its own
"""
