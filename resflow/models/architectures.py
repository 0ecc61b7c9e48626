"""Every model of the zoo by its name, so that a notebook's parameter can choose one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, PRNGKeyArray

from resflow.arrays import Array
from resflow.errors import InvalidInputError, check_known
from resflow.models.deep_network import deep_residual_network
from resflow.models.residual_unit import no_skip, output_skip, residual_unit

__all__ = ["ARCHITECTURES", "build_model"]

ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "residual_unit": residual_unit,
    "output_skip": output_skip,
    "no_skip": no_skip,
    "deep_residual_network": deep_residual_network,
}
"""What makes the model of that name, from d, feature map, key and scale.

All but `deep_residual_network` take the number of `outputs` too; that one takes a sequence of feature maps, one a
block, and `inner`, the number of rows of each U_l.
"""

_OPTIONS = {"deep_residual_network": ("inner", "dtype")}


def build_model(
    architecture: str,
    d: int,
    feature_map: Any,
    *,
    key: PRNGKeyArray,
    scale: float | Float[Array, ""] = 1.0,
    **options: Any,
) -> Any:
    """The model of that name at a random point.

    Args:
        architecture: A name of `ARCHITECTURES`.
        d: Number of inputs.
        feature_map: f_θ, from (d,) to (k,), of `feature_map` or your own; a sequence of them for a deep network.
        key: Random key for the weights around f_θ.
        scale: Standard deviations of the weights, relative to 1/√(fan-in).
        options: Further arguments of the architecture: `outputs` (of a deep network `inner` in its place), `dtype`.

    Raises:
        InvalidInputError: If no architecture has that name, or as the architecture's own function.

    >>> import jax
    >>> build_model("output_skip", 3, lambda x: x**2, key=jax.random.key(0)).v.shape
    (3,)
    """
    check_known("architecture", architecture, ARCHITECTURES)
    known = _OPTIONS.get(architecture, ("outputs", "dtype"))
    for name in options:
        check_known(f"option of {architecture}", name, known)
    if missing := [name for name in known if name == "inner" and name not in options]:
        raise InvalidInputError(f"{missing[0]} is missing: a {architecture} needs the number of rows of its U_l")
    return ARCHITECTURES[architecture](d, feature_map, key=key, scale=scale, **options)
