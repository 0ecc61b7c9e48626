"""Labels from the ways in which people have them: one meaning, one fit, and one clear line for what has none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from resflow.errors import InvalidInputError
from resflow.labels import as_labels, count_outputs, one_hot
from resflow.linear.predictor import fit_linear_predictor
from resflow.losses import Logistic, PseudoHuber, Softmax, Squared

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
SIGNS = np.where(X[:, 0] + RNG.standard_normal(60) > 0, 1.0, -1.0)
CLASSES = np.argmax(X + 2 * RNG.standard_normal((60, 3)), axis=1)

TWO_CLASSES = {
    "signs": SIGNS,
    "whole signs": SIGNS.astype(int),
    "0 and 1": (SIGNS > 0).astype(float),
    "whole 0 and 1": (SIGNS > 0).astype(np.uint8),
    "truth values": SIGNS > 0,
    "float32 of JAX": jnp.asarray(SIGNS, jnp.float32),
    "truth values of JAX": jnp.asarray(SIGNS > 0),
    "a column of a table": pd.Series(SIGNS > 0),
}

SEVERAL_CLASSES = {
    "whole numbers": CLASSES,
    "floats": CLASSES.astype(float),
    "bytes": CLASSES.astype(np.uint8),
    "one-hot": one_hot(CLASSES, 3),
    "one-hot truth values": one_hot(CLASSES, 3) == 1,
    "whole numbers of JAX": jnp.asarray(CLASSES),
    "one-hot of JAX": one_hot(jnp.asarray(CLASSES), 3),
    "dummies of a table": pd.get_dummies(CLASSES),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("y", TWO_CLASSES.values(), ids=TWO_CLASSES)
def test_two_classes_give_the_same_fit_however_they_are_coded(y):
    expected = fit_linear_predictor(X, SIGNS)
    np.testing.assert_array_equal(fit_linear_predictor(X, y).W, expected.W)
    np.testing.assert_array_equal(as_labels(y, Logistic()), SIGNS)
    assert np.issubdtype(as_labels(y, Logistic()).dtype, np.floating)
    assert count_outputs(np.asarray(y), Logistic()) is None


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("y", SEVERAL_CLASSES.values(), ids=SEVERAL_CLASSES)
def test_several_classes_give_the_same_fit_however_they_are_coded(y):
    expected = fit_linear_predictor(X, CLASSES, loss="softmax")
    assert expected.W.shape == (3, 3)
    np.testing.assert_array_equal(fit_linear_predictor(X, y, loss="softmax").W, expected.W)
    np.testing.assert_array_equal(as_labels(y, Softmax()), CLASSES)
    assert count_outputs(np.asarray(y), Softmax()) == 3


def test_one_hot_labels_say_how_many_classes_there_are():
    y = one_hot(CLASSES, 5)
    fit = fit_linear_predictor(X, y, loss="softmax", ridge=0.1)
    assert fit.W.shape == (5, 3)
    assert fit.converged


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint32, int])
@pytest.mark.parametrize("loss", [Logistic(), Squared()])
def test_labels_of_one_value_are_numbers_that_have_a_minus(loss, kind):
    y = np.ones(60, kind)
    for coded in (as_labels(y, loss), jax.jit(lambda y: as_labels(y, loss))(y)):
        np.testing.assert_array_equal(loss.value(np.full(60, 2.0), coded), loss.value(np.full(60, 2.0), np.ones(60)))


@pytest.mark.parametrize("written", [lambda y: (y + 1) / 2, lambda y: y > 0, lambda y: y.astype(int), lambda y: y])
def test_traced_labels_of_two_classes_are_coded_as_those_that_are_seen(written):
    coded = jax.jit(lambda y: as_labels(y, Logistic()))(written(SIGNS))
    np.testing.assert_array_equal(coded, SIGNS)


@pytest.mark.parametrize("loss", [Squared(), PseudoHuber()])
def test_numbers_are_left_as_they_are(loss):
    y = RNG.standard_normal(60)
    assert as_labels(y, loss) is y
    np.testing.assert_array_equal(as_labels(SIGNS > 0, loss), SIGNS > 0)


def test_two_classes_and_two_outputs_of_softmax_are_the_same_model():
    """W = (−w/2, w/2) has half of w's squared length."""
    one = fit_linear_predictor(X, SIGNS, ridge=0.1)
    two = fit_linear_predictor(X, SIGNS > 0, loss="softmax", ridge=0.2)
    np.testing.assert_allclose(two.W, [-one.W / 2, one.W / 2], atol=1e-13)
    assert two.objective == pytest.approx(one.objective, rel=1e-14)


@pytest.mark.parametrize(
    ("loss", "y", "shape"),
    [(Logistic(), SIGNS, (60,)), (Softmax(), one_hot(CLASSES, 3), (60,)), (Squared(), X, (60, 3))],
)
def test_traced_labels_are_coded_and_their_shapes_checked(loss, y, shape):
    coded = jax.jit(lambda y: as_labels(y, loss, n=60))(y)
    np.testing.assert_array_equal(coded, as_labels(y, loss))
    assert coded.shape == shape
    with pytest.raises(InvalidInputError, match="but X has 59 samples"):
        jax.jit(lambda y: as_labels(y, loss, n=59))(y)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("logistic", np.where(SIGNS > 0, 2, 1), r"labels \{1, 2\}, but the logistic loss takes two classes"),
        ("logistic", CLASSES - 1, r"labels \{-1, 0, 1\}, but the logistic loss takes two classes"),
        ("logistic", SIGNS[:, None], r"shape \(60, 1\), but the logistic loss takes one label a sample, shape \(n,\)$"),
        ("logistic", SIGNS[:-1], r"y has shape \(59,\), but X has 60 samples"),
        ("logistic", np.where(SIGNS > 0, "yes", "no"), "must hold real numbers"),
        ("softmax", CLASSES - 1, r"y has the label -1 in row \d+, but classes must be whole numbers"),
        ("softmax", CLASSES + 0.5, r"y has the label \d.5 in row 0, but classes must be whole numbers"),
        ("softmax", one_hot(CLASSES, 3) * 0.5, r"y has the row \[.*\] at 0, but for the softmax loss"),
        ("softmax", np.ones((60, 3)), r"y has the row \[1.0, 1.0, 1.0\] at 0"),
        ("softmax", CLASSES[:, None], r"y has shape \(60, 1\), but for the softmax loss rows of classes"),
        ("softmax", CLASSES * 1000, "but only 3 classes occur: code them as 0, ..., 2"),
        ("softmax", np.zeros((60, 3, 2)), r"one label a sample, shape \(n,\), or one row a sample"),
        ("squared", np.where(SIGNS > 0, np.nan, 1.0), r"y has \d+ labels that are not finite"),
        ("squared", np.full(60, 1e200), "y is of a size that float64 cannot square"),
        ("pseudo_huber", X, "the pseudo_huber loss takes one label a sample"),
    ],
)
def test_wrong_labels_get_one_clear_line(loss, y, message):
    with pytest.raises(InvalidInputError, match=message) as raised:
        fit_linear_predictor(X, y, loss=loss)
    assert "\n" not in str(raised.value)


def test_model_of_too_few_outputs_is_told_so():
    with pytest.raises(InvalidInputError, match="y has the label 2, but the model has 2 outputs"):
        as_labels(CLASSES, Softmax(), m=2)
    with pytest.raises(InvalidInputError, match=r"y has shape \(60, 3\), but the model has 2 outputs"):
        as_labels(X, Squared(), m=2)
    with pytest.raises(InvalidInputError, match="y has the label 2, but with m=2 classes"):
        one_hot(CLASSES, 2)
