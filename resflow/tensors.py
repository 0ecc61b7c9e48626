"""Tensors of torch as arrays, where torch is at work at all."""

from __future__ import annotations

import sys
from typing import Any

from resflow.errors import InvalidInputError

__all__ = ["check_not_meta", "plain_array"]


def plain_array(values: Any) -> Any:
    """A torch tensor as a NumPy array, whether it requires a gradient, is on another device or is of bfloat16.

    Raises:
        InvalidInputError: If it is on the meta device.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(values, torch.Tensor):
        return values
    check_not_meta(values)
    plain = values.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def check_not_meta(tensor: Any) -> None:
    """Check that a torch tensor has numbers.

    Raises:
        InvalidInputError: If it is on the meta device.
    """
    if tensor.is_meta:
        raise InvalidInputError(
            f"a tensor of shape {tuple(tensor.shape)} is on torch's meta device, where nothing has numbers: load the "
            "network's weights, and pass samples that are on another device"
        )
