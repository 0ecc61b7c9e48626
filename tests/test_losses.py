import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resflow.errors import InvalidInputError
from resflow.losses.scalar import LOSSES, Logistic, PseudoHuber, Squared, as_loss

EVERY_LOSS = [Squared(), Logistic(), PseudoHuber(), PseudoHuber(delta=0.3)]
PREDICTIONS = np.concatenate([np.linspace(-40, 40, 801), [-1e4, -800.0, 0.0, 1e-9, 800.0, 1e4]])


def labels_for(loss, shape):
    rng = np.random.default_rng(0)
    return np.sign(rng.standard_normal(shape)) if loss.binary_labels else rng.standard_normal(shape)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)
def test_derivatives_agree_with_automatic_differentiation(loss):
    p = PREDICTIONS[np.abs(PREDICTIONS) < 100]
    y = labels_for(loss, p.shape)
    first = jax.vmap(jax.grad(loss.value))(p, y)
    second = jax.vmap(jax.grad(loss.derivative))(p, y)
    np.testing.assert_allclose(loss.derivative(p, y), first, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(loss.second_derivative(p, y), second, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)
def test_numpy_and_jax_give_the_same_values(loss):
    y = labels_for(loss, PREDICTIONS.shape)
    for method in (loss.value, loss.derivative, loss.second_derivative):
        from_numpy, from_jax = method(PREDICTIONS, y), method(jnp.asarray(PREDICTIONS), jnp.asarray(y))
        assert isinstance(from_numpy, np.ndarray)
        assert isinstance(from_jax, jax.Array)
        np.testing.assert_allclose(from_numpy, from_jax, rtol=1e-14)


@pytest.mark.parametrize("loss", EVERY_LOSS, ids=repr)
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


def test_logistic_tail_keeps_its_relative_accuracy():
    p = np.array([30.0, 100.0, 700.0])
    y = np.ones_like(p)
    np.testing.assert_allclose(Logistic().value(p, y), np.exp(-p), rtol=1e-12)
    np.testing.assert_allclose(Logistic().derivative(p, y), -np.exp(-p), rtol=1e-12)


def test_pseudo_huber_near_its_minimum_keeps_its_relative_accuracy():
    p = np.array([1e-9, 1e-12])
    np.testing.assert_allclose(PseudoHuber().value(p, np.zeros(2)), p**2 / 2, rtol=1e-12)


def test_losses_can_be_named_and_unknown_names_say_what_is_near():
    assert {as_loss(name).name for name in LOSSES} == {"squared", "logistic", "pseudo_huber"}
    assert as_loss(PseudoHuber(2.0)).delta == 2.0
    with pytest.raises(InvalidInputError, match=r"loss='logistc' is unknown: nearest is 'logistic'"):
        as_loss("logistc")
    with pytest.raises(InvalidInputError, match=r"delta=-1.0 must be a positive"):
        PseudoHuber(-1.0)
