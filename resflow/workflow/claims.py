"""Which claims the runs of a store put to the test: where, on what data, by how much they held, and verified when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from resflow.plots.labels import label_of, number_text
from resflow.workflow import names
from resflow.workflow.last_word import is_finished
from resflow.workflow.reports.plain import plain, table

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

__all__ = ["Tested", "claims_page", "tests_of_claims"]


class Tested(NamedTuple):
    """One claim, as the runs of one notebook on the same data tested it.

    Attributes:
        claim: Its name.
        notebook: The notebook.
        data: The training data, by name and the first digits of its digest.
        runs: The finished runs that tested it, oldest first, each with its margin.
    """

    claim: str
    notebook: str
    data: str
    runs: tuple[tuple[StoredRun, float], ...]

    @property
    def held(self) -> int:
        """In how many of the runs it held."""
        return sum(run.data.tags.get(names.CLAIM_HOLDS) == "true" for run, _ in self.runs)

    @property
    def came_out(self) -> str:
        """In how many runs it held or failed, in words."""
        failed = len(self.runs) - self.held
        return f"FAILS in {failed} of {self._all}" if failed else f"holds in {self.held} of {self._all}"

    @property
    def least(self) -> str:
        """The smallest margin, in the claim's own units, and whose it is; one that is no number is the smallest."""
        run, margin = min(self.runs, key=lambda each: -math.inf if math.isnan(each[1]) else each[1])
        return f"{number_text(margin)} (run {run.info.run_id[:8]}…)"

    @property
    def when(self) -> str:
        """The days on which the first and the last of the runs began."""
        days = [datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d") for run, _ in self.runs]
        return " to ".join(sorted({min(days), max(days)}))

    @property
    def verified(self) -> str:
        """How many of the runs have been verified, in which way and when last; those that did not come out again."""
        told = list(filter(None, (self._verified(*each) for each in _WAYS)))
        return "; ".join(told) or "not verified"

    @property
    def _all(self) -> str:
        return f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}"

    def _verified(self, tag: str, way: str) -> str:
        found = [run.data.tags[tag] for run, _ in self.runs if tag in run.data.tags]
        if not found:
            return ""
        again = [each for each in found if " DIFFER: " not in each and ": could not be checked" not in each]
        last = max(each[: len("2026-01-01 00:00 UTC")] for each in found)
        others = f", {len(found) - len(again)} NOT" if len(again) < len(found) else ""
        return f"{way} {len(again)} of {self._all}{others}, last {last}"


_WAYS = ((names.VERIFIED, "from stored points"), (names.EXECUTED, "executed again"))


def tests_of_claims(client: MlflowClient) -> list[Tested]:
    """What the finished runs of a store tested, by claim, notebook and data; runs that were set aside do not count."""
    from resflow.workflow.records import every_run, experiments

    found: dict[tuple[str, str, str], list[tuple[StoredRun, float]]] = {}
    for run in every_run(client, list(experiments(client)), f"tags.`{names.CLAIM}` != ''"):
        tags = run.data.tags
        if is_finished(run) and names.SUPERSEDED not in tags and names.CLAIM_MARGIN in run.data.metrics:
            key = tags[names.CLAIM], tags.get(names.SOURCE, "unknown"), _data_of(run)
            found.setdefault(key, []).append((run, run.data.metrics[names.CLAIM_MARGIN]))
    return [Tested(*key, tuple(runs)) for key, runs in sorted(found.items())]


def _data_of(run: StoredRun) -> str:
    """The data that a run logged for training, or all if none was for that."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    training = [each for each in inputs if any(tag.value == "training" for tag in each.tags)]
    told = dict.fromkeys(f"{each.dataset.name} ({each.dataset.digest[:12]}…)" for each in training or inputs)
    return ", ".join(told) or "none recorded"


def claims_page(tested: Sequence[Tested]) -> str:
    """The claims as one HTML page that reads offline, a section a claim."""
    import nbformat

    from resflow.workflow.reports.notebook_html import notebook_to_html

    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    cells = [nbformat.v4.new_markdown_cell(text, id=f"cell-{place}") for place, text in enumerate(_sections(tested))]
    head = f"# Claims that were put to the test\n\nAll of them, in the finished runs of one store, as of {now}."
    cells.insert(0, nbformat.v4.new_markdown_cell(f"{head} {_ABOUT}", id="head"))
    return notebook_to_html(nbformat.v4.new_notebook(cells=cells), title="Claims")


_ABOUT = """A margin is by how much a claim held, in its own units, negative where it failed; the smallest of the runs
is shown. *From stored points*: what the run recorded was computed again from the trained arrays and the data. *Executed
again*: its notebook was executed once more, from its own record. Both say for how many runs everything came out again.

A claim that held in every run that tested it has not been refuted by them; it is not thereby proven."""


def _sections(tested: Sequence[Tested]) -> Iterator[str]:
    for claim in dict.fromkeys(each.claim for each in tested):
        own = [each for each in tested if each.claim == claim]
        head = ("Notebook", "Data", "Outcome", "Smallest margin", "Runs of", "Verified")
        rows = [(each.notebook, each.data, each.came_out, each.least, each.when, each.verified) for each in own]
        yield f"## {plain(label_of(claim).capitalize())}\n\n{table(head, rows)}"
