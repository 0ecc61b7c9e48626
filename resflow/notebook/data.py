"""A notebook's data in one call: loaded, labelled for the loss, split, standardised, and logged to its run."""

from __future__ import annotations

from resflow.data.catalog import load_dataset
from resflow.data.dataset import Dataset, Standardization
from resflow.workflow.records import Run

__all__ = ["labelled_data", "prepare", "prepare_split"]


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
    data = labelled_data(dataset, target=target, loss=loss)
    data = _scaled(data, data, standardize, intercept)
    _log(run, data)
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
    train, test = labelled_data(dataset, target=target, loss=loss).split(test_fraction, seed=seed)
    train, test = (_scaled(part, train, standardize, intercept) for part in (train, test))
    _log(run, train)
    _log(run, test, "test")
    return train, test


def _log(run: Run, data: Dataset, context: str = "training") -> None:
    run.log_dataset(data.name, data.X, data.y, digest=data.digest, feature_names=data.feature_names, context=context)


def _scaled(data: Dataset, by: Dataset, standardize: bool, intercept: bool) -> Dataset:
    data = Standardization.fit(by).apply(data) if standardize else data
    return data.with_intercept() if intercept else data
