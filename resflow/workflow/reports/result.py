"""What a run came to and where it comes from: the top and the foot of its report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.plots.labels import label_of, number_text
from resflow.workflow import names
from resflow.workflow.declared_types import as_declared
from resflow.workflow.goal import Goal
from resflow.workflow.parameters import declared_in_notebook, effective_values
from resflow.workflow.provenance import PACKAGES

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Fact", "RunResult", "claim_of", "facts_of", "result_of"]

SHOWN_METRICS = 6
"""Of a run that did not say which facts count."""

LONGEST_COMMAND = 2000
"""Characters: longer ones nobody types again, such as those that name a population's members."""


class Fact(NamedTuple):
    """One line of a result: what it is about, and what came out."""

    about: str
    outcome: str


class RunResult(NamedTuple):
    """What a report says of a run beside its notebook.

    Attributes:
        name: The run's name.
        facts: The verdict and the numbers that count.
        claim: What was put to the test and how it came out; None without one.
        claim_holds: Whether it held.
        summary: The result in sentences, in Markdown; "" without.
        provenance: Where the run comes from.
    """

    name: str
    facts: tuple[Fact, ...] = ()
    claim: Fact | None = None
    claim_holds: bool = True
    summary: str = ""
    provenance: tuple[Fact, ...] = ()


def result_of(run: Run, notebook: Any) -> RunResult:
    """The result of a run, from what it recorded.

    The facts are those that the notebook recorded as such; of a notebook that recorded none, the metric that its runs
    are compared by and some of the others.

    Args:
        run: The run as it is in the store.
        notebook: The executed notebook, with its parameters.
    """
    tags = run.data.tags
    holds = tags.get(names.CLAIM_HOLDS) == "true"
    summary, origin = tags.get(names.DESCRIPTION, ""), tuple(_provenance(run, notebook))
    return RunResult(run.info.run_name, facts_of(run), claim_of(run), holds, summary, origin)


def facts_of(run: Run) -> tuple[Fact, ...]:
    """What counts of a run's result: what its notebook recorded as that, or else its metrics."""
    recorded = _recorded_facts(run.data.tags)
    return _metrics(run.data.metrics, Goal.in_tags(run.data.tags)) if recorded is None else recorded


def claim_of(run: Run) -> Fact | None:
    """What a run put to the test and how it came out; None if it tested nothing."""
    tags, metrics = run.data.tags, run.data.metrics
    if names.CLAIM not in tags or names.CLAIM_MARGIN not in metrics:
        return None
    came_out = "holds" if tags.get(names.CLAIM_HOLDS) == "true" else "FAILS"
    return Fact(label_of(tags[names.CLAIM]), f"{came_out}, margin {number_text(metrics[names.CLAIM_MARGIN])}")


def _recorded_facts(tags: dict[str, str]) -> tuple[Fact, ...] | None:
    try:
        return tuple(Fact(str(about), str(outcome)) for about, outcome in json.loads(tags[names.FACTS]))
    except (KeyError, ValueError, TypeError):  # none, or of another hand
        return None


def _metrics(metrics: dict[str, float], goal: Goal | None) -> tuple[Fact, ...]:
    first = [goal.metric] if goal and goal.metric in metrics else []
    others = [name for name in sorted(metrics) if name not in (*first, names.CLAIM_MARGIN) and "/" not in name]
    shown = [*first, *others][:SHOWN_METRICS]
    wish = f" (to {goal.direction})" if goal else ""
    return tuple(Fact(label_of(name) + (wish if name in first else ""), number_text(metrics[name])) for name in shown)


def _provenance(run: Run, notebook: Any) -> Iterator[Fact]:
    tags = run.data.tags
    yield Fact("run", run.info.run_id)
    if commit := tags.get(names.COMMIT):
        state = {"true": ", with uncommitted changes", "false": ", nothing uncommitted"}
        yield Fact("commit", commit + state.get(tags.get(names.GIT_DIRTY, ""), ""))
    else:
        yield Fact("commit", "unknown: it ran in no git repository with a commit, or without git")
    for key in sorted(tags):
        if key.startswith(names.DATA_DIGEST):
            context = key.removeprefix(names.DATA_DIGEST).removeprefix(".")
            yield Fact(f"{context} data".strip(), f"digest {tags[key]}")
    if digest := tags.get(names.NOTEBOOK_DIGEST):
        yield Fact("notebook", f"SHA-256 {digest}")
    versions = [f"{package} {tags[names.VERSION + package]}" for package in PACKAGES if names.VERSION + package in tags]
    python = [f"Python {tags[names.PYTHON]}"] if names.PYTHON in tags else []
    if python or versions:
        yield Fact("versions", ", ".join([*python, *versions]))
    if machine := tags.get(names.PLATFORM):
        yield Fact(
            "platform", f"{machine}, computed in {tags[names.PRECISION]}" if names.PRECISION in tags else machine
        )
    if (source := tags.get(names.SOURCE)) and len(command := _command(source, notebook)) <= LONGEST_COMMAND:
        yield Fact("again", command)


def _command(source: str, notebook: Any) -> str:
    """The command that makes such a run: the notebook, and the parameters that differ from its defaults."""
    defaults = {entry.name: as_declared(entry.default, entry.annotation) for entry in declared_in_notebook(notebook)}
    words = ["resflow", "run", source]
    for name, value in effective_values(notebook).items():
        if name not in defaults or repr(value) != repr(defaults[name]):
            words += ["-p", name, str(value)]
    return shlex.join(words)
