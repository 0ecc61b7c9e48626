"""What a run recorded of its last point, computed again from the stored model and the data, by the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from resflow.data.dataset import Dataset
from resflow.errors import InvalidInputError
from resflow.linear.predictor import fit_linear_predictor
from resflow.models.stored import rebuilt_model
from resflow.notebook.data import labelled_data
from resflow.notebook.evidence import EVIDENCE, LastPoint, labels_for
from resflow.notebook.evidence_of_groups import OF_GROUPS
from resflow.notebook.kept import options_again
from resflow.notebook.trained import preparation_of, rebuilt_groups
from resflow.notebook.trained_stream import of_stream
from resflow.studies.population_problem import population_outcomes, population_problem
from resflow.training.measures import GapMeasure
from resflow.training.population import ask_for_cpu_devices, measured_population
from resflow.workflow import names
from resflow.workflow.stored_points import StoredPoints, UnverifiableError
from resflow.workflow.verification import Recomputed

__all__ = ["recompute"]


def recompute(
    points: StoredPoints, rows: Sequence[int | None], tags: Sequence[Mapping[str, str]], cpu_devices: int
) -> list[Recomputed | UnverifiableError]:
    """What was recorded of stored points, computed again; or why it cannot be.

    Args:
        points: A file of points.
        rows: Which of the members in it; None alone for the point of a run of its own.
        tags: The tags of each of these runs, which say what data it had.
        cpu_devices: On how many CPU devices the run computed: programs are found compiled, and sum in the same order,
            on as many.
    """
    ask_for_cpu_devices(cpu_devices)
    with jax.enable_x64(True):
        try:
            if None in rows:
                return [_of_run(points, tags[0])]
            return _of_members(points, [row for row in rows if row is not None], tags)
        except InvalidInputError as error:  # no such file of data, or not as the run found it
            return [UnverifiableError(str(error)) for _ in rows]
        except UnverifiableError as error:
            return [error for _ in rows]


def _of_run(points: StoredPoints, tags: Mapping[str, str]) -> Recomputed:
    description = points.description
    if "stream" in description:
        return _of_stream(points, tags)
    train, test = preparation_of(description).load()
    _check_data(train, test, tags)
    loss, groups = description["loss"], "groups" in description
    model = None if groups else rebuilt_model(description["model"], points.arrays)
    linear, y = description["linear"], labels_for(train.y, model)
    fit = None if linear is None else fit_linear_predictor(train.X, y, loss=loss, **linear)
    settings = description.get("settings", {})
    options = options_again(description.get("options"))
    last = LastPoint(model, train, test, fit, loss, description["epsilon"], settings, options)
    values: dict[str, Any] = {} if fit is None else {"best_linear_objective": fit.objective}
    tables: dict[str, Any] = {}
    for name in description["evidence"]:
        if groups:
            found, further = OF_GROUPS[name](rebuilt_groups(description, points.arrays), last)
            values, tables = values | found, tables | further
        else:
            values |= EVIDENCE[name](last)
    return _recomputed(values)._replace(tables=tables)


def _of_stream(points: StoredPoints, tags: Mapping[str, str]) -> Recomputed:
    """What was computed from a residual stream alone; where its data is known, it is looked at, too."""
    if points.description["data"]:
        train, test = preparation_of(points.description).load()
        _check_data(train, test, tags)
        for part, name in ((train, "y"), (test, "test_y")):
            if part is not None and not np.array_equal(np.sort(part.y), np.sort(points.arrays[name])):
                raise UnverifiableError(f"the stored residual stream has other labels {name} than {part.name}")
    values, tables = of_stream(points.arrays, points.description["stream"])
    return _recomputed(values)._replace(tables=tables)


def _of_members(
    points: StoredPoints, rows: Sequence[int], tags: Sequence[Mapping[str, str]]
) -> list[Recomputed | UnverifiableError]:
    description, kept = points.description, preparation_of(points.description)
    members, loss = [description["members"][row] for row in rows], description["loss"]
    data = labelled_data(kept.dataset, target=kept.target, loss=kept.loss)
    assert kept.test_fraction is not None
    problem = population_problem(
        data,
        members,
        test_fraction=kept.test_fraction,
        standardize=kept.standardize,
        intercept=kept.intercept,
        loss=loss,
    )
    for place, each in zip(problem.data_sets, tags, strict=True):
        _check_data(problem.train[place], problem.test[place], each)
    arrays = {name: array[np.asarray(rows)] for name, array in points.arrays.items()}
    models = rebuilt_model(description["model"], arrays, stacked=True)
    outcomes = population_outcomes(problem, models, range(len(rows)), loss=loss, epsilon=description["epsilon"])
    last = measured_population(
        models,
        problem.X,
        problem.y,
        loss=loss,
        options=options_again(description.get("options")),
        data_sets=problem.data_sets,
        measure=[GapMeasure.against(fit, loss) for fit in problem.linear_fits],
    )
    return [
        _recomputed({name: column[index] for name, column in last.items()} | row)
        for index, row in enumerate(outcomes.to_dict("records"))
    ]


def _recomputed(values: Mapping[str, Any]) -> Recomputed:
    sizes = [abs(float(values[name])) for name in ("objective", "best_linear_objective") if name in values]
    plain = {str(key): value if isinstance(value, str | bool) else float(value) for key, value in values.items()}
    return Recomputed(plain, max([size for size in sizes if np.isfinite(size)], default=0.0), {})


def _check_data(train: Dataset, test: Dataset | None, tags: Mapping[str, str]) -> None:
    """Check that this is the data that the run had."""
    for part, context in ((train, ""), (test, ".test")):
        recorded = tags.get(names.DATA_DIGEST + context)
        if part is not None and recorded and part.digest != recorded:
            raise UnverifiableError(
                f"the data changed: what is read from {part.name} now has the digest {part.digest[:12]}…, and "
                f"{recorded[:12]}… was recorded"
            )
