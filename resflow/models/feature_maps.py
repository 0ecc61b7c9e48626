"""Feature maps f_θ: from one sample (d,) to k features, by name or as objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array, as_number
from resflow.errors import InvalidInputError, check_known
from resflow.models.drawing import checked_inputs, drawn

__all__ = [
    "ACTIVATIONS",
    "FEATURE_MAPS",
    "ConvolutionalFeatures",
    "ParametricFeatureMap",
    "RandomFourierFeatures",
    "feature_map",
    "flax_feature_map",
    "mlp",
]

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

FEATURE_MAPS = ("mlp", "random_fourier", "convolutional")
"""Feature maps that can be named."""


def feature_map(
    name: str, d: int, *, width: int, depth: int = 1, activation: str = "tanh", key: PRNGKeyArray
) -> Callable[[Any], Any]:
    """The feature map of that name, at random parameters.

    Args:
        name: "mlp" (trained), "random_fourier" (fixed at its random draw) or "convolutional" (trained, for images).
        d: Number of inputs; for "convolutional" the pixels of a square image, and perhaps an intercept.
        width: k, the number of features; also the width of the MLP's hidden layers.
        depth: Number of layers of the MLP, each with its activation, or of convolutions; random Fourier features have
            one only.
        activation: A name of `ACTIVATIONS`; random Fourier features ignore it.
        key: Random key for θ.

    Raises:
        InvalidInputError: If a name is unknown, width or depth is below 1, or d is not that of a square image.
    """
    d = checked_inputs(d)
    check_known("feature_map", name, FEATURE_MAPS)
    width = as_number("width", width, "must be at least 1: the number of features", lambda k: k >= 1, whole=True)
    depth = _checked_depth(depth)
    check_known("activation", activation, ACTIVATIONS)
    if name == "random_fourier":
        return RandomFourierFeatures(d, width, key=key)  # a program would divide otherwise
    if name == "convolutional":
        return drawn(ConvolutionalFeatures, d, width, depth, activation, key=key)
    return mlp(d, width=width, depth=depth, activation=activation, key=key)


def mlp(d: int, *, width: int, depth: int, activation: str, key: PRNGKeyArray) -> eqx.nn.Sequential:
    """An MLP of `depth` layers of `width` units, every one of them (the last too) followed by the activation.

    Raises:
        InvalidInputError: If depth is below 1 or the activation is unknown.
    """
    check_known("activation", activation, ACTIVATIONS)
    return drawn(_mlp, d, width, _checked_depth(depth), activation, key=key)


def _checked_depth(depth: int) -> int:
    allowed = "must be at least 1: the number of layers of the feature map"
    return as_number("depth", depth, allowed, lambda depth: depth >= 1, whole=True)


def _mlp(d: int, width: int, depth: int, activation: str, *, key: PRNGKeyArray) -> eqx.nn.Sequential:
    phi = ACTIVATIONS[activation]
    # Not final_activation=phi: equinox.nn.MLP ignores it where it has no hidden layer, and the map would be linear.
    return eqx.nn.Sequential([eqx.nn.MLP(d, width, width, depth - 1, activation=phi, key=key), eqx.nn.Lambda(phi)])


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


class ConvolutionalFeatures(eqx.Module):
    """k features of a small square image: convolutions of 3 × 3 with stride 2, a linear layer, each with activation.

    Every convolution halves the image and the next has twice as many channels, starting with 8. The image is the first
    s² inputs row by row, s² the largest square up to d, of which at most one input (an intercept) is left over.
    """

    convolutions: tuple[eqx.nn.Conv2d, ...]
    output: eqx.nn.Linear
    side: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def __init__(self, d: int, width: int, depth: int, activation: str, *, key: PRNGKeyArray) -> None:
        """Random convolutions.

        Raises:
            InvalidInputError: If d is not a square or one more, the activation is unknown, or depth is out of range.
        """
        check_known("activation", activation, ACTIVATIONS)
        side = math.isqrt(d)
        if side < 2 or d - side**2 > 1:
            raise InvalidInputError(
                f"d={d} inputs are no square image (and an intercept): feature_map=convolutional needs pixels, such as "
                "the 64 of digits; choose feature_map=mlp"
            )
        deepest = math.ceil(math.log2(side))
        if not 1 <= depth <= deepest:
            raise InvalidInputError(
                f"depth={depth} must be from 1 to {deepest}: each convolution halves an image of side {side}"
            )
        *keys, last = jax.random.split(key, depth + 1)
        channels = [1, *(8 * 2**layer for layer in range(depth))]
        self.convolutions = tuple(
            eqx.nn.Conv2d(before, after, 3, stride=2, padding=1, key=layer_key)
            for before, after, layer_key in zip(channels[:-1], channels[1:], keys, strict=True)
        )
        left = -(-side // 2**depth)
        self.output = eqx.nn.Linear(channels[-1] * left**2, width, key=last)
        self.side, self.activation = side, activation

    def __call__(self, x: Float[Array, "d"]) -> Float[Array, "k"]:
        phi = ACTIVATIONS[self.activation]
        image = jnp.asarray(x[: self.side**2], self.output.weight.dtype).reshape(1, self.side, self.side)
        for convolution in self.convolutions:
            image = phi(convolution(image))
        return phi(self.output(image.ravel()))


class ParametricFeatureMap(eqx.Module):
    """f_θ(x) = function(θ, x) of any function and any pytree of parameters, e.g. of another library of networks.

    Attributes:
        function: Of θ and one sample (d,), to (k,).
        parameters: θ; training changes its floating-point arrays.
    """

    function: Callable[[Any, Any], Any] = eqx.field(static=True)
    parameters: Any

    def __call__(self, x: Float[Array, "d"]) -> Float[Array, "k"]:
        return self.function(self.parameters, x)


def flax_feature_map(module: Any, variables: Any = None) -> ParametricFeatureMap:
    """A Flax module as a feature map whose parameters are trained; what else it carries stays as it is.

    A copy of an nnx module is called in evaluation mode: batch normalization uses its running averages, and dropout
    drops nothing. A linen module is called with a sample alone: such layers must be told by their attributes.

    Args:
        module: An nnx module, or a linen module.
        variables: Of a linen module, what its `init` gave; an nnx module has its own.

    Raises:
        InvalidInputError: If the module is neither, or a linen module comes without variables.
    """
    from flax import linen, nnx

    if isinstance(module, nnx.Module):
        graph, parameters, *rest = nnx.split(nnx.clone(module), nnx.Param, ...)

        def evaluated(theta: Any, x: Any) -> Any:
            copy = nnx.merge(graph, theta, *rest, copy=True)  # of which the call may set a state, also under a trace
            copy.eval()
            return copy(x)

        return ParametricFeatureMap(evaluated, parameters)
    if not isinstance(module, linen.Module):
        raise InvalidInputError(f"module is of type {type(module).__name__}, but must be a Flax nnx or linen module")
    if variables is None:
        raise InvalidInputError(
            "variables=None: pass what module.init(key, x) gave, which a linen module keeps outside"
        )
    fixed = {name: value for name, value in variables.items() if name != "params"}
    return ParametricFeatureMap(
        lambda theta, x: module.apply({"params": theta, **fixed}, x), variables.get("params", {})
    )
