"""What a function that somebody gave makes of its input, by shape and type alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from resflow.errors import InvalidInputError

__all__ = ["result_like"]


def result_like(what: str, function: Callable[..., Any], given: Any) -> Any:
    """The result with shapes and types in place of arrays; nothing is computed.

    Args:
        what: What to call the function in the message.
        function: Of one array.
        given: An array, or its shape and type.

    Raises:
        InvalidInputError: If the function cannot be applied to such an array.
    """
    try:
        return jax.eval_shape(function, given)
    except InvalidInputError:
        raise
    except (TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InvalidInputError(f"{what} cannot be applied to an array of shape {given.shape}: {reason}") from error
