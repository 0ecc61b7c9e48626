"""Data sets as arrays with names and a digest: loading, labels, splitting, standardisation and the intercept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from resflow.arrays import as_array, as_number, check_size, largest
from resflow.data.names import check_names
from resflow.errors import InvalidInputError, shown
from resflow.losses import Loss, as_loss

__all__ = ["INTERCEPT", "Dataset", "Standardization"]

INTERCEPT = "intercept"


@dataclass(frozen=True)
class Dataset:
    """n samples of d features, with one label each.

    Every step returns a new data set: `labelled_for`, `split`, `with_intercept`, `Standardization.apply`.

    Attributes:
        name: Where the data comes from, e.g. "breast_cancer:mean" or a file's path.
        X: Samples as rows, float64, shape (n, d).
        y: Labels, float64, shape (n,).
        feature_names: The d names of the columns of X: texts of one line, all different.
        target: What y is; no feature's name.
        classes: The names of the classes coded −1 and +1, or 0, ..., m − 1; None where y is a real number.
    """

    name: str
    X: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "n"]
    feature_names: tuple[str, ...]
    target: str = "y"
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for part in ("X", "y"):
            values = np.asarray(as_array(f"{self.name}: {part}", getattr(self, part)), dtype=np.float64)
            object.__setattr__(self, part, values)
        if self.X.ndim != 2 or self.y.shape != self.X.shape[:1] or 0 in self.X.shape:
            raise InvalidInputError(
                f"{self.name}: X has shape {self.X.shape} and y {self.y.shape}, but they must be (n, d) and (n,), "
                "with at least one sample and one feature"
            )
        if len(self.feature_names) != self.X.shape[1]:
            raise InvalidInputError(
                f"{self.name}: {len(self.feature_names)} feature names for {self.X.shape[1]} features"
            )
        check_names(self.name, self.feature_names)
        if self.target in self.feature_names:
            raise InvalidInputError(
                f"{self.name}: the target {shown(self.target)} is the name of a feature, too: drop the feature, which "
                "would tell what is to be predicted, or rename it"
            )
        self._check_finite()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shape, X and y, in hexadecimal: equal exactly when the data is."""
        digest = hashlib.sha256(repr((self.feature_names, self.target, self.classes, self.X.shape)).encode())
        digest.update(np.ascontiguousarray(self.X).data)
        digest.update(np.ascontiguousarray(self.y).data)
        return digest.hexdigest()

    def labelled_for(self, loss: str | Loss) -> Dataset:
        """The same data with labels that suit the loss.

        Two distinct labels are coded −1 (the smaller) and +1 (the larger) for a binary loss, m of them 0, ..., m − 1 in
        ascending order for one of classes. Others are left as they are. Classes that have names keep them and their
        order, also where a part of the data lacks one.

        Raises:
            InvalidInputError: If the loss is for classes and y has too many distinct values for them, or too few.
        """
        loss = as_loss(loss)
        if loss.labels == "real":
            return self
        values, indices = np.unique(self.y, return_inverse=True)
        names = tuple(f"{value:g}" for value in values)
        if self.classes is not None and np.isin(values, codes := _codes(values, len(self.classes))).all():
            values, indices, names = codes, np.searchsorted(codes, self.y), self.classes
        if loss.labels == "binary" and len(values) != 2:
            few = ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")
            raise InvalidInputError(
                f"{self.name}: target {self.target!r} has {len(values)} distinct values ({few}), but the {loss.name} "
                "loss needs exactly two classes: choose one class against the rest, or loss squared or pseudo_huber"
            )
        if not 2 <= len(values) <= 100:
            raise InvalidInputError(
                f"{self.name}: target {self.target!r} has {len(values)} distinct values, but classes must be 2 to 100"
            )
        y = 2.0 * indices - 1.0 if loss.labels == "binary" else indices.astype(float)
        return replace(self, y=y, classes=names)

    def split(self, test_fraction: float, *, seed: int) -> tuple[Dataset, Dataset]:
        """Disjoint training and test sets, drawn at random; classes keep their shares.

        Raises:
            InvalidInputError: If test_fraction is not strictly between 0 and 1, or leaves a set without samples.
        """
        from sklearn.model_selection import train_test_split

        allowed = "must lie strictly between 0 and 1, e.g. 0.25"
        test_fraction = as_number("test_fraction", test_fraction, allowed, lambda share: 0.0 < share < 1.0)
        seed = as_number(
            "seed", seed, "must be a whole number from 0 to 2^32 − 1", lambda s: 0 <= s < 2**32, whole=True
        )
        counts = np.unique(self.y, return_counts=True)[1]
        stratify = self.y if self.classes and min(counts) >= 2 else None
        n, smallest = len(self.y), 1 if self.classes is None else 2 if stratify is None else len(counts)
        n_test = round(n * test_fraction)
        if min(n_test, n - n_test) < smallest:
            raise InvalidInputError(
                f"test_fraction={test_fraction} splits the {n} samples of {self.name} into {n - n_test} and {n_test}: "
                f"each set needs at least {smallest}"
            )
        rows = train_test_split(np.arange(n), test_size=n_test, random_state=seed, stratify=stratify)
        train, test = (replace(self, X=self.X[np.sort(part)], y=self.y[np.sort(part)]) for part in rows)
        return train, test

    def with_intercept(self) -> Dataset:
        """The same data with a last feature that is constantly 1, so that wᵀx has an intercept.

        Linear predictor and residual unit are both functions of x alone; this column is what lets them shift.

        Raises:
            InvalidInputError: If there is a feature of that name already.
        """
        if INTERCEPT in self.feature_names:
            raise InvalidInputError(
                f"{self.name} has a feature {INTERCEPT!r} already: add the constant column once only"
            )
        X = np.column_stack([self.X, np.ones(len(self.y))])
        return replace(self, X=X, feature_names=(*self.feature_names, INTERCEPT))

    def _check_finite(self) -> None:
        bad_features, bad_labels = ~np.isfinite(self.X), ~np.isfinite(self.y)
        count = int(bad_features.sum() + bad_labels.sum())
        if count:
            row = int(np.argmax(bad_features.any(axis=1) | bad_labels))
            (columns,) = np.nonzero(np.append(bad_features[row], bad_labels[row]))
            name = (*self.feature_names, self.target)[columns[0]]
            value = np.append(self.X[row], self.y[row])[columns[0]]
            raise InvalidInputError(
                f"{self.name}: {count} values are missing or not finite, the first ({value}) in column {shown(name)}, "
                f"row {row} (counted from 0): fill them in or drop those rows"
            )


@dataclass(frozen=True)
class Standardization:
    """Shift and scale features to mean 0 and standard deviation 1, fitted on one data set, applied to any.

    A constant feature is shifted to 0 and left at scale 1. Real-valued labels are shifted and scaled too, so that
    objectives are in units of the target's variance; class labels stay −1 and +1.
    """

    mean: Float[np.ndarray, "d"]
    scale: Float[np.ndarray, "d"]
    target_mean: float
    target_scale: float

    @classmethod
    def fit(cls, dataset: Dataset) -> Standardization:
        """Mean and population standard deviation of the features, and of the labels unless they are classes.

        Raises:
            InvalidInputError: If a column is of a size that float64 cannot square.
        """
        names = (*dataset.feature_names, dataset.target)
        for name, column in zip(names, (*dataset.X.T, dataset.y), strict=True):
            check_size(f"{dataset.name}: column {shown(name)}", largest(column))
        target = (0.0, 1.0)
        if dataset.classes is None:
            center, spread = _center_and_spread(dataset.y)
            target = float(center), float(spread)
        return cls(*_center_and_spread(dataset.X), *target)

    def apply(self, dataset: Dataset) -> Dataset:
        """The data set in standardised units."""
        X = (dataset.X - self.mean) / self.scale
        return replace(dataset, X=X, y=(dataset.y - self.target_mean) / self.target_scale)


def _center_and_spread(values: np.ndarray) -> tuple[Any, Any]:
    """Mean and standard deviation of each column, 1 where it is constant up to rounding."""
    center, spread = values.mean(axis=0), values.std(axis=0)
    constant = spread <= 1e-12 * np.maximum(np.abs(center), np.finfo(float).tiny)
    return center, np.where(constant, 1.0, spread)


def _codes(values: np.ndarray, m: int) -> np.ndarray:
    """What m classes with names are coded as: −1 and +1 if there are two that are coded so, or else 0, ..., m − 1."""
    return np.array([-1.0, 1.0]) if m == 2 and 0.0 not in values else np.arange(float(m))
