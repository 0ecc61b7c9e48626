"""A notebook's data in one call: loaded, labelled for the loss, split, standardised, and logged to its run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resflow.data.catalog import load_dataset
from resflow.data.dataset import Dataset, Standardization
from resflow.known import is_file_name
from resflow.studies.population_problem import PopulationProblem, population_problem
from resflow.workflow import names
from resflow.workflow.kept_data import keep_data
from resflow.workflow.records import Run

__all__ = ["Preparation", "labelled_data", "prepare", "prepare_population", "prepare_split"]


@dataclass(frozen=True)
class Preparation:
    """How data is loaded, split and scaled: kept with a run, so that it can be again.

    Attributes:
        dataset, target, loss, standardize, intercept: As for `prepare`.
        test_fraction, seed: As for `Dataset.split`; None where nothing is held out.
    """

    dataset: str
    target: str | None
    loss: str
    standardize: bool
    intercept: bool
    test_fraction: float | None = None
    seed: int | None = None

    def load(self) -> tuple[Dataset, Dataset | None]:
        """Training data, and what is held out."""
        train: Dataset = labelled_data(self.dataset, target=self.target, loss=self.loss)
        test: Dataset | None = None
        if self.test_fraction is not None and self.seed is not None:
            train, test = train.split(self.test_fraction, seed=self.seed)
        scaled = [each and _scaled(each, train, self.standardize, self.intercept) for each in (train, test)]
        return scaled[0] or train, scaled[1]

    def tag(self) -> dict[str, str]:
        """The tag that keeps it."""
        return {names.DATA_PREPARATION: json.dumps(asdict(self))}


def labelled_data(dataset: str, *, target: str | None, loss: str) -> Dataset:
    """All samples as they are, with labels that suit the loss: 0, ..., m − 1 for one of several outputs."""
    return load_dataset(dataset, target=target).labelled_for(loss)


def prepare(
    run: Run, dataset: str, *, target: str | None, loss: str, standardize: bool = True, intercept: bool = True
) -> Dataset:
    """All samples as training data, which is logged to the run.

    Args:
        run: The notebook's run.
        dataset: A bundled data set, or a file.
        target: For a file: the column to predict.
        loss: What the labels are for.
        standardize: Shift and scale features, and a real-valued target, to mean 0 and standard deviation 1.
        intercept: Add a feature that is constantly 1.
    """
    preparation = Preparation(dataset, target, loss, standardize, intercept)
    data, _ = preparation.load()
    _log(run, data)
    _tell(run, preparation)
    return data


def prepare_split(
    run: Run,
    dataset: str,
    *,
    target: str | None,
    loss: str,
    test_fraction: float,
    seed: int,
    standardize: bool = True,
    intercept: bool = True,
) -> tuple[Dataset, Dataset]:
    """Training data and a share of the samples held out as test data, both logged to the run.

    The arguments are those of `prepare` and of `Dataset.split`; what is standardised is so by the training data.
    """
    preparation = Preparation(dataset, target, loss, standardize, intercept, test_fraction, seed)
    train, test = preparation.load()
    assert test is not None
    _log(run, train)
    _log(run, test, "test")
    _tell(run, preparation)
    return train, test


def prepare_population(
    run: Run,
    points: Sequence[Mapping[str, Any]],
    dataset: str,
    *,
    target: str | None,
    loss: str,
    test_fraction: float,
    standardize: bool = True,
    intercept: bool = True,
) -> PopulationProblem:
    """What the members of a population are trained on and compared with, each by the seed of its own point.

    The arguments are those of `prepare_split`; `points` has each member's values, of `population_points`.
    """
    data = labelled_data(dataset, target=target, loss=loss)
    _tell(run, Preparation(dataset, target, loss, standardize, intercept, test_fraction))
    scaling = {"standardize": standardize, "intercept": intercept}
    return population_problem(data, points, test_fraction=test_fraction, loss=loss, **scaling)


def _tell(run: Run, preparation: Preparation) -> None:
    """Tag how the data was prepared, and keep it with the run where it is the user's own."""
    run.set_tags(preparation.tag())
    if is_file_name(preparation.dataset):
        keep_data(run, preparation.dataset)


def _log(run: Run, data: Dataset, context: str = "training") -> None:
    run.log_dataset(data.name, data.X, data.y, digest=data.digest, feature_names=data.feature_names, context=context)


def _scaled(data: Dataset, by: Dataset, standardize: bool, intercept: bool) -> Dataset:
    data = Standardization.fit(by).apply(data) if standardize else data
    return data.with_intercept() if intercept else data
