"""What a linear predictor is fitted to: samples, labels or their probabilities, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from resflow.arrays import LARGEST, SMALLEST, as_array, as_number, check_size
from resflow.errors import InvalidInputError, shown
from resflow.labels import as_labels, count_outputs, one_hot
from resflow.linear._algebra import Rows
from resflow.losses import Logistic, Loss, Softmax

__all__ = ["Samples", "as_samples", "check_columns"]

_SUM = 1e-5
"""By how much the sum of a row of probabilities, perhaps from a text, may miss 1; in float16 by its precision."""


class Samples(NamedTuple):
    """Samples that count, checked.

    Attributes:
        rows: Those whose weight is not 0.
        y: Labels of these, as `Problem` has them.
        outputs: The number of outputs, None for one without an axis.
        weights: Positive, 1 in the mean; None if all are.
    """

    rows: Rows
    y: np.ndarray
    outputs: int | None
    weights: np.ndarray | None


def as_samples(X: Any, y: Any, loss: Loss, *, sample_weight: Any, class_weight: Any, classes: Any) -> Samples:
    """The samples as a fit takes them, from what `fit_linear_predictor` is given.

    Raises:
        InvalidInputError: If shapes disagree, the labels do not suit the loss or the weights are none.
    """
    X = as_array("X", X, 2)
    if 0 in X.shape:
        raise InvalidInputError(f"X has shape {X.shape}, but there must be at least one sample and one feature")
    m = None if classes is None else _class_count(classes, loss)
    labels = _labels(y, loss, len(X), m)
    outputs = m or count_outputs(as_array("y", y), loss)
    weights = None if sample_weight is None else _sample_weights(sample_weight, len(X))
    if class_weight is not None:
        labels, weights = _with_class_weights(class_weight, labels, loss, weights, outputs or 2)
    if weights is None:
        return Samples(Rows(X), labels, outputs, None)
    if not weights.any():
        raise InvalidInputError("the weights are 0 for every sample: at least one must count")
    weights = weights / weights.max()
    places = None if weights.all() else np.flatnonzero(weights)
    if places is not None:
        labels, weights = labels[places], weights[places]
    uniform = np.ptp(weights) == 0.0
    return Samples(Rows(X, places=places), labels, outputs, None if uniform else weights / np.mean(weights))


def _class_count(classes: Any, loss: Loss) -> int:
    if loss.labels != "classes":
        raise InvalidInputError(f"classes={shown(classes)}, but the {loss.name} loss has none to count: leave it out")
    allowed = "must be the number of classes, at least 2, some of which may have no samples"
    return as_number("classes", classes, allowed, lambda m: 2 <= m <= 1e4, whole=True)


def _labels(y: Any, loss: Loss, n: int, m: int | None) -> np.ndarray:
    """Labels as `Problem` has them: of probabilities of two classes the mean label, of several the rows."""
    given = np.asarray(as_array("y", y))
    is_float = jnp.issubdtype(given.dtype, jnp.floating)  # bfloat16 among them
    if type(loss) in (Logistic, Softmax) and is_float and ((given > 0.0) & (given < 1.0)).any():
        fits = np.isfinite(given).all() and len(given) == n
        if fits and given.ndim == 1 and type(loss) is Logistic:
            _check_probabilities(given)
            return 2.0 * given.astype(np.float64) - 1.0
        if fits and given.ndim == 2 and type(loss) is Softmax and given.shape[1] == (m or max(given.shape[1], 2)):
            return _as_distributions(given.astype(np.float64), max(_SUM, float(jnp.finfo(given.dtype).eps)))
    labels = np.asarray(as_labels(y, loss, n=n, m=m))
    return labels.astype(int if loss.labels == "classes" else np.float64)


def _check_probabilities(y: np.ndarray) -> None:
    wrong = np.flatnonzero((y < 0.0) | (y > 1.0))
    if wrong.size:
        raise InvalidInputError(
            f"y has the label {y[wrong[0]]:g} in row {wrong[0]} and others between 0 and 1, but for the logistic loss "
            "labels are two classes, as −1 and +1 or 0 and 1, or probabilities of the second, from 0 to 1"
        )


def _as_distributions(y: np.ndarray, most: float) -> np.ndarray:
    """Rows of probabilities whose sums, which may miss 1 by so much, are exactly 1, up to rounding of float64."""
    sums = y.sum(axis=1)
    wrong = np.flatnonzero((y < 0.0).any(axis=1) | (np.abs(sums - 1.0) > most))
    if wrong.size:
        raise InvalidInputError(
            f"y has the row {y[wrong[0]].tolist()[:6]} at {wrong[0]}, but for the softmax loss a row must hold the "
            "probabilities of the classes, at least 0 and with sum 1: or pass whole numbers 0, ..., m − 1"
        )
    return y / sums[:, None]


def _sample_weights(sample_weight: Any, n: int) -> np.ndarray:
    weights = np.asarray(as_array("sample_weight", sample_weight), dtype=np.float64)
    if weights.shape != (n,):
        raise InvalidInputError(f"sample_weight has shape {weights.shape}, but X has {n} samples: one number each")
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0.0)))
    if wrong.size:
        raise InvalidInputError(
            f"sample_weight has {weights[wrong[0]]:g} in row {wrong[0]}, but must hold finite numbers, at least 0: 0 "
            "leaves a sample out"
        )
    return weights


def _with_class_weights(
    class_weight: Any, labels: np.ndarray, loss: Loss, weights: np.ndarray | None, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights with those of the classes in them: a row of probabilities may shift to weighty classes."""
    weights = np.ones(len(labels)) if weights is None else weights
    occurs = _probabilities(labels, loss, m)
    of_class = _class_weights(class_weight, weights @ occurs, labels, loss)
    shares = occurs * of_class
    totals = shares.sum(axis=1)
    if labels.dtype.kind == "f":  # with weights of its classes of 0 a sample drops out, whatever its label
        shares[totals > 0.0] /= totals[totals > 0.0, None]
        labels = shares[:, 1] - shares[:, 0] if labels.ndim == 1 else shares
    return labels, weights * totals


def _probabilities(labels: np.ndarray, loss: Loss, m: int) -> np.ndarray:
    """How much of each class every sample is, shape (n, m), of two classes −1 and +1 in this order."""
    if labels.ndim == 2:
        return labels
    if loss.labels == "binary":
        return np.column_stack([0.5 * (1.0 - labels), 0.5 * (1.0 + labels)])
    return one_hot(labels, m)


def _class_weights(class_weight: Any, counts: np.ndarray, labels: np.ndarray, loss: Loss) -> np.ndarray:
    if loss.labels not in ("binary", "classes"):
        raise InvalidInputError(
            f"class_weight={shown(class_weight)}, but the {loss.name} loss has no classes: pass sample_weight"
        )
    present = counts > 0.0
    if isinstance(class_weight, str) and class_weight == "balanced":
        return np.where(present, counts.sum() / (np.count_nonzero(present) * np.where(present, counts, 1.0)), 0.0)
    if not isinstance(class_weight, Mapping):
        raise InvalidInputError(
            f"class_weight={shown(class_weight)}, but must be 'balanced' or a number for each class, such as "
            "{0: 1.0, 1: 2.5}; a class that is left out counts 1"
        )
    found = np.ones(len(counts))
    named: dict[int, Any] = {}
    names: dict[Any, int] = {-1: 0, 0: 0, 1: 1}
    if loss.labels == "classes":
        names = {label: label for label in range(len(counts))}
    for label, weight in class_weight.items():
        index = names.get(label) if isinstance(label, int | float | np.number | np.bool_) else None
        if index is None:
            known = "−1 or 0, and 1" if loss.labels == "binary" else f"0, ..., {len(counts) - 1}"
            raise InvalidInputError(f"class_weight has the class {shown(label)}, but the classes are {known}")
        if index in named:
            raise InvalidInputError(
                f"class_weight has {shown(named[index])} and {shown(label)}, which are the same class: leave one out"
            )
        named[index], allowed = label, "must be a finite number, at least 0"
        name = f"class_weight[{shown(label)}]"
        found[index] = as_number(name, weight, allowed, lambda w: 0.0 <= w <= LARGEST)
    return found


def check_columns(rows: Rows, squares: np.ndarray) -> None:
    """Check that the columns of X, whose sums of squares are given, are finite and of sizes that can be squared.

    The sums are finite if X is, up to overflow, so that X itself is read only where something is wrong.

    Raises:
        InvalidInputError: If they are not.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.sqrt(squares / rows.n)
        fine = (squares == 0.0) | ((sizes >= SMALLEST) & (sizes <= LARGEST))
    if fine.all() and (squares > 0.0).all():
        return
    for part, block in rows.blocks():
        bad = ~np.isfinite(block)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            place = part.start + row if rows.places is None else rows.places[part.start + row]
            raise InvalidInputError(
                f"X has a value that is not finite, the first in column {column}, row {place} (counted "
                "from 0): fill it in or drop that row"
            )
    # a column whose squares all underflow is not 0 either
    largest = np.max([np.abs(block).max(axis=0) for _, block in rows.blocks()], axis=0)
    for column in np.flatnonzero(~fine | (squares == 0.0)):
        check_size(f"X's column {column}", float(largest[column]))
    for column in np.flatnonzero(~fine):
        check_size(f"X's column {column}", float(sizes[column]), "its values' root mean square is")
