"""Data sets by name: scikit-learn's bundled tables, a synthetic teacher, and the user's own files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from resflow.arrays import as_number
from resflow.data.dataset import Dataset
from resflow.data.files import load_file
from resflow.errors import InvalidInputError, nearest
from resflow.known import check_table, is_file_name

__all__ = ["DATASETS", "load_dataset", "teacher"]


def load_dataset(name: str, *, target: str | None = None) -> Dataset:
    """The data set of that name, or of that file.

    Names, with what may follow a colon:

    - `breast_cancer`, `breast_cancer:mean`, `:error`, `:worst`: all 30 features, or one group of ten; +1 is benign.
      Groups are joined by a plus sign, as in `breast_cancer:mean+worst`.
    - `wine:0` to `wine:2`, `digits:0` to `digits:9`: one class, coded +1, against the rest.
    - `wine:all`, `digits:all`: every class, coded 0, 1, ..., for vector-valued outputs.
    - `diabetes`: a real-valued target.
    - `teacher`, `teacher:nonlinearity=0.5,n=2000,labels=binary`: see `teacher` for its options.

    Anything that ends in .csv, .tsv, .parquet or .npz is a file, and is read as it is written or refused:

    - CSV and TSV are text in UTF-8: a line of names, then one row a line, separated by commas or tabs. Every row has as
      many values as there are names. A value is a number with a decimal point, or true or false; blanks around it do
      not count, and an empty one is missing. The target may also be texts, which stay as they are: NA is one of them.
    - Parquet holds columns of numbers or truth values. An index that has a name is a column, one without is left out.
    - An NPZ archive holds the matrix X, the labels under the name `target` (default y), and optionally feature_names.

    The other columns than `target` are the features. A target of two texts or truth values is coded −1 and +1 in sorted
    order; `target="column=class"` codes one class +1 against the rest.

    Raises:
        InvalidInputError: If the name is unknown (the nearest are listed), the file or the target is missing, a value
            is missing or not a finite number that float64 holds, names repeat, or the target has one value only. The
            message has the line of the file, or the row counted from 0 where there are no lines, and the value.
    """
    if is_file_name(name):
        return load_file(name, target)
    source, options = _parse(name)
    if target is not None:
        raise InvalidInputError(
            f"target={target!r} goes with a file, but dataset={name!r} is bundled: leave target out"
        )
    return source(name, options)


def teacher(
    *,
    n: int = 1000,
    d: int = 20,
    nonlinearity: float = 1.0,
    noise: float = 0.1,
    labels: str = "real",
    seed: int = 0,
) -> Dataset:
    """Samples of y = uᵀx + nonlinearity · h(x) + noise · ε with x, ε standard normal.

    uᵀx and h(x) = ((vᵀx)² − 1)/√2 have mean 0 and variance 1, u and v random unit vectors. h is even, so no linear
    predictor sees any of it: nonlinearity = 0 is a linear problem, and the larger, the more a residual unit can gain.

    Args:
        n: Number of samples.
        d: Number of features.
        nonlinearity: Standard deviation of the part that no linear predictor can express.
        noise: Standard deviation of the noise.
        labels: "real" for y as it is, "binary" for +1 with probability 1/(1 + exp(−4y)) and −1 otherwise.
        seed: Of the random draws.

    Raises:
        InvalidInputError: If an option is out of its range.
    """
    for option, value, lowest in (("n", n, 1), ("d", d, 1), ("nonlinearity", nonlinearity, 0), ("noise", noise, 0)):
        allowed = f"must be a finite number, at least {lowest}"
        as_number(f"teacher: {option}", value, allowed, lambda number: lowest <= number < np.inf, whole=option in "nd")  # noqa: B023
    if labels not in ("real", "binary"):
        raise InvalidInputError(f"teacher: labels={labels} is unknown: choose real or binary")
    seed = as_number("teacher: seed", seed, "must be a whole number, at least 0", lambda seed: seed >= 0, whole=True)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    u, v = (direction / np.linalg.norm(direction) for direction in rng.standard_normal((2, d)))
    even_part = (np.square(X @ v) - 1.0) / np.sqrt(2.0)
    y = X @ u + nonlinearity * even_part + noise * rng.standard_normal(n)
    classes = None
    if labels == "binary":
        y, classes = np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-4.0 * y)), 1.0, -1.0), ("negative", "positive")
    return Dataset("teacher", X, y, tuple(f"x{j}" for j in range(d)), "y", classes)


def _breast_cancer(name: str, options: list[str]) -> Dataset:
    groups = ("mean", "error", "worst")
    chosen = options[0].split("+") if options and options != ["all"] else list(groups)
    if len(options) > 1 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(groups):
        raise InvalidInputError(
            f"dataset={name!r} must name one of breast_cancer:mean, breast_cancer:error, breast_cancer:worst, "
            "breast_cancer:all, or different groups joined by +, as in breast_cancer:mean+worst"
        )
    table = _bundled("breast_cancer")
    columns = np.concatenate([np.arange(10) + 10 * place for place, group in enumerate(groups) if group in chosen])
    y = np.where(table.target == 1, 1.0, -1.0)
    names = tuple(str(feature) for feature in table.feature_names[columns])
    return Dataset(name, table.data[:, columns], y, names, "diagnosis", ("malignant", "benign"))


def _diabetes(name: str, options: list[str]) -> Dataset:
    _choice(name, options, ["all"], default="all")
    table = _bundled("diabetes", scaled=False)
    return Dataset(name, table.data, table.target, tuple(table.feature_names), "disease progression")


def _one_against_rest(table_name: str, target: str) -> Callable[[str, list[str]], Dataset]:
    def load(name: str, options: list[str]) -> Dataset:
        table = _bundled(table_name)
        known = [str(label) for label in np.unique(table.target)]
        label = _choice(name, options, [*known, "all"], default=None)
        X, names = table.data.astype(float), tuple(table.feature_names)
        if label == "all":
            return Dataset(name, X, table.target.astype(float), names, target, tuple(f"{target} {c}" for c in known))
        y = np.where(table.target == int(label), 1.0, -1.0)
        return Dataset(name, X, y, names, f"{target} {label}", ("the rest", f"{target} {label}"))

    return load


def _teacher(name: str, options: list[str]) -> Dataset:
    kinds = {"n": int, "d": int, "nonlinearity": float, "noise": float, "labels": str, "seed": int}
    chosen: dict[str, Any] = {}
    for option in options:
        key, _, text = option.partition("=")
        if key not in kinds:
            near = nearest(key, kinds, 1)[0]
            raise InvalidInputError(
                f"dataset={name!r}: option {key!r} is unknown: nearest is {near!r} of {', '.join(kinds)}"
            )
        try:
            chosen[key] = kinds[key](text)
        except ValueError:
            raise InvalidInputError(
                f"dataset={name!r}: {key}={text} must be of type {kinds[key].__name__}, as in teacher:n=2000,noise=0.1"
            ) from None
    return replace(teacher(**chosen), name=name)


DATASETS: dict[str, Callable[[str, list[str]], Dataset]] = {
    "breast_cancer": _breast_cancer,
    "diabetes": _diabetes,
    "digits": _one_against_rest("digits", "digit"),
    "teacher": _teacher,
    "wine": _one_against_rest("wine", "cultivar"),
}
"""The names before the colon, each with what makes the data set."""


def _parse(name: str) -> tuple[Callable[[str, list[str]], Dataset], list[str]]:
    check_table(name)
    base, _, rest = name.partition(":")
    return DATASETS[base], [option.strip() for option in rest.split(",") if option.strip()]


def _choice(name: str, options: list[str], known: list[str], *, default: str | None) -> str:
    base = name.partition(":")[0]
    if len(options) > 1 or (not options and default is None) or (options and options[0] not in known):
        allowed = ", ".join(f"{base}:{entry}" for entry in known)
        raise InvalidInputError(f"dataset={name!r} must name one of {allowed}")
    return options[0] if options else str(default)


def _bundled(table: str, **options: Any) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{table}")(**options)
