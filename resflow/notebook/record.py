"""A notebook's last line: everything that its run is to keep, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from resflow.notebook.trained import Trained, TrainedGroups
from resflow.plots.labels import verdict_name, with_signs
from resflow.workflow import names
from resflow.workflow.records import Run
from resflow.workflow.reports.facts import Fact, facts_from, facts_tag
from resflow.workflow.reports.metrics import METRICS, as_recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Claim", "record"]

ROUNDING = 1e-10
"""What a bound may be exceeded by, for each unit of its scale."""


@dataclass(frozen=True)
class Claim:
    """What a run puts to the test, and how that came out.

    >>> claim = Claim.of_bound("certificate_bounds_gap", [0.5, 1e-3, -1e-12])
    >>> claim.holds, claim.outcome, claim.margin
    (True, 'holds', -1e-12)

    Attributes:
        name: A short name, the same in every run that tests the claim.
        holds: Whether it held, rounding allowed for.
        margin: By how much, in the claim's own units: negative by how much it failed.
    """

    name: str
    holds: bool
    margin: float

    @classmethod
    def of_bound(cls, name: str, slack: Any, *, scale: float = 0.0, besides: bool = True) -> Claim:
        """The claim that something never exceeds its bound.

        Args:
            name: The claim's name.
            slack: Bound minus what it bounds, wherever that was measured; NaN where there is no bound.
            scale: The size of these values, which rounding goes with.
            besides: What else must be true for the claim to hold.
        """
        margin = float(np.fmin.reduce(np.ravel(slack)))
        return cls(name, bool(margin >= -ROUNDING * (1.0 + scale) and besides), margin)

    @property
    def outcome(self) -> str:
        """How it came out, as a sentence has it: holds or FAILS."""
        return "holds" if self.holds else "FAILS"


def record(
    run: Run,
    *,
    name: str,
    of: str = "",
    summary: str,
    claim: Claim | None = None,
    trained: Trained | TrainedGroups | None = None,
    about: str = "",
    facts: Mapping[str, str] | None = None,
    history: pd.DataFrame | Sequence[pd.DataFrame] = (),
    metrics: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Record what came out, show the summary, and say that the notebook is through.

    Args:
        run: The notebook's run.
        name: What the run is called from now on: what came out.
        of: Behind it, what that is of. Of a sweep's run, which these have in common, what varies takes its place.
        summary: What came out, in Markdown: the run's description. Its verdict is put in words for people, and its
            numbers get true minus signs.
        claim: What was put to the test.
        trained: The model or models that were trained, which are kept with the run, so that what was computed from them
            can be again.
        about: What verdict, objective and gaps are of, where the claim is about something else, as "trained unit".
        facts: What else the run's report is to open with: what it is about, and what came out.
        history: Values along training, as for `Run.log_history`; several frames, if they have steps of their own. They
            become metrics by the names that `METRICS` has for them, or else by their own.
        metrics: Values of the whole run, named likewise. One that the history has as well is left to the history.
        tags: What kind of outcome it is, such as the verdict.
        tables: Data frames by their names.
        figures: Figures by their names.
    """
    from IPython.display import Markdown, display

    if claim is not None:
        run.log_claim(claim.name, holds=claim.holds, margin=claim.margin)
    histories = [history] if isinstance(history, pd.DataFrame) else history
    for frame in histories:
        run.log_history(frame.rename(columns=METRICS))
    along = {column for frame in histories for column in frame}
    run.log_metrics({as_recorded(key): value for key, value in (metrics or {}).items() if key not in along})
    last = {key: value for frame in histories for key, value in frame.iloc[-1].items()}
    verdict = str((tags or {}).get(names.VERDICT, ""))
    told = [*facts_from({**(metrics or {}), **last}, verdict, about), *(Fact(*pair) for pair in (facts or {}).items())]
    run.set_tags({**(tags or {}), **facts_tag(told)})
    for key, table in (tables or {}).items():
        run.log_table(table, key)
    for key, figure in (figures or {}).items():
        run.log_figure(figure, key)
    if trained is not None:
        trained.keep(run)
    summary = with_signs(summary.replace(verdict, verdict_name(verdict)))
    run.describe(summary)
    run.rename(", ".join(filter(None, [name, run.stored.data.tags.get(names.POINT, of)])))
    display(Markdown(summary))
    run.finish()
