"""What a run came to and where it comes from: the top and the foot of its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from resflow.workflow import names
from resflow.workflow.parameters import declared_in_notebook, effective_values
from resflow.workflow.provenance import PACKAGES
from resflow.workflow.reports.facts import Fact, claim_of, facts_of
from resflow.workflow.run_parameters import changed_values

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["RunResult", "result_of"]

LONGEST_COMMAND = 2000
"""Characters: longer ones nobody types again, such as those that name a population's members."""


class RunResult(NamedTuple):
    """What a report says of a run beside its notebook.

    Attributes:
        name: The run's name.
        facts: The verdict and the numbers that count.
        claim: What was put to the test and how it came out; None without one.
        claim_holds: Whether it held.
        summary: The result in sentences, in Markdown; "" without.
        provenance: Where the run comes from.
        tables: The tables that were recorded with it: their artifact paths, each with the CSV text where that is short
            enough for a page, or else "".
    """

    name: str
    facts: tuple[Fact, ...] = ()
    claim: Fact | None = None
    claim_holds: bool = True
    summary: str = ""
    provenance: tuple[Fact, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()


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
    yield from (Fact("verified", tags[key]) for key in (names.VERIFIED, names.EXECUTED) if key in tags)
    if (source := tags.get(names.SOURCE)) and len(command := _command(source, notebook)) <= LONGEST_COMMAND:
        yield Fact("again", command)


def _command(source: str, notebook: Any) -> str:
    """The command that makes such a run: the notebook, and the parameters that differ from its defaults."""
    words = ["resflow", "run", source]
    for name, value in changed_values(declared_in_notebook(notebook), effective_values(notebook)).items():
        words += ["-p", name, str(value)]
    return shlex.join(words)
