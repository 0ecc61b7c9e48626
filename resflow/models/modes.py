"""Whether a model is evaluated as it stands, and not as in training."""

from __future__ import annotations

import sys
from typing import Any

from resflow.errors import InvalidInputError

__all__ = ["check_evaluation_mode", "in_training_mode"]


def check_evaluation_mode(model: Any) -> None:
    """Check that no part of a Flax nnx module is in training mode, as all are when they are made.

    Raises:
        InvalidInputError: If one is: dropout and batch statistics change its predictions.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(model, nnx.Module):
        return
    for path, module in nnx.iter_modules(model):
        if getattr(module, "deterministic", None) is False or getattr(module, "use_running_average", None) is False:
            raise in_training_mode(".".join(map(str, path)))


def in_training_mode(part: str) -> InvalidInputError:
    """What is said of a module a part of which is in training mode, by the part's name; "" if it is all of it."""
    what = f"the module {part!r} in it" if part else "the module"
    return InvalidInputError(
        f"{what} is in training mode, where dropout and batch statistics change its predictions: call module.eval() "
        "first"
    )
