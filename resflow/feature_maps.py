"""Feature maps f_θ: from one sample (d,) to k features, by name or as objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array
from resflow.errors import InvalidInputError, nearest

__all__ = ["ACTIVATIONS", "FEATURE_MAPS", "RandomFourierFeatures", "check_activation", "feature_map", "mlp"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}
"""Activations that can be named."""

FEATURE_MAPS = ("mlp", "random_fourier")
"""Feature maps that can be named."""


def feature_map(
    name: str, d: int, *, width: int, depth: int = 1, activation: str = "tanh", key: PRNGKeyArray
) -> Callable[[Any], Any]:
    """The feature map of that name, at random parameters.

    Args:
        name: "mlp" (trained) or "random_fourier" (fixed at its random draw).
        d: Number of inputs.
        width: k, the number of features; also the width of hidden layers.
        depth: Number of layers of the MLP, each with its activation; random Fourier features have one only.
        activation: A name of `ACTIVATIONS`; random Fourier features ignore it.
        key: Random key for θ.

    Raises:
        InvalidInputError: If a name is unknown, or width or depth is below 1.
    """
    if name not in FEATURE_MAPS:
        raise InvalidInputError(
            f"feature_map={name!r} is unknown: nearest is {nearest(name, FEATURE_MAPS, 1)[0]!r}; "
            f"choose one of {', '.join(FEATURE_MAPS)}"
        )
    if width < 1:
        raise InvalidInputError(f"width={width} must be at least 1: the number of features")
    if name == "random_fourier":
        return RandomFourierFeatures(d, width, key=key)
    return mlp(d, width=width, depth=depth, activation=activation, key=key)


def mlp(d: int, *, width: int, depth: int, activation: str, key: PRNGKeyArray) -> eqx.nn.Sequential:
    """An MLP of `depth` layers of `width` units, every one of them (the last too) followed by the activation.

    Raises:
        InvalidInputError: If depth is below 1 or the activation is unknown.
    """
    if depth < 1:
        raise InvalidInputError(f"depth={depth} must be at least 1: the number of layers of the feature map")
    check_activation(activation)
    phi = ACTIVATIONS[activation]
    # Not final_activation=phi: equinox.nn.MLP ignores it where it has no hidden layer, and the map would be linear.
    return eqx.nn.Sequential([eqx.nn.MLP(d, width, width, depth - 1, activation=phi, key=key), eqx.nn.Lambda(phi)])


def check_activation(name: str) -> None:
    """Check that the activation is known.

    Raises:
        InvalidInputError: If it is not.
    """
    if name not in ACTIVATIONS:
        raise InvalidInputError(
            f"activation={name!r} is unknown: nearest is {nearest(name, ACTIVATIONS, 1)[0]!r}; "
            f"choose one of {', '.join(ACTIVATIONS)}"
        )


class RandomFourierFeatures(eqx.Module):
    """f(x) = sqrt(2/k) cos(Ωx/√d + b), Ω standard normal and b uniform on [0, 2π): fixed, training leaves it alone.

    On standardised inputs it approximates the Gaussian kernel of bandwidth √d.

    References:
        Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007.
    """

    fixed: ClassVar[bool] = True
    frequencies: Float[Array, "k d"]
    phases: Float[Array, "k"]

    def __init__(self, d: int, width: int, *, key: PRNGKeyArray) -> None:
        frequency_key, phase_key = jax.random.split(key)
        self.frequencies = jax.random.normal(frequency_key, (width, d)) / jnp.sqrt(d)
        self.phases = jax.random.uniform(phase_key, (width,), maxval=2.0 * jnp.pi)

    def __call__(self, x: Float[Array, "d"]) -> Float[Array, "k"]:
        return jnp.sqrt(2.0 / len(self.phases)) * jnp.cos(self.frequencies @ x + self.phases)
