"""Models of the zoo as arrays by their names and a description in JSON's types, and back: no pickle, no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from resflow.errors import InvalidInputError, shown
from resflow.models.architectures import build_model
from resflow.models.deep_network import DeepResidualNetwork
from resflow.models.feature_maps import ACTIVATIONS, ConvolutionalFeatures, RandomFourierFeatures, feature_map
from resflow.models.pre_activation import OnBatches, PreActivationNetwork
from resflow.models.residual_unit import NoSkipNetwork, OutputSkipNetwork, ResidualUnit

__all__ = ["arrays_of_model", "described_model", "rebuilt_model"]

_UNITS: dict[Any, str] = {ResidualUnit: "residual_unit", OutputSkipNetwork: "output_skip", NoSkipNetwork: "no_skip"}


def described_model(model: Any) -> dict[str, Any]:
    """What `build_model` and `feature_map` have to be told to build such a model, at other weights.

    Args:
        model: Of `build_model`, over feature maps of `resflow.feature_map`; or a `PreActivationNetwork` on batches.

    Raises:
        InvalidInputError: If it is no such model: then only whoever wrote its classes can build it again.
    """
    description: dict[str, Any] = {}
    if isinstance(model, OnBatches):
        network, head = model.network, model.network.head
        description = {
            "architecture": "pre_activation_network",
            "inputs": head.in_features,
            "outputs": None if head.out_features == "scalar" else head.out_features,
            "blocks": len(network.blocks),
            "width": network.blocks[0].U.out_features if network.blocks else 1,
        }
    elif isinstance(model, DeepResidualNetwork):
        inner = len(model.U[0]) if model.U else 1
        sizes = [model.inputs, *(len(U) for U in model.U)]
        maps = [_described_map(each, size) for each, size in zip(model.feature_maps, sizes, strict=True)]
        description = {"architecture": "deep_residual_network", "inputs": model.inputs, "inner": inner, "maps": maps}
    elif type(model) in _UNITS:
        rows = model.v if isinstance(model, NoSkipNetwork) else model.W
        inputs = _inputs_of_map(model.feature_map) if isinstance(model, NoSkipNetwork) else model.inputs
        outputs = len(rows) if rows.ndim == 2 else None
        described = _described_map(model.feature_map, inputs)
        description = {"architecture": _UNITS[type(model)], "inputs": inputs, "outputs": outputs, "maps": [described]}
    if not description or not _is_built_like(description, model):
        raise InvalidInputError(
            f"model is a {type(model).__name__} that build_model and feature_map do not build: only models of theirs "
            "can be kept as arrays and built again"
        )
    return description


def arrays_of_model(model: Any) -> dict[str, np.ndarray]:
    """Every array of a model by its place in it, as `feature_map.layers[0].weight`; stacked models have theirs stacked.

    What is computed from a copy in NumPy has the very bits of the original.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    return {_place(path): np.asarray(leaf) for path, leaf in leaves}


def rebuilt_model(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, stacked: bool = False) -> Any:
    """The model of `described_model` and `arrays_of_model`, in the precision of its arrays.

    Args:
        description: As `described_model` gives it.
        arrays: As `arrays_of_model` gives them; others by further names are passed over.
        stacked: Whether they are those of several models, with an axis of these in front.

    Raises:
        InvalidInputError: If the description is none of a model, or an array is missing or of another shape.
    """
    with jax.enable_x64(True):  # arrays keep their precision, whatever that of new ones is
        try:
            skeleton = _skeleton(description)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"{shown(description)} describes no model: {error!r}") from None
        moving, fixed = eqx.partition(skeleton, _is_shape)
        leaves, structure = jax.tree_util.tree_flatten_with_path(moving)
        found = []
        for path, leaf in leaves:
            array = arrays.get(name := _place(path))
            shape = None if array is None else np.shape(array)[stacked:]
            if shape != leaf.shape:
                there = "missing" if array is None else f"of shape {shape}"
                raise InvalidInputError(f"the array {name} is {there}, but the model needs it of shape {leaf.shape}")
            found.append(jnp.asarray(array))
        return eqx.combine(jax.tree_util.tree_unflatten(structure, found), fixed)


def _skeleton(description: Mapping[str, Any]) -> Any:
    """The model with shapes in place of arrays; nothing is computed."""
    d = description["inputs"]

    def build(key: Any) -> Any:
        if description["architecture"] == "pre_activation_network":
            shape = {name: description[name] for name in ("blocks", "width")}
            return OnBatches(PreActivationNetwork(d, description["outputs"], **shape, scale=1.0, key=key))
        maps = [feature_map(each["name"], each["inputs"], **each["options"], key=key) for each in description["maps"]]
        if description["architecture"] == "deep_residual_network":
            return build_model("deep_residual_network", d, maps, inner=description["inner"], key=key)
        return build_model(description["architecture"], d, maps[0], outputs=description["outputs"], key=key)

    return eqx.filter_eval_shape(build, jax.random.key(0))


def _is_built_like(description: Mapping[str, Any], model: Any) -> bool:
    """Whether the model is, but for the values and the precision of its arrays, the one that is described."""
    if any(each is None for each in description.get("maps", ())):
        return False
    built = _skeleton(description)
    structure: Any = jax.tree.structure(model)
    if structure != jax.tree.structure(built):
        return False
    pairs = zip(jax.tree.leaves(model), jax.tree.leaves(built), strict=True)
    return all(np.shape(a) == b.shape if _is_shape(b) else a is b or a == b for a, b in pairs)


def _described_map(phi: Any, inputs: int | None) -> dict[str, Any] | None:
    """What `feature_map` has to be told to build such a map; None if nothing does."""
    options: dict[str, Any] = {}
    if isinstance(phi, RandomFourierFeatures):
        name, options = "random_fourier", {"width": len(phi.phases)}
    elif isinstance(phi, ConvolutionalFeatures):
        name, options = "convolutional", {"width": phi.output.out_features, "depth": len(phi.convolutions)}
        options["activation"] = phi.activation
    elif isinstance(phi, eqx.nn.Sequential) and isinstance(network := phi.layers[0], eqx.nn.MLP):
        applied = getattr(phi.layers[-1], "fn", None)
        activation = next((name for name, each in ACTIVATIONS.items() if each is applied), None)
        name, options = "mlp", {"width": network.out_size, "depth": network.depth + 1, "activation": activation}
        options = options if activation else {}
    return {"name": name, "inputs": inputs, "options": options} if options else None


def _inputs_of_map(phi: Any) -> int | None:
    """d, where the map alone tells it."""
    if isinstance(phi, RandomFourierFeatures):
        return phi.frequencies.shape[1]
    if isinstance(phi, ConvolutionalFeatures):
        return phi.side**2
    return phi.layers[0].in_size if isinstance(phi, eqx.nn.Sequential) else None


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _place(path: Any) -> str:
    return jax.tree_util.keystr(path).removeprefix(".")
