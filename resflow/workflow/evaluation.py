"""The parameters that only the kernel can tell, such as `2 * math.pi`: asked of it as soon as they are set."""

from __future__ import annotations

import ast
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from resflow.workflow.declared_types import UNREADABLE, SourceText
from resflow.workflow.parameters import effective_values

if TYPE_CHECKING:
    from resflow.workflow.tracking import Run

__all__ = ["logging_evaluated"]

_TOLD = "str({0}) if isinstance({0}, (bool, int, float, str)) else None"
"""What a notebook that logs the parameter itself has MLflow write: the same text, which MLflow takes twice."""


def logging_evaluated(client: Any, run: Run, nb: Any) -> Callable[..., Awaitable[None]] | None:
    """A hook for nbclient, called after each cell; None if the notebook writes down all its parameters.

    Args:
        client: The client that executes the notebook.
        run: Where the parameters are logged.
        nb: The notebook.
    """
    names = [name for name, value in effective_values(nb).items() if isinstance(value, SourceText)]
    tags = {"parameters", "injected-parameters"}
    places = [index for index, cell in enumerate(nb.cells) if tags.intersection(cell.metadata.get("tags", []))]
    if not names:
        return None

    async def ask(cell: Any, cell_index: int, execute_reply: Any) -> None:
        if cell_index != places[-1] or execute_reply["content"].get("status") != "ok":
            return
        expressions = {name: _TOLD.format(name) for name in names}
        question = client.kc.execute("", silent=True, store_history=False, user_expressions=expressions)
        reply = await client.async_wait_for_reply(question)
        told = reply["content"].get("user_expressions", {}) if reply else {}
        values = {name: _text(told.get(name, {})) for name in names}
        run.log_parameters({name: value for name, value in values.items() if value is not None})

    return ask


def _text(told: dict[str, Any]) -> str | None:
    """The text that the kernel answers with; None if it answers with something else, or not at all."""
    try:
        value = ast.literal_eval(told.get("data", {}).get("text/plain", "None"))
    except UNREADABLE:
        return None
    return value if isinstance(value, str) else None
