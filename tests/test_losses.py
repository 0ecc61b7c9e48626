"""Losses of one output and of several against automatic differentiation, their constants, and their tails."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.errors import InvalidInputError
from resflow.labels import one_hot
from resflow.losses import LOSSES, Logistic, PseudoHuber, Softmax, Squared, as_loss, lifted

ONE_OUTPUT = [Squared(), Logistic(), PseudoHuber(), PseudoHuber(delta=0.3)]
SEVERAL_OUTPUTS = [Squared(), Softmax()]
PREDICTIONS = np.concatenate([np.linspace(-40, 40, 801), [-1e4, -800.0, 0.0, 1e-9, 800.0, 1e4]])


def labels_for(loss, shape):
    rng = np.random.default_rng(0)
    return np.sign(rng.standard_normal(shape)) if loss.labels == "binary" else rng.standard_normal(shape)


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=repr)
def test_derivatives_agree_with_automatic_differentiation(loss):
    p = PREDICTIONS[np.abs(PREDICTIONS) < 100]
    y = labels_for(loss, p.shape)
    first = jax.vmap(jax.grad(loss.value))(p, y)
    second = jax.vmap(jax.grad(loss.derivative))(p, y)
    np.testing.assert_allclose(loss.derivative(p, y), first, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(loss.second_derivative(p, y), second, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", SEVERAL_OUTPUTS, ids=repr)
def test_derivatives_of_several_outputs_agree_with_automatic_differentiation(loss):
    p, y = np.array([[0.3, -2.0, 1.0], [40.0, 0.0, -5.0]]), np.array([2, 0])
    y = y if loss.labels == "classes" else one_hot(y, 3)
    for derivative, order in ((loss.derivative, jax.grad), (loss.second_derivative, jax.hessian)):
        single = order(lambda p, y: loss.value(p[None], y[None])[0])
        expected = jax.vmap(single)(jnp.asarray(p), jnp.asarray(y))
        np.testing.assert_allclose(derivative(p, y), expected, rtol=1e-12, atol=1e-35)
        np.testing.assert_allclose(derivative(jnp.asarray(p), jnp.asarray(y)), expected, rtol=1e-12, atol=1e-35)


@pytest.mark.parametrize("loss", SEVERAL_OUTPUTS, ids=repr)
def test_products_with_second_derivatives_need_no_matrices(loss):
    """A confident prediction, whose σ_j is 1 but for rounding, included."""
    rng = np.random.default_rng(1)
    p, t = 3.0 * rng.standard_normal((2, 50, 4))
    p[0, 0] += 45.0
    y = np.arange(50) % 4 if loss.labels == "classes" else p
    expected = np.einsum("nij,nj->ni", loss.second_derivative(p, y), t)
    np.testing.assert_allclose(loss.curved(p, y, t), expected, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(loss.curved(jnp.asarray(p), y, jnp.asarray(t)), expected, rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=repr)
def test_loss_of_one_output_takes_rows_of_one_when_lifted(loss):
    y = labels_for(loss, PREDICTIONS.shape)
    rows, p = lifted(loss, y), PREDICTIONS[:, None]
    np.testing.assert_array_equal(rows.value(p, y), loss.value(PREDICTIONS, y))
    np.testing.assert_array_equal(rows.derivative(p, y), loss.derivative(PREDICTIONS, y)[:, None])
    np.testing.assert_array_equal(rows.second_derivative(p, y), loss.second_derivative(PREDICTIONS, y)[:, None, None])
    assert lifted(Squared(), p) == Squared()
    assert lifted(Softmax(), y) == Softmax()


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=repr)
def test_numpy_and_jax_give_the_same_values(loss):
    y = labels_for(loss, PREDICTIONS.shape)
    for method in (loss.value, loss.derivative, loss.second_derivative):
        from_numpy, from_jax = method(PREDICTIONS, y), method(jnp.asarray(PREDICTIONS), jnp.asarray(y))
        assert isinstance(from_numpy, np.ndarray)
        assert isinstance(from_jax, jax.Array)
        np.testing.assert_allclose(from_numpy, from_jax, rtol=1e-14)


@pytest.mark.parametrize("loss", ONE_OUTPUT, ids=repr)
def test_constants_are_the_suprema_of_the_derivatives(loss):
    p = np.linspace(-30, 30, 200_001)
    y = np.ones_like(p)
    third = jax.vmap(jax.grad(loss.second_derivative))(p, y)
    measured = {
        "lipschitz": np.abs(loss.derivative(p, y)).max(),
        "curvature": loss.second_derivative(p, y).max(),
        "curvature_lipschitz": np.abs(third).max(),
    }
    for name, largest in measured.items():
        bound = getattr(loss, name)
        if bound is not None:
            assert largest <= bound * (1 + 1e-12)
            np.testing.assert_allclose(largest, bound, rtol=1e-3)


@pytest.mark.parametrize(("loss", "m"), [(Squared(), None), (Logistic(), None), (Squared(), 3), (Softmax(), 3)])
def test_steepest_bounds_the_slopes_within_reach(loss, m):
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((5000, m or 1))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    reach = rng.uniform(0.0, 5.0, 5000)
    p = directions * reach[:, None] if m else directions[:, 0] * reach
    y = rng.integers(0, 3, 5000) if loss.labels == "classes" else labels_for(loss, p.shape)
    slopes = loss.derivative(p, y)
    bound = loss.steepest(reach, y, m or 1)
    assert (np.sqrt(np.sum(slopes.reshape(5000, -1) ** 2, axis=1)) <= bound * (1 + 1e-12)).all()


def test_logistic_tail_keeps_its_relative_accuracy():
    p = np.array([30.0, 100.0, 700.0])
    y = np.ones_like(p)
    np.testing.assert_allclose(Logistic().value(p, y), np.exp(-p), rtol=1e-12)
    np.testing.assert_allclose(Logistic().derivative(p, y), -np.exp(-p), rtol=1e-12)


def test_pseudo_huber_near_its_minimum_keeps_its_relative_accuracy():
    p = np.array([1e-9, 1e-12])
    np.testing.assert_allclose(PseudoHuber().value(p, np.zeros(2)), p**2 / 2, rtol=1e-12)


def test_softmax_of_two_classes_is_the_logistic_loss_far_into_its_tails():
    margins = np.array([-800.0, -1.0, 0.0, 30.0, 700.0])
    p, y = np.column_stack([margins, np.zeros(5)]), np.zeros(5)
    tail = np.where(margins > 30, np.exp(-np.maximum(margins, 0)), np.logaddexp(0.0, -margins))
    np.testing.assert_allclose(Softmax().value(p, y), tail, rtol=1e-12)
    np.testing.assert_allclose(Softmax().derivative(p, y)[4], [-np.exp(-700.0), np.exp(-700.0)], rtol=1e-12)


def test_curvature_of_a_confident_softmax_keeps_its_digits():
    """σ_y (1 − σ_y) where 1 − σ_y has none left in floating point: of two classes it is that of the logistic loss."""
    margins = np.array([0.0, 10.0, 25.0, 34.0, 36.0, 40.0, 400.0, 700.0])
    p, y = np.column_stack([margins, np.zeros(8)]), np.zeros(8)
    exact = np.exp(-margins) / (1.0 + np.exp(-margins)) ** 2
    for array, labels in ((p, y), (jnp.asarray(p), jnp.asarray(y))):
        second = np.asarray(Softmax().second_derivative(array, labels))
        np.testing.assert_allclose(second, exact[:, None, None] * np.array([[1.0, -1.0], [-1.0, 1.0]]), rtol=1e-13)


@pytest.mark.parametrize("size", [1e18, 1e30, 1e150, 1e300])
def test_softmax_of_predictions_beyond_all_others_is_that_of_the_largest(size):
    p = size * np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0], [-1.0, -1.0, 0.0]])
    y, loss = np.array([2.0, 1.0, 2.0]), Softmax()
    for array in (p, jnp.asarray(p)):
        labels = y if array is p else jnp.asarray(y)
        np.testing.assert_allclose(loss.value(array, labels), [2 * size, np.log(2.0), 0.0], rtol=1e-15)
        slope = loss.derivative(array, labels)
        np.testing.assert_allclose(slope, [[1.0, 0.0, -1.0], [0.0, -0.5, 0.5], [0.0, 0.0, 0.0]], atol=1e-16)
        second = np.asarray(loss.second_derivative(array, labels))
        np.testing.assert_array_equal(second[[0, 2]], 0.0)
        np.testing.assert_allclose(second[1, 1:, 1:], [[0.25, -0.25], [-0.25, 0.25]], atol=1e-16)


def test_losses_can_be_named_and_unknown_names_say_what_is_near():
    assert {as_loss(name).name for name in LOSSES} == {"squared", "logistic", "pseudo_huber", "softmax"}
    assert as_loss("huber") == PseudoHuber()
    assert as_loss(PseudoHuber(2.0)).delta == 2.0
    with pytest.raises(InvalidInputError, match=r"loss='logistc' is unknown: nearest is 'logistic'"):
        as_loss("logistc")
    with pytest.raises(InvalidInputError, match=r"delta=-1.0 must be a positive"):
        PseudoHuber(-1.0)
