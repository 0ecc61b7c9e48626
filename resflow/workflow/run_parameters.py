"""The parameters of a run: those its notebook was given, beside what the notebook itself logs under their names.

MLflow refuses a parameter that was logged with another text before, and a notebook may write 0.5 as `5.0e-01`, or an
autologger 32 for the `batch_size = None` that it found. So nothing is logged that might be in the notebook's way, and
where it logged another text, what it was given stands in a tag.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resflow.workflow.declared_types import UNREADABLE, SourceText, as_declared
from resflow.workflow.logged_values import as_params
from resflow.workflow.names import GIVEN
from resflow.workflow.parameters import Parameter, effective_values, written_values

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

    from resflow.workflow.records import Run

__all__ = ["RunParameters", "changed_values", "parameters_of"]

_LOGS = re.compile(r"log_param|autolog|mlflow_?(logger|callback)|\bTrainer\b", re.IGNORECASE)
"""What the code of a notebook has in it that logs parameters, or has a library log them."""

_TOLD = "str({0}) if isinstance({0}, (bool, int, float, str)) else None"
"""What a notebook that logs the parameter itself has MLflow write."""


def parameters_of(run: StoredRun) -> dict[str, str]:
    """A run's parameters as texts: what its notebook was given, and what it logged beside that."""
    tags = run.data.tags.items()
    return run.data.params | {key.removeprefix(GIVEN): text for key, text in tags if key.startswith(GIVEN)}


def changed_values(declared: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not the defaults of their parameters, or are of names that are not declared.

    >>> width, rate = Parameter("width", "int", 32), Parameter("rate", "float", 1)
    >>> changed_values([width, rate], {"width": 64, "rate": 1.0, "seed": 0})
    {'width': 64, 'seed': 0}
    """
    # by what they show, as NaN is unlike itself, and 1 like True
    defaults = {entry.name: repr(as_declared(entry.default, entry.annotation)) for entry in declared}
    return {name: value for name, value in values.items() if defaults.get(name) != repr(value)}


class RunParameters:
    """The parameters of one execution of a notebook, logged as early as they cannot collide with what it logs itself.

    Attributes:
        values: Every parameter with its value in this execution; what only the kernel can tell as its source text
            until it has told.
        certain: What can be logged before the kernel starts. That is nothing if the notebook logs parameters. Of others
            it is what is written down in one way only: no 1 where a float is declared, and no list.
    """

    def __init__(self, nb: Any) -> None:
        self.values = effective_values(nb)
        written = written_values(nb)
        self._waits = any(cell.cell_type == "code" and _LOGS.search(cell.source) for cell in nb.cells)
        self.certain = {
            name: value
            for name, value in self.values.items()
            if type(value) in (bool, int, float, str, type(None))
            and type(written[name]) is type(value)
            and not self._waits
        }

    def asking(self, client: Any, run: Run, nb: Any) -> Callable[..., Awaitable[None]] | None:
        """A hook for nbclient, called after each cell, that asks the kernel for what only it can tell, once it can.

        The answers are logged in the run, unless the notebook logs parameters. None if it writes all of them down.
        """
        names = [name for name, value in self.values.items() if isinstance(value, SourceText)]
        if not names:
            return None
        tags = {"parameters", "injected-parameters"}
        last = max(index for index, cell in enumerate(nb.cells) if tags.intersection(cell.metadata.get("tags", [])))

        async def ask(cell: Any, cell_index: int, execute_reply: Any) -> None:
            if cell_index != last or execute_reply["content"].get("status") != "ok":
                return
            expressions = {name: _TOLD.format(name) for name in names}
            question = client.kc.execute("", silent=True, store_history=False, user_expressions=expressions)
            reply = await client.async_wait_for_reply(question)
            told = reply["content"].get("user_expressions", {}) if reply else {}
            texts = {name: text for name in names if (text := _text(told.get(name, {}))) is not None}
            self.values |= texts
            if not self._waits:
                run.log_parameters(texts)

        return ask

    def complete(self, run: Run) -> None:
        """Log what the notebook, which is through, has not logged; where it logged another text, tag what was given."""
        logged = run.stored.data.params
        missing, other = {}, {}
        for name, value in self.values.items():
            (given,) = as_params({name: value})
            if given.key not in logged:
                missing[name] = value
            elif logged[given.key] != given.value and not isinstance(value, SourceText):
                other[f"{GIVEN}{given.key}"[:250]] = given.value
        run.log_parameters(missing)
        if other:
            run.set_tags(other)


def _text(told: dict[str, Any]) -> str | None:
    """The text that the kernel answers with; None if it answers with something else, or not at all."""
    try:
        value = ast.literal_eval(told.get("data", {}).get("text/plain", "None"))
    except UNREADABLE:
        return None
    return value if isinstance(value, str) else None
